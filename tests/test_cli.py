"""The command line, mostly run in this process."""

import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from mpi4py import MPI
from rich.console import Console

import femops
from femops.commands import cli
from femops.commands.progress import bars, stages
from femops.commands.run import expectations
from femops.errors import CaseError
from femops.inputs.case import Case, case_schema
from femops.macro.stepping import StepReport
from femops.output.picture import read_step
from femops.plugins import installed_laws

CASES = Path(__file__).parent.parent / "cases"
SHIPPED = sorted(CASES.glob("*.yaml"))
BIN = Path(sys.executable).parent
ELASTIC = {"law": "elastic", "K": 10.0, "G": 5.0}
BLOCK: dict[str, Any] = {
    "title": "A block",
    "kinematics": "plane_strain",
    "mesh": {"box": {"size": [1.0, 1.0], "cells": [3, 3], "cell": "quadrilateral"}},
    "material": {"law": "saturating", "K": 10.0, "alpha1": 1.0, "alpha2": 0.1},
    "supports": {"left": {"ux": 0.0, "uy": 0.0}},
    "loads": {"right": {"traction": [0.0, "0.1 * t"]}},
    "steps": {"count": 2},
    "quantities": {
        "corner": {"displacement": "uy", "at": [1.0, 1.0]},
        "foot": {"reaction": "left", "component": "y", "expected": -0.1},
    },
}
LAYERS = {"phases": [["a", 0.5], ["b", 0.5]], "mesh_size": 0.25, "cell": "quad"}
NESTED = BLOCK | {
    "material": {"law": "nested", "rve": {"laminate": LAYERS, "phases": {"a": ELASTIC, "b": BLOCK["material"]}}},
    "output": {"micro": [{"at": [0.1, 0.9]}, {"most": "strained", "count": 2}], "points": True},
}


Femops = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Femops:
    """Run a command that must succeed; return what it prints."""

    def command(*arguments: object) -> str:
        with pytest.raises(SystemExit) as leave:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert (leave.value.code, printed.err) == (0, "")
        return printed.out

    return command


def written(folder: Path, case: dict[str, Any]) -> Path:
    path = folder / "block.yaml"
    path.write_text(yaml.safe_dump(case))
    return path


def summary_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def n_steps(file: Path) -> int:
    return int(re.findall(r"step (\d+),", read_step(file)[1])[0]) + 1


def test_run_writes_what_the_readme_promises(run: Femops, tmp_path: Path) -> None:
    path, folder = written(tmp_path, BLOCK), tmp_path / "results"
    printed = run("run", path, "--output", folder)
    assert "corner" in printed
    assert f"open {folder / 'block.vtkhdf'} in ParaView" in printed
    assert {file.name for file in folder.iterdir()} == {
        "block.vtkhdf", "block.png", "case.yaml", "curves.csv", "summary.json",
    }  # fmt: skip
    summary = summary_of(folder)
    assert list(summary) == [
        "case", "title", "finished", "failure", "law", "notes", "versions", "ranks", "n_qp", "dofs", "steps", "seconds",
        "law_statistics", "quantities", "expected", "micro",
    ]  # fmt: skip
    assert (summary["finished"], summary["failure"], summary["ranks"]) == (True, "", 1)
    assert (summary["n_qp"], summary["dofs"], summary["law"]) == (36, 32, {"everywhere": "saturating"})
    assert set(summary["steps"][0]) == {"number", "t", "iterations", "residuals", "increments", "cutbacks"}
    assert {"law", "assembly", "linear solve", "output", "set-up", "total"} <= set(summary["seconds"])
    assert summary["quantities"]["foot"] == pytest.approx(-0.1, rel=1e-9)
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["t"]) for row in rows] == [("1", "0.5"), ("2", "1.0")]
    assert float(rows[-1]["left.fy"]) == pytest.approx(-0.1, rel=1e-9)
    assert (folder / "block.png").read_bytes().startswith(b"\x89PNG")
    assert n_steps(folder / "block.vtkhdf") == 2


def test_results_of_an_earlier_run_are_replaced_and_nothing_else(run: Femops, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    run("run", written(tmp_path, NESTED), "--output", folder)
    assert len(list(folder.glob("micro_*.vtkhdf"))) == 3
    run("view", folder, "--field", "von_mises")
    (folder / "mine.png").touch()
    run("run", written(tmp_path, BLOCK), "--output", folder, "--set", "steps.count=1", "--set", "output.picture=null")
    assert {file.name for file in folder.iterdir()} == {
        "block.vtkhdf", "case.yaml", "curves.csv", "mine.png", "summary.json",
    }  # fmt: skip
    assert n_steps(folder / "block.vtkhdf") == len(summary_of(folder)["steps"]) == 1


@pytest.mark.parametrize("case", [CASES / "cook_elastic.yaml", NESTED], ids=["mesh file", "nested"])
def test_the_resolved_case_runs_again_with_the_same_result(run: Femops, tmp_path: Path, case: Any) -> None:
    path = case if isinstance(case, Path) else written(tmp_path, case)
    run("run", path, "--output", tmp_path / "a" / "one", "--set", "output.picture=null")
    run("run", tmp_path / "a" / "one" / "case.yaml", "--output", tmp_path / "two")
    assert summary_of(tmp_path / "a" / "one")["quantities"] == summary_of(tmp_path / "two")["quantities"]
    assert not list((tmp_path / "two").glob("*.png"))
    first, second = (yaml.safe_load((tmp_path / name / "case.yaml").read_text()) for name in ("a/one", "two"))
    for resolved in (first, second):
        resolved["mesh"].pop("file", None)
    assert first == second


def test_check_tells_what_would_run_and_writes_nothing(
    run: Femops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, BLOCK)
    monkeypatch.chdir(tmp_path)
    said = f"{path}: valid. 32 dofs, 36 quadrature points, 2 steps, law: saturating. Run it with: femops run {path}\n"
    assert run("check", path) == said
    assert "3 steps" in run("check", path, "--set", "steps={times: [1, 2, 3]}")
    assert list(tmp_path.iterdir()) == [path]


def test_mesh_writes_meshes_that_a_case_can_read(run: Femops, tmp_path: Path) -> None:
    path = written(tmp_path, NESTED)
    printed = run("mesh", path, "--output", tmp_path / "meshes")
    assert "9 quad" in printed
    assert "a (0.500)" in " ".join(printed.split())
    rve = {"mesh": {"file": "meshes/rve.msh"}, "phases": NESTED["material"]["rve"]["phases"]}
    read = NESTED | {"mesh": {"file": "meshes/macro.msh"}, "material": {"law": "nested", "rve": rve}}
    assert "32 dofs" in run("check", written(tmp_path, read))


@pytest.mark.parametrize(("short", "long"), [("quad", "quadrilateral"), ("tetra", "tetrahedron")])
def test_cells_have_their_short_and_their_long_name_everywhere(short: str, long: str) -> None:
    dim = 2 if short == "quad" else 3
    cases = []
    for name in (short, long):
        rve = {"homogeneous": {"dim": dim, "cell": name}, "phases": {"matrix": ELASTIC}}
        mesh = {"box": {"size": [1] * dim, "cells": [1] * dim, "cell": name}}
        kinematics = {2: "plane_strain", 3: "solid"}[dim]
        supports, loads = {"left": {"ux": 0.0}}, {"right": {"pressure": 1.0}}
        data = {"kinematics": kinematics, "mesh": mesh, "supports": supports, "loads": loads}
        cases.append(Case.model_validate(data | {"material": {"law": "nested", "rve": rve}}))
    assert cases[0].mesh.box is not None
    assert cases[0].mesh.box.cell == short
    assert cases[0] == cases[1]


FAILS_AT_ONCE = {"loads": {"right": {"traction": [0, 50]}}, "steps": {"count": 1, "smallest": 1}}
# The load of the fourth of five steps is a thousand times that of the third.
FAILS_LATER = {
    "loads": {"right": {"traction": [0.0, "0.1 * t + 1e6 * t**40"]}},
    "steps": {"count": 5, "smallest": 1},
    "quantities": {},
}


def ended(*arguments: object) -> int:
    with pytest.raises(SystemExit) as leave:
        cli.main([str(argument) for argument in arguments])
    return int(leave.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def times_of(folder: Path) -> tuple[list[float], list[float]]:
    """Return the times of the fields and those of the curves."""
    with h5py.File(folder / "block.vtkhdf") as file:
        fields = file["VTKHDF/Steps/Values"][:].tolist()
        assert file["VTKHDF/Steps"].attrs["NSteps"] == len(fields)
    with (folder / "curves.csv").open() as curves:
        return fields, [float(row["t"]) for row in csv.DictReader(curves)]


def test_a_run_that_fails_at_once_leaves_the_earlier_results_and_a_note(
    run: Femops, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = written(tmp_path, BLOCK), tmp_path / "results"
    run("run", path, "--output", folder)
    before = contents(folder)
    written(tmp_path, BLOCK | FAILS_AT_ONCE)
    assert ended("run", path, "--output", folder) == cli.NOT_CONVERGED
    assert f"the earlier results in {folder} stay" in capsys.readouterr().err
    after = contents(folder)
    failure = json.loads(after.pop("failure.json"))
    assert after == before
    assert (failure["finished"], failure["steps"]) == (False, []) and "step 1 stopped" in failure["failure"]
    run("run", written(tmp_path, BLOCK), "--output", folder)
    assert set(contents(folder)) == set(before)


def test_a_run_that_fails_at_once_in_a_new_folder_leaves_its_case_and_summary(tmp_path: Path) -> None:
    path, folder = written(tmp_path, BLOCK | FAILS_AT_ONCE), tmp_path / "results"
    assert ended("run", path, "--output", folder) == cli.NOT_CONVERGED
    assert set(contents(folder)) == {"case.yaml", "summary.json"}
    assert "step 1 stopped" in summary_of(folder)["failure"]


@pytest.mark.parametrize("steps_before", [0, 1])
def test_an_interrupt_replaces_the_earlier_results_only_by_complete_steps(
    run: Femops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_before: int
) -> None:
    path, folder = written(tmp_path, NESTED), tmp_path / "results"
    run("run", path, "--output", folder)
    before = contents(folder)
    written(tmp_path, BLOCK | {"steps": {"count": 3}})

    def interrupted(problem: Any, accepted: Any, watch: Any) -> None:
        for number in range(1, steps_before + 1):
            problem.solve(number / 3, 1 / 3)
            accepted(StepReport(number, number / 3, 1, (0.0,), 1, 0))
        raise KeyboardInterrupt

    monkeypatch.setattr("femops.commands.run.run_steps", interrupted)
    assert ended("run", path, "--output", folder) == cli.INTERRUPTED
    if steps_before:
        assert set(contents(folder)) == {"block.vtkhdf", "case.yaml", "curves.csv", "summary.json"}
        assert len(summary_of(folder)["steps"]) == n_steps(folder / "block.vtkhdf") == 1
        assert yaml.safe_load((folder / "case.yaml").read_text())["steps"]["count"] == 3
    else:
        assert contents(folder) == before


def test_what_a_killed_run_leaves_is_cleared_by_the_next(run: Femops, tmp_path: Path) -> None:
    path, folder = written(tmp_path, BLOCK), tmp_path / "results"
    run("run", path, "--output", folder)
    command = [sys.executable, "-c", KILLED_RUN, "run", str(path), "--output", str(folder)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == -signal.SIGKILL
    assert {file.name for file in folder.glob(".*")} == {".lock", ".new"}
    assert summary_of(folder)["finished"] and n_steps(folder / "block.vtkhdf") == 2
    run("run", path, "--output", folder)
    assert not list(folder.glob(".*"))


KILLED_RUN = """
import os, signal, sys
from femops.commands import cli, run
run.ResultsFolder.take_over = lambda self: os.kill(os.getpid(), signal.SIGKILL)
cli.main(sys.argv[1:])
"""


def test_a_second_run_into_a_folder_is_refused_at_once_by_name(
    run: Femops, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = written(tmp_path, BLOCK), tmp_path / "results"
    run("run", path, "--output", folder)
    before = contents(folder)
    script = "import sys\nfrom pathlib import Path\nfrom femops.output.locks import locked\n"
    script += "with locked(Path(sys.argv[1]), None):\n    print(flush=True)\n    sys.stdin.read()\n"
    command = [sys.executable, "-c", script, str(folder)]
    for module in ("compare", "run"):
        monkeypatch.setattr(f"femops.commands.{module}.prepare", lambda *_, **__: pytest.fail("something was prepared"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline()
        for case in (["run", path, "--output", folder], ["compare", path, "--output", folder]):
            assert ended(*case) == cli.INPUT_ERROR
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and f"pid {child.pid}, since 2" in said
        child.communicate()
    assert contents(folder) == before


def test_fields_are_thinned_and_curves_are_not(run: Femops, tmp_path: Path) -> None:
    path, folder = written(tmp_path, BLOCK | {"steps": {"count": 5, "end": 5.0}}), tmp_path / "results"
    run("run", path, "--output", folder, "--set", "output.every=2", "--set", "quantities={}")
    assert times_of(folder) == ([2.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    run("run", path, "--output", folder, "--set", "output.every=9", "--set", "quantities={}")
    assert times_of(folder) == ([5.0], [1.0, 2.0, 3.0, 4.0, 5.0])


@pytest.mark.parametrize(("every", "expected"), [(2, [0.4, 0.6]), (9, [0.6])])
def test_a_run_that_fails_ends_with_the_fields_of_the_last_accepted_step(
    tmp_path: Path, every: int, expected: list[float]
) -> None:
    path, folder = written(tmp_path, BLOCK | FAILS_LATER), tmp_path / "results"
    assert ended("run", path, "--output", folder, "--set", f"output.every={every}") == cli.NOT_CONVERGED
    fields, curves = times_of(folder)
    assert fields == pytest.approx(expected) and curves == pytest.approx([0.2, 0.4, 0.6])
    assert len(summary_of(folder)["steps"]) == 3
    alone = tmp_path / "alone"
    ended("run", path, "--output", alone)
    ours, theirs = (read_step(one / "block.vtkhdf")[0] for one in (folder, alone))
    np.testing.assert_array_equal(ours.cell_data["stress"], theirs.cell_data["stress"])


BAR = {  # uniaxial stress: u = σ L / E = 0.01, with E = 9 K G / (3 K + G) = 90/7
    "kinematics": "solid",
    "mesh": {"box": {"size": [1.0, 1.0, 1.0], "cells": [1, 1, 1], "cell": "hexahedron"}},
    "material": ELASTIC,
    "supports": {"left": {"ux": 0.0}, "bottom": {"uy": 0.0}, "back": {"uz": 0.0}},
    "loads": {"right": {"traction": [0.9 / 7, 0.0, 0.0]}},
    "output": {"picture": None},
}


@pytest.mark.parametrize(
    ("case", "quantity", "value"),
    [
        (BLOCK, {"reaction": "left", "component": "y"}, -0.1),
        (BAR, {"displacement": "ux", "at": [1.0, 1.0, 1.0]}, 0.01 * (3 * 10 + 5) / 35),
    ],
)
def test_a_quantity_that_is_not_as_expected_ends_with_code_4_and_complete_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: dict[str, Any], quantity: dict[str, Any], value: float
) -> None:
    close, far = value * (1 + 0.5e-6), value * 1.25
    wanted = {"close": quantity | {"expected": close}, "far": quantity | {"expected": far}}
    path, folder = written(tmp_path, case | {"quantities": wanted}), tmp_path / "results"
    assert ended("run", path, "--output", folder) == cli.NOT_AS_EXPECTED == 4
    printed, said = capsys.readouterr()
    assert said.count("\n") == 1
    line = f"{path}: quantities.far: {value:.8g}, expected {far:.8g} (relative difference 2.0e-01, rtol 1.0e-06)"
    assert said == f"femops: {line}\n"
    assert printed.count("MISSED") == 1
    summary = summary_of(folder)
    assert summary["finished"] and summary["quantities"]["far"] == pytest.approx(value, rel=1e-9)
    assert [summary["expected"][name]["missed"] for name in ("close", "far")] == [False, True]
    assert summary["expected"]["far"]["difference"] == pytest.approx(0.2, rel=1e-6)
    assert ended("run", path, "--output", folder, "--set", "quantities.far.rtol=0.21") == 0


def test_zero_is_expected_in_the_units_of_the_quantity() -> None:
    quantity = {"displacement": "uy", "at": [0.0, 0.0, 0.0], "expected": 0.0}
    case = Case.model_validate(BAR | {"quantities": {"foot": quantity, "none": quantity}})
    found = expectations(case, {"foot": 1e-17, "none": float("nan")})
    assert [one["missed"] for one in found.values()] == [False, True]
    assert expectations(case, {"foot": 2e-6})["foot"]["missed"]


def test_without_a_terminal_there_is_a_line_for_every_step_and_nothing_that_moves(run: Femops, tmp_path: Path) -> None:
    printed = run("run", written(tmp_path, BLOCK), "--output", tmp_path / "results")
    steps = summary_of(tmp_path / "results")["steps"]
    lines = [f"step {n}/2: t = {n / 2:g}, {steps[n - 1]['iterations']} iterations" for n in (1, 2)]
    assert printed.splitlines()[:2] == lines
    assert not re.search("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]|setting up|\x1b|\r", printed)


def test_view_draws_the_fields_of_a_step(run: Femops, tmp_path: Path) -> None:
    run("run", written(tmp_path, BLOCK), "--output", tmp_path / "results")
    picture = tmp_path / "results" / "pictures" / "block_strain.png"
    assert run("view", tmp_path / "results", "--field", "strain", "--step", "0") == f"{picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_version_and_plugins(run: Femops) -> None:
    assert run("--version") == f"{femops.__version__}\n"
    printed = run("plugins")
    assert all(name in printed for name in installed_laws())


def test_the_schema_in_cases_is_that_of_the_program(run: Femops) -> None:
    printed = run("schema")
    assert json.loads(printed) == case_schema()
    assert (CASES / "case.schema.json").read_text(encoding="utf-8") == printed, (
        "mend it with: femops schema > cases/case.schema.json"
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_schema_accepts_the_shipped_cases_and_refuses_a_misspelt_one(path: Path) -> None:
    line = path.read_text(encoding="utf-8").splitlines()[0]
    schema_file = line.removeprefix("# yaml-language-server: $schema=")
    schema = json.loads((path.parent / schema_file).read_text(encoding="utf-8"))
    case = yaml.safe_load(path.read_text(encoding="utf-8"))
    if importlib.util.find_spec("jsonschema"):
        validator = importlib.import_module("jsonschema").Draft202012Validator(schema)
        assert not list(validator.iter_errors(case))
        for key in ("stepps", "material"):
            assert list(validator.iter_errors(case | {key: {"law": "elastic", "Gee": 1.0}}))
    assert set(schema["required"]) <= set(case) <= set(schema["properties"]) == set(Case.model_fields)
    assert schema["additionalProperties"] is False
    used = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert used <= set(schema["$defs"])


@pytest.mark.parametrize(
    ("command", "slow"),
    [
        ("run", "femops.commands.run.prepare"),
        ("check", "femops.commands.prepare.prepare"),
        ("mesh", "femops.inputs.meshes.case_meshes"),
    ],
)
def test_something_moves_during_a_long_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, slow: str
) -> None:
    def sleepy(*_: object, **__: object) -> None:
        time.sleep(0.6)
        raise CaseError("woke up")

    terminal = Console(file=StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(cli, "console", terminal)
    monkeypatch.setattr(slow, sleepy)
    with pytest.raises(SystemExit):
        cli.main([command, str(written(tmp_path, BLOCK)), "--output", str(tmp_path)][: 2 if command == "check" else 4])
    assert len(set(re.findall("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", terminal.file.getvalue()))) >= 3  # type: ignore[attr-defined]


def ended_by(number: signal.Signals, path: Path, folder: Path) -> tuple[int, str]:
    """Run a case until it has a summary, send a signal; return the exit code and what was said on stderr."""
    command = [str(BIN / "femops"), "run", str(path), "--output", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            wait_for(folder / "summary.json", child)
            child.send_signal(number)
            _, said = child.communicate(timeout=60)
        finally:
            child.kill()
    return child.returncode, said.strip()


def test_a_termination_writes_the_last_accepted_step_and_gives_the_folder_back(tmp_path: Path) -> None:
    path = written(tmp_path, BLOCK | {"steps": {"count": 100000}, "output": {"picture": None, "every": 90000}})
    folder = tmp_path / "results"
    code, said = ended_by(signal.SIGTERM, path, folder)
    assert code == cli.TERMINATED
    assert said == "femops: terminated; the files of the finished steps are complete"
    assert {file.name for file in folder.iterdir()} == {"block.vtkhdf", "case.yaml", "curves.csv", "summary.json"}
    assert n_steps(folder / "block.vtkhdf") == 1


def test_an_interrupt_leaves_complete_files_of_the_finished_steps(tmp_path: Path) -> None:
    path, folder = written(tmp_path, NESTED | {"steps": {"count": 5000}}), tmp_path / "results"
    code, said = ended_by(signal.SIGINT, path, folder)
    assert code == cli.INTERRUPTED
    assert said == "femops: interrupted; the files of the finished steps are complete"
    summary = summary_of(folder)
    assert not summary["finished"]
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    body, _ = read_step(folder / "block.vtkhdf")
    assert np.isfinite(body.cell_data["stress"]).all()
    # A signal may fall between the files of one step, never within one of them.
    assert len(summary["steps"]) <= len(rows) <= n_steps(folder / "block.vtkhdf") <= len(summary["steps"]) + 1
    assert not list(folder.glob(".*"))


def test_an_interrupt_that_an_extension_turns_into_an_error_is_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def converted(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise TypeError("argument 1: KeyboardInterrupt") from None

    monkeypatch.setattr("femops.commands.run.prepare", converted)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", str(written(tmp_path, BLOCK)), "--output", str(tmp_path / "results")])
    assert ended.value.code == cli.INTERRUPTED
    assert capsys.readouterr().err.startswith("femops: interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def wait_for(file: Path, child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not file.exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until, "no step was finished in two minutes"
        time.sleep(0.05)


def on_two_ranks(*arguments: object, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "mpirun"), "-n", "2", str(BIN / "femops"), *(str(argument) for argument in arguments)]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, check=False, stdin=subprocess.DEVNULL
    )


@pytest.mark.mpi
def test_two_ranks_give_the_same_numbers_and_files_and_print_once(run: Femops, tmp_path: Path) -> None:
    path = written(tmp_path, NESTED)
    run("run", path, "--output", tmp_path / "one")
    done = on_two_ranks("run", path, "--output", tmp_path / "two")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Results in") == done.stdout.count("setting up") + done.stdout.count("step 2/2") == 1
    assert {file.name for file in (tmp_path / "one").iterdir()} == {file.name for file in (tmp_path / "two").iterdir()}
    one, two = summary_of(tmp_path / "one"), summary_of(tmp_path / "two")
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert (one["n_qp"], one["dofs"]) == (two["n_qp"], two["dofs"])
    assert two["quantities"] == pytest.approx(one["quantities"], rel=1e-10)
    ours, theirs = (read_step(tmp_path / name / "block.vtkhdf")[0] for name in ("one", "two"))
    for field in ("strain", "stress"):
        np.testing.assert_allclose(theirs.cell_data[field], ours.cell_data[field], rtol=1e-8, atol=1e-10)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("command", "changes", "code", "message"),
    [
        ("check", {"steps": {"count": -1}}, 2, "steps.count: -1 given, expected greater than 0"),
        ("check", {"mesh": {"file": "none.msh"}}, 2, "mesh: the mesh file does not exist"),
        ("check", {"supports": {"foot": {"ux": 0.0}}}, 2, "the mesh has no boundary 'foot'"),
        ("check", {"quantities": {"q": {"displacement": "ux", "at": [2, 2]}}}, 2, "lies outside the body"),
        ("check", {"output": {"micro": [{"at": [0.1, 0.1]}]}}, 2, "no law of the case has RVEs"),
        ("run", {"loads": {"right": {"traction": [0, 50]}}, "steps": {"count": 1, "smallest": 1}}, 3, "step 1 stopped"),
    ],
)  # fmt: skip
def test_errors_on_two_ranks_end_both_and_are_printed_once(
    tmp_path: Path, command: str, changes: dict[str, Any], code: int, message: str
) -> None:
    output = ("--output", tmp_path / "results") if command == "run" else ()
    done = on_two_ranks(command, written(tmp_path, BLOCK | changes), *output)
    assert done.returncode == code, done
    assert done.stderr.count("femops: ") == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_note_beside_a_bar_is_shown_in_full_on_a_narrow_terminal() -> None:
    text, note = StringIO(), "240 points, stress error 6.1e-05, above cubature_tolerance 2e-05: allow more points"
    with bars(Console(file=text, width=80), MPI.COMM_SELF) as shown:
        stages(shown)("cubature", 240, 240, note)
    assert all(word in text.getvalue().split() for word in note.split())
    assert "cubature " in text.getvalue()
