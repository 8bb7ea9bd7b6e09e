"""femops sample in parts: by independent processes, merged when all are there."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from helpers import ELASTIC
from small_studies import BIN, PLASTIC, STUDY, assert_same, fields_of, sampled, written

from femops.commands import ending
from femops.offline.snapshot_store import SnapshotStore
from femops.output.atomic import PARTIAL
from femops.output.locks import Holder

Femops = Callable[..., tuple[int, str, str]]
FAMILY: dict[str, Any] = {
    "kinematics": "plane_strain",
    "family": {
        "count": 5, "seed": 1, "mesh": {"cells": 6},
        "inclusions": {"shape": "circles", "number": [1, 2], "volume_fraction": [0.1, 0.3]},
        "phases": {"matrix": STUDY["rve"]["phases"]["matrix"], "fibre": STUDY["rve"]["phases"]["fibre"]},
    },
    "sampling": {"method": "sobol", "count": 2, "seed": 3, "range": 0.02},
}  # fmt: skip


def test_two_processes_solve_what_one_does(tmp_path: Path, femops: Femops, solves: list[int]) -> None:
    path, out = written(tmp_path, PLASTIC), tmp_path / "out"
    command = [str(BIN / "femops"), "sample", str(path), "--output", str(out), "--part"]
    with (
        subprocess.Popen([*command, "1/2"], stdout=subprocess.PIPE) as one,
        subprocess.Popen([*command, "2/2"], stdout=subprocess.PIPE) as two,
    ):
        assert (one.wait(60), two.wait(60)) == (0, 0)
    code, printed, said = femops("sample", path, "--output", out)
    assert (code, solves, said) == (0, [], f"{out}: snapshots of 2 parts are merged\n")
    assert "0 snapshots solved" in printed and "12 found" in printed
    assert [file.name for file in out.iterdir()] == ["snapshots.h5"]
    assert_same(fields_of(out / "snapshots.h5"), sampled(tmp_path, PLASTIC, "at once")[1])


def test_members_of_a_family_are_solved_in_parts(tmp_path: Path, femops: Femops) -> None:
    path, out = written(tmp_path, FAMILY), tmp_path / "out"
    for number in (3, 1, 2):
        assert femops("sample", path, "--output", out, "--part", f"{number}/3")[0] == 0
    assert femops("sample", path, "--output", out)[0] == 0
    assert_same(fields_of(out / "microstructures.h5"), sampled(tmp_path, FAMILY, "at once")[1])


def test_parts_of_a_family_of_another_size_are_refused(tmp_path: Path, femops: Femops) -> None:
    family = {**FAMILY["family"], "phases": {"matrix": ELASTIC, "fibre": ELASTIC | {"K": 9000.0}}}
    path, out = written(tmp_path, {"kinematics": "plane_strain", "family": family}), tmp_path / "out"
    sample, six = ["sample", str(path), "--output", str(out)], ("--set", "family.count=6")
    assert femops(*sample, "--part", "2/2")[0] == 0  # members 3 to 5 of 5
    assert femops(*sample, "--part", "1/2", *six)[0] == 0
    for more in ((), ("--part", "2/2")):
        code, _, error = femops(*sample, *six, *more)
        assert (code, error.count("\n")) == (ending.INPUT_ERROR, 1)
        assert "part-2-of-2/microstructures.h5: holds microstructures of another" in error


def test_an_interrupted_part_and_an_interrupted_merge_go_on(
    tmp_path: Path, femops: Femops, solves: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = written(tmp_path, PLASTIC), tmp_path / "out"
    sample = ["sample", str(path), "--output", str(out)]
    append = SnapshotStore.append

    def interrupted(batches: int, *more: str) -> None:
        left = iter(range(batches))

        def stopping(store: SnapshotStore, fields: Any) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            append(store, fields)

        with monkeypatch.context() as patch:
            patch.setattr(SnapshotStore, "append", stopping)
            assert femops(*sample, *more)[0] == ending.INTERRUPTED

    interrupted(2, "--part", "1/2")
    assert femops(*sample, "--part", "2/2")[0] == 0
    solves.clear()
    code, _, error = femops(*sample)
    assert (code, solves) == (ending.INPUT_ERROR, [])
    assert "part-1-of-2: holds 2 of its 4 snapshots; finish it with --part 1/2" in error
    assert femops(*sample, "--part", "1/2")[0] == 0
    assert sum(solves) == 2
    interrupted(3)
    assert femops(*sample)[0] == 0
    assert sum(solves) == 2
    assert_same(fields_of(out / "snapshots.h5"), sampled(tmp_path, PLASTIC, "at once")[1])


def test_a_part_that_is_being_solved_is_left_alone(tmp_path: Path, femops: Femops) -> None:
    path, out = written(tmp_path, STUDY), tmp_path / "out"
    assert femops("sample", path, "--output", out, "--part", "1/1")[0] == 0
    unfinished = out / "part-1-of-1" / f"{PARTIAL}snapshots-000000006.h5"
    unfinished.touch()
    holder = replace(Holder.here(), pid=os.getppid(), start="", place="another host")
    (out / "part-1-of-1" / ".lock").write_text(json.dumps(asdict(holder)))
    code, _, error = femops("sample", path, "--output", out)
    assert (code, error.count("\n")) == (ending.INPUT_ERROR, 1)
    assert "part-1-of-1: another femops works there: " in error
    assert unfinished.exists()


@pytest.mark.parametrize(
    ("parts", "change", "said"),
    [
        (["1/2"], None, "out: part 2/2 is missing; solve it with --part 2/2"),
        (["1/2", "1/3"], None, "there are parts of 2 and of 3, expected one number of parts"),
        (["1/1"], "sampling.seed=4", "snapshots of another sampling are there"),
        (["1/1"], "rve.phases.matrix.K=4781.0", "part-1-of-1/snapshots.h5: holds snapshots of another RVE"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, femops: Femops, parts: list[str], change: str | None, said: str
) -> None:
    path, out = written(tmp_path, STUDY), tmp_path / "out"
    for part in parts:
        assert femops("sample", path, "--output", out, "--part", part)[0] == 0
    changed = () if change is None else ("--set", change)
    code, _, error = femops("sample", path, "--output", out, *changed)
    assert (code, error.count("\n")) == (ending.INPUT_ERROR, 1)
    assert said in error
    assert not list(out.glob("*.h5"))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("3", "--part: '3' given, expected K/N with K from 1 to N, for example 3/16"),
        ("17/16", "--part: '17/16' given, expected K/N with K from 1 to N, for example 3/16"),
        ("3/16", "--part: 3/16 given, but the study has only 6 paths to share"),
    ],
)
def test_parts_that_there_cannot_be_are_refused(tmp_path: Path, femops: Femops, part: str, said: str) -> None:
    code, _, error = femops("sample", written(tmp_path, STUDY), "--output", tmp_path / "out", "--part", part)
    assert (code, error.count("\n")) == (ending.INPUT_ERROR, 1)
    assert said in error
    assert not (tmp_path / "out").exists()
