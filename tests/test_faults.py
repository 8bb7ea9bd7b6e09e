"""Unexpected exceptions are reported in one line, with exit code 1 and a file with the details."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import yaml

from femops.commands.cli import main
from femops.hookspecs import hookimpl
from femops.law import LawContext, LawParameters, LawSpec, StrainMeasure
from femops.plugins import manager

CASE: dict[str, Any] = {
    "kinematics": "plane_strain",
    "mesh": {"box": {"size": [1.0, 1.0], "cells": [4, 4], "cell": "quadrilateral"}},
    "material": {"law": "faulty"},
    "supports": {"left": {"ux": 0.0, "uy": 0.0}},
    "loads": {"right": {"traction": [0.0, "0.1 * t"]}},
    "output": {"picture": None},
}
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/micro.vtkhdf")
FAULTS: dict[str, BaseException] = {
    "division": ZeroDivisionError("of all\nthings"),
    "full": FULL,
    "memory": MemoryError(),
    "os": OSError("of nobody's making"),
}


class FaultyParameters(LawParameters):
    law: Literal["faulty"] = "faulty"
    fault: str = "division"


LAW = "RuntimeError: law of everywhere ('faulty')"


class FaultyLaw:
    """A law that fails with an error that it should not know."""

    strain_measure = StrainMeasure.SMALL_STRAIN
    n_state = 0

    def __init__(self, parameters: FaultyParameters, context: LawContext) -> None:
        self.dim, self.state_fields, self.parameters = context.dim, {}, parameters

    def evaluate(self, strain: Any, state: Any, dt: float) -> Any:
        raise FAULTS[self.parameters.fault]


@hookimpl
def femops_laws() -> list[LawSpec]:
    return [LawSpec("faulty", "a law that fails", FaultyParameters, FaultyLaw)]


@pytest.fixture(autouse=True)
def faulty() -> Iterator[None]:
    plugin = SimpleNamespace(femops_laws=femops_laws)
    manager().register(plugin, "faulty")
    yield
    manager().unregister(plugin)


def failed(folder: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump({**CASE, "material": {"law": "faulty", "fault": fault}}))
    with pytest.raises(SystemExit) as leave:
        main(["check", str(path), "--set", "title=a b"])
    said = capsys.readouterr().err
    assert said.startswith("femops: ") and said.count("\n") == 1
    return leave.value.code, said


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("division", f"{LAW}: ZeroDivisionError: of all things; "),
        ("memory", f"{LAW}: MemoryError:; "),
        ("os", "OSError: of nobody's making; "),
    ],
)
def test_an_unknown_fault_leaves_a_file_with_the_details(
    fault: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = failed(tmp_path, fault, capsys)
    (file,) = tmp_path.glob(f"femops-error-*-{os.getpid()}.txt")
    assert code == 1
    assert said == f"femops: unexpected {words}the details are in {file.name}\n"
    text = file.read_text()
    assert f"command: femops check {tmp_path}/case.yaml --set 'title=a b'\n" in text
    assert f"numpy: {sys.modules['numpy'].__version__}\n" in text
    assert "Traceback" in text and "in evaluate" in text


def test_where_nothing_can_be_written_the_file_goes_to_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, said = failed(tmp_path, "division", capsys)
    (file,) = tmp_path.glob("femops-error-*.txt")
    assert (code, said.endswith(f"the details are in {file}\n")) == (1, True)


def test_a_full_disk_is_told_as_what_the_user_can_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = failed(tmp_path, "full", capsys)
    assert (code, said) == (
        2,
        "femops: /data/micro.vtkhdf: cannot be read or written (No space left on device)\n",
    )
    assert not list(tmp_path.glob("femops-error-*"))


@pytest.mark.mpi
def test_a_rank_that_fails_says_which_it_is_and_leaves_no_other_waiting(tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({**CASE, "material": {"law": "elastic", "K": 1.0, "G": 1.0}}))
    script = (
        "import femops.commands.prepare; from mpi4py import MPI; from femops.commands.cli import main\n"
        "def one_sided(case, problem): 1 / (MPI.COMM_WORLD.rank - 1)\n"
        "femops.commands.prepare._check_points = one_sided; main(['check', 'case.yaml'])\n"
    )
    command = [str(Path(sys.executable).parent / "mpirun"), "-n", "2", sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    (file,) = tmp_path.glob("femops-error-*-rank1.txt")
    assert done.returncode == 1
    assert (
        f"femops: rank 1: unexpected ZeroDivisionError: division by zero; the details are in {file.name}" in done.stderr
    )
    assert "rank: 1\n" in file.read_text() and "Traceback" not in done.stderr
