"""femops run: result files, resolved case, steps with output, expected quantities."""

import csv
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from command_line import (
    BLOCK,
    ELASTIC,
    NESTED,
    Femops,
    ended,
    n_steps,
    summary_of,
    written,
)

from femops.commands import ending
from femops.commands.run import expectations
from femops.inputs.case import Case
from femops.output.picture import read_step
from femops.threads import thread_count

CASES = Path(__file__).parent.parent / "cases"


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
        "case", "title", "finished", "failure", "law", "notes", "versions", "ranks", "threads", "n_qp", "dofs", "steps",
        "seconds", "peak_memory", "law_statistics", "quantities", "error_bars", "corrected", "expected", "micro",
    ]  # fmt: skip
    assert (summary["finished"], summary["failure"], summary["ranks"]) == (True, "", 1)
    assert summary["threads"] == thread_count()
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


# The load of the fourth of five steps is a thousand times that of the third.
FAILS_LATER = {
    "loads": {"right": {"traction": [0.0, "0.1 * t + 1e6 * t**40"]}},
    "steps": {"count": 5, "smallest": 1},
    "quantities": {},
}


def times_of(folder: Path) -> tuple[list[float], list[float]]:
    """Return the times of the fields and those of the curves."""
    with h5py.File(folder / "block.vtkhdf") as file:
        fields = file["VTKHDF/Steps/Values"][:].tolist()
        assert file["VTKHDF/Steps"].attrs["NSteps"] == len(fields)
    with (folder / "curves.csv").open() as curves:
        return fields, [float(row["t"]) for row in csv.DictReader(curves)]


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
    assert ended("run", path, "--output", folder, "--set", f"output.every={every}") == ending.NOT_CONVERGED
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
    assert ended("run", path, "--output", folder) == ending.NOT_AS_EXPECTED == 4
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
