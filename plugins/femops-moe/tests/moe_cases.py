"""Small RVEs with their snapshots, and reduced models of them."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from femops import load_law
from femops.devices.torch_library import torch
from femops.rve.sampling import sobol
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops_moe.basis import Basis, decompose, elastic_stiffness, nonlinear_fields
from femops_moe.experts import Experts, assemble
from femops_moe.galerkin import Equilibrium, equilibrium
from femops_moe.partition import Partition, grid

RANGE = 0.03
PHASES = {
    "matrix": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
    "fibre": {"law": "elastic", "K": 43452.381, "G": 29918.033},
}
ELLIPSE = {"center": [0.1, 0.05], "semi_axes": [0.35, 0.15], "angle": 25.0}
RVES = {
    2: {"ellipses": {"ellipses": [ELLIPSE], "mesh_size": 0.15, "cell": "quad8"}, "phases": PHASES},
    3: {
        "spheres": {"spheres": [{"center": [0.1, 0.0, 0.05], "radius": 0.3}], "mesh_size": 0.45, "cell": "tetra"},
        "phases": PHASES,
    },
}


@dataclass
class Problem:
    """An RVE, its snapshots and what the modes are computed from."""

    rve: object
    space: FluctuationSpace
    strain: np.ndarray
    stress: np.ndarray
    stiffness: object
    elastic: np.ndarray
    fields: np.ndarray

    def basis(self, partition: Partition, modes: int = 10**6, tolerance: float = 1e-7) -> Basis:
        return decompose(partition, self.stiffness, self.elastic, self.fields, modes, tolerance)[0]

    def experts(self, partition: Partition, modes: int = 10**6) -> Experts:
        return assemble(self.rve, self.space, partition.expert, self.basis(partition, modes))


@cache
def problem(dim: int, boundary: str = "periodic") -> Problem:
    rve = load_law({"law": "nested", "rve": {**RVES[dim], "boundary": boundary}}, dim=dim).rve
    corner = np.full(3 if dim == 2 else 6, RANGE)
    solver = SnapshotSolver(rve, SolverOptions(1e-12))
    snapshots = solver.solve(sobol(-corner, corner, 6, 1))
    space, sensitivity = FluctuationSpace(rve), solver.solver.elastic_sensitivity
    fields = nonlinear_fields(space, snapshots, sensitivity, corner)
    stiffness = elastic_stiffness(space, rve)
    elastic = space.from_free(sensitivity)
    return Problem(rve, space, snapshots["strain"], snapshots["stress"], stiffness, elastic, fields)


@cache
def coarse_experts(dim: int, modes: int = 14) -> Experts:
    """Return a reduced model that is far from the truth."""
    one = problem(dim)
    return one.experts(grid(one.space, 2), modes)


def solve(experts: Experts, strain: np.ndarray) -> Equilibrium:
    """Return the converged response at strains (n, n_s)."""
    given = torch.as_tensor(strain)
    return equilibrium(experts, given, given.new_zeros(len(given), experts.n_unknowns), 12, 1e-20)
