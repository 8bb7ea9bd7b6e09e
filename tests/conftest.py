"""Imports the compiled libraries in their order before any test imports one of them; fixtures of several test files."""

import femops.stack  # noqa: F401

# isort: split
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from skips import pytest_sessionfinish, pytest_terminal_summary  # noqa: F401 - hooks
from toy_surrogate import ToyTraining, installed_toy

from femops.commands import cli
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import RVESolver


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must succeed; return what it prints."""

    def command(*arguments: object) -> str:
        with pytest.raises(SystemExit) as leave:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert (leave.value.code, printed.err) == (0, "")
        return printed.out

    return command


@pytest.fixture(name="femops")
def run_femops(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command; return its exit code and what it prints."""

    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leave:
            cli.main([str(argument) for argument in arguments])
        return (int(leave.value.code or 0), *capsys.readouterr())

    return command


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyTraining]:
    """Install the toy surrogate, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    with installed_toy() as training:
        yield training


@pytest.fixture
def solves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the RVEs that are solved."""
    return _counted(monkeypatch, RVESolver, lambda strain: strain.shape[1])


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the snapshots that are solved."""
    return _counted(monkeypatch, SnapshotSolver, len)


def _counted(monkeypatch: pytest.MonkeyPatch, solver: Any, size: Callable[[Any], int]) -> list[int]:
    counts: list[int] = []
    solve = solver.solve

    def counting(self: Any, strain: Any, *rest: Any) -> Any:
        counts.append(size(strain))
        return solve(self, strain, *rest)

    monkeypatch.setattr(solver, "solve", counting)
    return counts
