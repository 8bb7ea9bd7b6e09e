"""Offline stages of the certified mode: snapshots, modes and cubature points, with checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from femops.notation import Array
from femops.rve.sampling import sobol
from femops.surrogate import FitTask
from femops_equino.options import EquiNOOptions
from femops_equino.reduced import cubature
from femops_equino.reduced.basis import Basis, displacement_candidates, stress_candidates
from femops_equino.reduced.certificate import CertificatePoints, energy_gap, norm, relative_error
from femops_equino.reduced.full import FullModel, full_model
from femops_equino.reduced.model import ReducedModel
from femops_equino.reduced.pod import ElasticRVE, decompose

MOST_EVALUATIONS = 12
CONVERGED = 1e-14
_ALPHA = 0.03
_STRESS_PER_DISPLACEMENT = 1.5
_SNAPSHOTS_AT_ONCE = 16
_MODES_PER_STRAIN = 4
_SMALLEST = 0.02
_NEEDED = ("strain", "fluctuation", "sensitivity", "phase_stress", "phase_stress_sensitivity")


@dataclass(frozen=True)
class Offline:
    """Results of the offline stages.

    Attributes:
        basis: Modes.
        full: Reduced model with all quadrature points.
        model: Reduced model with cubature points.
        points: Points of the indicator.
        states: Strains used to choose the points, Mandel [-]. Shape (T, n_s).
        lost: Relative norm of displacements and stresses lost by the first k modes, k = 0, 1, …; see `Modes`.
        errors: Median relative stress error by number of cubature points.
    """

    basis: Basis
    full: FullModel
    model: ReducedModel
    points: CertificatePoints
    states: Array
    lost: Mapping[str, Array]
    errors: Mapping[int, float]

    def to_arrays(self) -> dict[str, Array]:
        """Return the arrays of the trained model."""
        return {
            "modes.displacement": self.basis.displacement,
            "modes.stress": self.basis.stress,
            "modes.elastic": self.basis.elastic,
            "states": self.states,
            **self.model.to_arrays("model"),
            **self.points.to_arrays(),
            **self.full.quadratics.to_arrays(),
        }


def operators_of(task: FitTask) -> ElasticRVE:
    """Return the elastic operators of the RVE."""
    free = task.solver.solver.free
    return ElasticRVE(task.rve, free.of, free.count)


def offline(task: FitTask) -> Offline:
    """Compute modes and cubature points.

    Raises:
        CaseError: A phase is neither linear nor `saturating`.
    """
    options: EquiNOOptions = task.options
    operators = operators_of(task)
    snapshots: Mapping[str, Any] = {name: task.snapshots[name] for name in _NEEDED}
    snapshots = _greedy(task, operators, snapshots)
    task.progress("modes", 0, 1)
    basis, lost = _basis(task, operators, snapshots)
    full = full_model(task.rve, operators, basis)
    task.progress("modes", 1, 1)
    states = np.concatenate([snapshots["strain"], strains_to_learn(task, options.states, options.seed + 1)])
    return _hyper_reduced(task, full, basis, states, lost)


def strains_to_learn(task: FitTask, count: int, seed: int) -> Array:
    """Return strains (count, n_s): half sample the range, half are scaled down to cover small strains."""
    strain = sobol(task.low, task.high, count, seed)
    strain[::2] *= np.linspace(_SMALLEST, 1.0, len(strain[::2]))[:, None]
    return strain


def _hyper_reduced(task: FitTask, full: FullModel, basis: Basis, states: Array, lost: Mapping[str, Array]) -> Offline:
    z = full.model.extended(states, converged(full.model, basis, states))
    model, errors = _cubature(task, full, states, z)
    return Offline(basis, full, model, _indicator_points(task, full, z), states, lost, errors)


def enriched(task: FitTask, basis: Basis, states: Array, strain: Array) -> Offline:
    """Return the reduced model enriched by modes of exact solutions at given strains.

    Existing modes are unchanged, so that their coefficients keep their meaning.

    Args:
        task: Solver, options and the extended range; its snapshots are not used.
        basis: Existing modes.
        states: Strains used to choose the existing points. Shape (T, n_s).
        strain: Strains of the exact solutions. Shape (n, n_s).
    """
    operators, snapshots = operators_of(task), solve_snapshots(task, strain)
    wider, lost = _basis(task, operators, snapshots, basis)
    full = full_model(task.rve, operators, wider)
    on_the_way = [part * strain for part in (0.5, 0.75, 1.0)]
    points = int(task.options.points * full.model.n_modes / basis.displacement.shape[1])
    task = replace(task, options=task.options.model_copy(update={"points": points}))
    return _hyper_reduced(task, full, wider, np.concatenate([states, *on_the_way]), lost)


def converged(model: ReducedModel, basis: Basis, strain: Array) -> Array:
    """Return converged coefficients at strains (n, n_s). Shape (n, r)."""
    return model.solve(strain, strain @ basis.elastic.T, MOST_EVALUATIONS, CONVERGED).coefficients


def _basis(
    task: FitTask, operators: ElasticRVE, snapshots: Mapping[str, Any], before: Basis | None = None
) -> tuple[Basis, dict[str, Array]]:
    """Return modes of snapshots, in addition to existing ones."""
    options: EquiNOOptions = task.options
    sensitivity = task.solver.solver.elastic_sensitivity
    half = 0.5 * (task.high - task.low)
    half = np.where(half > 0.0, half, half.max())
    first = None if before is None else (before.displacement, before.stress)
    largest = options.modes + (0 if first is None else _MODES_PER_STRAIN * len(snapshots["strain"]) + first[0].shape[1])
    candidates = displacement_candidates(sensitivity, snapshots, half)
    modes = decompose(*candidates, operators.displacement_gram, largest, options.tolerance, first and first[0])
    n_stress = options.stress_modes or int(_STRESS_PER_DISPLACEMENT * modes.vectors.shape[1])
    n_stress += 0 if first is None else max(first[1].shape[1] - n_stress, 0) + 2 * _MODES_PER_STRAIN
    candidates = stress_candidates(operators, sensitivity, snapshots, half)
    stresses = decompose(*candidates, operators.stress_gram, n_stress, 0.1 * options.tolerance, first and first[1])
    elastic = operators.displacement_gram(modes.vectors, sensitivity)
    lost = {"displacement": np.sqrt(modes.lost), "stress": np.sqrt(stresses.lost)}
    return Basis(modes.vectors, stresses.vectors, elastic), lost


def _greedy(task: FitTask, operators: ElasticRVE, snapshots: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add snapshots one by one, each at the strain with the largest error indicator."""
    options: EquiNOOptions = task.options
    added: dict[str, Any] = dict(task.checkpoint.load("greedy") or {})
    pool = sobol(task.low, task.high, options.pool, options.seed + 2)
    for number in range(len(added.get("strain", ())), options.greedy):
        task.progress("greedy snapshots", number, options.greedy)
        basis, _ = _basis(task, operators, _joined(snapshots, added))
        full = full_model(task.rve, operators, basis)
        a = converged(full.model, basis, pool)
        gap = energy_gap(full.points, full.quadratics, full.model, pool, a)
        error = relative_error(pool, gap.stress, gap, full.quadratics.metric, "indicator")
        worst = int(np.argmax(np.where(np.isfinite(error), error, np.inf)))
        added = _joined(added, solve_snapshots(task, pool[worst : worst + 1]))
        task.checkpoint.save("greedy", added)
    if options.greedy:
        task.progress("greedy snapshots", options.greedy, options.greedy)
    return _joined(snapshots, added)


def solve_snapshots(task: FitTask, strain: Array) -> dict[str, Any]:
    """Compute snapshots at strains (n, n_s)."""
    parts = [task.solver.solve(strain[i : i + _SNAPSHOTS_AT_ONCE]) for i in range(0, len(strain), _SNAPSHOTS_AT_ONCE)]
    return {name: np.concatenate([part[name] for part in parts]) for name in _NEEDED}


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    if not one or not other:
        return dict(one or other)
    return {name: np.concatenate([one[name], other[name]]) for name in _NEEDED}


def _cubature(task: FitTask, full: FullModel, states: Array, z: Array) -> tuple[ReducedModel, dict[int, float]]:
    """Choose cubature points until the stress error is below `cubature_tolerance`."""
    options: EquiNOOptions = task.options
    start = z[:, full.model.n_e :]
    reference = full.model.solve(states, start, MOST_EVALUATIONS, CONVERGED).stress
    metric = full.quadratics.metric
    size = norm(reference, metric)
    errors: dict[int, float] = {}

    def good_enough(chosen: Any, factor: Array) -> bool:
        stress = full.model.sampled(chosen, factor).solve(states, start, MOST_EVALUATIONS, CONVERGED).stress
        error = norm(stress - reference, metric)[size > 0.0] / size[size > 0.0]
        errors[len(chosen)] = float(np.median(error))
        return errors[len(chosen)] <= options.cubature_tolerance

    def find() -> dict[str, Any]:
        rows = cubature.rows(full.model, metric, z, _ALPHA, options.points, options.seed)
        return _sorted(cubature.choose(rows, options.points, good_enough, _watch(task, "cubature")))

    rule = _stage(task, "cubature", find)
    if not errors:
        good_enough(rule["points"], rule["factor"])
    reached = min(errors.values(), default=0.0)
    missed = reached > options.cubature_tolerance
    note = f"{len(rule['points'])} points, stress error {reached:.1e}"
    more = f", above cubature_tolerance {options.cubature_tolerance:g}: allow more points" if missed else ""
    task.progress("cubature", options.points, options.points, note + more)
    return full.model.sampled(rule["points"], rule["factor"]), errors


def _indicator_points(task: FitTask, full: FullModel, z: Array) -> CertificatePoints:
    """Choose points that also integrate ∂W/∂a and the admissible stress."""
    options: EquiNOOptions = task.options

    def find() -> dict[str, Any]:
        largest, metric = options.certificate_points, full.quadratics.metric
        rows = cubature.rows(full.model, metric, z[::2], 1.0, largest, options.seed, full.points.projection)
        watch = _watch(task, "indicator points")
        return _sorted(cubature.choose(rows, largest, lambda chosen, factor: False, watch))

    rule = _stage(task, "indicator", find)
    return full.points.sampled(rule["points"], rule["factor"])


def _sorted(rule: tuple[Any, Array]) -> dict[str, Any]:
    """Return the arrays of a cubature rule, its points in ascending order."""
    order = np.argsort(rule[0])
    return {"points": rule[0][order], "factor": rule[1][order]}


def _stage(task: FitTask, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of a stage from its checkpoint, or compute and save it."""
    arrays = task.checkpoint.load(name)
    if arrays is None:
        arrays = work()
        task.checkpoint.save(name, arrays)
    return arrays


def _watch(task: FitTask, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: task.progress(stage, done, total)
