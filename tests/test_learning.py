"""Training of networks, whoever they belong to."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from femops.devices.torch_library import Tensor, torch
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops.surrogate.learning.loop import Schedule, Training
from femops.surrogate.spec import Progress

SCHEDULE = Schedule(adam_steps=12, rate=1e-2, save_every=5, warm_up=4, largest_gradient=1.0, lbfgs_steps=12, seed=3)


class StoppedError(Exception):
    pass


def silent(*_: Any) -> None:
    pass


class Regression:
    """A small network that learns a smooth function; one of its weights is never used."""

    def __init__(self, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> None:
        draws = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draws, dtype=dtype).requires_grad_()

        self.weights = {"in": random(2, 8), "bias": random(8), "out": random(8, 1), "unused": random(3)}
        self.x = torch.rand(64, 2, generator=draws, dtype=dtype)
        self.y = torch.sin(3.0 * self.x).sum(1, keepdim=True)
        self.scale, self.n_evaluations = scale, 0

    def __call__(self, rows: Any = slice(None)) -> Tensor:
        """Return the mean square error."""
        self.n_evaluations += 1
        hidden = torch.tanh(self.x[rows] @ self.weights["in"] + self.weights["bias"])
        return self.scale * ((hidden @ self.weights["out"] - self.y[rows]) ** 2).mean()

    def of_batch(self, draw: np.random.Generator) -> Iterator[Tensor]:
        yield self(torch.from_numpy(draw.integers(64, size=16)))

    def values(self) -> dict[str, Any]:
        return {name: one.detach().numpy().copy() for name, one in self.weights.items()}


def trained(
    problem: Regression,
    schedule: Schedule = SCHEDULE,
    memory: MemoryCheckpoint | None = None,
    progress: Progress = silent,
    measure: Callable[[], Mapping[str, float]] | None = None,
) -> Training:
    training = Training(problem.weights, schedule, "net", memory or MemoryCheckpoint(), progress)
    training.adam(problem.of_batch, measure)
    if schedule.lbfgs_steps:
        training.lbfgs(problem)
    return training


def stopping_at(step: int) -> Progress:
    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if done == step:
            raise StoppedError

    return progress


IN_ADAM, AT_ITS_END, IN_LBFGS = [(5, 5)], [(12, 5)], [(13, 13), (15, 5), (20, 5)]


@pytest.mark.parametrize(("stop_at", "save_every"), IN_ADAM + AT_ITS_END + IN_LBFGS)
def test_a_resumed_training_gives_the_same_weights_bit_by_bit(stop_at: int, save_every: int) -> None:
    check_resumed(torch.float64, replace(SCHEDULE, save_every=save_every), stop_at)


def test_a_training_in_single_precision_is_resumed_bit_by_bit() -> None:
    check_resumed(torch.float32, replace(SCHEDULE, lbfgs_steps=0), 10)


def check_resumed(dtype: torch.dtype, schedule: Schedule, stop_at: int) -> None:
    whole, stopped, resumed = (Regression(dtype) for _ in range(3))
    expected, memory = trained(whole, schedule), MemoryCheckpoint()
    with pytest.raises(StoppedError):
        trained(stopped, schedule, memory, stopping_at(stop_at))
    assert Training(Regression(dtype).weights, schedule, "net", memory, silent).step == stop_at
    found = trained(resumed, schedule, memory)
    assert found.losses == expected.losses and len(found.losses) == schedule.steps
    for name, values in whole.values().items():
        np.testing.assert_array_equal(resumed.values()[name], values, err_msg=name)


def test_lbfgs_refuses_single_precision() -> None:
    problem = Regression(torch.float32)
    with pytest.raises(ValueError, match="float32 given, expected float64"):
        Training(problem.weights, SCHEDULE, "net", MemoryCheckpoint(), silent).lbfgs(problem)


def test_adam_and_lbfgs_lower_the_loss_and_tell_it_at_each_checkpoint() -> None:
    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        told.append((stage, done, total, note))

    told: list[tuple[str, int, int, str]] = []
    schedule = Schedule(adam_steps=90, rate=0.05, save_every=40, lbfgs_steps=30)
    losses = trained(Regression(), schedule, progress=progress).losses
    assert losses[90] < 0.5 * float(Regression()().detach()) and losses[-1] < 0.05 * losses[90]
    assert told == [("net", done, 120, f"loss {losses[done - 1]:.2e}") for done in (40, 80, 90, 120)]


def test_what_is_measured_becomes_curves_also_over_an_interruption() -> None:
    def measure() -> dict[str, float]:
        assert not torch.is_grad_enabled()
        return {"error": float(problem())}

    problem, memory = Regression(), MemoryCheckpoint()
    with pytest.raises(StoppedError):
        trained(problem, SCHEDULE, memory, stopping_at(10), measure)
    problem = Regression()
    training = trained(problem, SCHEDULE, memory, measure=measure)
    assert len(training.curves["error"]) == 3  # steps 5, 10 and 12
    assert training.curves["error"][0] == Training(problem.weights, SCHEDULE, "net", memory, silent).curves["error"][0]


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    schedule = Schedule(adam_steps=100, rate=2.0, save_every=10, warm_up=4)
    assert [schedule.rate_at(step) for step in (0, 1)] == pytest.approx([0.5, 1.0], rel=1e-3)
    assert schedule.rate_at(50) == pytest.approx(1.0)
    assert schedule.rate_at(99) < 1e-3
    assert Schedule(100, 2.0, 10).rate_at(0) == 2.0


def test_adam_takes_the_rate_the_betas_and_the_decay_of_the_schedule() -> None:
    def rate(step: int) -> float:
        return 0.1 / (1 + step)

    problem, expected = Regression(), Regression()
    trained(problem, Schedule(4, rate, 10, betas=(0.5, 0.6), weight_decay=0.3))
    optimiser = torch.optim.Adam(expected.weights.values(), betas=(0.5, 0.6), weight_decay=0.3)
    for step in range(4):
        optimiser.zero_grad()
        next(expected.of_batch(np.random.default_rng([0, step]))).backward()
        optimiser.param_groups[0]["lr"] = rate(step)
        optimiser.step()
    for name, values in expected.values().items():
        np.testing.assert_array_equal(problem.values()[name], values, err_msg=name)


def test_terms_of_a_loss_add_up_and_their_gradient_is_clipped() -> None:
    def terms(problem: Regression) -> Iterator[Tensor]:
        for half in (slice(0, 32), slice(32, 64)):
            yield 0.5 * problem(half)

    together, apart = Regression(), Regression()
    schedule = Schedule(1, 1e-2, 1)
    one, other = (
        Training(problem.weights, schedule, "net", MemoryCheckpoint(), silent) for problem in (together, apart)
    )
    one.adam(lambda _: [together()])
    other.adam(lambda _: terms(apart))
    assert one.losses == pytest.approx(other.losses, rel=1e-12)
    np.testing.assert_allclose(together.weights["in"].grad, apart.weights["in"].grad, rtol=1e-10)
    clipped = Regression()
    limited = Training(clipped.weights, Schedule(1, 1e-2, 1, largest_gradient=0.1), "net", MemoryCheckpoint(), silent)
    limited.adam(lambda _: [clipped()])
    norm = np.sqrt(sum(float((one.grad**2).sum()) for one in clipped.weights.values() if one.grad is not None))
    assert norm == pytest.approx(0.1, rel=1e-4)


def test_lbfgs_makes_small_losses_as_small_as_large_ones() -> None:
    left = []
    for scale in (1.0, 1e-10):
        problem = Regression(scale=scale)
        training = Training(problem.weights, Schedule(0, 1.0, 50, lbfgs_steps=100), "net", MemoryCheckpoint(), silent)
        training.lbfgs(problem)
        left.append(training.losses[-1] / training.losses[0])
        assert problem.n_evaluations < 130  # more than one per step only where a line search goes on
    assert left[0] < 1e-3
    assert left[1] < 10.0 * left[0]


def test_lbfgs_ends_at_round_off() -> None:
    variable, calls, told = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True), [], []

    def loss() -> Tensor:
        calls.append(1)
        return 1.0 + ((variable - 3.0) ** 2).sum()

    schedule = Schedule(0, 1.0, 100, lbfgs_steps=1000)
    training = Training(
        {"x": variable}, schedule, "net", MemoryCheckpoint(), lambda stage, done, total, note="": told.append(done)
    )
    training.lbfgs(loss)
    assert len(training.losses) < 20 and len(calls) < 100
    assert training.step == 1000 and told == [1000]
    np.testing.assert_allclose(variable.detach(), 3.0, rtol=1e-7)


@pytest.mark.parametrize(
    "saved",
    [
        {"weights": np.zeros(20), "slot_0": np.zeros(20), "step": np.array(3), "losses": np.zeros(3)},
        {"step": np.array(3), "losses": np.zeros(3), "weights/in": np.zeros((2, 9))},
        {f"weights/{name}": one for name, one in Regression().values().items()},
    ],
)
def test_a_state_that_does_not_fit_is_ignored(saved: dict[str, Any]) -> None:
    problem, expected, memory = Regression(), Regression(), MemoryCheckpoint()
    memory.save("net", saved)
    trained(expected)
    assert len(trained(problem, memory=memory).losses) == 24
    np.testing.assert_array_equal(problem.values()["in"], expected.values()["in"])


@pytest.mark.parametrize("edge", [torch.log, lambda a: torch.log(a) / (a > 0.0)], ids=["nan", "inf"])
def test_steps_beyond_the_domain_of_a_loss_are_shortened(edge: Any) -> None:
    """-log a + 50 a, which is not finite for a <= 0, has its minimum at a = 0.02."""
    weight = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
    training = Training({"a": weight}, Schedule(0, 1.0, 10, lbfgs_steps=30), "name", MemoryCheckpoint(), silent)
    training.lbfgs(lambda: (-edge(weight) + 50.0 * weight).sum())
    assert float(weight.detach()[0]) == pytest.approx(0.02, rel=1e-6)
