"""The original EquiNO as a surrogate: modes, admissible fields, the law's contract, a bound that holds."""

from dataclasses import replace

import numpy as np
import pytest
from equino_cases import PHASES, answer_of, fit_task, fitted, norms

from femops import CaseError, load_law
from femops.checks import check_arrays, check_law
from femops.law import CertifiedLaw, LearningLaw
from femops.rve.sampling import sobol
from femops_equino.options import EquiNOOptions, EquiNOParameters
from femops_equino.original.modes import displacement_at_points, original_modes
from femops_equino.surrogate import as_law

RVE = {
    "circles": {"circles": [{"center": [0.1, 0.05], "radius": 0.3}], "mesh_size": 0.2, "cell": "quad8"},
    "phases": PHASES,
}
HIGH = np.full(3, 0.02)
UNSEEN = sobol(-HIGH, HIGH, 16, 5)
OPTIONS = EquiNOOptions(
    mode="original", modes=5, stress_modes=6, original={"adam_steps": 600, "lbfgs_steps": 200, "collocation": 64}
)
PARAMETERS = {"model": "here"}


@pytest.fixture(scope="module")
def task():
    return fit_task(RVE, OPTIONS, HIGH, 16)


@pytest.fixture(scope="module")
def model(task):
    return fitted(task)


@pytest.fixture(scope="module")
def law(model):
    return as_law(model, EquiNOParameters.model_validate(PARAMETERS))


def test_modes_are_orthonormal_by_quadrature_and_represent_the_snapshots(task):
    modes = original_modes(task, 100, 100)
    d = task.rve.discretisation
    weight = d.weight.ravel()
    displacement = displacement_at_points(task.rve, task.solver.solver.full_fluctuation(modes.displacement))
    stress = modes.stress.reshape(d.n_s, d.n_points, -1)
    for fields in (displacement, stress):
        gram = np.einsum("g,igk,igl->kl", weight, fields, fields)
        np.testing.assert_allclose(gram, np.eye(len(gram)), rtol=0, atol=1e-8)
    snapshot = task.snapshots["phase_stress"]
    b = np.einsum("g,sgk,isg->ik", weight, stress, snapshot)
    np.testing.assert_allclose(b @ modes.stress.T, snapshot.reshape(len(b), -1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(b @ modes.normal, task.snapshots["stress_33"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.sqrt((b**2).mean(0)), modes.stress_unit, rtol=1e-6)


def test_the_law_keeps_the_contract(law):
    assert isinstance(law, CertifiedLaw)
    check_law(law, strain_scale=0.015)
    outside = answer_of(law, np.array([[0.0, 0.0, 0.0], [0.021, 0.0, 0.0]]))
    assert outside.valid.tolist() == [True, False]


def test_networks_and_exact_solves_give_the_row_33(law):
    step = 1e-6
    for answer in (law.evaluate, law.solve_exactly):
        found = [answer(one, np.zeros((len(one), 0)), 1.0) for one in (UNSEEN, *(UNSEEN + h for h in step * np.eye(3)))]
        behind = [answer(UNSEEN - h, np.zeros((len(UNSEEN), 0)), 1.0).stress_33 for h in step * np.eye(3)]
        slope = np.stack([one.stress_33 for one in found[1:]], 1) - np.stack(behind, 1)
        row = found[0].tangent_33
        np.testing.assert_allclose(row, slope / (2.0 * step), rtol=0.0, atol=1e-4 * np.abs(row).max())


def test_single_precision_changes_no_more_than_its_digits(model, law):
    single = as_law(model, EquiNOParameters.model_validate({**PARAMETERS, "precision": "float32"}))
    ours, theirs = answer_of(single, UNSEEN), answer_of(law, UNSEEN)
    assert 0.0 < np.abs(ours.stress - theirs.stress).max() < 1e-4 * np.abs(theirs.stress).max()
    assert ours.stress.dtype == ours.stress_33.dtype == np.float64


def test_stresses_are_in_equilibrium_for_any_coefficients(task, law):
    rng, d = np.random.default_rng(0), task.rve.discretisation
    stress = law.stress @ (rng.standard_normal((law.stress.shape[1], 4)) * law.weights["stress/unit"][:, None])
    free = task.solver.solver.free
    gradient = d.gradient(free.of, slice(0, len(d.mesh.cells)), free.count)
    weighted = stress * np.tile(d.weight.ravel(), d.n_s)[:, None]
    assert np.abs(gradient.T @ weighted).max() < 1e-9 * (np.abs(gradient.T) @ np.abs(weighted)).max()


def test_bound_of_the_error_holds_inside_and_outside_the_range_and_is_useful_inside(law):
    for strain, useful in ((UNSEEN, True), (2.0 * UNSEEN, False)):
        answer = answer_of(law, strain)
        exact = law.solve_exactly(strain, np.zeros((len(strain), 0)), 1.0)
        size, error = (norms(one, law.metric) for one in (answer.stress, answer.stress - exact.stress))
        bound = law.certify(strain, answer, "bound")
        assert (bound >= error / size).all()
        if useful:
            assert np.median(error / size) < 0.03
            assert np.median(bound) < 20.0 * np.median(error / size)


def test_the_bound_is_finite_and_holds_where_the_stress_is_more_than_a_phase_bears(model):
    """The matrix saturates at a tenth, with the same elasticity: the networks know nothing of it."""
    weak = {**RVE, "phases": {**RVE["phases"], "matrix": {**RVE["phases"]["matrix"], "alpha1": 5.0, "alpha2": 0.006}}}
    parameters = EquiNOParameters.model_validate(PARAMETERS)
    law = as_law(replace(model, rve_or_builder=load_law({"law": "nested", "rve": weak}).rve), parameters)
    answer = answer_of(law, UNSEEN)
    d, (_, stress) = law.rve.discretisation, law.fields(UNSEEN)
    matrix = stress[:, d.points_of_phase(list(d.phases).index("matrix"))]
    assert np.isinf(law.rve.phases[list(d.phases).index("matrix")].complementary_energy(matrix)).any(axis=0).all()
    error = answer.stress - law.solve_exactly(UNSEEN, np.zeros((len(UNSEEN), 0)), 1.0).stress
    bound = law.certify(UNSEEN, answer, "bound")
    assert np.isfinite(bound).all() and (bound >= norms(error, law.metric) / norms(answer.stress, law.metric)).all()


def test_stress_of_another_law_is_bounded_too(law):
    answer = answer_of(law, UNSEEN)
    exact = law.solve_exactly(UNSEEN, np.zeros((len(UNSEEN), 0)), 1.0)
    answer.stress[:] = 1.5 * exact.stress
    assert (law.certify(UNSEEN, answer, "bound") >= 1.0 / 3.0).all()


def test_fields_inside_the_rve_belong_to_the_stress(law):
    d = law.rve.discretisation
    answer, fields = answer_of(law, UNSEEN[:1]), law.micro_fields(UNSEEN[0], np.zeros(0))
    cells = d.weight.sum(axis=1) / d.volume
    np.testing.assert_allclose(cells @ fields.stress, answer.stress[0], rtol=1e-9)
    np.testing.assert_allclose(cells @ fields.strain, UNSEEN[0], rtol=1e-9)
    np.testing.assert_allclose(cells @ fields.stress_33, answer.stress_33[0], rtol=0.05)


def test_exact_fields_inside_the_rve_are_those_of_the_nested_law(law):
    exact = load_law({"law": "nested", "rve": RVE})
    ours = law.exact_micro_fields(UNSEEN[0], np.zeros(0)).stress
    theirs = exact.micro_fields(UNSEEN[0], np.zeros(exact.n_state)).stress
    assert np.linalg.norm(ours - theirs) < 1e-6 * np.linalg.norm(theirs)


def test_what_the_mode_cannot_do_is_said(model, law):
    with pytest.raises(CaseError, match="mode original has no corrections"):
        as_law(model, EquiNOParameters.model_validate({**PARAMETERS, "corrections": 2}))
    odd = [{"device": "cuda"}, {"start": "last"}, {"tolerance": 1e-3}, {"potential": "spline", "corrections": 0}]
    for more in odd:
        with pytest.raises(CaseError, match=f"^{next(iter(more))}: .*given, but mode original has "):
            as_law(model, EquiNOParameters.model_validate({**PARAMETERS, **more}))
    with pytest.raises(ValueError, match="spline given, but mode original takes only"):
        EquiNOOptions(mode="original", spline=9)
    assert isinstance(law, CertifiedLaw) and not isinstance(law, LearningLaw)


def test_a_model_with_a_wrong_array_is_refused_before_it_is_used(law, model, monkeypatch):
    monkeypatch.setattr("femops_equino.original.law.ExactRVE", lambda rve: law._exact)  # the same for all, slow to make
    check_arrays(model.arrays, lambda arrays: as_law(replace(model, arrays=arrays), law.parameters))
