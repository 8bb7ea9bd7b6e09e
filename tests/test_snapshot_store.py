"""Snapshot stores survive interruption at any time, and damaged rows are found."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from mpi4py import MPI
from small_studies import SOBOL, SPHERE, STUDY, assert_same, fields_of, sampled, written

from femops import CaseError
from femops.inputs.study import load_study
from femops.offline.filling import batch_of
from femops.offline.sample import sample
from femops.offline.snapshot_store import SnapshotStore

MORTAL = """
import os, pathlib, shutil, signal, sys
import numpy as np
from femops.offline import snapshot_store as snapshots
folder = pathlib.Path(sys.argv[1])
os.fsync = lambda _: None  # the system survives these kills
def work(store):
    while store.count < 8:
        rows = np.arange(store.count, store.count + 2)
        store.append({"strain": rows[:, None] * np.ones(3), "history/matrix": rows[:, None, None] * np.ones((2, 4))})
        if store.count == 4:
            store.fold()
    store.fold()
def mortal(life):
    def counted(function):
        def call(*arguments, **keywords):
            nonlocal life
            life -= 1
            if life == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)
        return call
    for owner, name in ((os, "replace"), (os, "fsync"), (pathlib.Path, "unlink"), (shutil, "copyfile"),
                        (snapshots.h5py.File, "__exit__"), (snapshots.h5py.Group, "create_dataset"),
                        (snapshots, "_extend"), (snapshots.h5py.Dataset, "resize")):
        setattr(owner, name, counted(getattr(owner, name)))
for life in range(1, 1000):
    child = os.fork()
    if child == 0:
        mortal(life)
        work(snapshots.SnapshotStore(folder, "rve"))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    committed = [f for f in folder.glob("snapshots-*.h5")]
    store = snapshots.SnapshotStore(folder, "rve")
    if store.count:
        assert np.array_equal(store.read("strain")[:, 1], np.arange(store.count)), life
        assert np.array_equal(store.read("history/matrix")[:, 1, 3], np.arange(store.count)), life
    work(store)
    assert [f.name for f in folder.iterdir()] == ["snapshots.h5"], life
    assert np.array_equal(store.read("strain")[:, 2], np.arange(8)), life
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
    shutil.rmtree(folder)
print(life)
"""


def test_a_kill_at_any_file_operation_leaves_a_sound_store(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", MORTAL, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def emptied(file: Path, row: int, *, checks: bool) -> None:
    """Make a row as it is before it is written; without checks, as in stores of earlier versions."""
    with h5py.File(file, "r+") as store:
        for name in fields_of(file):
            store[name][row] = 0
        if not checks:
            del store["check"]


@pytest.mark.parametrize("checks", [True, False], ids=["checked", "written before there were checks"])
@pytest.mark.parametrize(("dim", "row"), [(2, 3), (2, 0), (3, 1)])
def test_rows_that_were_never_written_are_solved_anew(
    tmp_path: Path, solves: list[int], capsys: pytest.CaptureFixture[str], dim: int, row: int, checks: bool
) -> None:
    solid = {"kinematics": "solid", "rve": {**SPHERE, "phases": STUDY["rve"]["phases"]}}
    study = {**STUDY, **(solid if dim == 3 else {}), "sampling": {**SOBOL, "count": 4}}
    report, whole = sampled(tmp_path, study)
    emptied(report.file, row, checks=checks)
    solves.clear()
    again, mended = sampled(tmp_path, study)
    assert (again.found, again.solved, sum(solves)) == (row, 4 - row, 4 - row)
    assert f"are solved anew: from number {row + 1} on, {4 - row} in all" in capsys.readouterr().err
    assert_same(whole, mended)
    assert sampled(tmp_path, study)[0].solved == 0


@pytest.mark.parametrize("field", ["stress", "phase_stress_sensitivity", "path"])
def test_a_changed_number_is_found_in_every_field(tmp_path: Path, field: str) -> None:
    report, whole = sampled(tmp_path, STUDY)
    with h5py.File(report.file, "r+") as store:
        values = store[field][...]
        values.reshape(6, -1)[4, -1] += 1 if field == "path" else 1e-12 * np.abs(whole[field]).max()
        store[field][...] = values
        rve = str(store.attrs["rve"])
    assert SnapshotStore(report.file.parent, rve).sound_count() == 4


def test_a_changed_number_is_found_before_the_batches_are_merged(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "rve")
    for first in (0, 2):
        store.append({"strain": np.full((2, 3), first), "tangent": np.ones((2, 3, 3))})
    with h5py.File(tmp_path / "snapshots-000000002.h5", "r+") as file:
        file["strain"][1, 2] = 1.0
    assert SnapshotStore(tmp_path, "rve").sound_count() == 3


def test_rows_in_another_order_are_unsound(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "rve")
    store.append({"strain": np.arange(12.0).reshape(4, 3), "tangent": np.ones((4, 3, 3))})
    store.fold()
    assert store.sound_count() == 4
    with h5py.File(store.file, "r+") as file:  # each row with its own checksum
        for name in ("strain", "tangent", "check"):
            file[name][1:3] = file[name][1:3][::-1]
    assert store.sound_count() == 1


def test_a_sound_store_of_an_earlier_version_is_kept_and_gets_its_checks_when_it_grows(
    tmp_path: Path, solves: list[int]
) -> None:
    report, whole = sampled(tmp_path, STUDY)
    with h5py.File(report.file, "r+") as store:
        checks = store["check"][...]
        del store["check"]
    solves.clear()
    more = written(tmp_path, {**STUDY, "sampling": {**SOBOL, "count": 8}})
    assert sample(load_study(more), more, tmp_path / "out", MPI.COMM_SELF).found == 6
    assert sum(solves) == 2
    with h5py.File(report.file) as store:
        np.testing.assert_array_equal(store["check"][:6], checks)
        assert len(store["check"]) == 8
    assert_same(whole, {name: values[:6] for name, values in fields_of(report.file).items()}, 0.0)


def test_batches_end_with_their_step() -> None:
    assert batch_of(0, 4, 6) == (slice(0, 4), None)
    assert batch_of(4, 4, 6) == (slice(4, 6), None)
    assert batch_of(6, 4, 6) == (slice(6, 10), slice(0, 4))


def test_a_file_that_is_no_store_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "snapshots.h5").write_text("mine")
    with pytest.raises(CaseError, match="is not a file of snapshots"):
        SnapshotStore(tmp_path, "rve")
    assert (tmp_path / "snapshots.h5").read_text() == "mine"
