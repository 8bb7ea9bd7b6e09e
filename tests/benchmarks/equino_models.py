"""The RVEs of the EquiNO benchmark and EquiNO models of them, trained in memory."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from femops import load_law
from femops.notation import Array
from femops.rve.law import NestedLaw
from femops.rve.sampling import Sampling, bounds, load_paths
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.surrogate import FitTask, TrainedModel
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops_equino.options import EquiNOOptions
from femops_equino.surrogate import fit

PHASES = {
    "matrix": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
    "fibre": {"law": "elastic", "K": 43452.381, "G": 29918.033},
}
# Mesh sizes that give about as many quad8 cells as were published: 3456, 2112, 1872.
RVES: dict[str, dict[str, Any]] = {
    "rve1": {
        "circles": {
            "circles": [{"center": center, "radius": 0.2959} for center in ([0.0, 0.0], [-0.5, -0.5])],
            "mesh_size": 0.0201,
            "cell": "quad8",
        }
    },
    "rve2": {
        "ellipses": {
            "ellipses": [{"center": [0.0, 0.0], "semi_axes": [0.350, 0.175], "angle": 30.0}],
            "mesh_size": 0.0244,
            "cell": "quad8",
        }
    },
    "rve3": {
        "circles": {
            "circles": [
                {"center": [-0.25, 0.25], "radius": 0.10},
                {"center": [0.25, 0.15], "radius": 0.15},
                {"center": [0.0, -0.25], "radius": 0.10},
            ],
            "mesh_size": 0.0263,
            "cell": "quad8",
        }
    },
}
RANGE = 0.04


def nested(name: str, *, predictor: bool = True) -> NestedLaw:
    """Return the nested law of a benchmark RVE."""
    rve = {**RVES[name], "boundary": "periodic", "phases": PHASES}
    law = load_law({"law": "nested", "rve": rve, "solver": {"predictor": predictor}})
    assert isinstance(law, NestedLaw)
    return law


def strains(count: int, seed: int, scale: float = 1.0) -> Array:
    """Return Sobol points of the box of (E11, E22, γ12), ±0.04 times a scale. Shape (count, 3)."""
    return load_paths(_sampling(count, seed, scale), 2)[:, 0]


def snapshots(law: NestedLaw, strain: Array) -> dict[str, Any]:
    """Return converged snapshots."""
    solver = _solver(law)
    parts = [solver.solve(strain[i : i + 16]) for i in range(0, len(strain), 16)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def train(law: NestedLaw, given: Mapping[str, Any], **options: Any) -> TrainedModel:
    """Return an EquiNO model of an RVE, trained on snapshots."""
    return fitted(law, given, EquiNOOptions.model_validate({"law": "equino", **options}))[0]


def fitted(
    law: NestedLaw, given: Mapping[str, Any], options: EquiNOOptions
) -> tuple[TrainedModel, Mapping[str, float]]:
    """Return an EquiNO model of an RVE, trained on snapshots, and the figures of its training."""
    low, high = bounds(_sampling(2, 0), 2)
    found = fit(FitTask(given, law.rve, _solver(law), options, low, high, MemoryCheckpoint(), lambda *_: None))
    return TrainedModel(found.arrays, found.settings, law.rve, low, high), found.metrics


def relative(values: Array, truth: Array) -> Array:
    """Return relative errors in the Frobenius norm. Shape (n,)."""
    axes = tuple(range(1, truth.ndim))
    return np.asarray(np.sqrt(((values - truth) ** 2).sum(axes) / (truth**2).sum(axes)))


def spread(name: str, values: Array) -> dict[str, float]:
    """Return median and largest value under names that begin alike."""
    return {f"{name}_median": float(np.median(values)), f"{name}_max": float(np.max(values))}


def _sampling(count: int, seed: int, scale: float = 1.0) -> Sampling:
    limits = dict.fromkeys((11, 22, 12), (-RANGE * scale, RANGE * scale))
    return Sampling(method="sobol", count=count, seed=seed, range=limits, shear="engineering")


def _solver(law: NestedLaw) -> SnapshotSolver:
    return SnapshotSolver(law.rve, SolverOptions(1e-10))
