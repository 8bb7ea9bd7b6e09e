"""Small RVEs, random reduced models, and what the tests do with them again and again."""

import numpy as np

from femops import load_law
from femops.rve.sampling import sobol
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.surrogate import FitTask, TrainedModel
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops_equino.reduced.model import DEVIATOR, TRACE, ReducedModel
from femops_equino.surrogate import fit

RANGE = 0.03
PHASES = {
    "matrix": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
    "fibre": {"law": "elastic", "K": 43452.381, "G": 29918.033},
}
CIRCLES = [
    {"center": [-0.25, 0.25], "radius": 0.10},
    {"center": [0.25, 0.15], "radius": 0.15},
    {"center": [0.0, -0.25], "radius": 0.10},
]
RVE = {"circles": {"circles": CIRCLES, "mesh_size": 0.12, "cell": "quad8"}, "phases": PHASES}
SPHERE = {"spheres": [{"center": [0.1, 0.0, 0.05], "radius": 0.3}], "mesh_size": 0.4, "cell": "tetra"}
COARSE = {"circles": {"circles": [{"center": [0.1, 0.05], "radius": 0.3}], "mesh_size": 0.3, "cell": "triangle"}}

# Without symmetries, so that exchanged shears show.
ELLIPSE = {"center": [0.1, 0.05], "semi_axes": [0.35, 0.15], "angle": 25.0}
SPHERES = [{"center": [0.1, 0.0, 0.05], "radius": 0.3}, {"center": [-0.3, -0.3, -0.2], "radius": 0.15}]
ANISOTROPIC = {
    2: {"ellipses": {"ellipses": [ELLIPSE], "mesh_size": 0.18, "cell": "quad8"}, "phases": PHASES},
    3: {"spheres": {"spheres": SPHERES, "mesh_size": 0.5, "cell": "tetra"}, "phases": PHASES},
}
HOSTILE = 'hostile */ ??/ "\\ ü'


class StoppedError(Exception):
    """Raised by a test to stop a training."""


def fit_task(rve, options, high, count=6):
    """Return the training task of an RVE with snapshots in the range ±high."""
    built = load_law({"law": "nested", "rve": rve}).rve
    solver = SnapshotSolver(built, SolverOptions(rtol=1e-11))
    snapshots = solver.solve(sobol(-high, high, count, 1))
    return FitTask(snapshots, built, solver, options, -high, high, MemoryCheckpoint(), lambda *_: None)


def fitted(task):
    """Return the model that a task leads to."""
    found = fit(task)
    return TrainedModel(found.arrays, found.settings, task.rve, task.low, task.high)


def random_model(dim, n_c=13):
    """Return a reduced energy of 7 modes whose numbers of modes and points fill no whole tiles."""
    rng, m = np.random.default_rng(3), len(TRACE[dim]) + 7
    root = rng.standard_normal((m, m))
    projection = rng.standard_normal((n_c, len(DEVIATOR[dim]), m))
    weight = rng.uniform(0.5, 1.5, n_c) / max(n_c, 1)
    parameters = np.stack([weight, rng.uniform(30.0, 60.0, n_c), rng.uniform(0.03, 0.1, n_c)], axis=1)
    return ReducedModel(20.0 * (root @ root.T + np.eye(m)), projection, parameters)


def virgin(law, n):
    return np.zeros((n, law.n_state))


def answer_of(law, strain):
    """Return the response in the virgin state."""
    return law.evaluate(strain, virgin(law, len(strain)), 1.0)


def norms(stress, metric):
    """Return the norms √(s · metric · s)."""
    return np.sqrt(np.einsum("ns,st,nt->n", stress, metric, stress))


def relative(values, reference):
    """Return relative errors in the Frobenius norm."""
    axes = tuple(range(1, reference.ndim))
    return np.sqrt(((values - reference) ** 2).sum(axes) / (reference**2).sum(axes))


def loaded(trained, **parameters):
    return load_law({"law": "equino", "model": str(trained.model), **parameters})
