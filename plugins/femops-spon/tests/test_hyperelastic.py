"""SPON for RVEs of hyperelastic phases: fields conditioned on the strain."""

import numpy as np
import pytest

from femops import CaseError, load_law
from femops.checks import check_arrays, check_law
from femops.devices.torch_library import torch
from femops.law import LawContext
from femops.rve.spec import RVEParameters, build_rve
from femops.surrogate.fields.hyperelastic import HyperelasticFields
from femops.surrogate.message_passing import ProcessorOptions
from femops.surrogate.store import read_fit, read_manifest
from femops_spon.hyperelastic import HyperelasticSPON
from femops_spon.network import SPON, Architecture
from femops_spon.training import restored

RVE = {
    "voxels": {"cells": 8, "inclusions": [{"center": [0.3, 0.4], "radius": 0.3}]},
    "phases": {
        "matrix": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
        "fibre": {"law": "elastic", "K": 40000.0, "G": 20000.0},
    },
}
STRAIN = np.random.default_rng(0).uniform(-0.03, 0.03, size=(24, 3))


def _law(model, rve=RVE, start="network", **more):
    return load_law({"law": "spon", "model": str(model), "rve": rve, "start": start, **more}, dim=2)


def _answer(law, strain=STRAIN):
    return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)


@pytest.fixture(scope="module")
def nested():
    law = load_law({"law": "nested", "rve": RVE, "solver": {"rtol": 1e-11}}, dim=2)
    return law.evaluate(STRAIN, np.zeros((len(STRAIN), law.n_state)), 1.0)


def _error(found, true):
    return np.linalg.norm(found - true) / np.linalg.norm(true)


def test_training_judges_at_strains_and_microstructures_that_it_has_not_seen(hyperelastic):
    validation = hyperelastic.metrics["validation"]
    assert validation["stress"]["max"] < 2e-3
    assert validation["tangent"]["max"] < 1e-2
    assert validation["bound"]["infinite"] == 0
    assert hyperelastic.metrics["fit"]["linear_problems"] == 8 * 2 * 2


@pytest.mark.parametrize(("corrections", "stress", "tangent"), [(0, 2e-2, 3e-2), (2, 1e-3, 2e-3), (6, 1e-6, 1e-5)])
def test_corrections_lead_to_the_nested_solve(hyperelastic, nested, corrections, stress, tangent):
    answer = _answer(_law(hyperelastic.model, corrections=corrections))
    assert _error(answer.stress, nested.stress) < stress
    assert _error(answer.tangent, nested.tangent) < tangent
    assert _error(answer.stress_33, nested.stress_33) < stress**0.5
    assert answer.valid.all()


def test_the_network_is_better_than_no_network(hyperelastic, nested):
    errors = [
        _error(_answer(_law(hyperelastic.model, start=start, corrections=2)).stress, nested.stress)
        for start in ("network", "zero")
    ]
    assert errors[0] < 0.7 * errors[1]


def test_by_default_newton_starts_from_zero_on_a_processor_and_is_more_accurate(hyperelastic, nested):
    answers = [_answer(_law(hyperelastic.model, start=start)) for start in ("auto", "network")]
    assert np.array_equal(answers[0].stress, _answer(_law(hyperelastic.model, start="zero", corrections=4)).stress)
    errors = [_error(answer.stress, nested.stress) for answer in answers]
    assert errors[0] < errors[1]


def test_the_indicator_tells_the_error(hyperelastic, nested):
    law = _law(hyperelastic.model, corrections=0)
    answer = _answer(law)
    error = answer.stress - nested.stress
    size = np.sqrt(np.einsum("ns,st,nt->n", error, law.metric, error))
    size /= np.sqrt(np.einsum("ns,st,nt->n", answer.stress, law.metric, answer.stress))
    indicator = law.certify(STRAIN, answer, "indicator")
    assert 0.5 < np.median(indicator / size) < 1.5


@pytest.mark.parametrize("corrections", [0, 2, 6])
def test_the_bound_covers_the_error(hyperelastic, nested, corrections):
    law, strain = _law(hyperelastic.model, corrections=corrections), STRAIN.copy()
    strain.flags.writeable = False  # as in a run
    answer = _answer(law, strain)
    difference, size = (
        np.sqrt(np.einsum("ns,st,nt->n", one, law.metric, one))
        for one in (answer.stress - nested.stress, answer.stress)
    )
    bound, error = law.certify(strain, answer, "bound"), difference / size
    assert (bound >= error).all()
    assert np.median(bound / error) < 4.0


def _stored(network):
    """Return the energies of predicted fields and of the exact ones, at the same strains."""
    parameters = RVEParameters.model_validate(RVE)
    fields = HyperelasticFields(build_rve(parameters, LawContext(2)))
    strain = torch.as_tensor(STRAIN)
    predicted, slopes = HyperelasticSPON(network, fields, "float64").predict(strain)
    exact, _ = fields.improve(strain, predicted, slopes, 12, 4)
    mean = torch.einsum("a,nad->nd", torch.as_tensor(fields.space.mean), predicted)
    assert mean.abs().max() < 1e-12
    return fields.energy(strain, predicted), fields.energy(strain, exact)


def test_the_energy_is_not_below_the_exact_one_whatever_the_weights(hyperelastic):
    fit = read_fit(hyperelastic.model, read_manifest(hyperelastic.model))
    untrained = SPON(2, 2, Architecture(ProcessorOptions((6, 8), (1, 1), linear=True), 2, 2, seed=7))
    gaps = []
    for network in (restored(fit.arrays, fit.settings), untrained):
        energy, exact = _stored(network)
        assert (energy >= exact * (1 - 1e-12)).all()
        gaps.append(float((energy / exact - 1).median()))
    assert gaps[0] < 0.2 * gaps[1]


def test_the_tangent_is_the_derivative_of_the_stress_once_fields_are_in_equilibrium(hyperelastic):
    law, step = _law(hyperelastic.model, corrections=6), 1e-6
    tangent = _answer(law).tangent
    for k in range(3):
        change = step * np.eye(3)[k]
        slope = (_answer(law, STRAIN + change).stress - _answer(law, STRAIN - change).stress) / (2 * step)
        assert _error(tangent[:, :, k], slope) < 1e-4


def test_the_row_33_is_the_derivative_of_the_stress_normal_to_the_plane(hyperelastic):
    law, step = _law(hyperelastic.model, corrections=6), 1e-6
    for answer in (law.evaluate, law.solve_exactly):
        ahead, behind = (
            np.stack([answer(STRAIN + side * step * one, np.zeros((24, 0)), 1.0).stress_33 for one in np.eye(3)], 1)
            for side in (1, -1)
        )
        row = answer(STRAIN, np.zeros((24, 0)), 1.0).tangent_33
        assert _error(row, (ahead - behind) / (2.0 * step)) < 1e-4


def test_the_law_keeps_the_contract_once_fields_are_in_equilibrium(hyperelastic):
    check_law(_law(hyperelastic.model, corrections=4), n_points=3)


def test_exact_solves_are_those_of_the_nested_law(hyperelastic, nested):
    exact = _law(hyperelastic.model).solve_exactly(STRAIN, np.zeros((len(STRAIN), 0)), 1.0)
    assert _error(exact.stress, nested.stress) < 1e-7
    assert _error(exact.tangent, nested.tangent) < 1e-6


def test_strains_outside_the_training_range_are_told(hyperelastic):
    assert not _answer(_law(hyperelastic.model), np.full((1, 3), 0.2)).valid[0]


def test_fields_inside_the_rve_have_the_macroscale_strain_as_mean(hyperelastic):
    law = _law(hyperelastic.model)
    fields, share = law.micro_fields(STRAIN[0], np.zeros(0)), law.rve.discretisation.weight.sum(axis=1)
    share = share / share.sum()
    assert np.allclose(share @ fields.strain, STRAIN[0], rtol=1e-10)
    assert _error(share @ fields.stress, _answer(law).stress[0]) < 5e-2


def test_no_error_is_stated_unasked(hyperelastic):
    answer = _answer(_law(hyperelastic.model))
    assert answer.error is None and (answer.solver_residual > 0.0).all()


def test_exact_fields_inside_the_rve_are_those_of_the_nested_law(hyperelastic):
    law, exact = _law(hyperelastic.model), load_law({"law": "nested", "rve": RVE}, dim=2)
    ours = law.exact_micro_fields(STRAIN[0], np.zeros(0))
    theirs = exact.micro_fields(STRAIN[0], np.zeros(exact.n_state))
    assert max(_error(getattr(ours, name), getattr(theirs, name)) for name in ("strain", "stress", "stress_33")) < 1e-6
    assert _error(law.micro_fields(STRAIN[0], np.zeros(0)).stress, theirs.stress) > 1e-5


def test_a_batch_answers_as_its_points_alone(hyperelastic):
    law = _law(hyperelastic.model)
    alone = np.concatenate([_answer(law, STRAIN[i : i + 1]).stress for i in range(5)])
    assert _error(alone, _answer(law).stress[:5]) < 1e-6


def test_a_model_of_linear_phases_is_refused(linear):
    with pytest.raises(CaseError, match="rve: has nonlinear phases, the model was trained on linear ones"):
        _law(linear.model)


def test_a_model_of_nonlinear_phases_serves_linear_ones(hyperelastic):
    elastic = {"law": "elastic", "K": 4780.0, "G": 400.0}
    rve = {**RVE, "phases": {**RVE["phases"], "matrix": elastic}}
    exact = load_law({"law": "nested", "rve": rve}, dim=2)
    true = exact.evaluate(STRAIN, np.zeros((len(STRAIN), exact.n_state)), 1.0).stress
    assert _error(_answer(_law(hyperelastic.model, rve)).stress, true) < 1e-3


def test_a_network_with_a_wrong_array_is_refused(hyperelastic):
    fit = read_fit(hyperelastic.model, read_manifest(hyperelastic.model))
    check_arrays(fit.arrays, lambda arrays: restored(arrays, fit.settings))
    with pytest.raises(CaseError, match="array 'more': unknown array"):
        restored({**fit.arrays, "more": np.zeros(3, np.float32)}, fit.settings)
