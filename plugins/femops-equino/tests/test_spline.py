"""The spline baseline: close to its reduced model, its own derivatives, and refused where it cannot be."""

from typing import Any

import numpy as np
import pytest
import yaml
from equino_cases import RANGE, RVE, answer_of, fit_task, fitted
from mpi4py import MPI
from pydantic import ValidationError

from femops import CaseError
from femops.checks import check_arrays
from femops.inputs.study import load_study
from femops.offline.train import plan_training
from femops.surrogate import TrainedModel
from femops_equino.law import EquiNOLaw
from femops_equino.networks import spline
from femops_equino.options import EquiNOOptions, EquiNOParameters
from femops_equino.reduced.model import DEVIATOR, ReducedModel

LOW, HIGH = np.array([-0.04, -0.04, -0.03]), np.array([0.04, 0.04, 0.03])


@pytest.fixture(scope="module")
def model() -> ReducedModel:
    """Three saturating points that two modes strain differently, and a linear part."""
    rng = np.random.default_rng(3)
    root = rng.standard_normal((6, 6))
    projection = np.concatenate([np.stack([DEVIATOR[2]] * 3), 0.5 * rng.standard_normal((3, 3, 2))], axis=2)
    parameters = np.array([[0.3, 50.0, 0.06], [0.3, 60.0, 0.05], [0.4, 40.0, 0.07]])
    return ReducedModel(50.0 * root @ root.T + 500.0 * np.eye(6), projection, parameters)


@pytest.fixture(scope="module")
def arrays(model: ReducedModel) -> dict[str, Any]:
    return spline.interpolate(model, lambda strain: solved(model, strain).coefficients, LOW, HIGH, 17)


def solved(model: ReducedModel, strain: Any) -> Any:
    return model.solve(strain, np.zeros((len(strain), model.n_modes)), 12, 1e-14)


def strains(n: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).uniform(LOW, HIGH, (n, 3))


def evaluate(arrays: Any, strain: Any, precision: Any = "float64") -> Any:
    ready = spline.stored(arrays, precision)
    assert ready is not None
    return spline.evaluate(ready, strain)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_spline_is_close_to_the_reduced_model_at_unseen_strains(model, arrays, precision):
    strain = strains(512)
    found, wanted = evaluate(arrays, strain, precision), solved(model, strain)
    energy = model.energy(model.extended(strain, wanted.coefficients))
    references = (energy, wanted.stress, wanted.tangent, wanted.stress_33)
    for got, reference, limit in zip(found, references, (1e-7, 3e-6, 1e-4, 1e-5), strict=True):
        assert got.dtype == precision
        wrong = np.abs(got - reference).reshape(512, -1).max(1) / np.abs(reference).max()
        assert np.median(wrong) < limit
        assert wrong.max() < 30 * limit


def test_stress_and_tangent_are_the_derivatives_also_outside_the_grid(arrays):
    strain, step = 1.1 * strains(40), 1e-6
    assert (strain > HIGH).any() and (strain < LOW).any()
    _, stress, tangent, _ = evaluate(arrays, strain)
    for k, change in enumerate(step * np.eye(3)):
        ahead, behind = (evaluate(arrays, strain + sign * change) for sign in (1.0, -1.0))
        slope = (ahead[0] - behind[0]) / (2.0 * step)
        bend = (ahead[1] - behind[1]) / (2.0 * step)
        np.testing.assert_allclose(stress[:, k], slope, rtol=0, atol=1e-7 * np.abs(stress).max())
        np.testing.assert_allclose(tangent[:, :, k], bend, rtol=0, atol=1e-6 * np.abs(tangent).max())
    np.testing.assert_array_equal(tangent, tangent.transpose(0, 2, 1))


@pytest.mark.parametrize("shift", [0.0, 0.013])
def test_zero_strain_has_no_stress_and_nearly_the_elastic_tangent(model, shift):
    made = spline.interpolate(model, lambda one: solved(model, one).coefficients, LOW + shift, HIGH + shift, 17)
    zero = np.zeros((1, 3))
    energy, stress, tangent, normal = evaluate(made, zero)
    assert energy[0] == pytest.approx(0.0, abs=1e-14)
    assert np.abs(stress).max() < 1e-12 and abs(normal[0]) < 1e-12
    elastic = solved(model, zero).tangent[0]
    np.testing.assert_allclose(tangent[0], elastic, rtol=0, atol=0.02 * np.abs(elastic).max())


def test_spline_needs_plane_strain_and_a_range_of_some_width():
    with pytest.raises(CaseError, match=r"surrogate\.spline: a spline of six strains is out of reach"):
        spline.check(3, -np.ones(6), np.ones(6))
    with pytest.raises(CaseError, match=r"surrogate\.spline: a spline needs a range of all strains"):
        spline.check(2, np.array([-1.0, 0.0, -1.0]), np.array([1.0, 0.0, 1.0]))
    spline.check(2, LOW, HIGH)


def test_a_spline_in_3d_is_refused_before_anything_is_solved(tmp_path):
    study = {
        "kinematics": "solid",
        "rve": {"homogeneous": {"dim": 3}, "phases": {"matrix": {"law": "elastic", "K": 1.0, "G": 1.0}}},
        "sampling": {"method": "sobol", "count": 2, "range": 0.01},
        "surrogate": {"law": "equino", "spline": 17},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    with pytest.raises(CaseError, match="a spline of six strains is out of reach"):
        plan_training(load_study(path), path, tmp_path / "out", MPI.COMM_SELF)


def test_a_spline_is_for_the_uncorrected_path_only():
    assert EquiNOParameters(model="-", corrections=0, potential="spline").potential == "spline"
    with pytest.raises(ValidationError, match="expected corrections: 0"):
        EquiNOParameters(model="-", potential="spline")


def small_model(**options: Any) -> TrainedModel:
    small = {"modes": 8, "points": 24, "certificate_points": 24, "states": 8, "networks": None}
    return fitted(fit_task(RVE, EquiNOOptions.model_validate({**small, **options}), np.full(3, RANGE), 8))


def test_the_law_takes_the_spline_that_was_trained():
    model = small_model(spline=11)
    given: dict[str, Any] = {"model": "-", "device": "cpu"}
    law = EquiNOLaw(model, EquiNOParameters(**given, corrections=0, potential="spline"))
    strain = np.random.default_rng(1).uniform(-RANGE, RANGE, (50, 3))
    found = answer_of(law, strain)
    corrected = EquiNOLaw(model, EquiNOParameters(**given, tolerance=1e-12))
    wanted = answer_of(corrected, strain)
    for name, limit in (("stress", 3e-3), ("tangent", 2e-2), ("stress_33", 3e-3)):
        got, reference = getattr(found, name), getattr(wanted, name)
        np.testing.assert_allclose(got, reference, rtol=0, atol=limit * np.abs(reference).max(), err_msg=name)
    certificate = law.certify(strain, found, "indicator")
    np.testing.assert_allclose(certificate, corrected.certify(strain, wanted, "indicator"), rtol=0, atol=1e-2)
    with pytest.raises(CaseError, match="device: 'cuda' given"):
        EquiNOLaw(model, EquiNOParameters(model="-", device="cuda", corrections=0, potential="spline"))
    with pytest.raises(CaseError, match="start: the model has no networks"):
        EquiNOLaw(model, EquiNOParameters(**given, corrections=0))


def test_a_model_without_a_spline_says_so():
    model = small_model()
    with pytest.raises(CaseError, match="potential: the model has no spline; expected network"):
        EquiNOLaw(model, EquiNOParameters(model="-", device="cpu", corrections=0, potential="spline"))


def test_a_spline_with_a_wrong_array_is_refused_before_its_kernel_sees_it(arrays):
    check_arrays(arrays, lambda given: spline.stored(given, "float64"))
    turned = {**arrays, "spline.nodes": arrays["spline.nodes"][:, ::-1]}
    with pytest.raises(CaseError, match=r"'spline\.nodes': expected more than five nodes that ascend"):
        spline.stored(turned, "float64")
