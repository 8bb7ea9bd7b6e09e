"""Error bars and corrections of the shipped surrogate cases, against solutions with the nested law.

Beside them what limits them: the bar if the error of every point were known exactly, and what a correction leaves whose
points are chosen by their true contributions.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mpi4py import MPI

from femops.commands.compare_laws import Chooser
from femops.commands.prepare import Run, prepare
from femops.inputs.case import Case, load_case
from femops.macro.probe import value_of
from femops.macro.stepping import run_steps
from femops.notation import Array
from femops.offline.train import silent

CASES = Path(__file__).parents[2] / "cases"
SHARES = (0.05, 0.2, 0.5, 1.0)


def _solved(case: Case, path: Path) -> tuple[Run, float]:
    """Return a solved case and the processor time of its steps."""
    run = prepare(case, path, MPI.COMM_WORLD)
    begin = time.process_time()
    list(run_steps(run.problem))
    return run, time.process_time() - begin


def _measured(name: str, _: Mapping[str, str]) -> dict[str, Any]:
    """Return the figures of one case: errors left by corrections are relative to that of the run."""
    path = CASES / f"{name}.yaml"
    case = load_case(path)
    ((quantity, asked),) = case.quantities.items()
    with TemporaryDirectory() as folder:
        chooser = Chooser(path, (), Path(folder), MPI.COMM_WORLD, silent)
        nested = chooser.case_with("--reference", "nested").model_copy(update={"trust": None})
        reference, nested_seconds = _solved(nested, path)
    run, seconds = _solved(case, path)
    problem, goal = run.problem, {quantity: asked.result()}
    bar = problem.error_bars.of(goal)[quantity]
    value, exact = (value_of(one.problem, asked.result()) for one in (run, reference))
    missed = exact - value
    signed, known = _true_contributions(run, asked.result())
    found: dict[str, Any] = {
        "points": len(signed),
        "relative_error": abs(missed / exact),
        "kind": bar.kind,
        "bar_over_error": bar.width / abs(missed),
        "contains_nested": abs(missed) <= bar.width,
        "bar_of_true_errors_over_error": known / abs(missed),
        "sum_of_sizes_over_error": float(np.abs(signed).sum() / abs(missed)),
        "linearisation_left": 1.0 - float(signed.sum()) / missed,
    }
    order = np.argsort(-np.abs(signed))
    for share in SHARES:
        begin = time.process_time()
        one = problem.error_bars.corrected(goal, {quantity: value}, share)[quantity]
        spent = time.process_time() - begin
        chosen = order[: math.ceil(share * len(order))]
        found |= {
            f"left_{share:g}": (exact - one.value) / missed,
            f"left_{share:g}_by_true_contributions": 1.0 - float(signed[chosen].sum()) / missed,
            f"bar_left_{share:g}": one.width / bar.width,
            f"corrected_bar_contains_nested_{share:g}": abs(exact - one.value) <= one.width,
            f"cost_{share:g}_over_nested": spent / nested_seconds,
        }
    return found | {"run_over_nested": seconds / nested_seconds}


def _true_contributions(run: Run, result: Any) -> tuple[Array, float]:
    """Return the signed contribution of each point, and the bar if the errors at all points were known."""
    problem = run.problem
    every = np.ones(problem.quadrature.n_points, dtype=bool)
    influence, weights = problem.error_bars.influence(result), problem.quadrature.weights()
    missed = problem.material.exact_stress(problem.quadrature.strain(), every) - problem.material.stress
    known = 0.0
    for region in problem.material.regions:
        metric, own = region.law.metric, region.points  # type: ignore[attr-defined]
        sizes = [
            np.sqrt(np.einsum("ns,st,nt->n", vectors[own], matrix, vectors[own]))
            for vectors, matrix in ((missed, metric), (influence, np.linalg.inv(metric)))
        ]
        known += float(weights[own] @ (sizes[0] * sizes[1]))
    return weights * (missed * influence).sum(axis=1), known


_NAMES = (
    "cook_equino",
    "cube_equino_3d",
    "plate_hole_equino",
    "l_profile_equino",
    "voided_plate_beno",
    "graded_plate_spon",
)
PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {name: partial(_measured, name) for name in _NAMES}
