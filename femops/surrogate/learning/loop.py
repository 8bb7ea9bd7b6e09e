"""Training of a network by Adam, then L-BFGS; a resumed training gives the same weights as an uninterrupted one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from femops.devices.torch_library import Tensor, torch
from femops.surrogate.learning.lbfgs import lbfgs_steps, make_lbfgs
from femops.surrogate.spec import Arrays, Checkpoint, Progress

BatchLoss = Callable[[np.random.Generator], Iterable[Tensor]]
"""Draws a batch and yields the terms of its loss; each is differentiated before the next, which saves memory."""
Measure = Callable[[], Mapping[str, float]]
"""Returns values by name to record at a checkpoint, such as validation errors; called without gradients."""

_WEIGHTS, _CURVES, _SLOTS = "weights/", "curves/", "slots/"
_LISTS = ("old_dirs", "old_stps", "ro")  # slots of L-BFGS
_WORKSPACE = "al"


@dataclass(frozen=True)
class Schedule:
    """Schedule of a training.

    Attributes:
        adam_steps: Steps of Adam.
        rate: Largest learning rate of Adam, which decays to zero along a cosine; or a function that returns the rate
            of a step.
        save_every: Steps between checkpoints; Adam and L-BFGS also end with one.
        warm_up: First steps of Adam, in which the learning rate rises linearly; not with a function.
        largest_gradient: Norm to which Adam clips the gradient; None for no limit.
        lbfgs_steps: Steps of L-BFGS.
        lbfgs_memory: Steps that L-BFGS remembers: more need fewer steps, each of which takes longer.
        seed: Seed of the batches.
        betas: Decay of the running means of the gradient and of its square in Adam.
        weight_decay: Multiple of the weights that Adam adds to the gradient.
    """

    adam_steps: int
    rate: float | Callable[[int], float]
    save_every: int
    warm_up: int = 0
    largest_gradient: float | None = None
    lbfgs_steps: int = 0
    lbfgs_memory: int = 60
    seed: int = 0
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    @property
    def steps(self) -> int:
        """Number of all steps."""
        return self.adam_steps + self.lbfgs_steps

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step of Adam."""
        if callable(self.rate):
            return self.rate(step)
        decay = 0.5 * (1.0 + np.cos(np.pi * step / self.adam_steps))
        return float(self.rate * decay * min(1.0, (step + 1) / max(1, self.warm_up)))


class Training:
    """A training, which changes the weights in place; it begins with the state saved under its name, if any.

    A saved state that does not fit the weights is ignored.

    Args:
        weights: Weights by name, leaves that require gradients.
        schedule: See `Schedule`.
        name: Name of the checkpoint and of the reported stage.
        checkpoint: Stores the state.
        progress: Called at each checkpoint with the measured values, or the loss if nothing is measured.

    Attributes:
        step: Number of steps done.
        losses: Loss before each step; fewer than steps if L-BFGS ended at round-off.
        curves: Measured values by name.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], schedule: Schedule, name: str, checkpoint: Checkpoint, progress: Progress
    ) -> None:
        self._weights, self._schedule = dict(weights), schedule
        self._name, self._checkpoint, self._progress = name, checkpoint, progress
        self.step = 0
        self.losses: list[float] = []
        self.curves: dict[str, list[float]] = {}
        self._saved_slots: dict[str, npt.NDArray[Any]] = {}
        self._restore(checkpoint.load(name) or {})

    def adam(self, loss: BatchLoss, measure: Measure | None = None) -> None:
        """Take the steps of Adam that are left.

        Args:
            loss: See `BatchLoss`.
            measure: See `Measure`.
        """
        schedule = self._schedule
        optimiser = torch.optim.Adam(self._weights.values(), betas=schedule.betas, weight_decay=schedule.weight_decay)
        self._take(self._adam_steps(optimiser, loss), schedule.adam_steps, optimiser, measure)

    def lbfgs(self, loss: Callable[[], Tensor]) -> None:
        """Take the steps of L-BFGS that are left, after those of Adam.

        Args:
            loss: Returns the loss of all samples.
        """
        if self.step >= self._schedule.steps:
            return
        optimiser = make_lbfgs(self._weights.values(), self._schedule.lbfgs_memory)
        self._take(lbfgs_steps(optimiser, loss), self._schedule.steps, optimiser)

    def _adam_steps(self, optimiser: torch.optim.Adam, loss: BatchLoss) -> Iterator[float]:
        """Take steps, whose random numbers depend on their number only, and yield the loss before each."""
        while True:
            optimiser.zero_grad()
            value = 0.0
            for term in loss(np.random.default_rng([self._schedule.seed, self.step])):
                term.backward()
                value += float(term.detach())
            if self._schedule.largest_gradient is not None:
                torch.nn.utils.clip_grad_norm_(self._weights.values(), self._schedule.largest_gradient)
            optimiser.param_groups[0]["lr"] = self._schedule.rate_at(self.step)
            optimiser.step()
            yield value

    def _take(
        self, steps: Iterator[float], last: int, optimiser: torch.optim.Optimizer, measure: Measure | None = None
    ) -> None:
        """Take steps up to the last one, with checkpoints."""
        if self.step >= last:
            return
        _set_slots(optimiser, self._saved_slots)
        for loss in islice(steps, last - self.step):
            self.losses.append(loss)
            self.step += 1
            if self.step < last and self.step % self._schedule.save_every == 0:
                self._record(_slots(optimiser), measure)
        self.step, self._saved_slots = last, {}
        self._record({}, measure)

    def _record(self, slots: Arrays, measure: Measure | None) -> None:
        """Measure, save and report."""
        with torch.no_grad():
            measured = measure() if measure else {}
        for name, value in measured.items():
            self.curves.setdefault(name, []).append(value)
        state = {"step": np.array(self.step), "losses": np.array(self.losses)}
        state |= {_CURVES + name: np.array(values) for name, values in self.curves.items()}
        state |= {_WEIGHTS + name: _array(one) for name, one in self._weights.items()}
        state |= {_SLOTS + name: values for name, values in slots.items()}
        self._checkpoint.save(self._name, state)
        note = ", ".join(f"{name} {value:.2e}" for name, value in (measured or {"loss": self.losses[-1]}).items())
        self._progress(self._name, self.step, self._schedule.steps, note)

    def _restore(self, saved: Arrays) -> None:
        weights = _part(saved, _WEIGHTS)
        shapes = {name: one.shape for name, one in self._weights.items()}
        if {name: one.shape for name, one in weights.items()} != shapes or not {"step", "losses"} <= saved.keys():
            return
        self.step, self.losses = int(saved["step"]), saved["losses"].tolist()
        self.curves = {name: values.tolist() for name, values in _part(saved, _CURVES).items()}
        self._saved_slots = _part(saved, _SLOTS)
        with torch.no_grad():
            for name, one in self._weights.items():
                one.copy_(torch.tensor(weights[name]))


def _part(arrays: Arrays, prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): one for name, one in arrays.items() if name.startswith(prefix)}


def _slots(optimiser: torch.optim.Optimizer) -> dict[str, npt.NDArray[Any]]:
    """Return the state of an optimiser, which consists of numbers, tensors and lists of tensors, as arrays."""
    found = {}
    for number, slots in optimiser.state_dict()["state"].items():
        for name, value in slots.items():
            if name != _WORKSPACE:
                found[f"{number}/{name}"] = _array(torch.stack(value) if isinstance(value, list) and value else value)
    return found


def _array(value: Any) -> npt.NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.array(value)


def _set_slots(optimiser: torch.optim.Optimizer, saved: Arrays) -> None:
    """Set the state of an optimiser to saved slots."""
    state: dict[int, dict[str, Any]] = {}
    for key, values in saved.items():
        number, name = key.split("/")
        tensor = torch.tensor(values)
        state.setdefault(int(number), {})[name] = list(tensor) if name in _LISTS else tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
