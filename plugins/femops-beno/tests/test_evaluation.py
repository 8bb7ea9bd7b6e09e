"""Evaluation of an operator: errors by class of shapes, against given solutions, and the samples of a study."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from femops.surrogate import EvaluationTask, ProblemTask
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops_beno.poisson.arrays import at_centres, write_samples
from femops_beno.poisson.data import data_files, training_samples
from femops_beno.poisson.evaluation import evaluate_data, evaluated, relative_error
from femops_beno.poisson.generate import random_sample
from femops_beno.poisson.options import PoissonShapes

BLOCK = {"shapes": [{"corners": 2}, {"polygon": {}}], "resolution": 12, "samples": {"train": 3, "test": 2, "seed": 4}}


def block(**changes):
    return PoissonShapes.model_validate(BLOCK | changes)


def silent(stage, done, total, note=""):
    pass


def scaled(systems):
    """Predict the solution times 1.01, 1.02, ... in each batch."""
    return [(1.0 + 0.01 * (i + 1)) * system.solution for i, system in enumerate(systems)]


def test_errors_are_those_of_each_class_and_of_all():
    samples = [random_sample(shape, block(), 1, i) for shape in block().shapes for i in range(3)]
    table = evaluated(scaled, samples, silent).rows
    assert list(table) == ["corners 2", "polygon 5–12, holes 0–2", "all"]
    for name, expected in zip(table, ([1, 2, 3], [4, 5, 6], range(1, 7)), strict=True):
        row, errors = table[name], 0.01 * np.array(expected)
        found = [row["mean"], row["median"], row["largest"]]
        np.testing.assert_allclose(found, [errors.mean(), np.median(errors), errors.max()], rtol=1e-9)
        assert row["samples"] == len(errors) and row["seconds"] > 0.0


def test_pictures_show_the_worst_and_the_median_sample():
    samples = [random_sample(block().shapes[1], block(), 1, i) for i in range(5)]
    pictures = evaluated(scaled, samples, silent).pictures
    assert "relative error 0.05" in pictures["worst"].get_suptitle()
    assert "relative error 0.03" in pictures["median"].get_suptitle()
    titles = [axes.get_title() for axes in pictures["worst"].axes]
    assert titles[:3] == ["prediction", "finite elements", "difference"]


def test_the_error_of_a_pure_neumann_solution_does_not_see_a_constant():
    sample = random_sample(block().shapes[0], block(boundary="neumann"), 1, 0)
    solution = sample.system.solution
    assert relative_error(sample, solution + 3.0) < 1e-12
    assert relative_error(sample, 1.1 * solution + 3.0) == pytest.approx(0.1)
    dirichlet = random_sample(block().shapes[0], block(), 1, 0)
    assert relative_error(dirichlet, dirichlet.system.solution + 3.0) > 1.0


def test_predictions_are_compared_with_given_solutions_too():
    sample = random_sample(block().shapes[0], block(), 1, 0)
    given = 1.25 * at_centres(sample.system.mesh, sample.system.solution)
    (row,) = evaluated(scaled, [replace(sample, given=given)], silent).rows.values()
    assert row["FE to given"] == pytest.approx(0.2) and row["to given"] == pytest.approx(1.0 - 1.01 / 1.25)


def test_a_study_trains_and_tests_on_different_samples_of_each_class(tmp_path):
    train, test = training_samples(ProblemTask(block(), None, MemoryCheckpoint(), silent))
    assert [one.shape for one in train] == ["corners 2"] * 3 + ["polygon 5–12, holes 0–2"] * 3
    assert len(test) == 4
    assert (train[0].source[:5] != test[0].source[:5]).all()
    more, _ = training_samples(
        ProblemTask(block(samples={"train": 4, "test": 1, "seed": 4}), None, MemoryCheckpoint(), silent)
    )
    np.testing.assert_array_equal(more[4].system.solution, train[3].system.solution)


def test_given_arrays_are_found_beside_the_study(tmp_path):
    samples = [random_sample(block().shapes[0], block(), 1, i) for i in range(3)]
    write_samples(tmp_path / "a.npz", samples[:2])
    write_samples(tmp_path / "RHS_b.npy", samples[2:])
    given = PoissonShapes.model_validate({"data": {"train": ["a.npz", "SOL_b.npy"], "test": "BC_b.npy"}})
    train, test = training_samples(ProblemTask(given, None, MemoryCheckpoint(), silent, tmp_path))
    assert (len(train), len(test)) == (3, 1)
    triple = [tmp_path / f"{part}_b.npy" for part in ("RHS", "SOL", "BC")]
    assert list(data_files(given, tmp_path)) == [tmp_path / "a.npz", *triple, *triple]


@pytest.mark.parametrize("given", ["x.npz", "study.yaml"])
def test_a_model_is_evaluated_on_arrays_and_on_the_test_samples_of_a_study(tmp_path, monkeypatch, given):
    loaded = []

    def load_operator(folder):
        loaded.append(folder)
        return SimpleNamespace(evaluate=scaled)

    monkeypatch.setitem(sys.modules, "femops_beno.operator", SimpleNamespace(load_operator=load_operator))
    write_samples(tmp_path / "x.npz", [random_sample(block().shapes[0], block(), 1, 0)])
    problem = None if given == "x.npz" else block()
    rows = evaluate_data(EvaluationTask(Path("model"), tmp_path / given, problem, silent)).rows
    assert loaded == [Path("model")]
    assert list(rows) == (["corners 2"] if problem is None else ["corners 2", "polygon 5–12, holes 0–2", "all"])
    assert ("to given" in rows["corners 2"]) == (problem is None)


def test_a_prediction_that_is_not_finite_is_the_worst_and_is_drawn(tmp_path):
    samples = [random_sample(block().shapes[0], block(), 1, i) for i in range(3)]

    def predict(systems):
        return [scaled(systems)[0], np.full_like(systems[1].solution, np.nan), scaled(systems)[2]]

    found = evaluated(predict, samples, silent)
    assert np.isnan(found.rows["corners 2"]["largest"])
    assert "relative error nan" in found.pictures["worst"].get_suptitle()
    for name, figure in found.pictures.items():
        figure.savefig(tmp_path / f"{name}.png")
