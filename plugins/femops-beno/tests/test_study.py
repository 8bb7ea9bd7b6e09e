"""From a study file to an evaluated model."""

import json

import numpy as np
import pytest
import yaml
from mpi4py import MPI

from femops.commands.cli import main
from femops.errors import CaseError
from femops.inputs.study import load_study
from femops.offline.train import train
from femops_beno.operator import load_operator
from femops_beno.poisson.generate import random_sample

STUDY = {
    "title": "small",
    "problem": {
        "pde": "poisson_shapes",
        "shapes": [{"corners": 1}, {"corners": 3}],
        "resolution": 16,
        "amplitude": 0.5,
        "samples": {"train": 24, "test": 6, "seed": 1},
    },
    "surrogate": {"law": "beno", "widths": [8, 16], "boundary_width": 8, "passes": 2, "steps": 100, "batch": 8},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beno")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path, train(load_study(path), path, folder / "out", MPI.COMM_SELF)


def test_training_learns_unseen_shapes_at_any_resolution_and_scale(trained):
    path, report = trained
    block = load_study(path).problem
    operator = load_operator(report.model)
    finer = block.model_copy(update={"resolution": 32})
    systems = [random_sample(shape, finer, 99, i).system for shape in block.shapes for i in range(5)]
    errors = _errors(systems, operator.evaluate(systems))
    assert errors.mean() < 0.3
    scaled = [one.scaled(1000.0) for one in systems]
    assert np.allclose(_errors(scaled, operator.evaluate(scaled)), errors, rtol=1e-3)


def _errors(systems, found):
    return np.array(
        [
            np.linalg.norm(one - system.solution) / np.linalg.norm(system.solution)
            for system, one in zip(systems, found, strict=True)
        ]
    )


def test_evaluate_command_writes_the_table_and_the_pictures(trained, tmp_path):
    path, report = trained
    output = tmp_path / "evaluated"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(report.model), str(path), "--output", str(output)])
    assert not ended.value.code
    rows = json.loads(next(output.glob("*.json")).read_text())
    assert "corners 3" in json.dumps(rows)
    assert len(list(output.glob("*.png"))) == 2


def test_a_damaged_model_is_refused(trained, tmp_path):
    _, report = trained
    for file in report.model.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    with pytest.raises(CaseError, match="model"):
        load_operator(tmp_path)
