"""A nested run whose RVEs have 32³ voxels and a plastic matrix: peak memory, and time by part.

A cube of 64 quadrature points is sheared into the plastic range in two steps; the large RVEs are solved by conjugate
gradients with the FFT.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mpi4py import MPI

from femops.commands.run import run_case
from femops.inputs.case import load_case

CASE: dict[str, Any] = {
    "title": "Cube with a plastic matrix",
    "kinematics": "solid",
    "mesh": {"box": {"size": [1.0, 1.0, 1.0], "cells": [2, 2, 2], "cell": "hexahedron"}},
    "supports": {"left": {"ux": 0.0, "uy": 0.0, "uz": 0.0}},
    "loads": {"right": {"displacement": {"uy": "0.02 * t", "uz": "0.01 * t"}}},
    "steps": {"count": 2, "end": 1.0},
    "quantities": {"force": {"reaction": "right", "component": "y"}},
    "output": {"picture": None, "micro": []},
}
PHASES = {
    "matrix": {"law": "j2", "E": 1000.0, "nu": 0.3, "yield_stress": 5.0, "hardening": 50.0},
    "fibre": {"law": "elastic", "E": 10000.0, "nu": 0.3},
}


def measure(cells: int, options: Mapping[str, str]) -> dict[str, Any]:
    """Run the case with RVEs of cells³ voxels."""
    sphere = {"center": [0.0, 0.0, 0.0], "radius": 0.3}
    rve = {"voxels": {"cells": cells, "inclusions": [sphere]}, "phases": PHASES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.yaml"
        path.write_text(yaml.safe_dump({**CASE, "material": {"law": "nested", "rve": rve}}))
        begin = time.process_time()
        summary = run_case(load_case(path), path, Path(folder) / "results", MPI.COMM_WORLD)
        seconds = time.process_time() - begin
    iterations = [step["iterations"] for step in summary["steps"]]
    return {
        "points": summary["n_qp"],
        "unknowns_of_rve": 3 * (cells**3 - 1),
        "iterations": sum(iterations),
        "processor_s": seconds,
        "share_of_law": summary["seconds"]["law"] / summary["seconds"]["total"],
        "peak_memory_MB": summary["peak_memory"][0] / 2**20,
        "force": summary["quantities"]["force"],
    }


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    f"voxels_{cells}": partial(measure, cells) for cells in (8, 32)
}
