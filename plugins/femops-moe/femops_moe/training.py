"""Training of the experts of one RVE."""

import time
from typing import NamedTuple

import numpy as np

from femops.errors import CaseError
from femops.notation import Array, Indices
from femops.rve.sampling import sobol
from femops.surrogate import Fit, FitTask
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops_moe import first_guess, modes
from femops_moe.basis import elastic_stiffness, nonlinear_fields, split
from femops_moe.compiled import solver
from femops_moe.cubature import choose
from femops_moe.experts import Experts, assemble, sampled_at
from femops_moe.first_guess import FirstGuess
from femops_moe.options import MoEOptions
from femops_moe.partition import Partition, bisection, grid

_NOTHING = 1e-9  # relative to the macroscale displacement
_FINER = 0.5  # cubature_tolerance of the indicator relative to that of the law
_EVALUATIONS, _CONVERGED = 12, 1e-10  # of labels: Newton decrement, relative to the work
_STATES, _SMALLEST = 64, 0.02  # strains to choose points with, and the least factor of those that are scaled down


def partition_of(space: FluctuationSpace, options: MoEOptions) -> Partition:
    """Return the partition that the options ask for.

    Raises:
        CaseError: There are more experts than cells.
    """
    return bisection(space, options.experts) if options.grid is None else grid(space, options.grid)


def fit(task: FitTask) -> Fit:
    """Train the surrogate; see `MoEOptions`.

    Raises:
        CaseError: The RVE has no fluctuations, or more experts are wanted than it has cells.
    """
    _check_fluctuation(task)
    begin = time.perf_counter()
    options: MoEOptions = task.options
    space = FluctuationSpace(task.rve)
    partition = partition_of(space, options)
    sensitivity = task.solver.solver.elastic_sensitivity
    fields = nonlinear_fields(space, task.snapshots, sensitivity, half_widths(task))
    task.progress("modes", 0, 1)
    parts = split(partition, elastic_stiffness(space, task.rve), fields)
    with_ports = options.ports == "modes"
    chosen = modes.choose(parts.inner, len(task.low), options.modes, options.tolerance, with_ports=with_ports)
    wider = parts.basis(space.from_free(sensitivity), chosen.modes)
    n_ports, counts = chosen.modes[: chosen.n_modes].counts(partition.n_experts)
    note = f"{n_ports} ports, {counts.sum()} bubbles of {len(counts)} experts"
    task.progress("modes", 1, 1, note)
    experts = assemble(task.rve, space, partition.expert, wider)
    rules = cubature_rules(task, experts, n_ports, counts)
    arrays = {
        "expert": partition.expert,
        "elastic": wider.elastic,
        "ports": wider.ports,
        "bubbles": wider.bubbles,
        "counts": wider.counts,
        "n_ports": np.array([n_ports]),
        "n_bubbles": counts,
        "factor": rules.law,
        "factor_of_indicator": rules.indicator,
    }
    metrics = {
        "experts": partition.n_experts,
        "interface_nodes": int((partition.owner < 0).sum()),
        "ports": n_ports,
        "bubbles": int(counts.sum()),
        "lost": float(chosen.lost[chosen.n_modes]),
        "cubature_points": int((rules.law > 0.0).sum()),
        "cubature_stress_error": min(rules.errors.values(), default=0.0),
        "seconds_reduction": time.perf_counter() - begin,
    }
    curves = {
        "Lost by the modes": {"snapshots held out": chosen.lost},
        **({"Stress error of the cubature": {"median": np.array(list(rules.errors.values()))}} if rules.errors else {}),
    }
    over = {"Lost by the modes": "number of modes", "Stress error of the cubature": "trial number of points"}
    if options.network is not None:
        begin = time.perf_counter()
        guess, losses = _first_guess(task, sampled_at(experts.leading(n_ports, counts), rules.law), n_ports)
        arrays |= guess.arrays()
        metrics["seconds_network"] = time.perf_counter() - begin
        curves["Loss of the first guess"] = {"labels": losses}
    return Fit(arrays, {"options": options.model_dump(mode="json")}, metrics, curves, over)


def _first_guess(task: FitTask, experts: Experts, n_ports: int) -> tuple[FirstGuess, Array]:
    """Train the network where Newton's method starts, and return it with its losses."""
    options: MoEOptions = task.options
    assert options.network is not None
    strain = strains_to_learn(task.low, task.high, options.network.labels, options.seed + 2)
    found = solver(experts).solve(strain, np.zeros((len(strain), len(experts.used))), _EVALUATIONS, _CONVERGED)
    good = found.decrement <= _CONVERGED
    in_the_state = np.roll(found.unknowns[good], -n_ports, axis=1)  # bubbles, then ports
    return first_guess.train(task, half_widths(task), strain[good], in_the_state)


def half_widths(task: FitTask) -> Array:
    """Return the half widths of the training range, the largest in place of zeros. Shape (n_s,)."""
    half = 0.5 * (task.high - task.low)
    return np.where(half > 0.0, half, half.max())


class CubatureRules(NamedTuple):
    """Cubature rules of a law and of its indicator.

    Attributes:
        law: Factors of the weights of all points of the RVE. Shape (n_points,).
        indicator: Those of the indicator. Shape (n_points,).
        errors: Error of the law's stress by number of points.
    """

    law: Array
    indicator: Array
    errors: dict[int, float]


def cubature_rules(task: FitTask, experts: Experts, n_ports: int, counts: Indices) -> CubatureRules:
    """Choose cubature points.

    Args:
        task: Its snapshots are used for their strains.
        experts: The experts with all points and the modes of the indicator.
        n_ports: Number of ports of the law.
        counts: Number of bubbles of the law of each expert. Shape (K,).
    """
    law, errors = _cubature(task, experts.leading(n_ports, counts), "cubature")
    return CubatureRules(law, _cubature(task, experts, "cubature of the indicator", _FINER, 1)[0], errors)


def strains_to_learn(low: Array, high: Array, count: int, seed: int) -> Array:
    """Return strains (count, n_s): half sample the range, half are scaled down to cover small strains."""
    strain = sobol(low, high, count, seed)
    strain[::2] *= np.linspace(_SMALLEST, 1.0, len(strain[::2]))[:, None]
    return strain


def _cubature(
    task: FitTask, experts: Experts, stage: str, part: float = 1.0, together: int = 2
) -> tuple[Array, dict[int, float]]:
    """Return factors of the weights of all points of the RVE (n_points,), and the stress error by number of points."""
    options: MoEOptions = task.options
    found, errors = np.ones(experts.points.shape), dict[int, float]()
    if options.cubature_tolerance is not None:
        task.progress(stage, 0, 1)
        more = strains_to_learn(task.low, task.high, _STATES, options.seed + 1)
        strain = np.concatenate([task.snapshots["strain"], more])
        wanted = part * options.cubature_tolerance
        found, errors = choose(experts, strain, compliance(experts), wanted, options.seed, together)
        missed = min(errors.values()) > wanted
        note = f"{(found > 0.0).sum()} points, stress error {min(errors.values()):.1e}"
        task.progress(stage, 1, 1, note + missed * f", above cubature_tolerance {wanted:g}")
    factor = np.zeros(task.rve.discretisation.n_points)
    inside = experts.points >= 0
    factor[experts.points[inside]] = found[inside]
    return factor, errors


def compliance(experts: Experts) -> Array:
    """Return the inverse of the homogenized tangent at zero strain [1/stress]. Shape (n_s, n_s)."""
    unstrained = solver(experts).solve(np.zeros((1, experts.n_s)), np.zeros((1, len(experts.used))), 1, 1.0)
    return np.asarray(np.linalg.inv(unstrained.tangent[0]))


def _check_fluctuation(task: FitTask) -> None:
    """Refuse a homogeneous RVE, whose modes would be round-off."""
    lower, upper = task.rve.discretisation.mesh.bounds
    size = np.abs(task.snapshots["strain"]).max() * (upper - lower).max()
    if np.abs(task.snapshots["fluctuation"]).max() <= _NOTHING * size:
        raise CaseError("is homogeneous, expected fluctuations to learn; use the law of its phase instead", key="rve")
