"""Arrangements of trained components that training never saw, 4, 16 and 64 times larger than the arrangements it saw.

Four components, each a cell with one inclusion of the stiff phase, of another size at another place. Modes and cubature
come from 2 × 2 arrangements; the arrangements of 4 × 4, 8 × 8 and 16 × 16 are random, several of each, as are the
strains, within ±0.04 (shear: γ12). Both sides are timed at cold starts, one thread, in processor time, the law compiled
and in batched torch. The set-up of an arrangement (its elastic fields by static condensation, the experts) is that of
both laws from the same mesh; nothing is solved there with the nonlinear phases.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from femops import load_law
from femops.notation import Array
from femops.rve.law import NestedLaw
from femops.rve.sampling import sobol
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.surrogate import FitTask, TrainedModel
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops_moe.component_law import ComponentLaw
from femops_moe.component_training import fit
from femops_moe.options import MoEOptions, MoEParameters
from femops_moe.tiled import TiledSolver

HIGH = 0.04 * np.array([1.0, 1.0, 0.5**0.5])  # the shear is γ12
UNSEEN = {4: (4, 12), 8: (3, 8), 16: (2, 4)}  # arrangements, and strains of each, by components along an axis
TOLERANCES = {"tolerance 0.3": (0.3, 1e-3)}  # of modes, of cubature
_BATCHES = 8, 64  # strains at once, in the timing of the components
_ARRANGEMENTS = 24
_INCLUSIONS = {"a": (0.0, 0.0, 0.3), "b": (0.1, 0.08, 0.25), "c": (-0.08, 0.1, 0.2), "d": (-0.1, -0.12, 0.28)}
_PHASES = {
    "matrix": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
    "fibre": {"law": "elastic", "K": 43452.381, "G": 29918.033},
}


def _nested(rows: list[list[str]]) -> NestedLaw:
    circles = {name: [{"center": [x, y], "radius": radius}] for name, (x, y, radius) in _INCLUSIONS.items()}
    common = {"mesh_size": 0.125, "cell": "quad8"}
    components = {name: {"circles": {"circles": found, **common}} for name, found in circles.items()}
    law = load_law(
        {"law": "nested", "rve": {"tiles": {"components": components, "rows": rows}, "phases": _PHASES}}, dim=2
    )
    assert isinstance(law, NestedLaw)
    return law


def _random(count: int, seed: int) -> list[list[str]]:
    found: list[list[str]] = np.random.default_rng((count, seed)).choice(list(_INCLUSIONS), (count, count)).tolist()
    return found


def _trained(tolerance: float, of_cubature: float) -> tuple[TrainedModel, dict[str, Any]]:
    law = _nested([["a", "b"], ["c", "d"]])
    begin = time.process_time()
    solver = SnapshotSolver(law.rve, SolverOptions(1e-10))
    options = MoEOptions(component=1.0, arrangements=_ARRANGEMENTS, tolerance=tolerance, cubature_tolerance=of_cubature)
    snapshots = solver.solve(sobol(-HIGH, HIGH, 4, 1))
    task = FitTask(snapshots, law.rve, solver, options, -HIGH, HIGH, MemoryCheckpoint(), lambda *_: None)
    found = fit(task)
    seconds = time.process_time() - begin
    bytes_of_model = sum(array.nbytes for array in found.arrays.values())
    figures = {**found.metrics, "training_s": seconds, "model_MB": bytes_of_model / 1e6}
    return TrainedModel(found.arrays, found.settings, law.rve, -HIGH, HIGH), figures


def _problem(name: str, _: Mapping[str, str]) -> dict[str, Any]:
    model, training = _trained(*TOLERANCES[name])
    return {"training": training, **{f"{n}x{n}": _size(model, n, training["training_s"]) for n in UNSEEN}}


def _size(model: TrainedModel, count: int, training: float) -> dict[str, Any]:
    """Return the figures of one size: errors over all arrangements, the rest as the mean of the arrangements."""
    arrangements, n_strains = UNSEEN[count]
    strain = sobol(-HIGH, HIGH, arrangements * n_strains, 7)
    found = [_arrangement(model, count, k, strain[k::arrangements], training) for k in range(arrangements)]
    errors = {name: np.concatenate([one[0][name] for one in found]) for name in found[0][0]}
    figures = {name: float(np.mean([one[1][name] for one in found])) for name in found[0][1]}
    return {
        "components": count * count,
        "times_larger_than_trained": count * count // 4,
        "arrangements": arrangements,
        "strains": len(strain),
        **{f"{name}_error_mean": float(values.mean()) for name, values in errors.items()},
        **{f"{name}_error_max": float(values.max()) for name, values in errors.items()},
        "stress_error_means": [float(one[0]["stress"].mean()) for one in found],
        **figures,
    }


def _arrangement(
    model: TrainedModel, count: int, seed: int, strain: Array, training: float
) -> tuple[dict[str, Array], dict[str, float]]:
    """Return the errors of stress and tangent at all strains, and the other figures of an arrangement."""
    begin = time.process_time()
    nested = _nested(_random(count, seed))
    mesh = time.process_time() - begin
    nested.evaluate(1e-3 * strain[:1], np.zeros((1, nested.n_state)), 1.0)
    truth, exact = _timed(nested, strain)
    begin = time.process_time()
    whole = TrainedModel(model.arrays, model.settings, nested.rve, model.low, model.high)
    law = ComponentLaw(whole, MoEParameters(model="unused"))
    setup = time.process_time() - begin
    answer, _ = _timed(law, strain)
    batches = {size: np.resize(strain, (size, 3)) for size in _BATCHES}
    spent = {size: _timed(law, batch)[1] / size for size, batch in batches.items()}
    in_torch = {size: _in_torch(law, batch) / size for size, batch in batches.items()}
    experts = law.experts.experts
    errors = {"stress": _relative(answer.stress, truth.stress), "tangent": _relative(answer.tangent, truth.tangent)}
    per_nested = exact / len(strain)
    figures = {
        "dofs": 2 * len(nested.rve.discretisation.mesh.points),
        "unknowns": law.n_state,
        **{f"nested_over_law_of_{size}_points": per_nested / one for size, one in spent.items()},
        **{f"torch_over_compiled_of_{size}_points": in_torch[size] / one for size, one in spent.items()},
        "setup_over_nested_point": setup / per_nested,
        "mesh_over_nested_point": mesh / per_nested,
        "training_over_nested_point": training / per_nested,
        "reduced_MB": sum(one.element_size() * one.nelement() for one in (experts.maps, experts.quadratic)) / 1e6,
        "operators_of_nested_MB": nested.rve.discretisation.strain_operator.nbytes / 1e6,
        "state_bytes_nested_over_law": nested.n_state / law.n_state,
        "valid": answer.valid.mean(),
    }
    return errors, figures


def _in_torch(law: ComponentLaw, strain: Array) -> float:
    """Return the processor time of the same equilibrium in batched torch."""
    solver, begin = TiledSolver(law.experts), time.process_time()
    solver.solve(strain, np.zeros((len(strain), law.n_state)), 12, 1e-12)
    return time.process_time() - begin


def _timed(law: Any, strain: Array) -> tuple[Any, float]:
    state, begin = np.zeros((len(strain), law.n_state)), time.process_time()
    answer = law.evaluate(strain, state, 1.0)
    return answer, time.process_time() - begin


def _relative(values: Array, truth: Array) -> Array:
    axes = tuple(range(1, truth.ndim))
    return np.asarray(np.sqrt(((values - truth) ** 2).sum(axes) / (truth**2).sum(axes)))


PROBLEMS = {name: partial(_problem, name) for name in TOLERANCES}
