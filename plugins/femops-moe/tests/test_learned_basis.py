"""Modes that a network computes for RVEs of a family: exact parts, training on the energy, and the law."""

from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from moe_cases import PHASES, RVES
from mpi4py import MPI

from femops import CaseError, load_law
from femops.checks import check_arrays, check_law
from femops.devices.torch_library import torch
from femops.inputs.study import load_study
from femops.offline.train import train
from femops.rve.sampling import sobol
from femops.surrogate import FamilyTask, TrainedModel
from femops.surrogate.fields.hyperelastic import HyperelasticFields
from femops.surrogate.store import read_fit, read_manifest
from femops_moe.compiled import solver
from femops_moe.learned import training
from femops_moe.learned.law import stored_network
from femops_moe.learned.linearised import LinearisedRVE
from femops_moe.learned.network import ModeNetwork
from femops_moe.options import MoEOptions

HIGH = np.array([0.04, 0.04, 0.03])
RVE = {"voxels": {"cells": 8, "inclusions": [{"center": [0.1, 0.05], "radius": 0.3}]}, "phases": PHASES}
OTHER = {
    "ellipses": {**RVES[2]["ellipses"], "mesh_size": 0.3, "cell": "triangle6"},
    "phases": {"matrix": {**PHASES["matrix"], "alpha1": 40.0}, "fibre": {"law": "elastic", "K": 9e3, "G": 4e3}},
}
STRAIN = sobol(-HIGH, HIGH, 12, 11)
STUDY = {
    "kinematics": "plane_strain",
    "family": {
        "count": 5,
        "validation": 2,
        "seed": 1,
        "mesh": {"cells": 8},
        "inclusions": {"shape": "circles", "number": [1, 2], "volume_fraction": [0.2, 0.4]},
        "phases": PHASES,
    },
    "sampling": {
        "method": "sobol",
        "count": 1,
        "range": {"11": [-0.04, 0.04], "22": [-0.04, 0.04], "12": [-0.03, 0.03]},
    },
    "surrogate": {"law": "moe", "basis": 8, "width": 8, "steps": 15, "batch": 2, "cubature_tolerance": 1e-3},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    report = train(load_study(path), path, folder / "out", MPI.COMM_SELF)
    return SimpleNamespace(model=report.model, metrics=report.metrics)


@pytest.fixture(scope="module")
def nested():
    return load_law({"law": "nested", "rve": RVE, "solver": {"rtol": 1e-11}}, dim=2)


@pytest.fixture(scope="module")
def problem(nested):
    return LinearisedRVE(nested.rve, -HIGH, HIGH)


def _law(trained, rve=RVE, dim=2):
    return load_law({"law": "moe", "model": str(trained.model), "rve": rve}, dim=dim)


def _answer(law, strain=STRAIN):
    return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)


def _error(found, true):
    return np.linalg.norm(found - true) / np.linalg.norm(true)


def test_fluctuations_are_in_equilibrium_with_the_elastic_and_with_the_mean_tangents(problem, nested):
    elastic = problem.space.from_free(nested.solver.elastic_sensitivity)
    assert np.allclose(problem.elastic, elastic, rtol=0.0, atol=1e-12)
    strain = sobol(-HIGH, HIGH, 16, 7)
    tangent = HyperelasticFields(nested.rve).phase_values(
        torch.as_tensor(strain), _nodal(problem, problem.softened @ strain.T)
    )[1]
    unit = problem.strain(problem.softened) + np.eye(3)[:, None]
    stress = np.einsum("pst,tpk->spk", tangent.mean(1).numpy(), unit)
    assert (
        np.abs(problem.forces(stress)).max()
        < 1e-4 * np.abs(problem.forces(tangent.mean(1).numpy().transpose(1, 0, 2))).max()
    )


def _nodal(problem, displacement):
    return torch.as_tensor(displacement).unflatten(0, (-1, 2)).permute(2, 0, 1).contiguous()


def test_derivatives_of_the_linear_maps_are_their_transposes(problem):
    draw = np.random.default_rng(0)
    maps = [(problem.response, (3, len(problem.tangent), 2)), (problem.strain_of, (problem.space.n_dofs, 2))]
    for apply, shape in maps:
        given = torch.tensor(draw.normal(size=shape), requires_grad=True)
        image = apply(given)
        work = (image * torch.as_tensor(draw.normal(size=image.shape))).sum()
        (slope,) = torch.autograd.grad(work, given)
        assert float((slope * given.detach()).sum()) == pytest.approx(float(work.detach()), rel=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_without_the_network_many_passes_end_at_the_exact_fluctuations(dim):
    nested = load_law({"law": "nested", "rve": RVE if dim == 2 else RVES[3], "solver": {"rtol": 1e-11}}, dim=dim)
    high = np.full(3 if dim == 2 else 6, 0.03)
    problem, network = LinearisedRVE(nested.rve, -high, high), ModeNetwork(-high, high, 4, 8)
    with torch.no_grad():
        for one in network.passes:
            one[-1].weight.zero_()
            one[-1].bias.zero_()
        network.passes = torch.nn.ModuleList([network.passes[0], *[network.passes[1]] * 30])
        found = network(problem).numpy()
        strain = (network.scale * network.strains.double()).numpy()
    exact = nested.solver.solve(strain.T.copy(), nested.solver.virgin_state(4)).fluctuation
    linear = nested.solver.elastic_sensitivity @ strain.T
    assert _error(problem.space.to_free(found), exact - linear) < 1e-6


def test_the_slope_of_the_error_is_that_of_the_reduced_energy(problem, monkeypatch):
    monkeypatch.setattr(training, "_EVALUATIONS", 20)
    monkeypatch.setattr(training, "_TOLERANCE", 1e-20)
    draw, fields = np.random.default_rng(0), HyperelasticFields(problem.rve)
    with torch.no_grad():
        modes = ModeNetwork(-HIGH, HIGH, 3, 8)(problem)
    change = torch.as_tensor(problem.space.centred(draw.normal(size=modes.shape))) * modes.abs().max()

    def solved(size):
        at = (modes + size * change).numpy()
        basis = at @ problem.orthonormal(at)
        found = solver(training.one_expert(problem, basis)).solve(STRAIN, np.zeros((len(STRAIN), 3)), 20, 1e-20)
        field = problem.elastic @ STRAIN.T + basis @ found.unknowns.T
        return fields.energy(torch.as_tensor(STRAIN), _nodal(problem, field)).numpy(), found.stress

    given = modes.clone().requires_grad_()
    (slope,) = torch.autograd.grad(training.error_of(problem, given, STRAIN), given)
    size = 1e-6
    difference = (solved(size)[0] - solved(-size)[0]) / (2.0 * size)
    share = 2.0 / (solved(0.0)[1] * STRAIN).sum(1)
    assert float((slope * change).sum()) == pytest.approx((share * difference).mean(), rel=1e-4)


def test_training_lowers_the_energy_of_unseen_members_and_is_repeatable(problem):
    rves = [problem.rve, *(load_law({"law": "nested", "rve": _shifted(x)}, dim=2).rve for x in (0.2, 0.3))]

    def fit(steps):
        return _fitted(rves, MoEOptions(basis=3, width=8, steps=steps, batch=2, learning_rate=1e-2))

    first, one, two = fit(0), fit(12), fit(12)
    assert one.metrics["energy_error"] < 0.9 * first.metrics["energy_error"]
    assert all(np.array_equal(values, two.arrays[name]) for name, values in one.arrays.items())


def _fitted(rves, options):
    return training.fit_family(FamilyTask(rves, {}, options, 2, -HIGH, HIGH, _Nowhere(), lambda *given: None))


class _Nowhere:
    def load(self, name):
        return None

    def save(self, name, arrays):
        pass


def _shifted(radius):
    return {**RVE, "voxels": {"cells": 8, "inclusions": [{"center": [0.0, 0.2], "radius": radius}]}}


def test_the_law_of_an_unseen_microstructure_is_close_to_the_nested_solve(trained, nested):
    law, truth = _law(trained), _answer(nested)
    check_law(law, strain_scale=0.02, n_points=4, rtol_tangent=1e-6)
    answer = _answer(law)
    assert _error(answer.stress, truth.stress) < 1e-3
    assert _error(answer.tangent, truth.tangent) < 3e-3
    assert answer.valid.all()
    elastic = STRAIN @ np.linalg.inv(law.metric)
    assert _error(answer.stress, truth.stress) < 0.01 * _error(elastic, truth.stress)
    exact = law.solve_exactly(STRAIN, np.zeros((len(STRAIN), law.n_state)), 1.0)
    assert _error(exact.stress, truth.stress) < 1e-7
    assert trained.metrics["validation"]["stress"]["max"] < 3e-3


@pytest.mark.parametrize("rve", [RVE, OTHER], ids=["grid", "other mesh and phases"])
def test_the_bound_covers_the_error_on_any_mesh(trained, rve):
    law = _law(trained, rve)
    truth = _answer(load_law({"law": "nested", "rve": rve, "solver": {"rtol": 1e-11}}, dim=2))
    answer = _answer(law)

    def size(stress):
        return np.sqrt(np.einsum("ns,st,nt->n", stress, law.metric, stress))

    error = size(answer.stress - truth.stress) / size(answer.stress)
    assert error.max() < 5e-3
    bound, indicator = (law.certify(STRAIN, answer, kind) for kind in ("bound", "indicator"))
    assert (bound >= error).all() and np.median(bound / error) < 8.0
    assert ((indicator > 0.5 * error) & (indicator < 2.0 * error)).all()


def test_a_damaged_model_is_refused(trained):
    manifest = read_manifest(trained.model)
    fit = read_fit(trained.model, manifest)

    def built(arrays):
        return stored_network(TrainedModel(arrays, fit.settings, lambda: None, -HIGH, HIGH))

    check_arrays(fit.arrays, built)


@pytest.mark.parametrize(
    ("rve", "problem"),
    [
        ({"homogeneous": {"phase": "matrix"}, "phases": {"matrix": PHASES["matrix"]}}, "is homogeneous"),
        ({**RVE, "phases": {**PHASES, "matrix": PHASES["fibre"]}}, "all are linear"),
        ({**RVE, "boundary": "static"}, "'static' given"),
        (None, "rve: missing"),
    ],
)
def test_rves_that_have_no_modes_are_refused(trained, rve, problem):
    with pytest.raises(CaseError, match=problem):
        _law(trained, rve)


def test_what_a_family_cannot_learn_is_refused(problem):
    with pytest.raises(CaseError, match=r"surrogate\.experts: given with a family, expected with one RVE"):
        _fitted([problem.rve] * 2, MoEOptions(experts=2))
    with pytest.raises(CaseError, match=r"family\.count: 1 given, expected several members"):
        _fitted([problem.rve], MoEOptions())
