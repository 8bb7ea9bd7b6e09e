"""Comparison of two laws: known differences, timings, and error messages."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import ELASTIC, SATURATING
from toy_surrogate import installed_toy

from femops.commands import cli, ending
from femops.meshing.box import box
from femops.meshing.writing import write_mesh

BIN = Path(sys.executable).parent
STIFFER = {"law": "elastic", "K": 2 * ELASTIC["K"], "G": 2 * ELASTIC["G"]}
SHEAR: dict[str, Any] = {
    "kinematics": "plane_strain",
    "mesh": {"box": {"size": [2.0, 1.0], "cells": [4, 2], "cell": "quadrilateral"}},
    "material": ELASTIC,
    "supports": {"bottom": {"ux": 0.0, "uy": 0.0}},
    "loads": {"top": {"traction": ["100 * t", 0.0]}},
    "steps": {"count": 2, "end": 1.0},
}
HELD = SHEAR | {"loads": {"top": {"displacement": {"ux": "0.01 * t", "uy": 0.0}}}}
Compare = Callable[..., dict[str, Any]]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Compare two laws in a case; return the report."""
    monkeypatch.chdir(tmp_path)

    def run(case: dict[str, Any], *arguments: str) -> dict[str, Any]:
        Path("case.yaml").write_text(yaml.safe_dump(case))
        with pytest.raises(SystemExit) as leave:
            cli.main(["compare", "case.yaml", *arguments])
        assert leave.value.code == 0
        return dict(json.loads(Path("results/case_compare/compare.json").read_text()))

    return run


def test_a_law_against_itself_differs_nowhere(compare: Compare) -> None:
    report = compare(HELD | {"material": SATURATING}, "--reference", "case")
    for name in ("displacement_rel_l2", "stress_rel_l2", "stress_rel_max"):
        assert report[name] == report["worst_step"][name]["value"] == 0.0
    assert report["reaction_rel"] == 0.0
    assert set(report["boundaries"]["displacement_rel"].values()) == {0.0}
    assert report["iterations"]["law"] == report["iterations"]["reference"] > 0
    assert (report["offline_seconds"], report["n_qp"]) == (0.0, 32)
    files = {str(file.relative_to("results/case_compare")) for file in Path("results/case_compare").rglob("*.*")}
    one = {"case.vtkhdf", "case.yaml", "curves.csv", "summary.json"}
    sides = {f"{side}/{name}" for side in ("law", "reference") for name in one}
    assert files == {"compare.json", "compare.png"} | sides


def test_a_body_twice_as_stiff_moves_half_as_far_under_the_same_stress(compare: Compare) -> None:
    report = compare(SHEAR, "--law", json.dumps(STIFFER), "--reference", "case")
    assert report["displacement_rel_l2"] == pytest.approx(0.5, rel=1e-10)
    assert report["boundaries"]["displacement_rel"]["top"] == pytest.approx(0.5, rel=1e-10)
    assert report["stress_rel_l2"] < 1e-10
    assert report["reaction_rel"] < 1e-10


def test_a_body_twice_as_stiff_bears_twice_as_much_where_it_is_held(compare: Compare) -> None:
    report = compare(HELD, "--law", json.dumps(STIFFER), "--reference", "case")
    assert report["displacement_rel_l2"] < 1e-12
    for name in ("stress_rel_l2", "stress_rel_max", "reaction_rel"):
        assert report[name] == pytest.approx(1.0, rel=1e-10)
    worst = report["stress_worst"]
    assert worst["difference"] == pytest.approx(worst["reference"], rel=1e-10)
    corner = 0.5 * (1 - 1 / np.sqrt(3))  # the Gauss points of the corner cells, of width and height 1/2
    assert worst["at"][0] == pytest.approx(0.5 * corner) or worst["at"][0] == pytest.approx(2 - 0.5 * corner)
    assert [step["stress_rel_l2"] for step in report["steps"]] == pytest.approx([1.0, 1.0])


def test_a_comparison_prints_a_line_for_every_step_of_both_runs(
    compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    report = compare(HELD | {"material": SATURATING}, "--law", json.dumps(ELASTIC), "--reference", "case")
    lines = capsys.readouterr().out.splitlines()
    iterations = report["iterations"]
    assert lines[:6:3] == ["solving with the reference", "solving with the law"]
    for start, side in ((1, "reference"), (4, "law")):
        steps = [re.fullmatch(r"step (\d)/2: t = (\S+), (\d+) iterations?", line) for line in lines[start : start + 2]]
        assert [(one[1], one[2]) for one in steps if one] == [("1", "0.5"), ("2", "1")]
        assert sum(int(one[3]) for one in steps if one) == iterations[side]


def test_a_quantity_of_the_law_that_is_not_as_expected_ends_the_comparison_with_code_4(
    compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    """The body of the case moves twice as far as that of the reference, for which nothing is expected."""
    corner = {"displacement": "ux", "at": [2.0, 1.0]}
    options = ("--law", "case", "--reference", json.dumps(STIFFER))
    both = compare(SHEAR | {"quantities": {"corner": corner}}, *options)
    of_law, of_reference = (both["quantities"][side]["corner"] for side in ("law", "reference"))
    assert of_law == pytest.approx(2 * of_reference, rel=1e-9) and both["expected"] == {}
    capsys.readouterr()
    foreign = ("--law", json.dumps(STIFFER), "--reference", "case")  # what is expected, is expected of the case's law
    assert compare(SHEAR | {"quantities": {"corner": corner | {"expected": of_law}}}, *foreign)["expected"] == {}
    capsys.readouterr()
    met = compare(SHEAR | {"quantities": {"corner": corner | {"expected": of_law}}}, *options)
    assert met["expected"]["corner"]["missed"] is False and "MISSED" not in capsys.readouterr().out
    Path("case.yaml").write_text(
        yaml.safe_dump(SHEAR | {"quantities": {"corner": corner | {"expected": of_reference}}})
    )
    with pytest.raises(SystemExit) as leave:
        cli.main(["compare", "case.yaml", *options])
    printed = capsys.readouterr()
    assert leave.value.code == ending.NOT_AS_EXPECTED
    assert printed.err.startswith(
        f"femops: case.yaml: quantities.corner: {of_law:.8g}, expected {of_reference:.8g} (rel"
    )
    assert printed.err.count("\n") == printed.out.count("MISSED") == 1
    report = json.loads(Path("results/case_compare/compare.json").read_text())
    assert report["expected"]["corner"]["difference"] == pytest.approx(1.0, rel=1e-9)


def test_the_law_of_another_case_is_taken_with_its_files(compare: Compare, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_mesh(box([1.0, 1.0], [2, 2], "quad"), tmp_path / "other" / "rve.msh")
    rve = {"mesh": {"file": "rve.msh"}, "phases": {"domain": STIFFER}}
    (tmp_path / "other" / "case.yaml").write_text(yaml.safe_dump(SHEAR | {"material": {"law": "nested", "rve": rve}}))
    report = compare(SHEAR, "--law", "other/case.yaml", "--reference", "case")
    assert report["laws"] == {"law": {"everywhere": "nested"}, "reference": {"everywhere": "elastic"}}
    assert report["displacement_rel_l2"] == pytest.approx(0.5, rel=1e-8)


def test_a_surrogate_that_is_trusted_nowhere_is_the_nested_law(compare: Compare) -> None:
    rve = {
        "circles": {"circles": [{"center": [0.1, 0.05], "radius": 0.3}], "mesh_size": 0.25, "cell": "triangle"},
        "phases": {"matrix": SATURATING, "fibre": ELASTIC},
    }
    study = {
        "kinematics": "plane_strain",
        "rve": rve,
        "sampling": {"method": "sobol", "count": 24, "seed": 3, "range": 0.02},
        "surrogate": {"law": "toy"},
        "validation": {"method": "sobol", "count": 4, "seed": 4, "range": 0.02},
    }
    Path("study.yaml").write_text(yaml.safe_dump(study))
    case = SHEAR | {"material": {"law": "toy", "study": "study.yaml"}, "loads": {"top": {"traction": ["8 * t", 0.0]}}}
    trust = {"tolerance": 1e-12, "on_violation": "solve"}
    with installed_toy():
        alone = compare(case)
        trusted = compare(case | {"trust": trust})
    assert 1e-6 < alone["stress_rel_l2"] < 0.2
    assert trusted["stress_rel_l2"] < 1e-7
    assert trusted["displacement_rel_l2"] < 1e-7
    assert trusted["laws"]["reference"] == {"everywhere": "nested"}
    assert trusted["law_statistics"]["law"]["solved_because"]["certificate"] > 0
    assert alone["offline_seconds"] == trusted["offline_seconds"] > 0.0
    law, reference = (trusted["seconds"][side] for side in ("law", "reference"))
    spent = law["law"] + law["certificate"] + law["exact solves"]
    assert trusted["speedup_law"] == pytest.approx(reference["law"] / spent)


def test_a_comparison_that_fails_leaves_no_report_of_an_earlier_one(compare: Compare, tmp_path: Path) -> None:
    compare(HELD | {"material": SATURATING}, "--reference", "case")
    weak = "{law: saturating, K: 4780.0, alpha1: 1.0e-3, alpha2: 1.0e-6}"  # bears no such traction
    Path("case.yaml").write_text(yaml.safe_dump(SHEAR))
    with pytest.raises(SystemExit) as leave:
        cli.main(["compare", "case.yaml", "--law", weak, "--reference", "case"])
    assert leave.value.code == 3
    assert not list((tmp_path / "results" / "case_compare").glob("compare.*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--law", "foo"], "--law: 'foo' given, expected case, nested, a case file, or a law such as"),
        (["--law", "{law: fnoo}"], "--law: material.law: 'fnoo' is not installed"),
        (["--law", "{law: elastic, K: -1, G: 1}"], "--law: material.K: -1 given, expected greater than 0"),
        (["--law", "{law: elastic"], "--law: '{law: elastic' is not valid YAML at line 1"),
        (["--reference", "{a: {law: elastic, E: 1, nu: 0}}"], "--reference: material.a: the mesh has no region 'a'"),
        ([], "--reference: nested given, but no law of the case is a surrogate whose RVE could be solved"),
    ],
)  # fmt: skip
def test_a_law_that_cannot_be_had_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(SHEAR))
    given = options if "--reference" in options or not options else [*options, "--reference", "case"]
    with pytest.raises(SystemExit) as leave:
        cli.main(["compare", str(tmp_path / "case.yaml"), *given, "--output", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert leave.value.code == 2
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.mpi
def test_two_ranks_find_the_same_difference(compare: Compare, tmp_path: Path) -> None:
    case = HELD | {"material": SATURATING}
    law = json.dumps(SATURATING | {"alpha1": 55.0})
    one = compare(case, "--law", law, "--reference", "case")
    command = [BIN / "mpirun", "-n", "2", BIN / "femops", "compare", "case.yaml", "--law", law, "--reference", "case"]
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    two = json.loads(Path("results/case_compare/compare.json").read_text())
    assert two["ranks"] == 2
    for name in ("displacement_rel_l2", "stress_rel_l2", "stress_rel_max", "reaction_rel"):
        assert two[name] == pytest.approx(one[name], rel=1e-9) != 0.0
    assert two["iterations"] == one["iterations"]
