"""Training on residuals alone, and the errors of what has been trained."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.notation import Array
from femops.surrogate import CheckedArrays, Fit, ProblemTask, state_dict
from femops.surrogate.learning.loop import Schedule, Training
from femops.surrogate.store import of_arrays, read_fit, read_manifest
from femops_moe.pde.model import ConstrainedField, equation
from femops_moe.pde.options import ConstraintOptions, PaperProblem

_SAVE_EVERY, _WARM_UP, _LARGEST_GRADIENT = 20, 20, 1.0
_BATCH = 8


def fit_problem(task: ProblemTask) -> Fit:
    """Train on an equation; see `ConstraintOptions`.

    Raises:
        CaseError: The grid cannot be cut into the boxes of the experts.
    """
    options, block = ConstraintOptions(**_own(task.options.model_dump())), task.problem.root
    of = equation(block)
    for length, count in zip(of.grid[1:], of.experts[1:], strict=True):
        if length % count:
            raise CaseError(f"{length} given, expected a multiple of {count}, the experts", key="problem.cells")
    if options.frequencies > min(of.grid[-2:]) // 2:
        most = f"expected at most {min(of.grid[-2:]) // 2}, half the points of the grid"
        raise CaseError(f"{options.frequencies} given, {most}", key="surrogate.frequencies")
    begin = time.perf_counter()
    initial = of.draw(np.random.default_rng([block.samples.seed, 1]), block.samples.test)
    task.progress("solving, test", 0, 1)
    truth = of.solve(initial)
    task.progress("solving, test", 1, 1)
    solved = time.perf_counter()
    model = ConstrainedField(of, options)
    schedule = Schedule(
        options.steps, options.learning_rate, _SAVE_EVERY, _WARM_UP, _LARGEST_GRADIENT, seed=options.seed
    )
    training = Training(dict(model.named_parameters()), schedule, "training", task.checkpoint, task.progress)
    training.adam(lambda random: losses(model, random, options.batch))
    trained = time.perf_counter()
    metrics = {
        **errors(model, initial, truth),
        "seconds_solving": solved - begin,
        "seconds_training": trained - solved,
        "weights": float(sum(one.numel() for one in model.parameters())),
    }
    arrays = {name: one.detach().numpy().copy() for name, one in model.state_dict().items()}
    curves = {"loss": {"training": training.losses}}
    return Fit(arrays, {"options": options.model_dump(mode="json")}, metrics, curves)


def losses(model: ConstrainedField, random: np.random.Generator, batch: int) -> Iterator[Tensor]:
    """Yield the loss of new samples: the mean of the norm of the residual of each."""
    initial = torch.from_numpy(model.equation.draw(random, batch))
    yield model(initial).residual.sqrt().mean()


def predicted(model: ConstrainedField, initial: Array) -> tuple[Array, Array]:
    """Return the fields (n, *grid) of initial values, and the mean squares of their residuals (n,)."""
    fields, residuals = [], []
    with torch.no_grad():
        for start in range(0, len(initial), _BATCH):
            found = model(torch.from_numpy(initial[start : start + _BATCH]))
            fields.append(found.field.numpy())
            residuals.append(found.residual.numpy())
    return np.concatenate(fields), np.concatenate(residuals)


def errors(model: ConstrainedField, initial: Array, truth: Array) -> dict[str, float]:
    """Return mean and largest relative error of the fields in L², and the root of the mean square residual."""
    found, residual = predicted(model, initial)
    error = relative_errors(found, truth)
    return {
        "error_mean": float(error.mean()),
        "error_largest": float(error.max()),
        "residual": float(np.sqrt(residual.mean())),
    }


def relative_errors(found: Array, truth: Array) -> Array:
    """Return ‖found − truth‖ / ‖truth‖ of each sample, over all points of the grid. Shape (n,)."""
    n = len(truth)
    difference = np.linalg.norm((found - truth).reshape(n, -1), axis=1)
    return np.asarray(difference / np.linalg.norm(truth.reshape(n, -1), axis=1))


def load_field(folder: Path) -> ConstrainedField:
    """Load the model in a folder written by `femops train`.

    Raises:
        CaseError: The model is missing, damaged, or not one of an equation.
    """
    manifest = read_manifest(folder)
    if manifest.problem is None or manifest.law != "moe":
        raise CaseError("holds another model, expected an equation of 'moe'", file=folder)
    fit = read_fit(folder, manifest)
    block = PaperProblem.model_validate(manifest.problem).root
    model = ConstrainedField(equation(block), ConstraintOptions(**fit.settings["options"]))
    with of_arrays(folder):
        found = state_dict(CheckedArrays(fit.arrays), model.state_dict())
    model.load_state_dict({name: torch.tensor(one) for name, one in found.items()})
    return model


def _own(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name in ConstraintOptions.model_fields}
