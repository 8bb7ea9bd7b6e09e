"""Learned modes of a family of RVEs against others, at unseen microstructures and unseen strains.

The family is that of `cases/studies/circles_saturating_moe.yaml`; `modes_k` trains a network for k modes and compares,
by the error of the stress of the reduced model with all points (mean over strains and RVEs, largest of an RVE):

    elastic       no modes
    fixed         POD of 8 snapshots of 16 members of the family, nodes by number
    learned       the network
    no_network    the same steps at the same number of strains without it
    steps_64      POD of the same steps at 64 strains
    pod_n         POD of n snapshots of the RVE itself, with their sensitivities

`ratio_*` are processor times of the modes, solutions included, over that of the learned ones. `fine_*` is the same
network on a grid with cells half as large. `law_*` is the law with cubature (`modes_16`), per point in batches of 64.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from femops.devices.torch_library import torch
from femops.inputs.study import load_study
from femops.law import LawContext
from femops.notation import Array
from femops.offline.train_family import FamilyRVEs
from femops.rve.family import Family, microstructure
from femops.rve.law import NestedLaw
from femops.rve.sampling import bounds, sobol
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.rve.spec import RVE, build_rve
from femops.surrogate import FamilyTask, Fit, TrainedModel
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops_moe.basis import nonlinear_fields
from femops_moe.compiled import solver
from femops_moe.learned.law import LearnedBasisLaw, stored_network
from femops_moe.learned.linearised import LinearisedRVE
from femops_moe.learned.network import ModeNetwork
from femops_moe.learned.training import fit_family, one_expert
from femops_moe.options import MoEParameters

STUDY = Path(__file__).parents[2] / "cases" / "studies" / "circles_saturating_moe.yaml"
UNSEEN, STRAINS, FINE = 12, 16, 3
FIXED, OF_FIXED, SNAPSHOTS, MANY = 16, 8, (4, 8, 16, 32), 64

Results = dict[str, list[float]]


class Storage:
    """Keeps nothing."""

    def load(self, name: str) -> None:
        """Return nothing."""

    def save(self, name: str, arrays: Any) -> None:
        """Do nothing."""


def modes(options: Mapping[str, str], n_modes: int) -> dict[str, Any]:
    """Compare modes at unseen microstructures.

    Args:
        options: Not used.
        n_modes: Number of modes.
    """
    study = load_study(STUDY)
    assert study.family is not None and study.sampling is not None
    low, high = bounds(study.sampling, 2)
    chosen = study.surrogate.model_copy(update={"basis": n_modes})
    begin = time.process_time()
    rves = FamilyRVEs(study.family)
    fit = fit_family(FamilyTask(rves, {}, chosen, 2, low, high, Storage(), lambda *given: None))
    figures: dict[str, Any] = {"training_s": time.process_time() - begin}
    fixed = _fixed(study.family, low, high, n_modes)
    found: Results = {}
    for number in range(UNSEEN):
        _compare(found, _unseen(study.family, number), fit, low, high, n_modes, fixed)
        if number < FINE:
            _compare(found, _unseen(_finer(study.family), number), fit, low, high, n_modes, None)
        if number < FINE and n_modes == 16:
            _law(found, _unseen(study.family, number), fit, low, high)
    for name, values in found.items():
        figures[name] = float(np.mean(values))
        if name.startswith(("error", "fine_error")):
            figures[f"{name}_largest"] = float(np.max(values))
    return figures


def _unseen(family: Family, number: int) -> RVE:
    other = family.model_copy(update={"seed": 777})
    return build_rve(microstructure(other, number).parameters, LawContext(2))


def _finer(family: Family) -> Family:
    assert family.mesh.cells is not None
    return family.model_copy(update={"mesh": family.mesh.model_copy(update={"cells": 2 * family.mesh.cells})})


def _fixed(family: Family, low: Array, high: Array, n_modes: int) -> Array:
    """Return POD modes of members of the family on their common grid. Shape (n_dofs, n_modes)."""
    members = FamilyRVEs(family)[:FIXED]
    strain = sobol(low, high, FIXED * OF_FIXED, 5).reshape(FIXED, OF_FIXED, -1)
    parts = [_nonlinear(rve, one, 0.5 * (high - low)) for rve, one in zip(members, strain, strict=True)]
    return np.linalg.svd(np.concatenate(parts, axis=1), full_matrices=False)[0][:, :n_modes]


def _nonlinear(rve: RVE, strain: Array, half: Array) -> Array:
    """Return the nonlinear parts of snapshots and their sensitivities (n_dofs, n_fields)."""
    exact = SnapshotSolver(rve, SolverOptions(1e-8))
    return nonlinear_fields(FluctuationSpace(rve), exact.solve(strain), exact.solver.elastic_sensitivity, half)


def _compare(found: Results, rve: RVE, fit: Fit, low: Array, high: Array, n_modes: int, fixed: Array | None) -> None:
    """Append the errors and times of all kinds of modes of an RVE."""
    fine = "fine_" if fixed is None else ""
    strain = sobol(low, high, STRAINS, 99)
    nested = NestedLaw(rve, SolverOptions(1e-10))
    truth = nested.evaluate(strain, np.zeros((STRAINS, nested.n_state)), 1.0).stress
    network = stored_network(TrainedModel(fit.arrays, fit.settings, rve, low, high))
    stepping = ModeNetwork(low, high, n_modes, 1), ModeNetwork(low, high, MANY, 1)
    with torch.no_grad():
        for one in stepping:
            for layers in one.passes:
                layers[-1].weight.zero_()
                layers[-1].bias.zero_()

    def computed(of: ModeNetwork) -> Array:
        with torch.no_grad():
            return np.asarray(of(LinearisedRVE(rve, low, high)).numpy())

    problem = LinearisedRVE(rve, low, high)

    def record(name: str, make: Callable[[], Array]) -> float:
        begin = time.process_time()
        fields = make()
        basis = fields @ problem.orthonormal(fields)[:, :n_modes]
        seconds = time.process_time() - begin
        start = np.zeros((STRAINS, basis.shape[1]))
        stress = solver(one_expert(problem, basis)).solve(strain, start, 12, 1e-12).stress
        found.setdefault(f"{fine}error_{name}", []).append(_error(stress, truth))
        return seconds

    computed(network)  # not timed: the first call is slower
    times = {"learned": record("learned", partial(computed, network))}
    times["no_network"] = record("no_network", partial(computed, stepping[0]))
    times["steps_64"] = record("steps_64", partial(computed, stepping[1]))
    for n in SNAPSHOTS:
        if 4 * n >= n_modes:
            snapshots = partial(_nonlinear, rve, sobol(low, high, n, 1), 0.5 * (high - low))
            times[f"pod_{n}"] = record(f"pod_{n}", snapshots)
    if fixed is not None:
        record("fixed", lambda: fixed)
    elastic = problem.stress_at(torch.as_tensor(problem.strain(problem.elastic @ strain.T) + strain.T[:, None]))
    unit = problem.strain(problem.elastic) + np.eye(3)[:, None]
    weight = rve.discretisation.weight.ravel() / rve.discretisation.volume
    dressed = np.einsum("p,spn,spt->nt", weight, elastic.numpy(), unit)
    found.setdefault(f"{fine}error_elastic", []).append(_error(dressed, truth))
    for name, seconds in times.items():
        if name != "learned":
            found.setdefault(f"{fine}ratio_{name}", []).append(seconds / times["learned"])


def _law(found: Results, rve: RVE, fit: Fit, low: Array, high: Array) -> None:
    """Append errors, certificates and times of the law."""
    strain, model = sobol(low, high, 64, 98), TrainedModel(fit.arrays, fit.settings, rve, low, high)
    seconds, law = _timed(lambda: LearnedBasisLaw(model, MoEParameters(model=Path("model"))))
    nested = NestedLaw(rve)

    def evaluate(one: Any) -> Any:
        return one.evaluate(strain, np.zeros((len(strain), one.n_state)), 1.0)

    evaluate(law)
    of_law, answer = _timed(lambda: evaluate(law))
    of_nested, truth = _timed(lambda: evaluate(nested))
    error = np.sqrt(_square(answer.stress - truth.stress, law.metric) / _square(truth.stress, law.metric))
    entries = {
        "law_points": float(law.experts.maps.shape[1]),
        "law_error": _error(answer.stress, truth.stress),
        "law_error_tangent": _error(answer.tangent.reshape(64, -1), truth.tangent.reshape(64, -1)),
        "law_times_faster": of_nested / of_law,
        "law_set_up_nested_points": seconds / (of_nested / 64),
    }
    for kind in ("indicator", "bound"):
        spent, certificate = _timed(lambda kind=kind: law.certify(strain, answer, kind))
        entries |= {
            f"law_{kind}_over_error": float(np.median(certificate / error)),
            f"law_{kind}_least": float((certificate / error).min()),
            f"law_{kind}_nested_points": spent / of_nested,
        }
    for name, value in entries.items():
        found.setdefault(name, []).append(value)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    answer = call()
    return time.process_time() - begin, answer


def _square(stress: Array, metric: Array) -> Array:
    return np.einsum("ns,st,nt->n", stress, metric, stress)


def _error(found: Array, true: Array) -> float:
    return float((np.linalg.norm(found - true, axis=1) / np.linalg.norm(true, axis=1)).mean())


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    f"modes_{n}": partial(modes, n_modes=n) for n in (4, 8, 16)
}
