"""femops' nested law against the FE2 law of fedoo on the same 3D RVE, phases and strains.

Sixteen RVEs (as many as two hexahedra have points) follow random strain paths. Both sides return stress and tangent
at every increment; the time is that of the evaluations alone, without the creation of the RVEs. fedoo is found
through the interpreter of `--fedoo-python`; it is no dependency of femops.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import femops
from femops import notation
from femops.notation import Array

N_POINTS = 16
ROUNDS = 3
FIBRE = {"law": "elastic", "K": 43452.381, "G": 29918.033}
ELASTIC = {"matrix": {"law": "elastic", "K": 4780.0, "G": 800.0}, "fibre": FIBRE}
PLASTIC = {"matrix": {"law": "j2", "K": 4780.0, "G": 800.0, "yield_stress": 20.0, "hardening": 200.0}, "fibre": FIBRE}
_FEDOO_ORDER = [0, 1, 2, 5, 4, 3]  # Mandel position of xx, yy, zz, xy, xz, yz


def compare(
    phases: Mapping[str, Any], increments: int, tolerance: float | None, size: float, options: Mapping[str, str]
) -> dict[str, Any]:
    """Run both sides along the same strains.

    Args:
        phases: Laws of the phases.
        increments: Number of increments of the path.
        tolerance: Newton tolerance of fedoo's RVEs; None keeps its own 0.05.
        size: Element size of the RVE.
        options: `fedoo_python`.
    """
    sphere = {"spheres": [{"center": [0, 0, 0], "radius": 0.3}], "mesh_size": size, "cell": "tetra"}
    law: Any = femops.load_law({"law": "nested", "rve": {"spheres": sphere, "phases": phases}}, dim=3)
    end = np.random.default_rng(7).uniform(-0.02, 0.02, (N_POINTS, 6))
    path = end * np.linspace(0.0, 1.0, increments + 1)[1:, None, None]
    theirs = _run_fedoo(law, phases, path, tolerance, options)
    _march(law, path)  # compiles
    rounds = [_march(law, path) for _ in range(ROUNDS)]
    _, stress, tangent, state = rounds[0]
    seconds = np.median([one[0] for one in rounds], axis=0)
    their_stress, their_tangent = _mandel(theirs["stress"], theirs["tangent"])
    per_rve = 1e3 / (N_POINTS * increments)
    ours_ms, theirs_ms = seconds.sum() * per_rve, theirs["seconds"].sum() * per_rve
    return {
        "elements": len(law.rve.discretisation.mesh.cells),
        "unknowns": law.solver.free.count,
        "increments": increments,
        "fedoo_version": str(theirs["version"]),
        "fedoo_pardiso": bool(theirs["pardiso"]),
        "fedoo_initialisation_ms": float(theirs["initialisation"]) * 1e3 / N_POINTS,
        "fedoo_ms": float(theirs_ms),
        "femops_ms": float(ours_ms),
        "ratio": float(theirs_ms / ours_ms),
        "stress_difference": _difference(their_stress[-1], stress[-1]),
        "tangent_difference": _difference(their_tangent[-1], tangent[-1]),
        "femops_tangent_against_central_differences": _tangent_error(law, path[-1], state, tangent[-1]),
    }


def _march(law: Any, path: Array) -> tuple[Array, Array, Array, Array]:
    """Return seconds, stress and tangent of every increment, and the state at the start of the last one."""
    state = np.zeros((path.shape[1], law.n_state))
    seconds, stress, tangent = [], [], []
    last = state
    for strain in path:
        last = state
        begin = time.perf_counter()
        response = law.evaluate(strain, state, 1.0)
        seconds.append(time.perf_counter() - begin)
        stress.append(response.stress)
        tangent.append(response.tangent)
        state = response.state
    return np.array(seconds), np.array(stress), np.array(tangent), last


def _tangent_error(law: Any, strain: Array, state: Array, tangent: Array) -> float:
    """Return the relative difference of the tangent from central differences in one random direction."""
    step = np.random.default_rng(3).normal(size=strain.shape) * 1e-6
    plus, minus = (law.evaluate(strain + sign * step, state, 1.0).stress for sign in (1.0, -1.0))
    return _difference(0.5 * (plus - minus), np.einsum("nst,nt->ns", tangent, step))


def _run_fedoo(
    law: Any, phases: Mapping[str, Any], path: Array, tolerance: float | None, options: Mapping[str, str]
) -> Any:
    mesh = law.rve.discretisation.mesh
    job = {"phases": {name: phases[name] for name in mesh.regions}, "element": "tet4", "tolerance": tolerance}
    engineering = (path / notation.weights(3) * np.repeat([1.0, 2.0], 3))[..., _FEDOO_ORDER]
    with tempfile.TemporaryDirectory() as folder:
        job_file, arrays, answer = (Path(folder) / name for name in ("job.json", "arrays.npz", "answer.npz"))
        job_file.write_text(json.dumps(job), encoding="utf-8")
        np.savez(arrays, points=mesh.points, cells=mesh.cells, phase=mesh.region_of_cell(), strain=engineering)
        script = Path(__file__).with_name("fedoo_side.py")
        command = [options.get("fedoo_python", sys.executable), str(script), str(job_file), str(arrays), str(answer)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if "No module named 'fedoo'" in done.stderr:
            raise SystemExit(f"fedoo is not installed for {command[0]}; name another interpreter by --fedoo-python")
        if done.returncode:
            raise SystemExit(f"the fedoo side failed:\n{done.stderr[-2000:]}")
        return dict(np.load(answer))


def _mandel(stress: Array, tangent: Array) -> tuple[Array, Array]:
    """Convert fedoo's Voigt stress (..., 6) and tangent (..., 6, 6) to Mandel."""
    weights = notation.weights(3)
    stress, tangent = stress[..., _FEDOO_ORDER], tangent[..., _FEDOO_ORDER, :][..., _FEDOO_ORDER]
    return stress * weights, tangent * np.outer(weights, weights)


def _difference(theirs: Array, ours: Array) -> float:
    """Return the largest relative difference over the points."""
    axes = tuple(range(1, ours.ndim))
    return float(np.sqrt(((theirs - ours) ** 2).sum(axes) / (ours**2).sum(axes)).max())


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "elastic_1237": partial(compare, ELASTIC, 2, None, 0.25),
    "j2_1237": partial(compare, PLASTIC, 4, None, 0.25),
    "j2_1237_tight": partial(compare, PLASTIC, 4, 1e-6, 0.25),
    "j2_2864_tight": partial(compare, PLASTIC, 4, 1e-6, 0.13),
}
