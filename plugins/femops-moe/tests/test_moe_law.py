"""The law of trained experts keeps the contract and is close to the nested solve."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from moe_cases import PHASES, RANGE, RVES
from mpi4py import MPI

from femops import CaseError, load_law
from femops.checks import check_arrays, check_law
from femops.inputs.study import load_study
from femops.offline.train import train
from femops.rve.sampling import sobol
from femops.surrogate import TrainedModel
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.store import read_fit, read_manifest
from femops_moe.basis import elastic_stiffness
from femops_moe.compiled import solver
from femops_moe.law import MoELaw
from femops_moe.options import MoEParameters

OPTIONS = {2: {"grid": 2, "modes": 40}, 3: {"experts": 3, "modes": 30, "cubature_tolerance": 1e-3}}
NETWORK = {"labels": 200, "width": 12, "steps": 80}
NAMES = {2: "plane_strain", 3: "solid"}


def _study(dim, rve=None, **surrogate):
    names = ("11", "22", "12") if dim == 2 else ("11", "22", "33", "23", "13", "12")
    limits = {name: [-RANGE, RANGE] for name in names}
    sampling = {"method": "sobol", "count": 8, "seed": 1, "range": limits}
    block = {"law": "moe", "network": NETWORK, **surrogate}
    study = {"kinematics": NAMES[dim], "rve": rve or RVES[dim], "sampling": sampling, "surrogate": block}
    return {**study, "validation": {**sampling, "count": 6, "seed": 2}}


def _trained(folder, study):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    report = train(load_study(path), path, folder / "out", MPI.COMM_SELF)
    return SimpleNamespace(model=report.model, metrics=report.metrics)


@pytest.fixture(scope="module", params=[2, 3], ids=NAMES.values())
def trained(request, tmp_path_factory):
    dim = request.param
    found = _trained(tmp_path_factory.mktemp(NAMES[dim]), _study(dim, **OPTIONS[dim]))
    nested = load_law({"law": "nested", "rve": RVES[dim], "solver": {"rtol": 1e-11}}, dim=dim)
    corner = np.full(3 if dim == 2 else 6, RANGE)
    strain = np.concatenate([sobol(-corner, corner, 8, 11), 3.0 * sobol(-corner, corner, 4, 12)])
    truth = nested.evaluate(strain, np.zeros((len(strain), nested.n_state)), 1.0)
    law = load_law(found.model)
    return SimpleNamespace(
        dim=dim, law=law, strain=strain, truth=truth, inside=slice(0, 8), nested=nested, **vars(found)
    )


def _answer(law, strain):
    return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)


def _all_points(law, strain):
    """Return the stress of the modes of a law without cubature."""
    stored = law._stored
    full = solver(law._wider.leading(stored.n_ports, stored.counts))
    return full.solve(strain, np.zeros((len(strain), law.n_state)), 12, 1e-14).stress


def _error(found, true):
    return np.linalg.norm(found - true) / np.linalg.norm(true)


def test_the_law_keeps_the_contract(trained):
    check_law(trained.law, strain_scale=0.02, n_points=4, rtol_tangent=1e-6)


def test_stress_and_tangent_are_those_of_the_nested_solve(trained):
    inside, truth = trained.inside, trained.truth
    answer = _answer(trained.law, trained.strain[inside])
    tolerance = {2: 1e-4, 3: 3e-3}[trained.dim]
    assert _error(answer.stress, truth.stress[inside]) < tolerance
    assert _error(answer.tangent, truth.tangent[inside]) < 5.0 * tolerance
    assert answer.valid.all() and answer.error is None
    if trained.dim == 2:
        assert _error(answer.stress_33, truth.stress_33[inside]) < 1e-3
    assert trained.metrics["validation"]["stress"]["median"] < tolerance
    fit = trained.metrics["fit"]
    assert fit["ports"] > 0
    assert trained.dim == 3 or fit["bubbles"] > 0
    assert fit["cubature_stress_error"] <= {2: 2e-5, 3: 1e-3}[trained.dim]
    assert fit["cubature_points"] < {2: 0.1, 3: 0.6}[trained.dim] * trained.law.rve.discretisation.n_points


def test_strains_beyond_the_range_are_marked_and_still_solved(trained):
    answer = _answer(trained.law, trained.strain)
    outside = (np.abs(trained.strain) > RANGE).any(axis=1)
    assert (answer.valid == ~outside).all() and outside.any()
    assert (answer.solver_residual < 1e-10).all()
    assert _error(answer.stress, trained.truth.stress) < 2e-2


def test_what_does_not_converge_is_not_valid(trained, monkeypatch):
    monkeypatch.setattr("femops_moe.reduced_law._EVALUATIONS", 1)
    answer = _answer(trained.law, trained.strain[trained.inside])
    assert not answer.valid.any()
    assert (answer.solver_residual > 1e-8).all()


def test_a_step_starts_from_the_state_of_the_last_one(trained, monkeypatch):
    law = load_law({"law": "moe", "model": str(trained.model), "start": "last"}, dim=trained.dim)
    strain = trained.strain[trained.inside]
    first = _answer(law, 0.999 * strain)
    whole = _answer(law, strain)
    monkeypatch.setattr("femops_moe.reduced_law._EVALUATIONS", 2)
    second = law.evaluate(strain, first.state, 1.0)
    assert second.valid.all() and not _answer(law, strain).valid.any()
    assert _error(second.stress, whole.stress) < 1e-9


@pytest.mark.parametrize("part", [0.0, 1e-9, -1.0])
def test_unloading_and_reversal_lead_to_the_same_answer_as_a_virgin_start(trained, part):
    law, strain = trained.law, trained.strain[trained.inside]
    reached = _answer(law, strain).state
    answer, virgin = law.evaluate(part * strain, reached, 1.0), _answer(law, part * strain)
    assert answer.valid.all() and virgin.valid.all()
    scale = np.abs(law.evaluate(strain, reached, 1.0).stress).max()
    assert np.abs(answer.stress - virgin.stress).max() <= 1e-9 * max(abs(part), 1e-9) * scale


def test_the_indicator_tells_the_error_and_the_bound_covers_it(trained):
    law, inside = trained.law, trained.inside
    answer = _answer(law, trained.strain[inside])

    def size(stress):
        return np.sqrt(np.einsum("ns,st,nt->n", stress, law.metric, stress))

    error = size(answer.stress - trained.truth.stress[inside]) / size(answer.stress)
    strain = trained.strain[inside]
    strain.flags.writeable = False  # as in a run
    indicator = law.certify(strain, answer, "indicator")
    assert ((indicator > 0.33 * error) & (indicator < 2.5 * error)).all()
    bound = law.certify(strain, answer, "bound")
    assert (bound >= error).all()
    assert np.median(bound / error) < 10.0


def test_exact_solves_and_fields_are_those_of_the_nested_law(trained):
    law, inside, strain = trained.law, trained.inside, trained.strain[0]
    virgin = np.zeros((8, law.n_state))
    exact = law.solve_exactly(trained.strain[inside], virgin, 1.0)
    assert _error(exact.stress, trained.truth.stress[inside]) < 1e-7
    theirs = trained.nested.micro_fields(strain, np.zeros(trained.nested.n_state))
    for fields, tolerance in (
        (law.exact_micro_fields(strain, virgin[0]), 1e-6),
        (law.micro_fields(strain, virgin[0]), 0.05),
    ):
        assert _error(fields.strain, theirs.strain) < tolerance
        assert _error(fields.stress, theirs.stress) < tolerance
    weight = law.rve.discretisation.weight.sum(axis=1)
    assert np.allclose(weight @ fields.strain, weight.sum() * strain, rtol=0.0, atol=1e-10)


def test_a_law_learns_from_exact_solutions_and_its_old_states_stay_good(trained):
    law, known, new = (
        trained.law,
        trained.strain[trained.inside],
        trained.strain[~(np.abs(trained.strain) <= RANGE).all(1)],
    )
    exact = trained.nested.evaluate(new, np.zeros((len(new), trained.nested.n_state)), 1.0).stress
    learned, before = law.enriched(new), _answer(law, known)
    assert law.learns and learned.n_state > law.n_state
    old = np.pad(before.state, ((0, 0), (0, learned.n_state - law.n_state)))
    assert _error(law._fluctuation(known, before.state), learned._fluctuation(known, old)) < 1e-12
    counts = [one._stored.n_ports for one in (law, learned)]
    ports, stiffness = learned.basis.ports[:, : counts[1]], elastic_stiffness(FluctuationSpace(law.rve), law.rve)
    assert np.abs(ports[:, : counts[0]].T @ (stiffness @ ports[:, counts[0] :])).max() < 1e-6  # nothing known is new
    after = learned.evaluate(known, old, 1.0)
    tolerance = {2: 1e-4, 3: 3e-3}[trained.dim]
    assert _error(after.stress, trained.truth.stress[trained.inside]) < tolerance
    errors = [_error(_all_points(one, new), exact) for one in (law, learned)]
    assert errors[1] < 0.2 * errors[0]
    answers = [_answer(one, new) for one in (law, learned)]
    assert answers[1].valid.all() and not answers[0].valid.any()
    errors = [_error(answer.stress, exact) for answer in answers]
    assert errors[1] < {2: 0.5 * errors[0], 3: 1e-3}[trained.dim]  # with the error of the cubature
    indicator = learned.certify(new, answers[1], "indicator")
    assert 0.1 < np.median(indicator) / errors[1] < 10.0
    check_law(learned, strain_scale=0.02, n_points=4, rtol_tangent=1e-6)


def test_the_network_starts_near_equilibrium(trained):
    strain, guess = trained.strain[trained.inside], trained.law._stored.first_guess
    cold = load_law({"law": "moe", "model": str(trained.model), "start": "last"}, dim=trained.dim)
    zeros = np.zeros((len(strain), cold.n_state))
    decrements = [law._solver.solve(strain, zeros, 1, np.inf).decrement for law in (trained.law, cold)]
    assert np.median(decrements[0] / decrements[1]) < {2: 0.05, 3: 0.2}[trained.dim]
    stress, true = _answer(trained.law, strain).stress, _answer(cold, strain).stress
    assert _error(stress, true) < 1e-9
    assert np.array_equal(guess.at(1e6 * strain)[0], guess.at(np.where(strain > 0.0, guess.high, guess.low))[0])


def test_the_first_guess_vanishes_with_its_derivative(trained):
    guess = trained.law._stored.first_guess
    sizes = [np.abs(guess.at(scale * trained.strain[trained.inside])[0]).max() for scale in (1.0, 1e-4, 1e-5)]
    assert not guess.at(np.zeros((1, len(guess.low))))[0].any()
    assert 90.0 < sizes[1] / sizes[2] < 110.0 and sizes[1] < 1e-5 * sizes[0]


def test_unknowns_start_from_the_state_where_it_is_nearer_and_those_of_enrichments_always(trained):
    solver, strain = trained.law._solver, trained.strain[:2]
    guess, error = solver.guess.at(strain)
    away = np.array([0.9, 1.1]) * solver.near * error
    start = np.pad(guess + away[:, None] * np.eye(2, guess.shape[1]), ((0, 0), (0, 1)), constant_values=7.0)
    asked = []

    class Inner:
        def solve(self, strain, start, evaluations, tolerance):
            asked.append(start)

    replace(solver, inner=Inner()).solve(strain, start, 1, 1.0)
    assert np.array_equal(asked[0], np.stack([start[0], [*guess[1], 7.0]]))


def test_single_precision_is_close(trained):
    single = load_law({"law": "moe", "model": str(trained.model), "precision": "float32"}, dim=trained.dim)
    strain = trained.strain[trained.inside]
    answer = _answer(single, strain)
    assert answer.valid.all() and answer.stress.dtype == np.float64
    assert _error(answer.stress, _answer(trained.law, strain).stress) < 1e-4


def test_a_damaged_model_is_refused(trained):
    fit, manifest = read_fit(trained.model, read_manifest(trained.model)), trained.law

    def built(arrays):
        return MoELaw(
            TrainedModel(arrays, fit.settings, trained.law.rve, manifest.low, manifest.high), MoEParameters(model="x")
        )

    check_arrays(fit.arrays, built)
    torn = {**fit.arrays, "bubbles": np.pad(fit.arrays["bubbles"], ((0, 0), (0, 1)), constant_values=1.0)}
    with pytest.raises(CaseError, match="array 'bubbles': expected zeros on the interface of the experts"):
        built(torn)
    gone = {**fit.arrays, "expert": np.zeros_like(fit.arrays["expert"])}
    with pytest.raises(CaseError, match="array 'expert': expected cells of every expert"):
        built(gone)


def test_training_twice_gives_the_same_model(tmp_path):
    fits = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        model = _trained(tmp_path / name, _study(2, experts=3, modes=20)).model
        fits.append(read_fit(model, read_manifest(model)).arrays)
    assert fits[0].keys() == fits[1].keys()
    assert all(np.array_equal(one, fits[1][name]) for name, one in fits[0].items())


def test_without_ports_the_answer_is_worse(trained, tmp_path):
    if trained.dim == 3:
        return
    model = _trained(tmp_path, _study(2, **OPTIONS[2], ports="none", network=None)).model
    with pytest.raises(CaseError, match="start: network given, but the model has none; expected auto or last"):
        load_law({"law": "moe", "model": str(model), "start": "network"}, dim=2)
    alone = load_law(model)
    assert alone.experts.n_ports == 0 and not alone.learns
    strain, truth = trained.strain[trained.inside], trained.truth.stress[trained.inside]
    assert _error(_answer(alone, strain).stress, truth) > 20.0 * _error(_answer(trained.law, strain).stress, truth)


@pytest.mark.parametrize(
    ("rve", "surrogate", "problem"),
    [
        (None, {"experts": 100000}, r"experts: 100000 given, but the RVE has \d+ cells"),
        (None, {"experts": 2, "grid": 2}, "experts and grid given, expected one of them"),
        (None, {"component": 0.5}, "component and network given"),
        ({**RVES[2], "phases": {**PHASES, "matrix": PHASES["fibre"]}}, {}, "rve.phases: all are linear"),
        ({**RVES[2], "boundary": "static"}, {}, "rve.boundary: 'static' given"),
        ({"homogeneous": {"phase": "matrix"}, "phases": {"matrix": PHASES["matrix"]}}, {}, "rve: is homogeneous"),
    ],
)
def test_what_cannot_be_learned_is_refused(rve, surrogate, problem, tmp_path):
    with pytest.raises(CaseError, match=problem):
        _trained(tmp_path, _study(2, rve, **surrogate))
