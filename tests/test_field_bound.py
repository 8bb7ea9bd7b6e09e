"""The guaranteed bound of the stress of predicted fields of hyperelastic phases."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from femops import load_law
from femops.devices.torch_library import torch
from femops.phases import PhaseResponse
from femops.rve.sampling import sobol
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.surrogate.fields.bound import StressBound
from femops.surrogate.fields.hyperelastic import HyperelasticFields

PHASES = {
    "matrix": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
    "fibre": {"law": "elastic", "K": 43452.381, "G": 29918.033},
}
GEOMETRIES = {
    2: {"circles": {"circles": [{"center": [0.1, 0.05], "radius": 0.3}], "mesh_size": 0.2, "cell": "quad8"}},
    3: {"spheres": {"spheres": [{"center": [0.1, 0.0, 0.05], "radius": 0.3}], "mesh_size": 0.5, "cell": "tetra"}},
}
CASES = [(2, "periodic"), (3, "periodic"), (2, "kinematic")]


@pytest.fixture(scope="module", params=CASES, ids=[f"{dim}D {boundary}" for dim, boundary in CASES])
def exact(request):
    """Exact fields at strains, the elastic ones, and the bound."""
    dim, boundary = request.param
    rve = load_law({"law": "nested", "rve": {**GEOMETRIES[dim], "phases": PHASES, "boundary": boundary}}, dim=dim).rve
    corner = np.full(3 if dim == 2 else 6, 0.04)
    solver = SnapshotSolver(rve, SolverOptions(1e-12))
    found = solver.solve(sobol(-corner, corner, 6, 3))
    problem = HyperelasticFields(rve)
    space, elastic = problem.space, solver.solver.elastic_sensitivity

    def nodal(values):
        return torch.as_tensor(space.from_free(values.T).T.reshape(-1, space.n_nodes, dim))

    slopes = torch.stack([nodal(found["sensitivity"][:, :, s]) for s in range(len(corner))], 3)
    unstrained = torch.stack([nodal(elastic[None, :, s]) for s in range(len(corner))], 3)
    zero = problem.evaluate(torch.zeros(1, len(corner)).double(), 0.0 * nodal(elastic.T[:1]), unstrained)
    metric = np.linalg.inv(zero.tangent[0].numpy())
    strain = found["strain"]
    of_elastic = torch.einsum("nads,ns->nad", unstrained.expand(len(strain), -1, -1, -1), torch.as_tensor(strain))
    fields = (nodal(found["fluctuation"]), slopes, of_elastic, unstrained.expand_as(slopes))
    return SimpleNamespace(problem=problem, strain=strain, stress=found["stress"], metric=metric, fields=fields)


def _error(exact, w, slope, bound=None):
    """Return the relative errors of the stress of given fields, and their bounds."""
    bound = bound or StressBound(exact.problem, exact.metric)
    stress = exact.problem.evaluate(torch.as_tensor(exact.strain), w, slope).stress.numpy()
    root = np.linalg.cholesky(exact.metric)
    size, away = (np.linalg.norm(one @ root, axis=1) for one in (stress, stress - exact.stress))
    return away / size, bound.error(exact.strain, stress, w, slope)


def test_the_bound_holds_for_fields_near_and_far_and_is_of_second_order(exact):
    w, slope, of_elastic, elastic = exact.fields
    bounds = []
    for part in (1.0, 0.3, 0.1, 0.01):
        error, bound = _error(exact, w + part * (of_elastic - w), slope + part * (elastic - slope))
        assert (error <= bound).all(), part
        bounds.append(bound)
    assert (np.median(bounds[3] / error)) < 20.0
    assert (bounds[3] < 0.03 * bounds[2]).all()


def test_the_bound_covers_an_answer_that_is_not_the_stress_of_its_fields(exact):
    w, slope, _, _ = exact.fields
    bound = StressBound(exact.problem, exact.metric)
    root = np.linalg.cholesky(exact.metric)
    size, away = (np.linalg.norm(one @ root, axis=1) for one in (1.01 * exact.stress, 0.01 * exact.stress))
    found = bound.error(exact.strain, 1.01 * exact.stress, w, slope)
    assert found == pytest.approx(away / size, rel=1e-6)


def test_the_bound_is_attained_at_small_strains_by_fields_without_fluctuation(exact):
    n_s, (w, slope, _, _) = exact.strain.shape[1], exact.fields
    tiny, zero = 1e-9, torch.zeros(1, n_s).double()
    voigt = exact.problem.evaluate(zero, 0.0 * w[:1], 0.0 * slope[:1]).tangent[0].numpy()
    truth = np.linalg.inv(exact.metric)
    root = np.linalg.cholesky(exact.metric)
    values, vectors = np.linalg.eigh(root.T @ (voigt - truth) @ root)
    strain = tiny * (root @ vectors[:, -1:]).T
    bound = StressBound(exact.problem, exact.metric).error(strain, strain @ voigt, 0.0 * w[:1], 0.0 * slope[:1])
    error = np.linalg.norm(strain @ (voigt - truth) @ root) / np.linalg.norm(strain @ voigt @ root)
    assert values[-1] > 0.01
    assert error == pytest.approx(bound[0], rel=1e-4)


@dataclass(frozen=True)
class Unknown:
    """A hyperelastic phase that does not state its self-concordance."""

    inside: Any
    linear = False

    def state_fields(self, dim: int) -> dict[str, slice]:
        return {}

    def evaluate(self, strain: Any, state: Any) -> PhaseResponse:
        return self.inside.evaluate(strain, state)

    def energy(self, strain: Any, state: Any) -> Any:
        return self.inside.energy(strain, state)


def test_phases_that_state_no_constants_have_no_bound(exact):
    rve = exact.problem.rve
    unknown = replace(rve, phases=tuple(one if one.linear else Unknown(one) for one in rve.phases))
    bound = StressBound(HyperelasticFields(unknown), exact.metric)
    w, slope, _, _ = exact.fields
    assert np.isinf(_error(exact, w, slope, bound)[1]).all()


def test_no_strain_has_no_error(exact):
    w, _, _, elastic = exact.fields
    bound = StressBound(exact.problem, exact.metric)
    zero = np.zeros_like(exact.strain)
    assert (bound.error(zero, zero, 0.0 * w, elastic) == 0.0).all()
