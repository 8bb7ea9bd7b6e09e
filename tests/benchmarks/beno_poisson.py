"""Networks that solve Poisson's equation on shapes not seen before, trained for the same time, beside multigrid.

Each network trains on 900 problems of each of the shape classes of 0 to 4 cut corners, on grids of 32 × 32 cells, for
`--seconds` of training time on one thread, with Adam and a rate that falls along a cosine of that time. `error_*` is
the mean over new problems of ‖found − u‖ / ‖u‖ at the free nodes, u the finite-element solution: `corners_*` of 100 of
each class, `mean` of these, `holes` of 100 of a class without examples, `fine_*` of 20 of each class on 64 × 64 cells,
`scaled_*` of 10 of each class with all data multiplied by 1, 10 and 1000. `error_after_*` is that of 4 of each class
after so many per cent of the time; judging stops the clock. `seconds_sample_*` is the time for a problem in batches of
1 and 64, without the graph and the features that depend on the problem alone, `seconds_encoding`.

`multigrid` solves the same problems by conjugate gradients with smoothed aggregation to relative residuals of 1e-2,
1e-4 and 1e-8; `seconds_setup` is the time for the hierarchy, `seconds_1e-02` that for the solve without it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyamg
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from benchmarks.beno_baselines import FNO, DeepONet, GraphNetwork, Model
from benchmarks.beno_data import CORNERS, UNSEEN, problems
from benchmarks.beno_ours import Ours

from femops.devices.torch_library import torch
from femops.notation import Array
from femops_beno.options import PUBLISHED_BATCH, PUBLISHED_RATE
from femops_beno.published import WEIGHT_DECAY, PublishedBENO
from femops_beno.systems import System

CELLS, FINE_CELLS = 32, 64
SCALES, TOLERANCES, BATCHES, JUDGED = (1, 10, 1000), (1e-2, 1e-4, 1e-8), (1, 64), 10
TRAIN_SEED, TEST_SEED = 1, 2


@dataclass(frozen=True)
class Candidate:
    """How a network is made, and trained with Adam."""

    make: Callable[[], Model]
    batch: int
    rate: float
    decay: float = 0.0


MODELS = {
    "ours_1": Candidate(partial(Ours, 1), 16, 4e-3),
    "ours_4": Candidate(partial(Ours, 4), 16, 4e-3),
    "published": Candidate(PublishedBENO, PUBLISHED_BATCH, PUBLISHED_RATE, WEIGHT_DECAY),
    "graph_network": Candidate(GraphNetwork, 4, 5e-4),
    "fno": Candidate(FNO, 16, 3e-3, 1e-4),
    "deeponet": Candidate(DeepONet, 64, 1e-3),
}


@dataclass(frozen=True)
class Sizes:
    """Numbers of problems of each class: for training, for the errors, the errors by scale, and those on the way."""

    train: int = 900
    test: int = 100
    fine: int = 20
    scaled: int = 10
    curve: int = 4


FULL = Sizes()


def network(candidate: Candidate, options: Mapping[str, str], sizes: Sizes = FULL) -> dict[str, Any]:
    """Train a network and judge it.

    Args:
        candidate: The network.
        options: `seconds` of training.
        sizes: Numbers of problems.
    """
    torch.manual_seed(0)
    model = candidate.make()
    tests = {name: problems(name, CELLS, sizes.test, TEST_SEED) for name in CORNERS}
    given = [one for name in CORNERS for one in problems(name, CELLS, sizes.train, TRAIN_SEED)]
    begin = time.perf_counter()
    training = [model.encode(one) for one in given]
    encoding = (time.perf_counter() - begin) / len(training)
    model.standardise(training)
    curve = [one for group in tests.values() for one in group[: sizes.curve]]
    errors, steps = _trained(model, candidate, training, float(options["seconds"]), partial(_error, model, curve))
    result: dict[str, Any] = {
        "weights": sum(one.numel() * (1 + one.is_complex()) for one in model.parameters()),
        "steps": steps,
        "batch": candidate.batch,
        "seconds_encoding": encoding,
    }
    return result | errors | _judged(model, tests, sizes) | _times(model, tests)


def _trained(
    model: Model, candidate: Candidate, training: Sequence[Any], seconds: float, judge: Callable[[], float]
) -> tuple[dict[str, float], int]:
    """Train for some time; return the errors on the way and the number of steps."""
    optimiser = torch.optim.Adam(model.parameters(), candidate.rate, weight_decay=candidate.decay)
    batches, spent, steps, judged = _shuffled(len(training), candidate.batch), 0.0, 0, 0
    errors: dict[str, float] = {}
    while spent < seconds:
        begin = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * candidate.rate * (1.0 + np.cos(np.pi * spent / seconds))
        batch = model.join([training[i] for i in next(batches)])
        optimiser.zero_grad()
        model.loss(batch, model(batch)).backward()
        optimiser.step()
        steps += 1
        spent += time.perf_counter() - begin
        parts = min(int(JUDGED * spent / seconds), JUDGED)
        if parts > judged:
            judged = parts
            errors[f"error_after_{100 * parts // JUDGED}"] = judge()
    return errors, steps


def _shuffled(count: int, size: int) -> Iterator[Array]:
    """Yield batches of numbers, epoch after epoch in a new order."""
    draws = np.random.default_rng(0)
    while True:
        order = draws.permutation(count)
        yield from np.split(order, range(size, count, size))


def _judged(model: Model, tests: Mapping[str, Sequence[System]], sizes: Sizes) -> dict[str, float]:
    """Return the errors on all classes."""
    found = {f"error_{name}": _error(model, group) for name, group in tests.items()}
    found["error_mean"] = float(np.mean(list(found.values())))
    found[f"error_{UNSEEN}"] = _error(model, problems(UNSEEN, CELLS, sizes.test, TEST_SEED))
    for name in CORNERS:
        found[f"error_fine_{name}"] = _error(model, problems(name, FINE_CELLS, sizes.fine, TEST_SEED))
    for scale in SCALES:
        some = [one.scaled(scale) for group in tests.values() for one in group[: sizes.scaled]]
        found[f"error_scaled_{scale}"] = _error(model, some)
    return found


def _error(model: Model, systems: Sequence[System]) -> float:
    """Return the mean relative error at the free nodes."""
    found = []
    for first in range(0, len(systems), 10):
        group = systems[first : first + 10]
        with torch.no_grad():
            values = model(model.join([model.encode(one) for one in group])).double().numpy()
        parts = np.split(values, np.cumsum([len(one.source) for one in group])[:-1])
        found += [relative_error(one, part) for one, part in zip(group, parts, strict=True)]
    return float(np.mean(found))


def relative_error(system: System, values: Array) -> float:
    """Return ‖values − u‖ / ‖u‖ at the free nodes."""
    free = ~system.prescribed
    assert system.solution is not None
    return float(np.linalg.norm((values - system.solution)[free]) / np.linalg.norm(system.solution[free]))


def _times(model: Model, tests: Mapping[str, Sequence[System]]) -> dict[str, float]:
    """Return the seconds that a problem takes in batches of several sizes."""
    several = [one for group in zip(*tests.values(), strict=True) for one in group]
    found = {}
    for size in BATCHES:
        encoded = [model.encode(several[i % len(several)]) for i in range(size)]
        found[f"seconds_sample_{size}"] = _best(lambda given=encoded: _applied(model, given)) / size
    return found


def _applied(model: Model, encoded: Sequence[Any]) -> None:
    with torch.no_grad():
        model(model.join(encoded))


def _best(call: Callable[[], Any], repeats: int = 3) -> float:
    """Return the shortest time of some calls, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def multigrid(options: Mapping[str, str], sizes: Sizes = FULL) -> dict[str, Any]:
    """Solve the test problems by conjugate gradients with smoothed aggregation.

    Args:
        options: Not used.
        sizes: Numbers of problems.
    """
    groups = {
        "": [one for name in CORNERS for one in problems(name, CELLS, sizes.test, TEST_SEED)],
        f"{UNSEEN}_": problems(UNSEEN, CELLS, sizes.test, TEST_SEED),
        "fine_": [one for name in CORNERS for one in problems(name, FINE_CELLS, sizes.fine, TEST_SEED)],
    }
    result = {}
    for name, group in groups.items():
        rows = [_solved(one) for one in group]
        for key in rows[0]:
            kind, _, rest = key.partition("_")
            result[f"{kind}_{name}{rest}"] = float(np.mean([row[key] for row in rows]))
    return result


def _solved(system: System) -> dict[str, float]:
    """Return times, iterations and errors of the solves of one problem."""
    free = np.flatnonzero(~system.prescribed)
    matrix = sp.csr_array(system.stiffness[free][:, free])
    load = (system.source_load + system.boundary_load)[free]
    begin = time.perf_counter()
    preconditioner = pyamg.smoothed_aggregation_solver(matrix).aspreconditioner()
    found = {"seconds_setup": time.perf_counter() - begin}
    for tolerance in TOLERANCES:
        steps: list[Array] = []
        begin = time.perf_counter()
        inner, failed = spl.cg(matrix, load, rtol=tolerance, M=preconditioner, callback=steps.append)
        found[f"seconds_{tolerance:.0e}"] = time.perf_counter() - begin
        assert not failed
        values = system.lifting.copy()
        values[free] = inner
        found[f"iterations_{tolerance:.0e}"] = len(steps)
        found[f"error_{tolerance:.0e}"] = relative_error(system, values)
    return found


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "multigrid": multigrid,
    **{name: partial(network, candidate) for name, candidate in MODELS.items()},
}
