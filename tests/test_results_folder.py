"""Results of an earlier run are replaced by complete steps only, and folders are used by one run at a time."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import BLOCK, NESTED, Femops, contents, ended, n_steps, summary_of, written

from femops.commands import ending
from femops.macro.stepping import StepReport


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


FAILS_AT_ONCE = {"loads": {"right": {"traction": [0, 50]}}, "steps": {"count": 1, "smallest": 1}}


def test_a_run_that_fails_at_once_leaves_the_earlier_results_and_a_note(
    run: Femops, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = written(tmp_path, BLOCK), tmp_path / "results"
    run("run", path, "--output", folder)
    before = contents(folder)
    written(tmp_path, BLOCK | FAILS_AT_ONCE)
    assert ended("run", path, "--output", folder) == ending.NOT_CONVERGED
    assert f"the earlier results in {folder} stay" in capsys.readouterr().err
    after = contents(folder)
    failure = json.loads(after.pop("failure.json"))
    assert after == before
    assert (failure["finished"], failure["steps"]) == (False, []) and "step 1 stopped" in failure["failure"]
    run("run", written(tmp_path, BLOCK), "--output", folder)
    assert set(contents(folder)) == set(before)


def test_a_run_that_fails_at_once_in_a_new_folder_leaves_its_case_and_summary(tmp_path: Path) -> None:
    path, folder = written(tmp_path, BLOCK | FAILS_AT_ONCE), tmp_path / "results"
    assert ended("run", path, "--output", folder) == ending.NOT_CONVERGED
    assert set(contents(folder)) == {"case.yaml", "summary.json"}
    assert "step 1 stopped" in summary_of(folder)["failure"]


def test_results_of_a_case_of_another_name_are_replaced_as_well(run: Femops, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    other = written(tmp_path, BLOCK).rename(tmp_path / "other.yaml")
    run("run", other, "--output", folder)
    run("view", folder, "--field", "strain")
    (folder / "another.vtkhdf").touch()
    run("run", written(tmp_path, BLOCK), "--output", folder)
    files = {"block.vtkhdf", "block.png", "case.yaml", "curves.csv", "summary.json"}
    assert set(contents(folder)) == files | {"another.vtkhdf"}


@pytest.mark.parametrize("steps_before", [0, 1])
def test_an_interrupt_replaces_the_earlier_results_only_by_complete_steps(
    run: Femops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_before: int
) -> None:
    path, folder = written(tmp_path, NESTED), tmp_path / "results"
    run("run", path, "--output", folder)
    before = contents(folder)
    written(tmp_path, BLOCK | {"steps": {"count": 3}})

    def interrupted(problem: Any, watch: Any) -> Iterator[StepReport]:
        for number in range(1, steps_before + 1):
            problem.solve(number / 3, 1 / 3)
            yield StepReport(number, number / 3, 1, (0.0,), 1, 0)
        raise KeyboardInterrupt

    monkeypatch.setattr("femops.commands.run.run_steps", interrupted)
    assert ended("run", path, "--output", folder) == ending.INTERRUPTED
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
            assert ended(*case) == ending.INPUT_ERROR
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and f"pid {child.pid}, since 2" in said
        child.communicate()
    assert contents(folder) == before
