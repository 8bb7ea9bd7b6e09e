"""Port-coupled experts on the RVEs of the EquiNO benchmark.

Mean relative errors of the stress against the nested solve at unseen strains, by the number of unknowns, all with full
quadrature: experts whose ports have learned and elastic interiors, experts without ports, the global reduced model of
EquiNO (one basis for the whole RVE, elastic modes among the unknowns), and disjoint experts, each of which satisfies
only the equilibrium of its own subdomain. Then the trained laws with cubature, with errors and times. Strains are in
±0.04 (shear: γ12).
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from benchmarks import equino_models as models
from benchmarks.moe_disjoint import at_points, disjoint_experts

from femops.devices.torch_library import torch
from femops.law import CertificateKind, MaterialLaw
from femops.notation import Array
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.rve.spec import RVE
from femops.surrogate import FitTask, TrainedModel
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops_equino.law import EquiNOLaw
from femops_equino.offline import converged
from femops_equino.options import EquiNOParameters
from femops_equino.reduced.basis import Basis as GlobalBasis
from femops_equino.reduced.basis import displacement_candidates
from femops_equino.reduced.certificate import norm
from femops_equino.reduced.model import assemble as assemble_global
from femops_equino.reduced.pod import ElasticRVE
from femops_equino.reduced.pod import decompose as decompose_global
from femops_moe.basis import Basis, decompose, elastic_stiffness, nonlinear_fields, split
from femops_moe.compiled import solver
from femops_moe.experts import assemble
from femops_moe.galerkin import equilibrium
from femops_moe.law import MoELaw
from femops_moe.modes import choose
from femops_moe.options import MoEOptions, MoEParameters
from femops_moe.partition import Partition, grid
from femops_moe.training import fit

UNKNOWNS = (16, 24, 50, 100)
GRIDS = (1, 2, 4)
SNAPSHOTS, UNSEEN, OF_DISJOINT = 32, 24, 8
_STEP = 3e-6


class _Problem:
    """An RVE with its snapshots, nested solutions at unseen strains, and what modes are computed from."""

    def __init__(self, name: str) -> None:
        self.law = models.nested(name)
        self.rve: RVE = self.law.rve
        self.strain = models.strains(UNSEEN, 2)
        self.truth = self.law.evaluate(self.strain, np.zeros((UNSEEN, self.law.n_state)), 1.0)
        self.snapshots = models.snapshots(self.law, models.strains(SNAPSHOTS, 1))
        self.solver = SnapshotSolver(self.rve, SolverOptions(1e-10))
        self.high = models.RANGE * np.array([1.0, 1.0, 0.5**0.5])  # the shear is γ12
        self.low = -self.high
        self.space = FluctuationSpace(self.rve)
        self.sensitivity = self.solver.solver.elastic_sensitivity
        self.elastic = self.space.from_free(self.sensitivity)
        self.fields = nonlinear_fields(self.space, self.snapshots, self.sensitivity, self.high)
        self.stiffness = elastic_stiffness(self.space, self.rve)

    def error(self, stress: Array) -> float:
        """Return the mean relative error of the stress."""
        return float(models.relative(stress, self.truth.stress[: len(stress)]).mean())


def _rve(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    problem = _Problem(name)
    found: dict[str, Any] = {"points": problem.rve.discretisation.n_points, "unknowns_of_nested": problem.space.n_dofs}
    for count in UNKNOWNS:
        found[f"global_{count}"] = _global(problem, count)
    for number in GRIDS:
        partition = grid(problem.space, number)
        for count in UNKNOWNS:
            which = f"{number}x{number}_{count}"
            found[f"ports_{which}"] = _experts(problem, partition, _learned(problem, partition, count))
            if number > 1:
                found[f"elastic_ports_{which}"] = _experts(problem, partition, _modes(problem, partition, count))
                without = _modes(problem, partition, count, with_ports=False)
                found[f"no_ports_{which}"] = _experts(problem, partition, without)
        if number > 1:
            found |= _disjoint(problem, partition, f"disjoint_{number}x{number}")
    return found | _exactness(problem) | _laws(problem)


def _learned(problem: _Problem, partition: Partition, count: int) -> Basis:
    """Return modes as the law takes them, at most `count`."""
    parts = split(partition, problem.stiffness, problem.fields)
    chosen = choose(parts.inner, len(problem.high), count, 1e-12)
    return parts.basis(problem.elastic, chosen.modes[: chosen.n_modes])


def _modes(problem: _Problem, partition: Partition, count: int, *, with_ports: bool = True) -> Basis:
    """Return modes, all ports in elastic equilibrium."""
    return decompose(
        partition, problem.stiffness, problem.elastic, problem.fields, count, 1e-12, with_ports=with_ports
    )[0]


def _solve(experts: Any, strain: Array) -> Any:
    given = torch.as_tensor(strain)
    return equilibrium(experts, given, given.new_zeros(len(given), experts.n_unknowns), 12, 1e-20)


def _experts(problem: _Problem, partition: Partition, basis: Basis) -> float:
    experts = assemble(problem.rve, problem.space, partition.expert, basis)
    start = np.zeros((len(problem.strain), len(experts.used)))
    return problem.error(solver(experts).solve(problem.strain, start, 12, 1e-20).stress)


def _global(problem: _Problem, count: int) -> float:
    """Return the error of EquiNO's reduced model with all points."""
    free = problem.solver.solver.free
    operators = ElasticRVE(problem.rve, free.of, free.count)
    elastic, fields = displacement_candidates(problem.sensitivity, problem.snapshots, problem.high)
    vectors = decompose_global(elastic, fields, operators.displacement_gram, count, 1e-12).vectors
    model, _ = assemble_global(problem.rve, operators, vectors)
    basis = GlobalBasis(vectors, vectors[:0], operators.displacement_gram(vectors, problem.sensitivity))
    start = converged(model, basis, problem.strain)
    return problem.error(model.solve(problem.strain, start, 2, 0.0).stress)


def _disjoint(problem: _Problem, partition: Partition, name: str) -> dict[str, float]:
    strain = problem.strain[:OF_DISJOINT]
    stress, jump = disjoint_experts(
        problem.rve, problem.space, partition, problem.stiffness, (problem.elastic, problem.fields), strain
    )
    return {f"{name}_stress_error": problem.error(stress), f"{name}_interface_jump": jump}


def _exactness(problem: _Problem) -> dict[str, float]:
    """Return what holds to round-off for 2×2 experts and 50 unknowns."""
    partition = grid(problem.space, 2)
    basis = _learned(problem, partition, 50)
    experts = assemble(problem.rve, problem.space, partition.expert, basis)
    strain = problem.strain[:4]
    answer, units = _solve(experts, strain), _STEP * np.eye(3)[:, None]
    plus, minus = (_solve(experts, (strain + sign * units).reshape(-1, 3)).stress.numpy() for sign in (1.0, -1.0))
    slope = ((plus - minus) / (2.0 * _STEP)).reshape(3, -1, 3).transpose(1, 2, 0)
    tangent = answer.tangent.numpy()
    fluctuation = basis.fluctuation(partition.owner, strain, answer.unknowns.numpy())
    work = [_work(problem, macro, w) for macro, w in zip(strain, fluctuation.T, strict=True)]
    macro = (answer.stress.numpy() * strain).sum(axis=1)
    bubbles = basis.bubbles.reshape(problem.space.n_nodes, 2, basis.bubbles.shape[1])
    return {
        "interface_jump": float(np.abs(bubbles[partition.owner < 0]).max(initial=0.0)),
        "tangent_against_differences": float(models.relative(tangent, slope).max()),
        "tangent_asymmetry": float(models.relative(tangent, tangent.transpose(0, 2, 1)).max()),
        "hill_mandel": float(np.abs(np.array(work) / macro - 1.0).max()),
    }


def _work(problem: _Problem, macro: Array, fluctuation: Array) -> float:
    """Return ⟨σ : ε⟩ of a fluctuation (n_dofs,)."""
    local = (problem.space.gradient @ fluctuation).reshape(3, -1) + macro[:, None]
    stress, _ = at_points(problem.rve, local)
    weight = problem.rve.discretisation.weight.ravel() / problem.rve.discretisation.volume
    return float((local * stress).sum(axis=0) @ weight)


def _laws(problem: _Problem) -> dict[str, float]:
    """Return errors and times of the trained laws, cold, at 1024 strains, and of the certificates."""
    found, laws, many = {}, {"moe": _moe(problem), "equino": _equino(problem)}, models.strains(1024, 3)
    seconds: dict[str, float] = {}
    for name, law in laws.items():
        answer = _evaluate(law, problem.strain)
        found[f"{name}_law_stress_error"] = problem.error(answer.stress)
        found[f"{name}_law_tangent_error"] = float(models.relative(answer.tangent, problem.truth.tangent).mean())
        _evaluate(law, many)
        seconds[name], _ = _timed(lambda law=law: _evaluate(law, many))  # type: ignore[misc]
    seconds["nested"], _ = _timed(lambda: _evaluate(problem.law, problem.strain))
    found["moe_law_time_over_equino"] = seconds["moe"] / seconds["equino"]
    found["nested_time_over_moe_law"] = seconds["nested"] / UNSEEN / (seconds["moe"] / len(many))
    law, answer = laws["moe"], _evaluate(laws["moe"], problem.strain)
    size, away = (norm(one, law.metric) for one in (answer.stress, answer.stress - problem.truth.stress))
    kinds: tuple[CertificateKind, ...] = ("indicator", "bound")
    for kind in kinds:
        law.certify(problem.strain, answer, kind)
        spent, error = _timed(lambda kind=kind: law.certify(problem.strain, answer, kind))  # type: ignore[misc]
        found |= models.spread(f"{kind}_over_error", error / (away / size))
        found[f"{kind}_least_over_error"] = float((error / (away / size)).min())
        found[f"{kind}_time_over_nested"] = spent / seconds["nested"]
    return found


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of some work, and what it returns."""
    begin = time.process_time()
    found = work()
    return time.process_time() - begin, found


def _evaluate(law: MaterialLaw, strain: Array) -> Any:
    return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)


def _moe(problem: _Problem) -> MoELaw:
    options = MoEOptions(law="moe", experts=4, network=None)  # times are those of cold starts
    task = FitTask(
        problem.snapshots,
        problem.rve,
        problem.solver,
        options,
        problem.low,
        problem.high,
        MemoryCheckpoint(),
        lambda *_: None,
    )
    found = fit(task)
    trained = TrainedModel(found.arrays, found.settings, problem.rve, problem.low, problem.high)
    return MoELaw(trained, MoEParameters(model="unused"))


def _equino(problem: _Problem) -> EquiNOLaw:
    trained = models.train(problem.law, problem.snapshots, networks=None)
    return EquiNOLaw(trained, EquiNOParameters(model="unused", corrections="auto", tolerance=1e-9, start="zero"))


PROBLEMS = {name: partial(_rve, name) for name in models.RVES}
