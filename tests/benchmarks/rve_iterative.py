"""RVEs with pores, and RVEs of tetrahedra, solved iteratively and by PARDISO: processor time, stress and tangent.

`cold` is the set-up of the solver with its elastic tangent and one strain with its tangent, `warm` the strain 10 %
larger that follows. The pore is a sphere or a circle in the middle of the cell, a stiff inclusion is at its corner.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.rve_fft import MATERIALS, STRAIN, child, counted_iterations, peak_memory

STIFF = {"law": "elastic", "E": 10000.0, "nu": 0.3}


def measure(
    dim: int, shape: Mapping[str, Any], material: str, linear: str, options: Mapping[str, str]
) -> dict[str, Any]:
    """Solve one RVE by the iterative method and by PARDISO."""
    ours, theirs = (child("rve_iterative", dim, shape, material, one) for one in (linear, "pardiso"))
    result = {"unknowns": ours["unknowns"], "iterations": ours["iterations"]}
    for time_of in ("cold_s", "warm_s"):
        result |= {f"{linear}_{time_of}": ours[time_of], f"pardiso_{time_of}": theirs[time_of]}
        result[f"speed_up_{time_of[:-2]}"] = theirs[time_of] / ours[time_of]
    for name in ("stress", "tangent"):
        one, other = np.array(ours[name]), np.array(theirs[name])
        result[f"{name}_difference"] = float(np.linalg.norm(one - other) / np.linalg.norm(other))
    return result


def alone(cells: int, material: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Solve one RVE with a pore, too large for PARDISO, by the iterative method."""
    found = child("rve_iterative", 3, _pore(cells), material, "fft")
    names = {"cold_s": "fft_cold_s", "warm_s": "fft_warm_s", "memory_MB": "fft_memory_MB"}
    return {name: found[name] for name in ("unknowns", "iterations")} | {names[one]: found[one] for one in names}


def _built(dim: int, shape: Mapping[str, Any], material: str, size: float) -> Any:
    """Return the RVE with `size` cells along an edge, or this mesh size."""
    from femops.law import LawContext
    from femops.rve.spec import RVEParameters, build_rve

    phases = {"matrix": MATERIALS[material], "fibre": STIFF}
    if "pore" not in shape:
        sphere = {"spheres": [{"center": [0.0] * dim, "radius": 0.3}], "mesh_size": size, "cell": "tetra"}
        block = {"spheres": sphere, "phases": phases}
        return build_rve(RVEParameters.model_validate(block), LawContext(dim))
    x = (np.arange(int(size)) + 0.5) / int(size) - 0.5
    axes = np.meshgrid(*[x] * dim)
    labels = np.where(sum(one**2 for one in axes) <= shape["pore"] ** 2, 2, 0).astype(np.uint8)
    labels[sum((0.5 - np.abs(one)) ** 2 for one in axes) <= 0.2**2] = 1
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "pore.npy", labels)
        image = {"file": "pore.npy", "phases": {"matrix": 0, "fibre": 1, "void": 2}, "spacing": 1.0 / int(size)}
        return build_rve(
            RVEParameters.model_validate({"image": image, "phases": phases}), LawContext(dim, Path(folder))
        )


def _solved(dim: int, shape: Mapping[str, Any], material: str, linear: Any) -> dict[str, Any]:
    from femops.rve.solver import RVESolver, SolverOptions

    counts = counted_iterations()
    for size in (shape["warm_up"], shape["size"]):
        floor = peak_memory()
        rve = _built(dim, shape, material, size)
        counts.clear()
        times = [time.process_time()]
        solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, SolverOptions(linear=linear))
        strain = np.random.default_rng(0).normal(size=(rve.discretisation.n_s, 1))
        strain *= STRAIN / np.linalg.norm(strain)
        first = solver.solve(strain, solver.virgin_state(1))
        times.append(time.process_time())
        known = solver.elastic_sensitivity[:, :, None] if solver.iterative else first.sensitivity
        start = first.fluctuation + np.einsum("fsn,sn->fn", known, 0.1 * strain)
        solver.solve(1.1 * strain, first.state, start, None if solver.iterative else first.sensitivity)
        times.append(time.process_time())
    return {
        "unknowns": solver.free.count,
        "cold_s": times[1] - times[0],
        "warm_s": times[2] - times[1],
        "memory_MB": peak_memory() - floor,
        "iterations": "+".join(map(str, counts)),
        "stress": first.stress.ravel().tolist(),
        "tangent": first.tangent.ravel().tolist(),
    }


def _pore(cells: int) -> dict[str, float]:
    return {"pore": 0.3, "warm_up": 8, "size": cells}


_TETRA, _FINE_TETRA = {"warm_up": 0.3, "size": 0.046}, {"warm_up": 0.3, "size": 0.031}
PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "pore_solid_24_elastic": partial(measure, 3, _pore(24), "elastic", "fft"),
    "pore_solid_24_j2": partial(measure, 3, _pore(24), "j2", "fft"),
    "pore_solid_64_elastic": partial(alone, 64, "elastic"),
    "pore_solid_64_j2": partial(alone, 64, "j2"),
    "pore_plane_300_saturating": partial(measure, 2, _pore(300), "saturating", "fft"),
    "tetra_saturating": partial(measure, 3, _TETRA, "saturating", "multigrid"),
    "tetra_j2": partial(measure, 3, _TETRA, "j2", "multigrid"),
    "tetra_fine_elastic": partial(measure, 3, _FINE_TETRA, "elastic", "multigrid"),
    "tetra_fine_j2": partial(measure, 3, _FINE_TETRA, "j2", "multigrid"),
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(_solved(*json.loads(sys.argv[1]))))
