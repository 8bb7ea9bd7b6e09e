"""femops sample: goes on where it was stopped, waits for others, and refuses what does not fit."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pyvista
from helpers import SATURATING
from mpi4py import MPI
from small_studies import (
    BIN,
    PLASTIC,
    SOBOL,
    STUDY,
    assert_same,
    fields_of,
    sampled,
    written,
)

from femops import CaseError
from femops.commands import ending
from femops.commands.results import tensor_components
from femops.inputs.study import Study, load_study
from femops.offline.sample import sample, solve_snapshots, study_rve
from femops.offline.strains import strains_of_run
from femops.output.points import write_points

BLOCK: dict[str, Any] = {
    "kinematics": "plane_strain",
    "mesh": {"box": {"size": [1.0, 1.0], "cells": [2, 2], "cell": "quadrilateral"}},
    "material": SATURATING,
    "supports": {"left": {"ux": 0.0, "uy": 0.0}},
    "loads": {"right": {"displacement": {"ux": 0.02, "uy": 0.01}}},
    "output": {"points": True, "picture": None},
}
KILLED = """
import os, signal, sys
from femops.commands import cli
replace = os.replace
left = int(sys.argv[1])
def killing(old, new):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)
os.replace = killing
cli.main(sys.argv[2:])
"""


@pytest.mark.parametrize(("study", "commits"), [(STUDY, 4), (PLASTIC, 6)], ids=["samples", "middle of paths"])
def test_a_killed_run_goes_on_without_solving_anything_twice(
    tmp_path: Path, solves: list[int], study: dict[str, Any], commits: int
) -> None:
    path = written(tmp_path, study)
    command = [sys.executable, "-c", KILLED, str(commits), "sample", str(path), "--output", str(tmp_path / "killed")]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == -signal.SIGKILL
    found = len(list((tmp_path / "killed").glob("snapshots-*.h5")))
    assert found == commits - 1
    report, resumed = sampled(tmp_path, study, "killed")
    total = len(resumed["strain"])
    assert (report.found, report.solved, sum(solves)) == (found, total - found, total - found)
    assert_same(sampled(tmp_path, study, "uninterrupted")[1], resumed)
    assert [file.name for file in (tmp_path / "killed").iterdir()] == ["snapshots.h5"]


def test_a_second_sampling_waits_for_the_first_and_finds_its_snapshots(
    tmp_path: Path, solves: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, STUDY)
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, "sample", str(path), "--output", str(tmp_path / "out")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None and child.stdin is not None and child.stdout.readline() == "solving\n"
        threading.Timer(1.0, child.stdin.close).start()
        report = sample(load_study(path), path, tmp_path / "out", MPI.COMM_SELF)
        assert child.wait(60) == 0
    assert (report.found, report.solved, solves) == (6, 0, [])
    assert f"pid {child.pid}" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["snapshots.h5"]


SLOW = """
import sys
from femops.commands import cli
from femops.offline import sample
fill = sample.fill
def slow(*arguments):
    print("solving", flush=True)
    sys.stdin.read()
    return fill(*arguments)
sample.fill = slow
cli.main(sys.argv[1:])
"""
Femops = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rve.phases.matrix.K=4781.0", "holds snapshots of another RVE"),
        ("rve.boundary=kinematic", "holds snapshots of another RVE"),
        ("rve.circles.circles=[{center: [0.1, 0.06], radius: 0.3}]", "holds snapshots of another RVE"),
        ("sampling.seed=4", "snapshots of another sampling are there"),
        ("sampling.count=0", "sampling.count: 0 given, expected greater than 0"),
        ("sampling.cuont=4", "sampling.cuont: unknown key; did you mean 'count'?"),
        ("sampling.steps=4", "sampling: steps given, but method sobol takes only count, range, seed, shear"),
        ("sampling.range={33: [0, 1]}", "sampling.range: component 33 given, expected some of 11, 22, 12"),
        ("sampling.range={11: [1, 0]}", "sampling.range: [1, 0] given for component 11, expected [lowest, highest]"),
        ("sampling.range=-1", "sampling.range: -1 given, expected a positive number"),
        ("sampling={method: run, run: nowhere}", "run the case with --set output.points=true"),
        ("sampling={method: run}", "sampling: run missing, expected with method run"),
        ("rve.phases.matrix.K=.inf", "rve.phases.matrix.K: inf given, expected a finite number"),
        ("kinematics=solid", "rve.circles: the RVE is 2D, expected 3D"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, femops: Femops, change: str, said: str) -> None:
    path = written(tmp_path, {**STUDY, "sampling": {**SOBOL, "count": 2}})
    assert femops("sample", path, "--output", tmp_path / "out")[0] == 0
    before = (tmp_path / "out" / "snapshots.h5").read_bytes()
    code, _, error = femops("sample", path, "--output", tmp_path / "out", "--set", change)
    assert (code, error.count("\n")) == (ending.INPUT_ERROR, 1)
    assert said in error
    assert (tmp_path / "out" / "snapshots.h5").read_bytes() == before


def test_a_strain_that_does_not_converge_is_told_and_keeps_what_is_stored(tmp_path: Path, femops: Femops) -> None:
    path = written(tmp_path, STUDY)
    assert femops("sample", path, "--output", tmp_path, "--set", "sampling.count=2")[0] == 0
    code, _, error = femops("sample", path, "--output", tmp_path, "--set", "solver.max_iter=1")
    assert (code, error.count("\n")) == (ending.NOT_CONVERGED, 1)
    assert "snapshots 3 to 3: 1 of 1 RVEs did not converge in 1 iterations" in error
    assert len(fields_of(tmp_path / "snapshots.h5")["strain"]) == 2


def test_strains_of_a_finished_run_are_sampled(tmp_path: Path, femops: Femops) -> None:
    case = written(tmp_path, BLOCK, "block.yaml")
    assert femops("run", case, "--output", tmp_path / "run")[0] == 0
    study = written(tmp_path, {**STUDY, "sampling": {"method": "run", "run": "run"}})
    code, printed, error = femops("sample", study, "--output", tmp_path / "all")
    assert (code, error) == (0, "")
    assert "snapshots" in printed and "16/16" in printed
    assert "16 snapshots solved in" in printed
    tensor = np.asarray(pyvista.read(tmp_path / "run" / "points.vtp").point_data["strain"])
    expected = tensor[:, [0, 1, 3]] * [1, 1, np.sqrt(2)]
    stored = fields_of(tmp_path / "all" / "snapshots.h5")["strain"]
    np.testing.assert_array_equal(stored, expected)
    some = {**STUDY, "sampling": {"method": "run", "run": "run/points.vtp", "count": 5}}
    picked = sampled(tmp_path, some)[1]["strain"]
    assert len(np.unique(picked, axis=0)) == 5
    assert all((expected == one).all(axis=1).any() for one in picked)


def test_component_order_of_result_files_is_undone(tmp_path: Path) -> None:
    strain = np.random.default_rng(0).normal(size=(7, 6))
    write_points(tmp_path / "points.vtp", np.zeros((7, 3)), {"strain": tensor_components(strain)})
    np.testing.assert_allclose(strains_of_run(tmp_path, 3), strain, rtol=1e-14)
    with pytest.raises(CaseError, match="out of the plane"):
        strains_of_run(tmp_path, 2)


def test_batches_are_the_same_on_ranks_with_different_numbers_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines may differ in their cores; the ranks would wait for each other for ever."""
    found, study, path = [], Study.model_validate(STUDY), written(tmp_path, STUDY)
    rve = study_rve(study, path, MPI.COMM_SELF)
    monkeypatch.setattr("femops.offline.sample.fill", lambda opened, rows, *rest: found.append(rows.per_rank))
    for mine in (1, 2):
        monkeypatch.setenv("FEMOPS_NUM_THREADS", str(mine))
        two_on_another = SimpleNamespace(allgather=lambda value: [value, 2])
        solve_snapshots(study, rve, np.zeros((1, 1, 3)), tmp_path, two_on_another)
    assert found[0] == found[1]


@pytest.mark.mpi
def test_two_ranks_store_what_one_stores_and_print_once(tmp_path: Path) -> None:
    path = written(tmp_path, PLASTIC)
    command = [str(BIN / "mpirun"), "-n", "2", str(BIN / "femops"), "sample", str(path), "--output"]
    done = subprocess.run(
        [*command, str(tmp_path / "two")], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"COLUMNS": "200"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("they are in") == done.stdout.count("/snapshots.h5") == 1
    assert_same(sampled(tmp_path, PLASTIC)[1], fields_of(tmp_path / "two" / "snapshots.h5"))
