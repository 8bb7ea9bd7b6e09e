"""femops evaluate: the table, the report and the pictures of a plugin's evaluation, and what is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from command_line import Femops, contents, ended
from matplotlib.figure import Figure
from mpi4py import MPI
from pydantic import BaseModel
from toy_surrogate import ToyParameters

from femops.errors import CaseError
from femops.hookspecs import hookimpl
from femops.inputs.study import load_study
from femops.offline.train import train
from femops.plugins import manager
from femops.surrogate import Evaluation, EvaluationTask, Fit, ProblemTask, SurrogateOptions, SurrogateSpec


class Options(SurrogateOptions):
    law: Literal["mean"] = "mean"


class Problem(BaseModel):
    file: Path


def fit_problem(task: ProblemTask) -> Fit:
    return Fit({"mean": np.loadtxt(task.folder / task.problem.file).mean(keepdims=True)}, {})


def data_files(problem: Problem, folder: Path) -> list[Path]:
    return [folder / problem.file]


def evaluate_data(task: EvaluationTask) -> Evaluation:
    file = task.data if task.problem is None else task.data.parent / task.problem.file
    try:
        values = np.loadtxt(file, ndmin=1)
    except ValueError as error:
        raise CaseError("holds no numbers", file) from error
    task.progress("predicting", 1, 1)
    figure = Figure()
    figure.add_subplot().plot(values)
    rows = {"all": {"samples": float(len(values)), "error": np.float64(values.std()), "bad": float("nan")}}
    return Evaluation(rows | {"first": {"samples": 1.0}}, {"worst": figure})


SPEC = SurrogateSpec(
    "mean",
    "the mean of numbers",
    Options,
    ToyParameters,
    None,
    lambda model, parameters: model,
    problem=Problem,
    fit_problem=fit_problem,
    data_files=data_files,
    evaluate_data=evaluate_data,
)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    kept = SimpleNamespace(spec=SPEC)

    @hookimpl
    def femops_surrogates() -> list[SurrogateSpec]:
        return [kept.spec]

    registered = SimpleNamespace(femops_surrogates=femops_surrogates)
    manager().register(registered)
    yield kept
    manager().unregister(registered)


def study(values: list[float], folder: str = "here") -> Path:
    Path(folder).mkdir(exist_ok=True)
    np.savetxt(f"{folder}/numbers.txt", values)
    path = Path(folder) / "study.yaml"
    path.write_text(yaml.safe_dump({"surrogate": {"law": "mean"}, "problem": {"file": "numbers.txt"}}))
    return path


def trained(path: Path) -> Any:
    return train(load_study(path), path, None, MPI.COMM_SELF)


def test_a_model_is_evaluated_on_a_file_and_on_a_study(run: Femops, plugin: Any) -> None:
    path = study([1.0, 3.0])
    model = trained(path).model
    np.savetxt("others.txt", [1.0, 2.0, 3.0, 6.0])
    said = " ".join(run("evaluate", model, "others.txt").split())
    assert (
        "samples" in said
        and "1.87" in said
        and "not finite" in said
        and said.endswith("Report and pictures in results/others_evaluate")
    )
    report = json.loads(Path("results/others_evaluate/evaluation.json").read_text())
    assert report["rows"] == {
        "all": {"samples": 4.0, "error": pytest.approx(np.std([1, 2, 3, 6])), "bad": None},
        "first": {"samples": 1.0},
    }
    assert (report["model"], report["data"]) == (str(model), "others.txt")
    assert Path("results/others_evaluate/worst.png").read_bytes().startswith(b"\x89PNG")
    assert set(contents(Path("results/others_evaluate"))) == {"evaluation.json", "worst.png"}
    run("evaluate", model, path, "--output", "out")
    assert json.loads(Path("out/evaluation.json").read_text())["rows"]["all"]["error"] == 1.0


def test_a_model_is_trained_again_when_the_files_of_its_problem_change(plugin: Any) -> None:
    first = trained(study([1.0, 3.0]))
    assert trained(study([1.0, 3.0])).found
    second = trained(study([1.0, 4.0]))
    assert not second.found and second.folder != first.folder
    Path("here/numbers.txt").unlink()
    with pytest.raises(CaseError, match=r"here/study.yaml: problem: here/numbers.txt cannot be read \(No such file"):
        trained(Path("here/study.yaml"))


def test_what_cannot_be_evaluated_is_refused_in_one_line(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained(study([1.0, 3.0])).model
    Path("text.txt").write_text("no number")
    Path("rve.yaml").write_text("kinematics: plane_strain\nsurrogate: {law: mean}")
    Path("other.yaml").write_text("surrogate: {law: spon}\nproblem: {pde: poisson}")
    refused = {
        (str(model), "text.txt"): "text.txt: holds no numbers",
        (str(model), "rve.yaml"): "rve.yaml: expected exactly one of",
        (str(model), "other.yaml"): "other.yaml: surrogate.law: 'spon' given, the model is of 'mean'",
        ("nowhere", "text.txt"): "nowhere: does not exist, expected a model folder",
    }
    for arguments, message in refused.items():
        assert ended("evaluate", *arguments, "--output", "out") == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    plugin.spec = replace(SPEC, evaluate_data=None)
    assert ended("evaluate", model, "text.txt") == 2
    assert "holds a model of 'mean' for a problem, which is evaluated on no data" in capsys.readouterr().err
    assert not Path("out").exists()
