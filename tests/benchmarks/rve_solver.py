"""Milliseconds per RVE solve (stress and tangent to 1e-8) against the size of the RVE, and the errors.

A load step goes from 0.8 E to E for 32 random strains within ±0.04. Both sides start from the step before (warm: all
that the law kept of it; DOLFINx: its fluctuation) or from nothing (cold). All variants take turns; the time of each
is the median over the rounds. Errors are relative differences from DOLFINx at 1e-12, largest over the strains.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from benchmarks.reference_dolfinx import ReferenceRVE, ReferenceSolution

import femops
from femops.errors import NotConverged
from femops.notation import Array

N_STRAINS = 32
ROUNDS = 5
PHASES: dict[str, dict[str, Any]] = {
    "matrix": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
    "fibre": {"law": "elastic", "K": 43452.381, "G": 29918.033},
}
Answer = tuple[Array, Array]


def measure(geometry: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """Time all variants on one RVE.

    Args:
        geometry: The generator of the RVE.
        options: Not used.
    """
    dim = 3 if "spheres" in geometry else 2
    warm = _law(geometry, dim)
    cold = _law(geometry, dim, predictor=False)
    mumps = _law(geometry, dim, predictor=False, linear="mumps")
    mesh = warm.rve.discretisation.mesh
    reference = ReferenceRVE(mesh, PHASES)
    strain = np.random.default_rng(11).uniform(-0.04, 0.04, (N_STRAINS, warm.rve.discretisation.n_s))
    state = warm.evaluate(0.8 * strain, np.zeros((N_STRAINS, warm.n_state)), 1.0).state
    starts = [reference.solve(0.8 * one).fluctuation for one in strain]
    variants: dict[str, Callable[[], Answer]] = {
        "femops_warm": partial(_evaluate, warm, strain, state),
        "femops_cold": partial(_evaluate, cold, strain, np.zeros((N_STRAINS, cold.n_state))),
        "femops_cold_mumps": partial(_evaluate, mumps, strain, np.zeros((N_STRAINS, mumps.n_state))),
        "dolfinx_warm": lambda: _stack([reference.solve(*pair) for pair in zip(strain, starts, strict=True)]),
        "dolfinx_cold": lambda: _stack([reference.solve(one) for one in strain]),
    }
    exact = ReferenceRVE(mesh, PHASES, rtol=1e-12)
    exact_stress, exact_tangent = _stack([exact.solve(one) for one in strain])
    result: dict[str, Any] = {
        "elements": len(mesh.cells),
        "unknowns": warm.solver.free.count,
        "batch": warm.solver.batch,
    }
    milliseconds = _take_turns(variants, result)
    for name, (time_of_one, (stress, tangent)) in milliseconds.items():
        result[f"{name}_ms"] = time_of_one
        result[f"{name}_stress_error"] = _error(stress, exact_stress)
        result[f"{name}_tangent_error"] = _error(tangent, exact_tangent)
    for start in ("warm", "cold"):
        result[f"ratio_{start}"] = result[f"dolfinx_{start}_ms"] / result[f"femops_{start}_ms"]
    result.update(_iterations(warm, cold, reference, strain, state, starts))
    return result


def _law(geometry: Mapping[str, Any], dim: int, **solver: Any) -> Any:
    return femops.load_law({"law": "nested", "rve": {**geometry, "phases": PHASES}, "solver": solver}, dim=dim)


def _evaluate(law: Any, strain: Array, state: Array) -> Answer:
    response = law.evaluate(strain, state, 1.0)
    return response.stress, response.tangent


def _stack(solutions: list[ReferenceSolution]) -> Answer:
    return np.array([one.stress for one in solutions]), np.array([one.tangent for one in solutions])


def _take_turns(
    variants: Mapping[str, Callable[[], Answer]], result: dict[str, Any]
) -> dict[str, tuple[float, Answer]]:
    """Run every variant once to warm up, then in turns; a variant that fails is named in `result`."""
    answers: dict[str, Answer] = {}
    for name, variant in variants.items():
        try:
            answers[name] = variant()
        except NotConverged as error:
            result[f"{name}_ms"] = f"failed: {error}"
    times: dict[str, list[float]] = {name: [] for name in answers}
    for _ in range(ROUNDS):
        for name in answers:
            begin = time.perf_counter()
            variants[name]()
            times[name].append((time.perf_counter() - begin) * 1e3 / N_STRAINS)
    return {name: (float(np.median(times[name])), answers[name]) for name in answers}


def _iterations(
    warm: Any, cold: Any, reference: ReferenceRVE, strain: Array, state: Array, starts: list[Array]
) -> dict[str, float]:
    """Return the mean number of Newton iterations of each side."""
    columns = np.ascontiguousarray(strain.T)
    state = cold.solver.virgin_state(N_STRAINS)
    pairs = zip(strain, starts, strict=True)
    return {
        "femops_warm_iterations": float(warm._solve(strain, state).iterations.mean()),
        "femops_cold_iterations": float(cold.solver.solve(columns, state).iterations.mean()),
        "dolfinx_warm_iterations": float(np.mean([reference.solve(*pair).iterations for pair in pairs])),
        "dolfinx_cold_iterations": float(np.mean([reference.solve(one).iterations for one in strain])),
    }


def _error(value: Array, exact: Array) -> float:
    axes = tuple(range(1, value.ndim))
    return float(np.sqrt(((value - exact) ** 2).sum(axes) / (exact**2).sum(axes)).max())


def _fibre(size: float, cell: str) -> dict[str, Any]:
    return {"circles": {"circles": [{"center": [0, 0], "radius": 0.25}], "mesh_size": size, "cell": cell}}


def _sphere(size: float) -> dict[str, Any]:
    return {"spheres": {"spheres": [{"center": [0, 0, 0], "radius": 0.3}], "mesh_size": size, "cell": "tetra"}}


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "p1_300": partial(measure, _fibre(0.095, "triangle")),
    "p1_1500": partial(measure, _fibre(0.041, "triangle")),
    "p1_6000": partial(measure, _fibre(0.02, "triangle")),
    "p2_880": partial(measure, _fibre(0.055, "triangle6")),
    "tetra_2900": partial(measure, _sphere(0.13)),
}
