"""Interrupted and terminated runs end with their exit code and complete files."""

import csv
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import (
    BIN,
    BLOCK,
    NESTED,
    n_steps,
    summary_of,
    written,
)

from femops.commands import cli, ending
from femops.output.picture import read_step


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
    assert code == ending.TERMINATED
    assert (
        said == "femops: terminated; the files of the finished steps are complete, a training goes on in the next run"
    )
    assert {file.name for file in folder.iterdir()} == {"block.vtkhdf", "case.yaml", "curves.csv", "summary.json"}
    assert n_steps(folder / "block.vtkhdf") == 1


def test_an_interrupt_leaves_complete_files_of_the_finished_steps(tmp_path: Path) -> None:
    path, folder = written(tmp_path, NESTED | {"steps": {"count": 5000}}), tmp_path / "results"
    code, said = ended_by(signal.SIGINT, path, folder)
    assert code == ending.INTERRUPTED
    assert (
        said == "femops: interrupted; the files of the finished steps are complete, a training goes on in the next run"
    )
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
    assert ended.value.code == ending.INTERRUPTED
    assert capsys.readouterr().err.startswith("femops: interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def wait_for(file: Path, child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not file.exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until, "no step was finished in two minutes"
        time.sleep(0.05)
