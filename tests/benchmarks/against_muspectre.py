"""The iterative solver of RVEs on grids against muSpectre: a sphere in a matrix of voxels, elastic.

muSpectre has no hexahedra in 3D: its strains are derivatives of trigonometric polynomials, on odd grids. Errors are
those of the stress under a unit strain E₁₁ against the same voxels, each divided into several finite elements. Ours
solves all six load cases at once to `RTOL`, muSpectre one after the other to `THEIR_TOLERANCE`. Each side runs in a
process of its own, after a warm-up; memory is its peak above the start. muSpectre is found through the interpreter of
`--muspectre-python`; it is no dependency of femops.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.rve_fft import MATERIALS, child

from femops.law import LawContext
from femops.notation import Array
from femops.rve.solver import RVESolver, SolverOptions
from femops.rve.spec import RVEParameters, build_rve

THEIR_TOLERANCE = 1e-6


def measure(cells: int, contrast: float, loads: int, refined: int, options: Mapping[str, str]) -> dict[str, Any]:
    """Run both sides; errors are measured where `refined` elements along each edge of a voxel are given."""
    ours = child("rve_fft", 3, cells, "elastic", contrast, "fft")
    command = [options["muspectre_python"], str(Path(__file__).with_name("muspectre_side.py"))]
    arguments = map(str, (cells, contrast, loads, THEIR_TOLERANCE))
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    stress = np.array(ours["tangent"]).reshape(6, 6)[0, 0], theirs["stress"][0]
    seconds = ours["setup_s"] + ours["solve_s"]
    result = {
        "loads_of_muspectre": loads,
        "femops_s": seconds,
        "muspectre_s": theirs["seconds"],
        "speed_up": theirs["seconds"] / seconds,
        "femops_memory_MB": ours["memory_MB"],
        "muspectre_memory_MB": theirs["memory_MB"],
        "memory_ratio": theirs["memory_MB"] / ours["memory_MB"],
        "femops_iterations": ours["cg_iterations"],
        "muspectre_iterations": max(theirs["iterations"]),
        "femops_stress_11": float(stress[0]),
        "muspectre_stress_11": stress[1],
    }
    if refined:
        exact = _refined(cells, contrast, refined)
        errors = (abs(one / exact - 1.0) for one in stress)
        result |= dict(zip(("femops_error", "muspectre_error"), map(float, errors), strict=True))
    return result


def _refined(cells: int, contrast: float, parts: int) -> float:
    """Return the homogenized stress with `parts` elements along each edge of a voxel."""
    x = (np.arange(cells) + 0.5) / cells - 0.5
    inside: Array = x[:, None, None] ** 2 + x[:, None] ** 2 + x**2 <= 0.3**2
    for axis in range(3):
        inside = np.repeat(inside, parts, axis=axis)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "sphere.npy", inside.astype(np.uint8))
        fibre = {"law": "elastic", "E": 1000.0 * contrast, "nu": 0.3}
        image = {"file": "sphere.npy", "phases": {"matrix": 0, "fibre": 1}, "spacing": 1.0 / len(inside)}
        block = {"image": image, "phases": {"matrix": MATERIALS["elastic"], "fibre": fibre}}
        rve = build_rve(RVEParameters.model_validate(block), LawContext(3, Path(folder)))
    solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, SolverOptions(linear="fft"))
    return float(solver.solve(np.zeros((6, 1)), solver.virgin_state(1)).tangent[0, 0, 0])


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    f"{cells}_contrast_{contrast}_loads_{loads}": partial(measure, cells, float(contrast), loads, refined)
    for cells, refined in ((15, 4), (31, 2), (63, 0))
    for contrast in (10, 100)
    for loads in (1, 6)
    if cells < 63 or loads == 1
}
