"""Where the time of a macroscale run goes: law, assembly, linear solve and output, for cheap and nested laws."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mpi4py import MPI

from femops.commands.run import run_case
from femops.inputs.case import load_case

CASE = Path(__file__).parents[2] / "cases" / "cook_nested.yaml"
SATURATING = "material={law: saturating, K: 4780.0, alpha1: 50.0, alpha2: 0.06}"


def measure(overrides: tuple[str, ...], options: Mapping[str, str]) -> dict[str, Any]:
    """Run Cook's membrane and return seconds and shares by part; forms are compiled before the run that counts."""
    case = load_case(CASE, (*overrides, "output.picture=null", "output.micro=[]"))
    with tempfile.TemporaryDirectory() as folder:
        run_case(
            case.model_copy(update={"steps": case.steps.model_copy(update={"count": 1})}),
            CASE,
            Path(folder),
            MPI.COMM_WORLD,
        )
        summary = run_case(case, CASE, Path(folder), MPI.COMM_WORLD)
    seconds = summary["seconds"]
    shares = {f"share_{name.replace(' ', '_')}": value / seconds["total"] for name, value in seconds.items()}
    iterations = sum(step["iterations"] for step in summary["steps"])
    return {"n_qp": summary["n_qp"], "iterations": iterations, "total_s": seconds["total"], **shares}


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "cook_nested": partial(measure, ()),
    "cook_saturating": partial(measure, (SATURATING,)),
    "fine_saturating": partial(
        measure,
        (
            SATURATING,
            "mesh={box: {size: [48.0, 44.0], cells: [64, 64], cell: quadrilateral}}",
            "quantities={}",
        ),
    ),
}
