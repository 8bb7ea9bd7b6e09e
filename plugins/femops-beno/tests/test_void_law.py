"""BENO as a material law of RVEs with voids and fibres: what it promises for any weights, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from mpi4py import MPI
from void_rves import BLOCK, HARD, SOFT, STUDY, rve, solid

from femops import CaseError, load_law
from femops.checks import check_arrays, check_law
from femops.devices.torch_library import torch
from femops.inputs.study import load_study
from femops.law import LawContext
from femops.offline.train import train
from femops.rve.discretisation import discretise
from femops.rve.family import microstructure
from femops.rve.spec import RVE, build_rve
from femops.surrogate.exact import ExactRVE
from femops.surrogate.store import read_fit, read_manifest
from femops_beno.encoding import scalar
from femops_beno.levels import aggregations
from femops_beno.network import BENO
from femops_beno.operator import Operator
from femops_beno.options import BENOOptions
from femops_beno.rve.correction import aggregation_multigrid
from femops_beno.rve.law import homogenized_stiffness
from femops_beno.rve.systems import predicted, rve_fields, rve_system
from femops_beno.training import architecture

STRAIN = np.random.default_rng(0).normal(size=(20, 3)) * 0.01


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voids")
    file = folder / "voids.yaml"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return train(load_study(file), file, folder / "out", MPI.COMM_SELF)


@pytest.fixture(scope="module")
def nested():
    return _answer(load_law({"law": "nested", "rve": BLOCK, "solver": {"rtol": 1e-12}}, dim=2))


def _law(trained, block=BLOCK, dim=2, **more):
    return load_law({"law": "beno", "model": str(trained.model), "rve": block, **more}, dim=dim)


def _answer(law, strain=STRAIN):
    return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)


def _untrained(of: RVE):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return BENO(architecture(BENOOptions(widths=(8, 8), passes=2), rve_system(rve_fields(of)))).double()


@pytest.mark.parametrize("make", [rve, solid], ids=["plane", "solid"])
def test_the_problems_of_an_rve_have_the_fields_of_the_nested_solve(make):
    problem = rve_fields(make())
    system = rve_system(problem)
    n_s = system.lifting.shape[1]
    exact = ExactRVE(make()).solve(np.eye(n_s))
    solution = system.solved().solution
    assert np.array_equal(solution[system.prescribed], system.lifting[system.prescribed])
    energy = solution.T @ (system.stiffness @ solution) / problem.space.discretisation.volume
    assert np.allclose(energy, exact.stress, rtol=0.0, atol=1e-10 * np.abs(exact.stress).max())


@pytest.mark.parametrize("make", [rve, solid], ids=["plane", "solid"])
def test_any_weights_give_an_upper_bound_with_a_bound_of_its_error(make):
    problem = rve_fields(make())
    n_s = problem.load.shape[3]
    exact = ExactRVE(make()).solve(np.eye(n_s)).stress
    (fields,) = predicted(_untrained(make()), [problem])
    assert float(fields.abs().max()) > 0.0
    found, bound = problem.homogenized(fields)[0].numpy(), problem.bound(fields)[0].numpy()
    slack = 1e-9 * exact.max()
    assert np.linalg.eigvalsh(found - exact)[0] > -slack
    assert np.linalg.eigvalsh(bound - (found - exact))[0] > -slack
    assert np.linalg.norm(found - exact) > 1e-3 * exact.max()


def test_the_bound_is_the_error_where_phases_hardly_differ():
    """With contrast 1 + δ, the error of zero fields and its bound differ by a factor 1 + O(δ)."""
    delta = 1e-3
    harder = {"law": "elastic", "K": SOFT["K"] * (1.0 + delta), "G": SOFT["G"] * (1.0 + delta)}
    full = {**BLOCK["circles"], "circles": BLOCK["circles"]["circles"][1:]}  # without voids
    member = rve(circles=full, phases={"matrix": SOFT, "fibre": harder})
    problem = rve_fields(member)
    zero = torch.zeros_like(problem.load)
    error = problem.homogenized(zero)[0].numpy() - ExactRVE(member).solve(np.eye(3)).stress
    bound = problem.bound(zero)[0].numpy()
    assert np.linalg.norm(error) > 1e-9
    np.testing.assert_allclose(bound, error, rtol=0.0, atol=20.0 * delta * np.linalg.norm(error))


@pytest.mark.parametrize("make", [rve, solid], ids=["plane", "solid"])
def test_unit_of_stress_size_and_place_do_not_matter(make):
    first = make()
    network, mesh = _untrained(first), first.discretisation.mesh
    moved = replace(mesh, points=10.0 * mesh.points + 3.0, periods=10.0 * mesh.periods)
    phases = tuple(replace(one, K=1e6 * one.K, G=1e6 * one.G) for one in first.phases)
    other = RVE(discretise(moved, first.discretisation.phases), phases, "kinematic")
    answers = []
    for one in (first, other):
        problem = rve_fields(one)
        answers.append(problem.homogenized(predicted(network, [problem])[0])[0].numpy())
    assert np.allclose(answers[1], 1e6 * answers[0], rtol=1e-8)


def test_rves_of_a_batch_are_answered_as_alone():
    rves = [rve(), rve(circles={**BLOCK["circles"], "mesh_size": 0.2}), rve(phases={"matrix": HARD, "fibre": SOFT})]
    problems, network = [rve_fields(one) for one in rves], _untrained(rves[0])
    for together, problem in zip(predicted(network, problems), problems, strict=True):
        (alone,) = predicted(network, [problem])
        torch.testing.assert_close(together, alone, rtol=0.0, atol=1e-12)


def test_steps_with_multigrid_reach_the_nested_solve():
    problem = rve_fields(rve())
    exact = ExactRVE(rve()).solve(np.eye(3)).stress
    zero, multigrid = torch.zeros_like(problem.load), aggregation_multigrid(problem)
    errors = [
        np.linalg.norm(problem.homogenized(problem.improve(zero, steps, multigrid))[0].numpy() - exact)
        for steps in (2, 4, 8)
    ]
    assert errors[0] < 1e-2 * np.linalg.norm(exact)
    assert errors[1] < 0.1 * errors[0]
    assert errors[2] < 1e-7 * np.linalg.norm(exact)


def test_multigrid_holds_where_the_coarsest_level_has_one_node_only():
    study = load_study(Path(__file__).parents[3] / "cases" / "studies" / "voids_beno.yaml")
    family = study.family.model_copy(update={"seed": 12345})
    member = build_rve(microstructure(family, 287).parameters, LawContext(2))
    problem = rve_fields(member)
    levels = aggregations(scalar(problem.stiffness.to_scipy(), 2))
    assert levels[-1][0].shape[1] == 1
    fields = problem.improve(torch.zeros_like(problem.load), 3, aggregation_multigrid(problem))
    exact = ExactRVE(member).solve(np.eye(3)).stress
    assert np.linalg.norm(problem.homogenized(fields)[0].numpy() - exact) < 1e-3 * np.linalg.norm(exact)


def test_training_judges_at_members_that_it_has_not_seen(trained):
    validation = trained.metrics["validation"]
    assert trained.metrics["unseen"] == "microstructures"
    assert validation["count"] == STUDY["family"]["validation"]
    assert validation["bound"]["violations"] == 0
    assert validation["tangent"]["median"] < 1e-2


def test_training_lowers_the_error_of_the_prediction(trained):
    learned, untrained = _law(trained, corrections=0), _untrained(rve())
    problem = rve_fields(rve())
    exact = ExactRVE(rve()).solve(np.eye(3)).stress
    before = problem.homogenized(predicted(untrained, [problem])[0])[0].numpy() - exact
    assert np.linalg.norm(learned.stiffness - exact) < 0.25 * np.linalg.norm(before)


@pytest.mark.parametrize(("corrections", "tolerance"), [(0, 0.3), (2, 1e-2), (8, 1e-7)])
def test_corrections_lead_to_the_nested_solve(trained, nested, corrections, tolerance):
    answer = _answer(_law(trained, corrections=corrections))
    assert np.abs(answer.stress - nested.stress).max() < tolerance * np.abs(nested.stress).max()
    assert np.abs(answer.tangent - nested.tangent).max() < tolerance * np.abs(nested.tangent).max()
    assert np.abs(answer.stress_33 - nested.stress_33).max() < tolerance**0.5 * np.abs(nested.stress).max()
    assert np.abs(answer.tangent - answer.tangent.transpose(0, 2, 1)).max() < 1e-12 * np.abs(answer.tangent).max()
    assert np.linalg.eigvalsh(answer.tangent[0] - nested.tangent[0])[0] > -1e-9 * np.abs(nested.tangent).max()
    assert np.allclose(np.einsum("nst,nt->ns", answer.tangent, STRAIN), answer.stress)
    assert np.allclose(np.einsum("nt,nt->n", answer.tangent_33, STRAIN), answer.stress_33)


@pytest.mark.parametrize("settings", [{"corrections": 0}, {"corrections": 1}, {"corrections": 1, "start": "zero"}])
def test_the_bound_is_not_below_the_error_and_the_indicator_is_near_it(trained, nested, settings):
    law = _law(trained, **settings)
    answer = _answer(law)
    error = answer.stress - nested.stress
    size = np.sqrt(np.einsum("ns,st,nt->n", error, law.metric, error))
    size /= np.sqrt(np.einsum("ns,st,nt->n", answer.stress, law.metric, answer.stress))
    bound, indicator = (law.certify(STRAIN, answer, kind) for kind in ("bound", "indicator"))
    assert (bound >= size).all()
    assert np.array_equal(bound, answer.error)
    assert np.all((indicator > 0.8 * size) & (indicator < 1.1 * size))


def test_exact_solves_and_fields_inside_are_those_of_the_nested_law(trained, nested):
    law = _law(trained)
    exact = law.solve_exactly(STRAIN, np.zeros((len(STRAIN), 0)), 1.0)
    for name in ("stress", "stress_33", "tangent"):
        assert np.allclose(getattr(exact, name), getattr(nested, name), rtol=1e-9, atol=1e-12), name
    fields, inside = law.micro_fields(STRAIN[0], np.zeros(0)), law.rve.discretisation
    on_boundary = fields.fluctuation[inside.outline.boundary_nodes]
    assert np.ptp(on_boundary, axis=0).max() < 1e-12 * np.abs(fields.fluctuation).max()
    share = inside.weight.sum(axis=1) / inside.volume
    difference = share @ fields.stress - _answer(law).stress[0]  # of first order in the error of the fields
    assert np.linalg.norm(difference) < 0.05 * np.linalg.norm(_answer(law).stress[0])


def test_many_rves_at_once_have_the_stiffness_of_their_laws(trained):
    blocks = [BLOCK, {**BLOCK, "phases": {"matrix": HARD, "fibre": SOFT}}]
    together = homogenized_stiffness(trained.model, [rve(**block) for block in blocks], corrections=1)
    for found, block in zip(together, blocks, strict=True):
        assert np.allclose(found, _law(trained, block, corrections=1).stiffness, rtol=1e-12)
    assert homogenized_stiffness(trained.model, [rve()], precision="float32") == pytest.approx(
        homogenized_stiffness(trained.model, [rve()]), rel=1e-4
    )


def test_the_law_keeps_its_contract_and_damaged_arrays_are_refused(trained):
    law = _law(trained)
    check_law(law)
    fit = read_fit(trained.model, read_manifest(trained.model))
    check_arrays(fit.arrays, lambda arrays: Operator.restored(arrays, fit.settings))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rve": None}, "rve: missing; expected the RVE"),
        ({"rve": {**BLOCK, "boundary": "periodic"}}, "rve.boundary: 'periodic' given, expected 'kinematic'"),
        ({"rve": {**BLOCK, "circles": {**BLOCK["circles"], "cell": "quad8"}}}, "rve: has quadratic cells"),
        (
            {
                "rve": {
                    **BLOCK,
                    "phases": {**BLOCK["phases"], "matrix": {"law": "saturating", "K": 4.0, "alpha1": 1, "alpha2": 1}},
                }
            },
            "rve.phases.matrix: is nonlinear, expected linear phases only",
        ),
        ({"corrections": -1}, "corrections: -1 given"),
        ({"start": "last"}, "start: 'last' given"),
    ],
)
def test_what_the_model_is_not_for_is_refused(trained, changes, words):
    with pytest.raises(CaseError, match=words):
        load_law({"law": "beno", "model": str(trained.model), "rve": BLOCK, **changes}, dim=2)
    with pytest.raises(CaseError, match="the model is 2D"):
        _law(trained, dim=3)


def test_studies_that_the_network_cannot_learn_are_refused(tmp_path):
    family = STUDY["family"]
    for changes, words in (
        ({"family": {**family, "boundary": "periodic"}}, "expected 'kinematic'"),
        ({"family": {**family, "mesh": {"mesh_size": 0.3, "cell": "triangle6"}}}, "quadratic"),
        ({"surrogate": {"law": "beno", "published": True}}, "solves scalar problems only"),
    ):
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({**STUDY, **changes}), encoding="utf-8")
        with pytest.raises(CaseError, match=words):
            train(load_study(file), file, tmp_path / "out", MPI.COMM_SELF)
