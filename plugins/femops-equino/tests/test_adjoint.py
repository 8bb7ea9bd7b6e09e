"""The adjoint path: its stress is the derivative it says, its errors are of second order, and it knows them."""

from functools import partial

import numpy as np
import pytest
from equino_cases import RANGE, answer_of, loaded, random_model, relative
from pydantic import ValidationError

from femops import CaseError, load_law
from femops.checks import check_law
from femops_equino.networks import torch_networks
from femops_equino.networks.evaluation import evaluate_coefficients, prepare
from femops_equino.options import EquiNOParameters
from femops_equino.reduced.adjoint import Adjoint


def elastic(model):
    """Return the sensitivities (r, n_e) of the minimum at zero strain, and the stiffness (r, r) there."""
    _, hessian = model.derivatives(np.zeros((1, len(model.quadratic))))
    n_e = model.n_e
    return -np.linalg.solve(hessian[0, n_e:, n_e:], hessian[0, n_e:, :n_e]), hessian[0, n_e:, n_e:]


def random_weights(model, size=1.0):
    n_s = 3 if model.dim == 2 else 6
    linear, scale = elastic(model)[0][:, :n_s], np.full(n_s, RANGE)
    return torch_networks.initial_weights(
        linear, scale, 0.01 * size * np.linspace(0.5, 2.0, model.n_modes), 10, 2, seed=4
    )


def strains(n, dim, size=RANGE):
    return np.random.default_rng(1).uniform(-size, size, (n, 3 if dim == 2 else 6))


def coefficients(weights, strain, low, high):
    inside = np.clip(strain, low, high)
    learned = evaluate_coefficients(prepare(weights), inside, len(weights["linear"]))
    return learned + (strain - inside) @ weights["linear"].T


adjoint = partial(loaded, corrections="adjoint")


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("reach", [0.9, 2.0], ids=["inside", "outside"])
def test_the_stress_is_the_derivative_of_the_energy_at_the_coefficients(dim, reach):
    model = random_model(dim)
    weights, strain = random_weights(model), strains(150, dim, reach * RANGE)
    step = 1e-6
    strain[np.abs(np.abs(strain) - RANGE) < 2 * step] = 0.0  # no difference across the edge of the range

    def energy(e):
        return model.energy(model.extended(e, coefficients(weights, e, -RANGE, RANGE)))

    found = Adjoint(weights, model).evaluate(strain, np.clip(strain, -RANGE, RANGE))
    changes = step * np.eye(strain.shape[1])
    differences = [(energy(strain + change) - energy(strain - change)) / (2 * step) for change in changes]
    np.testing.assert_allclose(found.stress.T, differences, rtol=0, atol=1e-7 * np.abs(found.stress).max())


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_normal_stress_and_estimate_are_those_of_plain_numpy(precision):
    model = random_model(2)
    weights, strain = random_weights(model), strains(150, 2)
    gradient, _ = model.derivatives(model.extended(strain, coefficients(weights, strain, -1.0, 1.0)))
    sensitivity, stiffness = elastic(model)
    found = Adjoint(weights, model, precision).evaluate(strain, strain)
    residual, tolerance = gradient[:, 4:], 1e-10 if precision == "float64" else 1e-4
    normal = gradient[:, 3] + residual @ sensitivity[:, 3]
    gap = np.einsum("nr,nr->n", residual, np.linalg.solve(stiffness, residual.T).T)
    wanted = gap / (found.stress * strain).sum(1)
    np.testing.assert_allclose(found.stress_33, normal, rtol=0, atol=tolerance * np.abs(normal).max())
    np.testing.assert_allclose(found.decrement, wanted, rtol=10 * tolerance)
    assert found.stress.dtype == found.decrement.dtype == np.float64


def test_half_the_error_of_the_network_is_a_quarter_of_that_of_the_stress():
    model = random_model(2, n_c=0)  # quadratic, so that the minimum is known and the order is exactly two
    strain = strains(50, 2)
    exact = model.derivatives(model.extended(strain, strain @ elastic(model)[0][:, :3].T))[0][:, :3]
    whole, half = (
        Adjoint(random_weights(model, size), model).evaluate(strain, strain).stress - exact for size in (1.0, 0.5)
    )
    assert np.abs(whole).max() > 1e-3 * np.abs(exact).max()
    np.testing.assert_allclose(half, 0.25 * whole, rtol=0, atol=1e-10 * np.abs(exact).max())


def test_the_law_keeps_the_contract_with_the_tangent_of_the_potential(plane):
    law = adjoint(plane)
    assert law.n_state == 0 and not law.learns
    check_law(law, rtol_tangent=0.02)


def test_a_trained_network_gives_the_stress_of_the_reduced_model(plane, law, reference):
    strain = reference.strain[reference.inside]
    exact = law.model.solve(strain, strain @ law.basis.elastic.T, 12, 1e-20)
    ours, bare = answer_of(adjoint(plane), strain), answer_of(loaded(plane, corrections=0), strain)
    assert np.median(relative(ours.stress, exact.stress)) < 0.25 * np.median(relative(bare.stress, exact.stress))
    np.testing.assert_array_equal(ours.tangent, bare.tangent)
    normal = [np.median(np.abs(one.stress_33 / exact.stress_33 - 1.0)) for one in (ours, bare)]
    assert normal[0] < 0.5 * normal[1]
    assert ours.valid.all() and not answer_of(adjoint(plane), reference.strain[100:]).valid.all()


def test_the_solver_residual_is_at_most_the_decrement_and_follows_it(plane, reference):
    strain = reference.strain[reference.inside]
    one_correction = loaded(plane, corrections=1)
    ratio = answer_of(adjoint(plane), strain).solver_residual / answer_of(one_correction, strain).solver_residual
    assert ratio.max() < 1.01  # the works that they are relative to differ a little
    assert ratio.min() > 0.2


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_solver_residual_is_small_where_there_is_hardly_a_strain(plane, precision):
    strain = np.array([0.0, 1e-12, 1e-9, 1e-6])[:, None] * np.array([1.0, -0.5, 0.3])
    assert answer_of(adjoint(plane, precision=precision), strain).solver_residual.max() < 1e-4


def test_the_indicator_is_of_the_size_of_the_error(plane, reference):
    law, strain = adjoint(plane), reference.strain[reference.inside][:20]
    ours = answer_of(law, strain)
    error = relative(ours.stress, reference.answer.stress[:20])
    assert 0.1 < np.median(law.certify(strain, ours, "indicator") / error) < 10.0


def test_exact_solves_and_fields_need_no_state(plane, reference):
    law, strain = adjoint(plane), reference.strain[:3]
    exact = law.solve_exactly(strain, np.zeros((3, 0)), 1.0)
    assert relative(exact.stress, reference.answer.stress[:3]).max() < 1e-7
    fields = law.micro_fields(strain[0], np.zeros(0))
    assert np.isfinite(fields.stress).all()


def test_single_precision_is_close_to_double(plane, reference):
    strain = reference.strain[reference.inside]
    single, double = (answer_of(adjoint(plane, precision=one), strain) for one in ("float32", "float64"))
    assert 0.0 < relative(single.stress, double.stress).max() < 1e-4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start": "last"}, "start: last given with corrections: adjoint, expected auto or network"),
        ({"start": "zero"}, "start: zero given with corrections: adjoint, expected auto or network"),
        ({"potential": "spline"}, "potential: spline given with corrections, expected corrections: 0"),
    ],
)
def test_what_the_adjoint_cannot_use_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        EquiNOParameters.model_validate({"law": "equino", "model": "model", "corrections": "adjoint", **given})


def test_the_adjoint_learns_nothing_and_needs_networks(plane, solid, reference):
    with pytest.raises(CaseError, match=r"corrections: adjoint given, but networks cannot learn .* expected auto"):
        adjoint(plane).enriched(reference.strain[:1])
    with pytest.raises(CaseError, match="start: the model has no networks; expected corrections: auto, 1, 2, "):
        load_law({"law": "equino", "model": str(solid.model), "corrections": "adjoint"}, dim=3)
