"""Where the time of a warm nested solve goes: factorisations, back-substitutions and the rest, in processor time.

And how much sooner two threads are done, by the clock.

A load step goes from 0.8 E to E for 32 random strains within ±0.04, with the RVEs of `rve_solver`. Factorisations and
substitutions are the time inside PARDISO.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from benchmarks import rve_solver

import femops
from femops.rve.linear import PardisoSolver

_REPEATS = 5
_TURNS = 7
_FACTORISE, _SUBSTITUTE = 23, 33  # phases of PARDISO; the former includes the solution for its right-hand sides


def measure(geometry: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """Return times of a solve and of its parts [ms], and their numbers."""
    dim = 3 if "spheres" in geometry else 2
    law: Any = femops.load_law({"law": "nested", "rve": {**geometry, "phases": rve_solver.PHASES}}, dim=dim)
    n = rve_solver.N_STRAINS
    strain = np.random.default_rng(11).uniform(-0.04, 0.04, (n, law.rve.discretisation.n_s))
    state = law.evaluate(0.8 * strain, np.zeros((n, law.n_state)), 1.0).state
    law.evaluate(strain, state, 1.0)
    with _counted() as (seconds, calls):
        begin = time.process_time()
        for _ in range(_REPEATS):
            law.evaluate(strain, state, 1.0)
        total = time.process_time() - begin
    solves = n * _REPEATS
    found: dict[str, Any] = {"unknowns": law.solver.free.count, "solve_ms": 1e3 * total / solves}
    found["two_threads"] = _gain_of_two_threads(
        lambda: law.evaluate(np.tile(strain, (2, 1)), np.tile(state, (2, 1)), 1.0)
    )
    for name, phase in (("factorisation", _FACTORISE), ("substitution", _SUBSTITUTE)):
        found[f"{name}_share"] = seconds[phase] / total
        found[f"{name}s_per_solve"] = calls[phase] / solves
    return {**found, "rest_share": 1.0 - (seconds[_FACTORISE] + seconds[_SUBSTITUTE]) / total}


def _gain_of_two_threads(work: Callable[[], Any]) -> float:
    """Return the shortest time with one thread relative to that with two, in turns."""
    shortest = {"1": np.inf, "2": np.inf}
    for turn in range(2 * _TURNS):
        os.environ["FEMOPS_NUM_THREADS"] = number = "12"[turn % 2]
        begin = time.perf_counter()
        work()
        shortest[number] = min(shortest[number], time.perf_counter() - begin)
    del os.environ["FEMOPS_NUM_THREADS"]
    return float(shortest["1"] / shortest["2"])


@contextmanager
def _counted() -> Iterator[tuple[dict[int, float], dict[int, int]]]:
    """Count and time the calls of PARDISO by phase."""
    seconds, calls = dict.fromkeys((_FACTORISE, _SUBSTITUTE), 0.0), dict.fromkeys((_FACTORISE, _SUBSTITUTE), 0)
    call = PardisoSolver._call

    def counting(self: PardisoSolver, phase: int, *rest: Any) -> int:
        begin = time.process_time()
        error = call(self, phase, *rest)
        seconds[phase] += time.process_time() - begin
        calls[phase] += 1
        return error

    PardisoSolver._call = counting  # type: ignore[method-assign]
    try:
        yield seconds, calls
    finally:
        PardisoSolver._call = call  # type: ignore[method-assign]


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    name: partial(measure, problem.args[0]) for name, problem in rve_solver.PROBLEMS.items()
}
