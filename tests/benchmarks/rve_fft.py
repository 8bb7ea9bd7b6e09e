"""The iterative solver of RVEs on grids against the direct one: processor time, peak memory, stress and tangent.

A sphere (3D) or a circle (plane strain) in a matrix. `setup` is the time of the solver with its elastic tangent from
the mesh on, `solve` that of one strain with its tangent, which takes nothing more for linear phases. Every solver runs
in a process of its own, after a warm-up that loads the compiled code; `memory` is its peak above the start.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

MATERIALS = {
    "elastic": {"law": "elastic", "E": 1000.0, "nu": 0.3},
    "saturating": {"law": "saturating", "K": 833.0, "alpha1": 23.0, "alpha2": 0.03},
    "j2": {"law": "j2", "E": 1000.0, "nu": 0.3, "yield_stress": 5.0, "hardening": 50.0},
}
STRAIN = 0.02
RTOL = 1e-8


def measure(
    dim: int, cells: int, material: str, contrast: float, direct: bool, options: Mapping[str, str]
) -> dict[str, Any]:
    """Run one RVE with both solvers; the direct one only where it fits."""
    sides = {"fft": child("rve_fft", dim, cells, material, contrast, "fft")}
    if direct:
        sides["direct"] = child("rve_fft", dim, cells, material, contrast, "pardiso")
    result: dict[str, Any] = {"unknowns": sides["fft"]["unknowns"]}
    for side, found in sides.items():
        names = ("setup_s", "solve_s", "memory_MB", "newton_iterations", "cg_iterations")
        result |= {f"{side}_{name}": found[name] for name in names if found[name] is not None}
    if direct:
        ours, theirs = (sides[side]["setup_s"] + sides[side]["solve_s"] for side in ("fft", "direct"))
        result["speed_up"] = theirs / ours
        result["memory_ratio"] = sides["direct"]["memory_MB"] / sides["fft"]["memory_MB"]
        for name in ("stress", "tangent"):
            one, other = (np.array(sides[side][name]) for side in ("fft", "direct"))
            result[f"{name}_difference"] = float(np.linalg.norm(one - other) / np.linalg.norm(other))
    return result


def child(benchmark: str, *arguments: Any) -> dict[str, Any]:
    """Return what `_solved` of a benchmark finds in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def counted_iterations() -> list[int]:
    """Return a list to which each call of conjugate gradients adds the number of its iterations from now on."""
    from femops.rve import iterative
    from femops.rve.conjugate_gradients import conjugate_gradients as plain
    from femops.rve.fft import single_precision

    counts: list[int] = []

    def counted(*given: Any) -> Any:
        found = plain(*given)
        counts.append(int(found[2].max()))
        return found

    for module in (iterative, single_precision):
        module.conjugate_gradients = counted  # type: ignore[attr-defined]
    return counts


def _solved(dim: int, cells: int, material: str, contrast: float, linear: Any) -> dict[str, Any]:
    from femops.rve.solver import RVESolver, SolverOptions

    counts = counted_iterations()

    def run(n: int) -> tuple[Any, Any, tuple[float, float, float], float]:
        floor, start = peak_memory(), time.process_time()
        rve = sphere(dim, n, material, contrast)
        begin = time.process_time()
        solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, SolverOptions(rtol=RTOL, linear=linear))
        _ = solver.elastic_sensitivity
        middle = time.process_time()
        strain = np.random.default_rng(0).normal(size=(rve.discretisation.n_s, 1))
        solution = solver.solve(STRAIN * strain / np.linalg.norm(strain), solver.virgin_state(1))
        return solver, solution, (begin - start, middle - begin, time.process_time() - middle), floor

    run(4)
    counts.clear()
    solver, solution, (build, setup, solve), floor = run(cells)
    return {
        "unknowns": solver.free.count,
        "build_s": build,
        "setup_s": setup,
        "solve_s": solve,
        "memory_MB": peak_memory() - floor,
        "newton_iterations": int(solution.iterations[0]),
        "cg_iterations": "+".join(map(str, counts)) if counts else None,
        "stress": solution.stress.ravel().tolist(),
        "tangent": solution.tangent.ravel().tolist(),
    }


def sphere(dim: int, cells: int, material: str, contrast: float) -> Any:
    """Return the RVE."""
    from femops.law import LawContext
    from femops.rve.spec import RVEParameters, build_rve

    phases = {"matrix": MATERIALS[material], "fibre": {"law": "elastic", "E": 1000.0 * contrast, "nu": 0.3}}
    voxels = {"cells": cells, "inclusions": [{"center": [0.0] * dim, "radius": 0.3}]}
    return build_rve(RVEParameters.model_validate({"voxels": voxels, "phases": phases}), LawContext(dim))


def peak_memory() -> float:
    """Return the peak memory of this process [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def plot(record: Path, picture: Path) -> None:
    """Draw processor time and memory over the unknowns, with the slopes between the smallest and the largest RVE."""
    import matplotlib.pyplot as plt

    problems = json.loads(record.read_text(encoding="utf-8"))["problems"]
    figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    for row, dim in enumerate(("solid", "plane")):
        for material in MATERIALS:
            for side, style in (("fft", "o-"), ("direct", "s--")):
                chosen = [one for name, one in problems.items() if name.startswith(f"{dim}_{material}_10_")]
                chosen = [one for one in chosen if f"{side}_setup_s" in one]
                size = np.array([one["unknowns"] for one in chosen])
                seconds = np.array([one[f"{side}_setup_s"] + one[f"{side}_solve_s"] for one in chosen])
                memory = np.array([one[f"{side}_memory_MB"] for one in chosen])
                for axis, values in zip(axes[row], (seconds, memory), strict=True):
                    slope = np.log(values[-1] / values[0]) / np.log(size[-1] / size[0])
                    axis.loglog(size, values, style, label=f"{side}, {material}: n^{slope:.2f}")
        axes[row, 0].set(title=f"{dim}, contrast 10", ylabel="processor time [s]", xlabel="unknowns")
        axes[row, 1].set(title=f"{dim}, contrast 10", ylabel="peak memory [MB]", xlabel="unknowns")
        for axis in axes[row]:
            axis.legend(fontsize=7)
            axis.grid(which="both", alpha=0.3)
    figure.savefig(picture, dpi=110)


def _problems() -> dict[str, Callable[[Mapping[str, str]], dict[str, Any]]]:
    """Return the problems, DIM_MATERIAL_CONTRAST_CELLS; the direct solver stops where it takes minutes."""
    found = {}
    grids = {"solid": (3, (16, 24, 32, 64), 24), "plane": (2, (64, 128, 256, 707), 256)}
    for name, (dim, sizes, largest) in grids.items():
        for material, contrast in (("elastic", 10), ("saturating", 10), ("j2", 10), ("elastic", 100)):
            for cells in sizes:
                direct = cells <= largest
                problem = partial(measure, dim, cells, material, float(contrast), direct)
                found[f"{name}_{material}_{contrast}_{cells}"] = problem
    for material in ("elastic", "saturating"):
        found[f"solid_{material}_10_128"] = partial(measure, 3, 128, material, 10.0, False)
    return found


PROBLEMS = _problems()

if __name__ == "__main__":
    if sys.argv[1] == "plot":
        results = Path(__file__).parent / "results"
        plot(results / "rve_fft.json", results / "rve_fft.png")
    else:
        sys.stdout.write(json.dumps(_solved(*json.loads(sys.argv[1]))))
