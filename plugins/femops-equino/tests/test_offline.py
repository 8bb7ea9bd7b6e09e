"""Training of the certified mode: reproducible, resumable, stored without loss; what it cannot learn is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from equino_cases import COARSE, PHASES, RVE, StoppedError, answer_of, fit_task, fitted, norms
from mpi4py import MPI
from scipy.optimize import nnls

from femops import CaseError, load_law
from femops.commands.run import run_case
from femops.inputs.case import load_case
from femops.plugins import law_parameters
from femops.rve.sampling import sobol
from femops.surrogate import TrainedModel
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops.surrogate.store import Origin, write_model
from femops_equino.offline import offline, operators_of
from femops_equino.options import EquiNOOptions, EquiNOParameters
from femops_equino.reduced.cubature import CubatureRows, choose, rows
from femops_equino.reduced.full import full_model
from femops_equino.surrogate import as_law, fit

HIGH = np.full(3, 0.02)
OPTIONS = EquiNOOptions(
    modes=6,
    points=16,
    certificate_points=20,
    states=8,
    greedy=2,
    pool=8,
    networks={"labels": 32, "width": 4, "adam_steps": 6, "lbfgs_steps": 4},
)


@pytest.fixture(scope="module")
def base():
    return fit_task({**COARSE, "phases": PHASES}, OPTIONS, HIGH)


@pytest.fixture(scope="module")
def whole(base):
    """Every report of an uninterrupted fit, and what it found."""
    told = []
    found = fit(
        replace(base, checkpoint=MemoryCheckpoint(), progress=lambda stage, done, *_: told.append((stage, done)))
    )
    return told, found


def same(one, other):
    assert set(one) == set(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_the_same_seed_gives_the_same_model_and_another_one_does_not(base, whole):
    same(fit(replace(base, checkpoint=MemoryCheckpoint())).arrays, whole[1].arrays)
    other = fit(
        replace(base, checkpoint=MemoryCheckpoint(), options=OPTIONS.model_copy(update={"seed": 1, "networks": None}))
    )
    assert not np.array_equal(other.arrays["states"], whole[1].arrays["states"])


@pytest.mark.parametrize("stage", ["greedy snapshots", "cubature", "indicator points", "potential", "coefficients"])
def test_a_fit_that_was_stopped_ends_in_the_same_model(base, whole, stage):
    told, expected = whole
    last = max(number for number, (name, _) in enumerate(told) if name == stage)
    memory, count = MemoryCheckpoint(), iter(range(last + 1))

    def stopping(*_):
        if next(count) == last:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(replace(base, checkpoint=memory, progress=stopping))
    assert memory.kept
    same(fit(replace(base, checkpoint=memory)).arrays, expected.arrays)


def test_a_stored_model_answers_as_before(base, whole, tmp_path):
    found = whole[1]
    model = TrainedModel(found.arrays, json.loads(json.dumps(found.settings)), base.rve, base.low, base.high)
    law = as_law(model, EquiNOParameters(model="here"))
    phases = {name: law_parameters(mapping) for name, mapping in PHASES.items()}
    write_model(tmp_path / "model", Origin("equino", "none"), model, phases)
    stored = load_law(tmp_path / "model")
    strain = sobol(-HIGH, HIGH, 9, 5)
    one, other = (answer_of(each, strain) for each in (law, stored))
    for name in ("stress", "tangent", "state", "stress_33", "error"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for kind in ("bound", "indicator"):
        np.testing.assert_array_equal(law.certify(strain, one, kind), stored.certify(strain, other, kind))


class Unrelated:
    """A hyperelastic phase that is no kin of any phase of femops."""

    linear = False

    def __init__(self, phase):
        self.evaluate, self.state_fields = phase.evaluate, phase.state_fields


def test_phases_that_cannot_be_reduced_are_refused_in_one_line(base):
    phases = tuple(one if one.linear else Unrelated(one) for one in base.rve.phases)
    task = replace(base, rve=replace(base.rve, phases=phases), checkpoint=MemoryCheckpoint())
    with pytest.raises(CaseError, match=r"rve\.phases\.matrix: the law Unrelated given, expected linear") as caught:
        fit(task)
    assert "\n" not in str(caught.value)


def test_phases_with_a_memory_are_refused_in_one_line(tmp_path):
    from femops.inputs.study import load_study
    from femops.offline.train import train

    matrix = {"law": "j2", "E": 4000.0, "nu": 0.35, "yield_stress": 30.0, "hardening": 200.0}
    sampling = {"method": "sobol", "count": 4, "range": 0.01}
    rve = {**COARSE, "phases": {**PHASES, "matrix": matrix}}
    path = tmp_path / "study.yaml"
    study = {"kinematics": "plane_strain", "rve": rve, "sampling": sampling, "surrogate": {"law": "equino"}}
    path.write_text(yaml.safe_dump(study))
    with pytest.raises(CaseError, match=r"study\.yaml: rve\.phases\.matrix: has a memory, expected elastic"):
        train(load_study(path), path, tmp_path / "out", MPI.COMM_SELF)
    assert not (tmp_path / "out").exists()


def test_a_run_that_leaves_the_training_range_is_solved_exactly_there(plane, tmp_path):
    case = {
        "kinematics": "plane_strain",
        "mesh": {"box": {"size": [1.0, 1.0], "cells": [2, 2], "cell": "quadrilateral"}},
        "supports": {"left": {"ux": 0.0, "uy": 0.0}},
        "loads": {"right": {"displacement": {"ux": "0.06 * t"}}},
        "steps": {"count": 3, "end": 1.0},
        "quantities": {
            "corner": {"displacement": "uy", "at": [1.0, 1.0]},
            "pull": {"reaction": "left", "component": "x"},
        },
        "output": {"picture": None},
    }
    summaries = {}
    laws = {
        "equino": {"law": "equino", "model": str(plane.model)},
        "nested": {"law": "nested", "rve": RVE},
    }
    for name, law in laws.items():
        trust = {"trust": {"tolerance": 1e-2, "on_violation": "solve"}} if name == "equino" else {}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**case, "material": law, **trust}))
        summaries[name] = run_case(load_case(path), path, tmp_path / name, MPI.COMM_SELF)
    statistics = summaries["equino"]["law_statistics"]
    assert statistics["solved_because"]["out_of_range"] > 0
    assert statistics["points_solved_exactly"] < statistics["points_evaluated"]
    for name, value in summaries["nested"]["quantities"].items():
        assert summaries["equino"]["quantities"][name] == pytest.approx(value, rel=1e-4), name


SMALL = OPTIONS.model_copy(update={"greedy": 0})
LINEAR = {**PHASES, "matrix": {"law": "elastic", "E": 4000.0, "nu": 0.3}}
SATURATING = {**PHASES, "fibre": {"law": "saturating", "K": 9000.0, "alpha1": 120.0, "alpha2": 0.03}}
LAYERS = {"laminate": {"phases": [["matrix", 0.6], ["fibre", 0.4]], "mesh_size": 0.2}, "phases": PHASES}


@pytest.mark.parametrize(
    ("rve", "high"),
    [
        ({**COARSE, "phases": LINEAR}, HIGH),
        ({**COARSE, "phases": SATURATING}, HIGH),
        ({**COARSE, "phases": PHASES, "boundary": "kinematic"}, HIGH),
        ({**COARSE, "phases": PHASES, "boundary": "static"}, HIGH),
        ({**COARSE, "phases": PHASES}, np.array([0.02, 0.0, 0.0])),
        (LAYERS, HIGH),
    ],
    ids=["no nonlinear phase", "two nonlinear phases", "kinematic", "static", "uniaxial range", "laminate"],
)
def test_the_bound_holds_for_every_kind_of_rve_and_range(rve, high):
    model = fitted(fit_task(rve, SMALL, high))
    strain = sobol(-high, high, 8, 3)
    for corrections in ("auto", 0):
        law = as_law(model, EquiNOParameters(model="here", corrections=corrections))
        virgin = np.zeros((8, law.n_state))
        ours, exact = law.evaluate(strain, virgin, 1.0), law.solve_exactly(strain, virgin, 1.0)
        assert law.evaluate(strain + 1e-14, virgin, 1.0).valid.all()  # round-off of the macroscale
        size, error = (norms(one, law.metric) for one in (ours.stress, ours.stress - exact.stress))
        assert (error / size).max() < (0.01 if corrections else 0.3)
        assert (law.certify(strain, ours, "bound") >= error / size - 1e-8).all()


def test_an_rve_without_fluctuations_is_refused():
    rve = {"homogeneous": {"phase": "matrix"}, "phases": {"matrix": PHASES["matrix"]}}
    with pytest.raises(CaseError, match="rve: is homogeneous, expected fluctuations to learn"):
        fitted(fit_task(rve, SMALL, HIGH))


def test_negative_corrections_are_refused():
    with pytest.raises(ValueError, match="corrections"):
        EquiNOParameters(model="here", corrections=-1)


def test_the_search_for_points_ends_where_round_off_is_left():
    """Twelve points are fitted to the last bit; no further one can lower the residual."""
    random = np.random.default_rng(0)
    matrix = np.hstack([random.standard_normal((12, 12)), random.standard_normal((12, 60))])
    total = matrix[:, :12] @ random.uniform(0.5, 1.0, 12)
    points, factor = choose(CubatureRows(matrix, total, np.arange(72)), 60, lambda chosen, factor: False)
    assert len(points) <= 12 and (factor > 0.0).all()
    np.testing.assert_allclose(matrix[:, points] @ factor, total, rtol=0, atol=1e-12)


def test_points_are_added_and_removed_until_the_nonnegative_fit_is_the_best_one():
    """Columns that are nearly dependent; points added before are removed."""
    random = np.random.default_rng(2)
    place, center = np.linspace(0.0, 1.0, 60)[:, None], random.uniform(size=80)
    matrix = np.exp(-20.0 * (place - center) ** 2)
    total = matrix.sum(axis=1) + 0.01 * random.standard_normal(60)

    def is_least_squares_fit(chosen, factor):
        np.testing.assert_allclose(factor, np.linalg.lstsq(matrix[:, chosen], total)[0], rtol=1e-9)
        return False

    points, factor = choose(CubatureRows(matrix, total, np.arange(80)), 80, is_least_squares_fit)
    assert (factor > 0.0).all()
    residual = np.linalg.norm(matrix[:, points] @ factor - total)
    assert residual == pytest.approx(nnls(matrix, total)[1], rel=1e-12)


def test_points_that_may_be_chosen_are_fitted_to_the_sums_over_all_points(base, monkeypatch):
    task = replace(base, checkpoint=MemoryCheckpoint(), options=SMALL.model_copy(update={"networks": None}))
    full = full_model(task.rve, operators_of(task), offline(task).basis)
    z = full.model.extended(HIGH * np.array([[1.0, 0.5, 0.0], [-0.3, 0.2, 1.0]]), np.zeros((2, full.model.n_modes)))

    def found(extra):
        return rows(full.model, full.quadratics.metric, z, 0.5, 10, 0, extra)

    for extra in (None, full.points.projection):
        every = found(extra)
        np.testing.assert_allclose(every.matrix.sum(axis=1), every.total, rtol=0, atol=1e-10 * abs(every.total).max())
        monkeypatch.setattr("femops_equino.reduced.cubature._CANDIDATES", 50)
        few = found(extra)
        assert few.matrix.shape[1] == 50 == len(set(few.points))
        np.testing.assert_allclose(few.matrix, every.matrix[:, few.points], rtol=0, atol=1e-12)
        np.testing.assert_allclose(few.total, every.total, rtol=0, atol=1e-12 * abs(every.total).max())
        monkeypatch.undo()


def test_no_strain_has_no_error(plane):
    law = load_law(plane.model)
    strain = np.zeros((1, 3))
    answer = answer_of(law, strain)
    assert [law.certify(strain, answer, kind)[0] for kind in ("bound", "indicator")] == [0.0, 0.0]
