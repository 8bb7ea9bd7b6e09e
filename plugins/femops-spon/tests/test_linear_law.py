"""A trained SPON as a material law: what it promises, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from mpi4py import MPI
from small_family import SOFT, STUDY

from femops import CaseError, load_law
from femops.checks import check_arrays, check_law
from femops.commands.run import run_case
from femops.inputs.case import load_case
from femops.inputs.study import load_study
from femops.offline.train import train
from femops.surrogate.store import read_fit, read_manifest
from femops_spon.families import homogenized_stiffness
from femops_spon.options import SPONParameters
from femops_spon.training import restored

HARD = {"law": "elastic", "K": 120.0, "G": 60.0}
PLASTIC = {"law": "j2", "E": 100.0, "nu": 0.3, "yield_stress": 1.0, "hardening": 10.0}
RVE = {
    "voxels": {"cells": 8, "inclusions": [{"center": [0.3, 0.4], "radius": 0.3}]},
    "phases": {"matrix": SOFT, "fibre": HARD},
}
STRAIN = np.random.default_rng(0).normal(size=(50, 3)) * 0.01


def _law(model, rve=RVE, dim=2, start="network", **more):
    return load_law({"law": "spon", "model": str(model), "rve": rve, "start": start, **more}, dim=dim)


def _answer(law, strain=STRAIN):
    return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)


@pytest.fixture(scope="session")
def nested():
    law = load_law({"law": "nested", "rve": RVE}, dim=2)
    return law.evaluate(STRAIN, np.zeros((len(STRAIN), law.n_state)), 1.0)


def test_training_judges_at_microstructures_that_it_has_not_seen(linear):
    validation = linear.metrics["validation"]
    assert linear.metrics["unseen"] == "microstructures"
    assert validation["count"] == STUDY["family"]["validation"]
    assert validation["bound"]["violations"] == 0
    assert validation["tangent"]["max"] < 1e-2
    seconds = linear.metrics["seconds_per_rve"]
    assert seconds["ratio"] == pytest.approx(seconds["nested"] / seconds["law"])
    curve = json.loads((linear.model.parent / "metrics.json").read_text())
    assert curve["validation"] == validation


@pytest.mark.parametrize(("corrections", "tolerance"), [(0, 0.1), (2, 1e-4), (5, 1e-7)])
def test_corrections_lead_to_the_nested_solve(linear, nested, corrections, tolerance):
    answer = _answer(_law(linear.model, corrections=corrections))
    assert np.abs(answer.stress - nested.stress).max() < tolerance * np.abs(nested.stress).max()
    assert np.abs(answer.tangent - nested.tangent).max() < tolerance * np.abs(nested.tangent).max()
    # that of stress_33 is of first order in the fields, the others are of second
    assert np.abs(answer.stress_33 - nested.stress_33).max() < tolerance**0.5 * np.abs(nested.stress).max()


def test_on_a_processor_more_corrections_start_from_zero_by_default(linear, nested):
    default = _answer(_law(linear.model, start="auto"))
    assert np.array_equal(default.stress, _answer(_law(linear.model, start="zero", corrections=6)).stress)
    assert np.linalg.norm(default.stress - nested.stress) < 1e-5 * np.linalg.norm(nested.stress)
    for few in (0, 2):
        answer = _answer(_law(linear.model, start="auto", corrections=few))
        assert np.array_equal(answer.stress, _answer(_law(linear.model, corrections=few)).stress)
    assert SPONParameters(study="-").steps("cuda", linear=True) == (True, 2)


@pytest.mark.parametrize("corrections", [0, 2])
def test_tangent_is_symmetric_and_not_softer_than_the_nested_one(linear, nested, corrections):
    answer = _answer(_law(linear.model, corrections=corrections))
    assert np.abs(answer.tangent - answer.tangent.transpose(0, 2, 1)).max() < 1e-12 * np.abs(answer.tangent).max()
    assert np.linalg.eigvalsh(answer.tangent[0] - nested.tangent[0])[0] > -1e-9 * np.abs(nested.tangent[0]).max()


@pytest.mark.parametrize("corrections", [0, 1, 2])
def test_the_bound_is_not_below_the_error_and_the_indicator_is_near_it(linear, nested, corrections):
    law = _law(linear.model, corrections=corrections)
    answer = _answer(law)
    error = answer.stress - nested.stress
    size = np.sqrt(np.einsum("ns,st,nt->n", error, law.metric, error))
    size /= np.sqrt(np.einsum("ns,st,nt->n", answer.stress, law.metric, answer.stress))
    bound, indicator = (law.certify(STRAIN, answer, kind) for kind in ("bound", "indicator"))
    assert (bound >= size).all()
    assert np.array_equal(bound, answer.error)
    assert np.all((indicator > 0.8 * size) & (indicator < 1.1 * size))


def test_the_bound_is_the_error_where_phases_hardly_differ(linear):
    """With contrast 1 + δ, bound and error of the worst strain differ by a factor 1 + O(δ)."""
    delta = 1e-3
    fibre = {"law": "elastic", "K": SOFT["K"] * (1.0 + delta), "G": SOFT["G"] * (1.0 + delta)}
    rve = {**RVE, "phases": {"matrix": SOFT, "fibre": fibre}}
    law = _law(linear.model, rve, corrections=0, start="zero")
    exact = load_law({"law": "nested", "rve": rve, "solver": {"rtol": 1e-12}}, dim=2)
    predicted = _answer(law, np.eye(3)).stress
    error = predicted - _answer(exact, np.eye(3)).stress
    root = np.linalg.inv(np.linalg.cholesky(predicted))
    values, vectors = np.linalg.eigh(root @ (0.5 * (error + error.T)) @ root.T)
    worst = (root.T @ vectors[:, -1])[None]  # ‖ΔC E‖ = λ ‖C̄ E‖ in the norm of the compliance
    bound = law.certify(worst, _answer(law, worst), "bound")
    assert values[-1] > 1e-9
    assert bound[0] == pytest.approx(values[-1], rel=20.0 * delta)


def test_exact_solves_are_those_of_the_nested_law(linear, nested):
    law = _law(linear.model)
    exact = law.solve_exactly(STRAIN, np.zeros((len(STRAIN), 0)), 1.0)
    assert np.allclose(exact.stress, nested.stress, rtol=1e-9, atol=1e-12)
    assert np.allclose(exact.stress_33, nested.stress_33, rtol=1e-9, atol=1e-12)
    assert np.allclose(exact.tangent, nested.tangent, rtol=1e-9)


def test_fields_inside_the_rve_average_to_the_answer(linear):
    law = _law(linear.model)
    fields, share = law.micro_fields(STRAIN[0], np.zeros(0)), law.rve.discretisation.weight.sum(axis=1)
    share = share / share.sum()
    assert np.allclose(share @ fields.strain, STRAIN[0], rtol=1e-12, atol=1e-15)
    assert np.allclose(share @ fields.stress_33, _answer(law).stress_33[0], rtol=1e-9)
    work = share @ (fields.strain * fields.stress).sum(axis=1)  # cell means, so without the work of what varies in one
    assert work == pytest.approx(STRAIN[0] @ _answer(law).stress[0], rel=0.2)


def test_other_meshes_and_other_units_are_served(linear):
    circles = {"circles": {"circles": [{"center": [0.5, 0.4], "radius": 0.3}], "mesh_size": 0.15, "cell": "triangle"}}
    scale = {name: {**one, "K": 1e6 * one["K"], "G": 1e6 * one["G"]} for name, one in RVE["phases"].items()}
    for rve in ({**circles, "phases": RVE["phases"]}, {**RVE, "phases": scale}):
        exact, law = load_law({"law": "nested", "rve": rve}, dim=2), _law(linear.model, rve)
        stress = exact.evaluate(STRAIN, np.zeros((len(STRAIN), exact.n_state)), 1.0).stress
        assert np.linalg.norm(_answer(law).stress - stress) < 0.15 * np.linalg.norm(stress)
        better = _answer(_law(linear.model, rve, corrections=12))
        assert np.linalg.norm(better.stress - stress) < 1e-3 * np.linalg.norm(stress)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rve": None}, "rve: missing; expected the RVE"),
        ({"rve": {**RVE, "boundary": "kinematic"}}, "rve.boundary: 'kinematic' given, expected 'periodic'"),
        (
            {
                "rve": {
                    **RVE,
                    "phases": {**RVE["phases"], "matrix": {"law": "saturating", "K": 4.0, "alpha1": 1, "alpha2": 1}},
                }
            },
            "rve: has nonlinear phases, the model was trained on linear ones",
        ),
        ({"rve": {**RVE, "phases": {**RVE["phases"], "matrix": PLASTIC}}}, "rve.phases.matrix: has a memory"),
        ({"corrections": -1}, "corrections: -1 given"),
    ],
)
def test_what_the_model_is_not_for_is_refused(linear, changes, words):
    with pytest.raises(CaseError, match=words):
        load_law({"law": "spon", "model": str(linear.model), "rve": RVE, **changes}, dim=2)


def test_a_model_of_plane_strain_is_refused_in_3d(linear):
    with pytest.raises(CaseError, match="the model is 2D"):
        _law(linear.model, dim=3)


SECOND = {**RVE, "voxels": {"cells": 8, "inclusions": [{"center": [0.5, 0.5], "radius": 0.2}]}}


def _graded(folder, laws, **more):
    """Solve a cantilever of five strips with the first law in two of them and the second in the others."""
    case = {
        "kinematics": "plane_strain",
        "mesh": {"file": str(Path(__file__).parents[3] / "meshes" / "graded_plate.msh")},
        "material": {f"strip{i}": laws[i > 2] for i in range(1, 6)},
        "supports": {"left": {"ux": 0.0, "uy": 0.0}},
        "loads": {"right": {"traction": [0.0, "-0.01 * t"]}},
        "steps": {"count": 1, "end": 1.0},
        "output": {"picture": None},
        "quantities": {"deflection": {"displacement": "uy", "at": [100.0, 20.0]}},
    }
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump({**case, **more}))
    return run_case(load_case(path), path, folder / "results", MPI.COMM_SELF)


def test_rves_share_a_model_and_answers_beyond_the_tolerance_are_solved_exactly(linear, tmp_path):
    laws = [{"law": "spon", "model": str(linear.model), "rve": rve, "corrections": 0} for rve in (RVE, SECOND)]
    nested = _graded(tmp_path, [{"law": "nested", "rve": rve} for rve in (RVE, SECOND)])["quantities"]["deflection"]
    found = _graded(tmp_path, laws)["quantities"]["deflection"]
    assert 1e-6 < abs(found / nested - 1) < 5e-2
    for tolerance, share in ((1e-9, 1.0), (10.0, 0.0)):
        trust = {"tolerance": tolerance, "on_violation": "solve", "certificate": "bound"}
        trusted = _graded(tmp_path, laws, trust=trust)
        statistics = trusted["law_statistics"]
        assert (statistics["points_solved_exactly"] > 0) == (share > 0)
        expected = nested if share else found
        assert trusted["quantities"]["deflection"] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("corrections", [0, 2])
def test_the_law_keeps_the_contract(linear, corrections):
    check_law(_law(linear.model, corrections=corrections))


def test_the_network_is_better_than_no_network(linear, nested):
    errors = {}
    for start in ("network", "zero"):
        tangent = _answer(_law(linear.model, start=start, corrections=1)).tangent
        errors[start] = np.linalg.norm(tangent - nested.tangent)
    assert errors["network"] < 0.5 * errors["zero"]


def test_meshes_of_their_own_are_trained_on(tmp_path):
    study = {**STUDY, "family": {**STUDY["family"], "count": 3, "validation": 1, "mesh": {"mesh_size": 0.25}}}
    study["surrogate"] = {**STUDY["surrogate"], "steps": 3}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    metrics = train(load_study(path), path, tmp_path / "out", MPI.COMM_SELF).metrics
    assert metrics["fit"]["meshes"] == 3
    assert metrics["validation"]["bound"]["violations"] == 0


def test_a_family_of_solids_is_learned(tmp_path):
    family = {**STUDY["family"], "count": 3, "validation": 1, "mesh": {"cells": 4}}
    family["inclusions"] = {"shape": "spheres", "number": [1, 2], "volume_fraction": [0.1, 0.3]}
    study = {**STUDY, "kinematics": "solid", "family": family}
    study["surrogate"] = {**STUDY["surrogate"], "steps": 5, "batch": 2}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    report = train(load_study(path), path, tmp_path / "out", MPI.COMM_SELF)
    assert report.metrics["validation"]["bound"]["violations"] == 0
    assert report.metrics["validation"]["tangent"]["max"] < 0.05
    sphere = {
        "voxels": {"cells": 4, "inclusions": [{"center": [0.5, 0.4, 0.5], "radius": 0.3}]},
        "phases": RVE["phases"],
    }
    answer = _answer(_law(report.model, sphere, dim=3, corrections=8), np.eye(6))
    exact = load_law({"law": "nested", "rve": sphere}, dim=3)
    true = exact.evaluate(np.eye(6), np.zeros((6, exact.n_state)), 1.0)
    assert np.linalg.norm(answer.stress - true.stress) < 1e-5 * np.linalg.norm(true.stress)
    assert answer.stress_33 is None


def test_many_rves_are_answered_in_one_batch(linear):
    second = {**RVE, "voxels": {"cells": 8, "inclusions": [{"center": [0.5, 0.5], "radius": 0.2}]}}
    third = {**RVE, "voxels": {"cells": 16, "inclusions": [{"center": [0.5, 0.5], "radius": 0.2}]}}
    laws = [_law(linear.model, rve) for rve in (RVE, third, second)]
    found = homogenized_stiffness(linear.model, [law.rve for law in laws])
    assert all(np.allclose(one, law.stiffness, rtol=1e-5) for one, law in zip(found, laws, strict=True))
    assert homogenized_stiffness(linear.model, []).shape == (0, 3, 3)


def test_batches_that_a_model_is_not_for_are_refused(linear, tmp_path):
    sphere = {
        "voxels": {"cells": 4, "inclusions": [{"center": [0.5, 0.4, 0.5], "radius": 0.3}]},
        "phases": RVE["phases"],
    }
    solid = load_law({"law": "nested", "rve": sphere}, dim=3).rve
    with pytest.raises(CaseError, match="the RVE is 3D, the model was trained in 2D"):
        homogenized_stiffness(linear.model, [solid])
    with pytest.raises(CaseError):
        homogenized_stiffness(tmp_path, [solid])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": [8], "layers": [1, 1]}, "1 widths and 2 layers"),
        ({"levels": 9}, "too coarse for the 9 levels"),
        ({"depth": 3}, "depth: unknown key"),
    ],
)
def test_bad_options_are_told_in_one_line(tmp_path, changes, words):
    _check_refused(tmp_path, {**STUDY, "surrogate": {**STUDY["surrogate"], **changes}}, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boundary": "kinematic"}, "family.boundary: 'kinematic' given, expected 'periodic'"),
        ({"phases": {"matrix": PLASTIC, "fibre": SOFT}}, "family.phases.matrix: has a memory"),
    ],
)
def test_families_that_it_cannot_learn_are_refused_before_anything_is_solved(tmp_path, changes, words):
    family = {**STUDY["family"], **changes}
    sampling = {"sampling": {"method": "sobol", "count": 1, "seed": 1, "range": 0.01}} if "phases" in changes else {}
    _check_refused(tmp_path, {**STUDY, **sampling, "family": family}, words)


def _check_refused(folder, study, words):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    with pytest.raises(CaseError, match=words):
        train(load_study(path), path, folder / "out", MPI.COMM_SELF)
    assert not (folder / "out").exists()


def test_a_network_with_a_wrong_array_is_refused(linear):
    fit = read_fit(linear.model, read_manifest(linear.model))
    check_arrays(fit.arrays, lambda arrays: restored(arrays, fit.settings))
    with pytest.raises(CaseError, match="array 'more': unknown array"):
        restored({**fit.arrays, "more": np.zeros(3, np.float32)}, fit.settings)
