"""Errors of a trained operator on samples of Poisson's equation: a table by class of shapes, and pictures."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from femops.meshing import TaggedMesh
from femops.notation import Array
from femops.surrogate import Evaluation, EvaluationTask, Progress
from femops_beno.poisson.arrays import at_centres
from femops_beno.poisson.assembly import mass_matrix
from femops_beno.poisson.data import samples_to_evaluate
from femops_beno.poisson.generate import Sample
from femops_beno.systems import System

_BATCH = 64
_TINY = np.finfo(float).tiny

Predict = Callable[[Sequence[System]], Sequence[Array]]
"""Function from problems to values at their nodes, shape (n_nodes,) each."""


def evaluate_data(task: EvaluationTask) -> Evaluation:
    """Evaluate a model on arrays or on the test samples of a study; see `femops.surrogate.SurrogateSpec`."""
    from femops_beno.operator import load_operator

    samples = samples_to_evaluate(task)
    return evaluated(load_operator(task.model).evaluate, samples, task.progress)


def evaluated(predict: Predict, samples: Sequence[Sample], progress: Progress) -> Evaluation:
    """Compare predictions with the finite-element solutions.

    Args:
        predict: The operator.
        samples: The samples.
        progress: Progress callback.

    Returns:
        For each class of shapes and for all: number of samples, relative errors in L²(Ω), seconds a sample and, of
        given arrays, the mean relative difference of the finite-element solution from the given one and of the
        prediction from it, in the Euclidean norm of the values at the centres. Pictures of the worst and the median
        sample.
    """
    predictions, seconds = _predicted(predict, samples, progress)
    errors = np.array([relative_error(*pair) for pair in zip(samples, predictions, strict=True)])
    columns = {"mean": errors, "median": errors, "largest": errors, "seconds": seconds}
    if all(sample.given is not None for sample in samples):
        columns["FE to given"] = np.array([_to_given(one, _solution(one)) for one in samples])
        columns["to given"] = np.array([_to_given(*pair) for pair in zip(samples, predictions, strict=True)])
    label = np.array([sample.shape for sample in samples])
    shapes = list(dict.fromkeys(label.tolist()))
    members = {shape: label == shape for shape in shapes}
    if len(shapes) > 1:
        members["all"] = np.ones(len(samples), dtype=bool)
    rows = {
        shape: {"samples": float(of_shape.sum())} | {name: _summary(name, of[of_shape]) for name, of in columns.items()}
        for shape, of_shape in members.items()
    }
    order = np.argsort(errors)
    chosen = {"worst": order[-1], "median": order[(len(order) - 1) // 2]}
    pictures = {
        name: picture(samples[i], predictions[i], f"{name} sample: {label[i]}, relative error {errors[i]:.2g}")
        for name, i in chosen.items()
    }
    return Evaluation(rows, pictures)


def relative_error(sample: Sample, prediction: Array) -> float:
    """Return ‖prediction − u‖ / ‖u‖ in L²(Ω).

    Both are taken about their means if u is fixed at one node only: it is then defined up to a constant.
    """
    mass, solution = mass_matrix(sample.system.mesh), _solution(sample)
    difference = prediction - solution
    if sample.system.prescribed.sum() == 1:
        weight = mass.sum(axis=0) / mass.sum()
        difference, solution = difference - weight @ difference, solution - weight @ solution
    return float(np.sqrt(difference @ mass @ difference) / max(np.sqrt(solution @ mass @ solution), _TINY))


def picture(sample: Sample, prediction: Array, title: str) -> Figure:
    """Draw prediction, reference and their difference."""
    solution = _solution(sample)
    figure = Figure(figsize=(12.0, 4.0), layout="constrained")
    figure.suptitle(title, fontsize=10)
    limits = float(min(prediction.min(), solution.min())), float(max(prediction.max(), solution.max()))
    largest = max(float(np.abs(prediction - solution).max()), _TINY)
    parts = {
        "prediction": (prediction, limits, "viridis"),
        "finite elements": (solution, limits, "viridis"),
        "difference": (prediction - solution, (-largest, largest), "RdBu_r"),
    }
    triangles = _triangles(sample.system.mesh)
    for axes, (name, (values, between, colours)) in zip(figure.subplots(1, 3), parts.items(), strict=True):
        _draw(axes, triangles, values, between, colours)
        axes.set_title(name, fontsize=10)
    return figure


def _predicted(predict: Predict, samples: Sequence[Sample], progress: Progress) -> tuple[list[Array], Array]:
    """Return the predictions and the time of each, that of its batch divided by the size of the batch [s]."""
    predictions: list[Array] = []
    seconds: list[float] = []
    for start in range(0, len(samples), _BATCH):
        systems = [sample.system for sample in samples[start : start + _BATCH]]
        begin = time.perf_counter()
        predictions += predict(systems)
        seconds += [(time.perf_counter() - begin) / len(systems)] * len(systems)
        progress("predicting", len(predictions), len(samples))
    return predictions, np.array(seconds)


def _summary(column: str, values: Array) -> float:
    if column == "largest":
        return float(values.max())
    return float(np.median(values) if column == "median" else values.mean())


def _to_given(sample: Sample, values: Array) -> float:
    """Return the relative difference of values at the nodes from the given solution at the centres of the cells."""
    assert sample.given is not None
    difference = at_centres(sample.system.mesh, values) - sample.given
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(sample.given)), _TINY))


def _solution(sample: Sample) -> Array:
    assert sample.system.solution is not None
    return sample.system.solution


def _triangles(mesh: TaggedMesh) -> Triangulation:
    """Return the triangles of a mesh, with quadrilaterals divided."""
    cells = mesh.cells if mesh.cells.shape[1] == 3 else np.vstack([mesh.cells[:, [0, 1, 2]], mesh.cells[:, [0, 2, 3]]])
    return Triangulation(mesh.points[:, 0], mesh.points[:, 1], cells)


def _draw(axes: Axes, triangles: Triangulation, values: Array, between: tuple[float, float], colours: str) -> None:
    low, high = between
    drawn = axes.tripcolor(triangles, values, shading="gouraud", cmap=colours, vmin=low, vmax=high)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.figure.colorbar(drawn, ax=axes, shrink=0.8)
