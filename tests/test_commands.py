"""The other commands: check, mesh, view, plugins, schema; and the progress display."""

import importlib.util
import json
import re
import time
from io import StringIO
from pathlib import Path

import pytest
import yaml
from command_line import BLOCK, ELASTIC, NESTED, Femops, written
from mpi4py import MPI
from rich.console import Console

import femops
from femops.commands import cli
from femops.commands.progress import bars, stages
from femops.errors import CaseError
from femops.inputs.case import Case, case_schema
from femops.plugins import installed_laws

CASES = Path(__file__).parent.parent / "cases"
SHIPPED = sorted(CASES.glob("*.yaml"))


def test_check_tells_what_would_run_and_writes_nothing(
    run: Femops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, BLOCK)
    monkeypatch.chdir(tmp_path)
    said = f"{path}: valid. 32 dofs, 36 quadrature points, 2 steps, law: saturating. Run it with: femops run {path}\n"
    assert run("check", path) == said
    assert "3 steps" in run("check", path, "--set", "steps={times: [1, 2, 3]}")
    assert list(tmp_path.iterdir()) == [path]


def test_mesh_writes_meshes_that_a_case_can_read(run: Femops, tmp_path: Path) -> None:
    path = written(tmp_path, NESTED)
    printed = run("mesh", path, "--output", tmp_path / "meshes")
    assert "9 quad" in printed
    assert "a (0.500)" in " ".join(printed.split())
    rve = {"mesh": {"file": "meshes/rve.msh"}, "phases": NESTED["material"]["rve"]["phases"]}
    read = NESTED | {"mesh": {"file": "meshes/macro.msh"}, "material": {"law": "nested", "rve": rve}}
    assert "32 dofs" in run("check", written(tmp_path, read))


@pytest.mark.parametrize(("short", "long"), [("quad", "quadrilateral"), ("tetra", "tetrahedron")])
def test_cells_have_their_short_and_their_long_name_everywhere(short: str, long: str) -> None:
    dim = 2 if short == "quad" else 3
    cases = []
    for name in (short, long):
        rve = {"homogeneous": {"dim": dim, "cell": name}, "phases": {"matrix": ELASTIC}}
        mesh = {"box": {"size": [1] * dim, "cells": [1] * dim, "cell": name}}
        kinematics = {2: "plane_strain", 3: "solid"}[dim]
        supports, loads = {"left": {"ux": 0.0}}, {"right": {"pressure": 1.0}}
        data = {"kinematics": kinematics, "mesh": mesh, "supports": supports, "loads": loads}
        cases.append(Case.model_validate(data | {"material": {"law": "nested", "rve": rve}}))
    assert cases[0].mesh.box is not None
    assert cases[0].mesh.box.cell == short
    assert cases[0] == cases[1]


def test_view_draws_the_fields_of_a_step(run: Femops, tmp_path: Path) -> None:
    run("run", written(tmp_path, BLOCK), "--output", tmp_path / "results")
    picture = tmp_path / "results" / "pictures" / "block_strain.png"
    assert run("view", tmp_path / "results", "--field", "strain", "--step", "0") == f"{picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_version_and_plugins(run: Femops) -> None:
    assert run("--version") == f"{femops.__version__}\n"
    printed = run("plugins")
    assert all(name in printed for name in installed_laws())


def test_the_schema_in_cases_is_that_of_the_program(run: Femops) -> None:
    printed = run("schema")
    assert json.loads(printed) == case_schema()
    assert (CASES / "case.schema.json").read_text(encoding="utf-8") == printed, (
        "mend it with: femops schema > cases/case.schema.json"
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_schema_accepts_the_shipped_cases_and_refuses_a_misspelt_one(path: Path) -> None:
    line = path.read_text(encoding="utf-8").splitlines()[0]
    schema_file = line.removeprefix("# yaml-language-server: $schema=")
    schema = json.loads((path.parent / schema_file).read_text(encoding="utf-8"))
    case = yaml.safe_load(path.read_text(encoding="utf-8"))
    if importlib.util.find_spec("jsonschema"):
        validator = importlib.import_module("jsonschema").Draft202012Validator(schema)
        assert not list(validator.iter_errors(case))
        for key in ("stepps", "material"):
            assert list(validator.iter_errors(case | {key: {"law": "elastic", "Gee": 1.0}}))
    assert set(schema["required"]) <= set(case) <= set(schema["properties"]) == set(Case.model_fields)
    assert schema["additionalProperties"] is False
    used = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert used <= set(schema["$defs"])


@pytest.mark.parametrize(
    ("command", "slow"),
    [
        ("run", "femops.commands.run.prepare"),
        ("check", "femops.commands.prepare.prepare"),
        ("mesh", "femops.inputs.meshes.case_meshes"),
    ],
)
def test_something_moves_during_a_long_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, slow: str
) -> None:
    def sleepy(*_: object, **__: object) -> None:
        time.sleep(0.6)
        raise CaseError("woke up")

    terminal = Console(file=StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(cli, "console", terminal)
    monkeypatch.setattr(slow, sleepy)
    with pytest.raises(SystemExit):
        cli.main([command, str(written(tmp_path, BLOCK)), "--output", str(tmp_path)][: 2 if command == "check" else 4])
    assert len(set(re.findall("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", terminal.file.getvalue()))) >= 3  # type: ignore[attr-defined]


def test_a_note_beside_a_bar_is_shown_in_full_on_a_narrow_terminal() -> None:
    text, note = StringIO(), "240 points, stress error 6.1e-05, above cubature_tolerance 2e-05: allow more points"
    with bars(Console(file=text, width=80), MPI.COMM_SELF) as shown:
        stages(shown)("cubature", 240, 240, note)
    assert all(word in text.getvalue().split() for word in note.split())
    assert "cubature " in text.getvalue()
