"""A case trains its surrogate when it first runs, once, and waits for others that train it."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import ended
from mpi4py import MPI
from toy_studies import study_file
from toy_surrogate import ToyTraining

from femops import CaseError, load_law
from femops.offline.train import trained_model

pytestmark = pytest.mark.usefixtures("toy")


CASE: dict[str, Any] = {
    "kinematics": "plane_strain",
    "mesh": {"box": {"size": [1.0, 1.0], "cells": [2, 2], "cell": "quadrilateral"}},
    "material": {"law": "toy", "study": "study.yaml"},
    "supports": {"left": {"ux": 0.0, "uy": 0.0}},
    "loads": {"right": {"displacement": {"ux": 0.002}}},
    "output": {"picture": None},
}
OTHER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from mpi4py import MPI
from toy_surrogate import ToyTraining, installed_toy
from femops.inputs.study import load_study
from femops.offline.train import train
fit = ToyTraining.fit
def slow(self, task):
    print("fitting", flush=True)
    sys.stdin.read()
    return fit(self, task)
ToyTraining.fit = slow
with installed_toy():
    train(load_study(Path("study.yaml")), Path("study.yaml"), None, MPI.COMM_SELF)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_case_waits_for_the_training_of_another_process_and_finds_its_model(
    toy: ToyTraining, solved: list[int], capsys: pytest.CaptureFixture[str], killed: bool
) -> None:
    path, said = study_file(), []
    command = [sys.executable, "-c", OTHER, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdin is not None and child.stdout.readline() == "fitting\n"
        threading.Timer(1.0, child.kill if killed else child.stdin.close).start()
        model = trained_model(path, "toy", MPI.COMM_SELF, notify=said.append)
    assert f"pid {child.pid}, since 2" in capsys.readouterr().err
    assert load_law(model).dim == 2
    # What the other one had finished is used: its model, or, where it was killed, its snapshots.
    assert (bool(toy.parts), sum(solved), len(said)) == ((True, 12, 1) if killed else (False, 0, 0))
    assert not list(model.parent.glob(".*"))


def test_a_case_trains_its_surrogate_once(toy: ToyTraining, capsys: pytest.CaptureFixture[str]) -> None:
    study_file()
    Path("case.yaml").write_text(yaml.safe_dump(CASE))
    assert ended("run", "case.yaml", "--output", "results/case") == 0
    shown, told = capsys.readouterr()
    assert told.startswith("training toy from study.yaml first; the model goes to results/study-")
    assert all(stage in shown for stage in ("sampling", "fitting", "validation", "step 1/1"))
    assert told.count("\n") == 1
    (model,) = Path("results").glob("study-*/model")
    assert str(model) in told
    toy.parts.clear()
    assert ended("run", "results/case/case.yaml", "--output", "results/again") == 0
    assert toy.parts == []
    shown, told = capsys.readouterr()
    assert told == "" and "sampling" not in shown
    summaries = [json.loads(Path(f"results/{name}/summary.json").read_text()) for name in ("case", "again")]
    assert summaries[0]["steps"][0]["iterations"] == summaries[1]["steps"][0]["iterations"]


def test_a_case_refuses_the_study_of_another_surrogate_before_anything_is_trained(toy: ToyTraining) -> None:
    with pytest.raises(CaseError, match=r"study\.yaml: surrogate\.law: 'toy' given, the case wants 'other'"):
        trained_model(study_file(), "other", MPI.COMM_SELF)
    assert toy.parts == []
