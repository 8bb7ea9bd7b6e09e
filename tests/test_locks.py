"""Folder locks: exclusive access, the holder named in refusals, and stale locks."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from femops.errors import CaseError
from femops.output import locks
from femops.output.locks import Holder, locked

BIN = Path(sys.executable).parent
HOLDING = """
import sys, time
from pathlib import Path
from femops.output.locks import locked
with locked(Path(sys.argv[1]), None):
    print("in", flush=True)
    sys.stdin.read()
"""
COUNTING = """
import sys, time
from pathlib import Path
from femops.output import locks
locks._POLL = 0.01
file = Path(sys.argv[1]) / "count"
for _ in range(5):
    with locks.locked(file.parent, None, wait=True, notify=lambda _: None):
        count = int(file.read_text()) if file.exists() else 0
        time.sleep(0.01)
        file.write_text(str(count + 1))
"""


def other_process(folder: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock of a folder until its input ends."""
    command = [sys.executable, "-c", HOLDING, str(folder)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "in\n"
    return child


def left_behind(folder: Path, **changes: object) -> Path:
    """Write the lock of a process that may be gone."""
    folder.mkdir(exist_ok=True)
    file = folder / ".lock"
    file.write_text(json.dumps(asdict(replace(Holder.here(), token="other", **changes))))  # type: ignore[arg-type]
    return file


def test_a_folder_that_somebody_works_in_is_refused_by_name_and_free_afterwards(tmp_path: Path) -> None:
    with other_process(tmp_path) as child:
        with pytest.raises(CaseError, match=f"host {socket.gethostname()}, pid {child.pid}, since 2") as refused:
            with locked(tmp_path, None):
                pass
        assert "\n" not in str(refused.value)
        child.communicate()
    with locked(tmp_path, None):
        assert [file.name for file in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over_even_before_its_parent_noticed(tmp_path: Path) -> None:
    with other_process(tmp_path) as child:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert (tmp_path / ".lock").exists()
        with locked(tmp_path, None):
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_another_process_with_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    left_behind(tmp_path, start="1")
    with locked(tmp_path, None):
        pass


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"place": "another boot or container"}])
def test_a_holder_elsewhere_counts_as_long_as_its_heart_beats(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    file = left_behind(tmp_path, pid=2**22 + 1, **elsewhere)
    with pytest.raises(CaseError, match="another femops works there"), locked(tmp_path, None):
        pass
    now = time.time()
    os.utime(file, (now, now - locks.STALE_AFTER - 60.0))
    with locked(tmp_path, None):
        pass


def test_a_lock_that_says_nothing_counts_until_it_is_old(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    file.touch()
    with pytest.raises(CaseError, match="another femops works there: host unknown"), locked(tmp_path, None):
        pass
    os.utime(file, (0.0, 0.0))
    with locked(tmp_path, None):
        pass


def test_the_heart_of_a_holder_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    with locked(tmp_path, None):
        os.utime(tmp_path / ".lock", (0.0, 0.0))
        until = time.monotonic() + 5.0
        while (tmp_path / ".lock").stat().st_mtime == 0.0:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_lock_without_hard_links_is_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    with locked(tmp_path, None):
        command = [sys.executable, "-c", HOLDING, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert f"pid {os.getpid()}" in done.stderr
    with other_process(tmp_path) as child:
        with pytest.raises(CaseError, match=f"pid {child.pid}"), locked(tmp_path, None):
            pass
        child.communicate()


def test_who_waits_says_for_whom_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_POLL", 0.01)
    said: list[str] = []
    with other_process(tmp_path) as child:

        def say(text: str) -> None:
            said.append(text)
            child.communicate()

        with locked(tmp_path, None, wait=True, notify=say):
            assert len(said) == 1 and f"waiting for another femops that works in {tmp_path}" in said[0]
            assert f"pid {child.pid}" in said[0]


def test_a_process_may_lock_its_folder_again_and_leaves_no_folders_behind(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), locked(folder, None):
        with locked(folder, None):
            pass
        assert (folder / ".lock").exists()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_processes_that_wait_for_each_other_do_not_overlap(tmp_path: Path) -> None:
    left_behind(tmp_path, start="1")  # all of them find it stale at the same time
    command = [sys.executable, "-c", COUNTING, str(tmp_path)]
    children = [subprocess.Popen(command) for _ in range(4)]
    assert [child.wait(60) for child in children] == [0] * 4
    assert (tmp_path / "count").read_text() == "20"
    assert [file.name for file in tmp_path.iterdir()] == ["count"]


@pytest.mark.mpi
def test_a_refusal_reaches_all_ranks(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nimport femops\nfrom mpi4py import MPI\n"
        "from femops.output.locks import locked\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "try:\n    with locked(folder, MPI.COMM_WORLD):\n        sys.stdout.write('worked\\n')\n"
        "except femops.CaseError as error:\n    sys.stdout.write(f'refused {str(error).count(\"pid\")}\\n')\n"
    )
    command = [str(BIN / "mpirun"), "-n", "2", sys.executable, "-c", script]
    with other_process(tmp_path) as child:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.splitlines() == ["refused 1"] * 2
        child.communicate()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["worked"] * 2
    assert list(tmp_path.iterdir()) == []
