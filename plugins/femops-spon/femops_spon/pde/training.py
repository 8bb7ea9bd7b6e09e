"""Training of the solution operator of a problem on finite-element solutions."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError, NotConverged
from femops.notation import Array
from femops.pde.distribution import MIN_SAMPLES, Distribution
from femops.pde.find import make_problem
from femops.pde.problem import PDEProblem
from femops.pde.solver import PDESolver, Samples, draw_inputs
from femops.surrogate import Checkpoint, Fit, ProblemTask, Progress
from femops.surrogate.learning.loop import Schedule, Training
from femops.surrogate.message_passing import SparseMap
from femops_spon.options import SPONOptions
from femops_spon.pde.network import OperatorNetwork
from femops_spon.pde.operator import (
    DISTRIBUTION,
    PROBE,
    REFERENCE,
    SCALES,
    SOLUTION,
    WEIGHTS,
    Operator,
    assembled_residual,
    build_network,
    network_inputs,
)

_SHOW_EVERY, _WARM_UP, _LARGEST_GRADIENT, _TINY = 20, 50, 1.0, 1e-12


def fit_problem(task: ProblemTask) -> Fit:
    """Learn the solution operator of a problem.

    Args:
        task: Training task with a `Problem` and `SPONOptions`.

    Returns:
        Arrays and settings of an `Operator`; the metrics are of test samples that are not trained on.

    Raises:
        CaseError: The problem cannot be built or solved, or an option applies to families only.
    """
    options, block = task.options, task.problem.root
    _refuse_options_of_families(options)
    checkpoint, progress = task.checkpoint, task.progress
    problem = make_problem(block)
    solver = PDESolver(problem)
    begin = time.perf_counter()
    seeds = (2 * block.samples.seed, 2 * block.samples.seed + 1)
    train = solved(solver, block.samples.train, seeds[0], "train", checkpoint, progress)
    test = solved(solver, block.samples.test, seeds[1], "test", checkpoint, progress)
    seconds = {"seconds_solving": time.perf_counter() - begin}
    reference = {name: values.mean(axis=0) for name, values in train.inputs.items()}
    scales = scales_of(solver, train)
    network = build_network(solver, reference, scales, options)
    begin = time.perf_counter()
    schedule = Schedule(
        options.steps, options.learning_rate, _SHOW_EVERY, _WARM_UP, _LARGEST_GRADIENT, seed=options.seed
    )
    training = Training(dict(network.named_parameters()), schedule, "training", checkpoint, progress)
    training.adam(_Loss(network, solver, train, options.batch))
    seconds["seconds_training"] = time.perf_counter() - begin
    arrays = {WEIGHTS + name: one.detach().numpy().copy() for name, one in network.state_dict().items()}
    arrays |= {SCALES + name: values for name, values in scales.items()}
    arrays |= {REFERENCE + name: values for name, values in reference.items()}
    arrays |= stored_samples(problem, train, seeds[0])
    settings = {"problem": block.model_dump(mode="json"), "surrogate": options.model_dump(mode="json")}
    operator = Operator(arrays, settings, problem)
    metrics = {**errors(operator, test), **seconds, "weights": float(operator.n_weights)}
    return Fit(arrays, settings, metrics, {"loss": {"training": training.losses}})


def stored_samples(problem: PDEProblem, solved: Samples, seed: int) -> dict[str, Array]:
    """Return the arrays by which an operator detects another input distribution or another problem.

    Args:
        problem: The problem.
        solved: Training samples with solutions.
        seed: Seed of the training samples.
    """
    drawn = draw_inputs(problem, max(MIN_SAMPLES, len(solved.load)), seed)
    arrays = {PROBE + name: values[0] for name, values in solved.inputs.items()} | {SOLUTION: solved.solution[0]}
    for name, values in drawn.items():
        arrays |= Distribution.of(values).to_arrays(DISTRIBUTION + name)
    return arrays


def _refuse_options_of_families(options: SPONOptions) -> None:
    if "smoothing" in options.model_fields_set:
        raise CaseError("given, but only a study with family has it", key="surrogate.smoothing")
    if options.device != "cpu":
        raise CaseError(f"{options.device!r} given, expected cpu in a study with problem", key="surrogate.device")


def solved(solver: PDESolver, count: int, seed: int, name: str, checkpoint: Checkpoint, progress: Progress) -> Samples:
    """Return random samples with their solutions, loaded from the checkpoint if present.

    Raises:
        CaseError: Newton's method failed for a sample.
    """
    inputs = draw_inputs(solver.problem, count, seed)
    saved = checkpoint.load(f"{name}_solutions")
    if saved is not None:
        encoded = solver.encode(inputs)
        return Samples(inputs, encoded.lifting, encoded.load, encoded.features, saved["solution"])

    def watch(done: int) -> None:
        if done % _SHOW_EVERY == 0 or done == count:
            progress(f"solving, {name}", done, count)

    try:
        found = solver.solve(inputs, watch)
    except NotConverged as error:
        raise CaseError(f"{error}; try more load steps or a smaller range of inputs", key="problem") from error
    checkpoint.save(f"{name}_solutions", {"solution": found.solution})
    return found


def scales_of(solver: PDESolver, samples: Samples) -> dict[str, Array]:
    """Return the normalisation of the cell features; see `OperatorNetwork`."""
    problem = solver.problem
    size, graph = problem.n_components, problem.levels[0].graph
    answers = free_values(problem, samples).reshape(len(samples.load), -1, size)
    corners = answers[:, graph.cells]
    slopes = np.einsum("cij,ncjk->ncik", graph.gradient, corners)
    return {
        "slope": _positive(slopes.std(keepdims=True).ravel()),
        "features": _positive(samples.features.std(axis=(0, 2))),
        "features_mean": samples.features.mean(axis=(0, 2)),
    }


def _positive(values: Array) -> Array:
    return np.where(values > 1e-12, values, 1.0)


def free_values(problem: PDEProblem, samples: Samples) -> Array:
    """Return the free values q of the solutions. Shape (n, n_nodes · n_components)."""
    copies = problem.free.T @ np.ones(problem.n_dofs)
    return np.asarray((problem.free.T @ (samples.solution - samples.lifting).T).T / np.maximum(copies, 1.0))


class _Loss:
    """Mean over a batch of the relative error of the free values in the H1 seminorm."""

    def __init__(self, network: OperatorNetwork, solver: PDESolver, samples: Samples, batch: int) -> None:
        problem = solver.problem
        self.network, self.solver, self.samples, self.batch = network, solver, samples, batch
        self.load, self.features = network_inputs(samples, problem.n_components)
        answer = free_values(problem, samples)
        metric = sp.csr_array(problem.free.T @ problem.norms["h1"] @ problem.free)
        size = np.einsum("ni,in->n", answer, metric @ answer.T)
        self.answer = torch.from_numpy(answer).float()
        self.size = torch.from_numpy(np.maximum(size, 1e-6 * size.mean())).float()
        self.metric = SparseMap(metric)

    def __call__(self, draw: np.random.Generator) -> Iterator[Tensor]:
        rows = draw.integers(len(self.answer), size=self.batch)
        found = self.network(self.load[rows], self.features[rows], assembled_residual(self.solver, self.samples, rows))
        error = (found.reshape(len(rows), -1) - self.answer[rows])[..., None]
        squared = (error * self.metric(error)).sum((1, 2))
        yield (squared / self.size[rows] + _TINY).sqrt().mean()


def errors(operator: Operator, test: Samples) -> dict[str, float]:
    """Return statistics of the relative errors over test samples, and the largest error at fixed dofs.

    `l2` and `h1` are errors of the solution in the L2 norm and H1 seminorm; `free` is relative to the L2 norm of
    solution minus lifting.
    """
    problem, begin = operator.problem, time.perf_counter()
    found = operator.predict(test)
    seconds = time.perf_counter() - begin
    wrong, beyond = found - test.solution, test.solution - test.lifting

    def relative(name: str, of: Array) -> Array:
        size = [np.einsum("ni,in->n", one, problem.norms[name] @ one.T) for one in (wrong, of)]
        return np.asarray(np.sqrt(size[0] / size[1]))

    lists = {
        "l2": relative("l2", test.solution),
        "h1": relative("h1", test.solution),
        "free": relative("l2", beyond),
    }
    figures = {f"error_{name}_{what}": float(do(one)) for name, one in lists.items() for what, do in _FIGURES.items()}
    fixed = np.abs(wrong[:, problem.fixed])
    figures["boundary_error"] = float(fixed.max(initial=0.0))
    figures["seconds_per_sample"] = seconds / len(found)
    return figures


_FIGURES: dict[str, Callable[[Array], Any]] = {"mean": np.mean, "median": np.median, "max": np.max}
