"""The iterative solver of RVEs on grids against muSpectre: a sphere in a matrix of voxels, elastic.

muSpectre has no hexahedra in 3D: its strains are derivatives of trigonometric polynomials, on odd grids. Errors are
those of the stress under a unit strain E₁₁ against the same voxels, each divided into several finite elements. For six
load cases ours solves all at once, with the tangent, to `rve_fft.RTOL`, muSpectre one after the other to `TOLERANCE`.
For one load case ours solves for the equilibrium only, to the same tolerance and to `RTOL`, the default; the errors
that they leave in the stress are measured against `TIGHT`. Times include the construction of the RVE from its voxels on
both sides. Each side runs in a process of its own, after a warm-up; memory is its peak above the start. muSpectre is
found through the interpreter of `--muspectre-python`; it is no dependency of femops.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.rve_fft import MATERIALS, RTOL, child, counted_iterations, peak_memory, sphere

from femops.law import LawContext
from femops.notation import Array
from femops.rve.solver import RVESolver, SolverOptions
from femops.rve.spec import RVEParameters, build_rve

TOLERANCE, TIGHT = 1e-6, 1e-11


def measure(cells: int, contrast: float, loads: int, refined: int, options: Mapping[str, str]) -> dict[str, Any]:
    """Run both sides; errors are measured where `refined` elements along each edge of a voxel are given."""
    theirs = _muspectre(cells, contrast, loads, TOLERANCE, options)
    result: dict[str, Any] = {
        "muspectre_s": theirs["seconds"],
        "muspectre_memory_MB": theirs["memory_MB"],
        "muspectre_iterations": max(theirs["iterations"]),
        "muspectre_stress_11": theirs["stress"][0],
    }
    if loads == 1:
        result |= one_load(cells, contrast, theirs["seconds"], theirs["memory_MB"])
        exact = _muspectre(cells, contrast, 1, TIGHT, options)["stress"]
        result["muspectre_error_of_tolerance"] = difference(theirs["stress"], exact)
        return result
    ours = child("rve_fft", 3, cells, "elastic", contrast, "fft")
    stress = np.array(ours["tangent"]).reshape(6, 6)[0, 0], theirs["stress"][0]
    seconds = ours["build_s"] + ours["setup_s"] + ours["solve_s"]
    result |= {
        "femops_s": seconds,
        "speed_up": theirs["seconds"] / seconds,
        "femops_memory_MB": ours["memory_MB"],
        "memory_ratio": theirs["memory_MB"] / ours["memory_MB"],
        "femops_iterations": ours["cg_iterations"],
        "femops_stress_11": float(stress[0]),
    }
    if refined:
        exact = _refined(cells, contrast, refined)
        errors = (abs(one / exact - 1.0) for one in stress)
        result |= dict(zip(("femops_error", "muspectre_error"), map(float, errors), strict=True))
    return result


def one_load(cells: int, contrast: float, seconds: float, memory: float) -> dict[str, Any]:
    """Run our side for one load case; seconds and memory are those of the other side."""
    result: dict[str, Any] = {}
    exact = child("against_muspectre", cells, contrast, TIGHT)["stress"]
    for name, rtol in (("", TOLERANCE), ("_default", RTOL)):
        ours = child("against_muspectre", cells, contrast, rtol)
        result |= {
            f"femops{name}_s": ours["seconds"],
            f"femops{name}_solver_s": ours["solver_s"],
            f"speed_up{name}": seconds / ours["seconds"],
            f"femops{name}_memory_MB": ours["memory_MB"],
            f"memory_ratio{name}": memory / ours["memory_MB"],
            f"femops{name}_iterations": ours["cg_iterations"],
            f"femops{name}_error_of_tolerance": difference(ours["stress"], exact),
        }
    return result | {"femops_stress_11": ours["stress"][0]}


def difference(one: list[float], other: list[float]) -> float:
    """Return the relative difference of two stresses."""
    return float(np.linalg.norm(np.subtract(one, other)) / np.linalg.norm(other))


def _muspectre(cells: int, contrast: float, loads: int, rtol: float, options: Mapping[str, str]) -> dict[str, Any]:
    command = [options["muspectre_python"], str(Path(__file__).with_name("muspectre_side.py"))]
    arguments = map(str, (cells, contrast, loads, rtol))
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _equilibrium(cells: int, contrast: float, rtol: float) -> dict[str, Any]:
    counts = counted_iterations()

    def run(n: int) -> tuple[Array, float, float]:
        begin = time.process_time()
        rve = sphere(3, n, "elastic", contrast)
        built = time.process_time()
        solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, SolverOptions(rtol=rtol, linear="fft"))
        found = solver.equilibrium(np.eye(6, 1), solver.virgin_state(1))
        end = time.process_time()
        return found.stress[:, 0], end - begin, end - built

    run(5)
    counts.clear()
    floor = peak_memory()
    stress, seconds, of_solver = run(cells)
    return {
        "seconds": seconds,
        "solver_s": of_solver,
        "memory_MB": peak_memory() - floor,
        "cg_iterations": "+".join(map(str, counts)),
        "stress": stress.tolist(),
    }


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

if __name__ == "__main__":
    sys.stdout.write(json.dumps(_equilibrium(*json.loads(sys.argv[1]))))
