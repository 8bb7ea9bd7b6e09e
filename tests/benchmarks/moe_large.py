"""Experts on large RVEs: cost of training and of a point at equal error, by number of experts and size of the RVE.

RVEs of 9, 25 and 49 random circles, meshed alike. For 1, 4, 16 and 64 experts (one has a global basis), the least
number of modes whose stress, with all quadrature points, is within `WANTED` of the nested solve; then their cubature.
EquiNO's law with as many modes as one expert needs beside the elastic ones. Processor times of one run: compare ratios.
`python -m benchmarks.moe_large` in `tests` draws `results/moe_large.png` from the results.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import equino_models as models

from femops import load_law
from femops.notation import Array
from femops.rve.law import NestedLaw
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops_equino.law import EquiNOLaw
from femops_equino.options import EquiNOParameters
from femops_moe.basis import Basis, decompose, elastic_stiffness, nonlinear_fields
from femops_moe.compiled import solver
from femops_moe.cubature import choose
from femops_moe.experts import Experts, assemble, restricted
from femops_moe.partition import Partition, bisection
from femops_moe.training import strains_to_learn

INCLUSIONS = (9, 25, 49)
EXPERTS = (1, 4, 16, 64)
SNAPSHOTS, UNSEEN, STATES = 12, 12, 32
WANTED, OF_CUBATURE = 1e-4, 3e-5
_MOST = 1024
_POINTS = 512


class _Problem:
    """An RVE with its snapshots, and nested solutions at unseen strains; `seconds` has the times of these."""

    def __init__(self, count: int) -> None:
        circles = {"count": count, "volume_fraction": 0.3, "seed": 1, "mesh_size": 0.06 / count**0.5, "cell": "quad8"}
        rve = {"random_circles": circles, "phases": models.PHASES, "boundary": "periodic"}
        law = load_law({"law": "nested", "rve": rve})
        assert isinstance(law, NestedLaw)
        self.law, self.rve, self.seconds = law, law.rve, {}
        self.space = FluctuationSpace(self.rve)
        self.high = models.RANGE * np.array([1.0, 1.0, 0.5**0.5])
        self.strain = models.strains(UNSEEN, 2)
        state = np.zeros((UNSEEN, law.n_state))
        self.truth = self.timed("nested_point", lambda: law.evaluate(self.strain, state, 1.0)).stress
        self.seconds["nested_point"] /= UNSEEN
        solver = SnapshotSolver(self.rve, SolverOptions(1e-10))
        given = models.strains(SNAPSHOTS, 1)
        parts = self.timed("snapshots", lambda: [solver.solve(given[i : i + 1]) for i in range(SNAPSHOTS)])
        self.snapshots = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.sensitivity = solver.solver.elastic_sensitivity
        self.elastic = self.space.from_free(self.sensitivity)
        self.fields = nonlinear_fields(self.space, self.snapshots, self.sensitivity, self.high)
        self.stiffness = elastic_stiffness(self.space, self.rve)

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Return what work returns, and keep its processor time."""
        begin = time.process_time()
        found = work()
        self.seconds[name] = time.process_time() - begin
        return found

    def error(self, stress: Array) -> float:
        """Return the mean relative error of the stress."""
        return float(models.relative(stress, self.truth).mean())


def _rve(count: int, options: Any) -> dict[str, Any]:
    problem = _Problem(count)
    found: dict[str, Any] = {
        "cells": len(problem.space.cells),
        "unknowns_of_nested": problem.space.n_dofs,
        "points": problem.rve.discretisation.n_points,
        "snapshots_over_nested_point": problem.seconds["snapshots"] / problem.seconds["nested_point"],
        "snapshots_MB": problem.fields.nbytes / 1e6,
    }
    for number in EXPERTS:
        own, modes = _experts(problem, number)
        found |= {f"{number}_{name}": value for name, value in own.items()}
        if number == 1:
            found |= {f"equino_{name}": value for name, value in _equino(problem, modes).items()}
    return found


def _experts(problem: _Problem, number: int) -> tuple[dict[str, Any], int]:
    """Return the figures of a number of experts, and the number of modes."""
    partition = bisection(problem.space, number)
    basis, experts = _accurate(problem, partition)
    low, high = -problem.high, problem.high
    strain = np.concatenate([problem.snapshots["strain"], strains_to_learn(low, high, STATES, 1)])
    metric = np.linalg.inv(_solve(experts, np.zeros((1, 3))).tangent[0])
    factor, _ = problem.timed("cubature", lambda: choose(experts, strain, metric, OF_CUBATURE, 0))
    few = restricted(experts, factor)
    many = models.strains(_POINTS, 3)
    _solve(few, many[:1])
    fast = solver(few)
    start = np.zeros((_POINTS, len(few.used)))
    problem.timed("points", lambda: fast.solve(many, start, 12, 1e-10))
    nested = problem.seconds["nested_point"]
    figures = {
        "ports": basis.ports.shape[1],
        "bubbles": int(basis.counts.sum()),
        "interface_nodes": int((partition.owner < 0).sum()),
        "error_all_points": problem.error(_solve(experts, problem.strain).stress),
        "error": problem.error(_solve(few, problem.strain).stress),
        "cubature_points": int((factor > 0.0).sum()),
        "modes_over_nested_point": problem.seconds["modes"] / nested,
        "cubature_over_nested_point": problem.seconds["cubature"] / nested,
        "nested_point_over_point": nested / (problem.seconds["points"] / _POINTS),
        "us_per_point": problem.seconds["points"] / _POINTS * 1e6,
        "modes_MB": (basis.ports.nbytes + basis.bubbles.nbytes) / 1e6,
        "law_kB": sum(one.nbytes for one in fast.tables) / 1e3,
        "state_of_a_point": len(few.used),
    }
    return figures, basis.n_unknowns


def _accurate(problem: _Problem, partition: Partition) -> tuple[Basis, Experts]:
    """Return the smallest basis, to about a tenth, whose error is as wanted, or the largest one."""

    def tried(count: int) -> tuple[Basis, Experts, float]:
        given = (partition, problem.stiffness, problem.elastic, problem.fields)
        basis, _ = problem.timed("modes", lambda: decompose(*given, count, 1e-12))
        experts = assemble(problem.rve, problem.space, partition.expert, basis)
        return basis, experts, problem.error(_solve(experts, problem.strain).stress)

    low, high = 4, 8
    best = tried(high)
    while best[2] > WANTED and high < _MOST and best[0].n_unknowns == high:
        low, high = high, 2 * high
        best = tried(high)
    while high - low > max(1, low // 10):
        middle = (low + high) // 2
        found = tried(middle)
        if found[2] <= WANTED:
            high, best = middle, found
        else:
            low = middle
    return best[0], best[1]


def _solve(experts: Experts, strain: Array) -> Any:
    return solver(experts).solve(strain, np.zeros((len(strain), len(experts.used))), 12, 1e-14)


def _equino(problem: _Problem, modes: int) -> dict[str, Any]:
    """Return the figures of EquiNO with as many modes as one expert needs beside the elastic ones."""
    given = {
        "networks": None,
        "modes": modes + 3,
        "tolerance": 1e-6,
        "cubature_tolerance": OF_CUBATURE,
        "states": STATES,
    }
    trained = problem.timed("equino", lambda: models.train(problem.law, problem.snapshots, **given))
    law = EquiNOLaw(trained, EquiNOParameters(model="unused", corrections="auto", tolerance=1e-10, start="zero"))

    def evaluated(strain: Array) -> Any:
        return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)

    many = models.strains(_POINTS, 3)
    evaluated(many[:1])
    problem.timed("points", lambda: evaluated(many))
    nested = problem.seconds["nested_point"]
    return {
        "error": problem.error(evaluated(problem.strain).stress),
        "cubature_points": len(law.model.projection),
        "training_over_nested_point": problem.seconds["equino"] / nested,
        "nested_point_over_point": nested / (problem.seconds["points"] / _POINTS),
        "us_per_point": problem.seconds["points"] / _POINTS * 1e6,
        "modes_MB": (law.basis.displacement.nbytes + law.basis.stress.nbytes) / 1e6,
    }


PROBLEMS = {f"{count} inclusions": partial(_rve, count) for count in INCLUSIONS}


def draw(results: Path) -> None:
    """Draw the growth of times and memory with the number of experts, log–log, next to the results."""
    import matplotlib.pyplot as plt

    problems = json.loads(results.read_text(encoding="utf-8"))["problems"]
    shown = {
        "nested_point_over_point": "time of a point, one expert = 1",
        "cubature_over_nested_point": "time of modes and cubature, nested point = 1",
        "modes_MB": "memory of the modes [MB]",
        "state_of_a_point": "unknowns",
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(14, 3.4), layout="constrained")
    for axis, (name, label) in zip(axes, shown.items(), strict=True):
        for problem, found in problems.items():
            values = np.array([found[f"{number}_{name}"] for number in EXPERTS])
            if name == "nested_point_over_point":
                values = values[0] / values
            elif name == "cubature_over_nested_point":
                values = values + [found[f"{number}_modes_over_nested_point"] for number in EXPERTS]
            axis.loglog(EXPERTS, values, "o-", label=f"{problem}, {found['unknowns_of_nested']} unknowns")
        axis.set(xlabel="experts", title=label, xticks=EXPERTS, xticklabels=EXPERTS)
        axis.grid(which="both", alpha=0.3)
    axes[3].legend(fontsize=8)
    figure.savefig(results.with_suffix(".png"), dpi=90)


if __name__ == "__main__":
    draw(Path(__file__).parent / "results" / "moe_large.json")
