"""Errors in case files are reported in one line with file, key and expected value, and an exit code."""

import csv
import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import meshio
import numpy as np
import pytest
import yaml

from femops.commands.cli import main
from femops.output.picture import read_step
from femops.plugins import installed_laws

ELASTIC = {"law": "elastic", "K": 10.0, "G": 5.0}
SATURATING = {"law": "saturating", "K": 10.0, "alpha1": 1.0, "alpha2": 0.1}
PLANE: dict[str, Any] = {
    "kinematics": "plane_strain",
    "mesh": {"box": {"size": [1.0, 1.0], "cells": [2, 2], "cell": "quadrilateral"}},
    "material": ELASTIC,
    "supports": {"left": {"ux": 0.0, "uy": 0.0}},
    "loads": {"right": {"traction": [0.0, "0.1 * t"]}},
    "output": {"picture": None},
}
LAYERS = {"phases": [["a", 0.5], ["b", 0.5]], "mesh_size": 0.5, "cell": "quad"}
RVE = {"law": "nested", "rve": {"laminate": LAYERS, "phases": {"a": ELASTIC, "b": SATURATING}}}
NESTED = PLANE | {"material": RVE}
SOLID = PLANE | {
    "kinematics": "solid",
    "mesh": {"box": {"size": [1.0, 1.0, 1.0], "cells": [1, 1, 1], "cell": "tetrahedron"}},
    "supports": {"left": {"ux": 0.0, "uy": 0.0, "uz": 0.0}},
    "loads": {"right": {"traction": [0.0, 0.0, 1.0]}},
}
MISSING = object()


def changed(case: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a case with one value set, or removed if it is MISSING."""
    case = deepcopy(case)
    block = case
    *parents, last = key.split(".")
    for parent in parents:
        block = block.setdefault(parent, {})
    if value is MISSING:
        del block[last]
    else:
        block[last] = value
    return case


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Check a case that must be refused; return the one line that says why, without the case file in front."""

    def check(case: dict[str, Any] | bytes, *arguments: str, command: str = "check", code: int = 2) -> str:
        path = tmp_path / "case.yaml"
        path.write_bytes(case if isinstance(case, bytes) else yaml.safe_dump(case).encode())
        with pytest.raises(SystemExit) as leave:
            main([command, str(path), *arguments])
        printed = capsys.readouterr()
        assert leave.value.code == code, printed
        assert "Traceback" not in printed.err + printed.out
        assert printed.err.startswith("femops: ")
        assert printed.err.count("\n") == 1
        return printed.err.strip().removeprefix("femops: ").replace(f"{path}: ", "").replace(f"{tmp_path}/", "")

    return check


KNOWN_TOP = (
    "title, units, kinematics, mesh, order, quadrature_degree, material, supports, loads, steps, solver, "
    "trust, output, quantities"
)
VALUE = "expected a finite number, an expression in t, or a table [[t, value], ...]"
ARITHMETIC = "expected numbers, t, pi, + - * / **, and abs, cos, exp, log, max, min, sin, sqrt, tan, tanh"
SIDES = "left, right, bottom, top"
INSTALLED = ", ".join(installed_laws())
PHASES = ", ".join(name for name, law in installed_laws().items() if law.phase)
CIRCLES = {"mesh_size": 0.2, "circles": [{"center": [0, 0], "radius": 0.2}, {"center": [0.1, 0], "radius": 0.2}]}
UY = {"displacement": "uy", "at": [1.0, 1.0]}

BLOCKS = [
    # unknown keys
    ("suports", {}, "suports: unknown key; did you mean 'supports'?"),
    ("foo", 1, f"foo: unknown key; expected one of {KNOWN_TOP}"),
    ("solver.rtoll", 1, "solver.rtoll: unknown key; did you mean 'rtol'?"),
    ("material.young", 1, "material.young: unknown key; expected one of law, K, G, E, nu"),
    ("output.micro", [{"att": [0, 0]}], "output.micro.0.att: unknown key; did you mean 'at'?"),
    # types and missing keys
    ("kinematics", MISSING, "kinematics: missing"),
    ("kinematics", "plane_stress", "kinematics: 'plane_stress' given, expected 'plane_strain' or 'solid'"),
    ("order", "two", "order: 'two' given, expected 1 or 2"),
    ("steps", [1, 2], "steps: [1, 2] given, expected a block of keys"),
    ("solver.max_iter", 2.5, "solver.max_iter: 2.5 given, expected a whole number"),
    ("solver.rtol", "tight", "solver.rtol: 'tight' given, expected a number"),
    ("mesh.box.cells", "many", "mesh.box.cells: 'many' given, expected a list"),
    ("supports.left.ux", True, f"supports.left.ux: True given, {VALUE}"),
    ("supports", {1: {"ux": 0.0}}, "supports.1: 1 given, expected text (in quotes if it looks like a number)"),
    # meshes
    ("mesh", {}, "mesh: expected either file or box"),
    ("mesh.file", "a.msh", "mesh: expected either file or box"),
    ("mesh", {"file": "none.msh"}, "none.msh: mesh: the mesh file does not exist"),
    ("mesh.periods", [[1, 0], [0, 1]], "mesh.periods: unknown key; expected one of file, tags, cell_array, box"),
    ("mesh.box.cells", [2, -2], "mesh.box: size [1.0, 1.0] and cells [2, -2] given, expected positive numbers"),
    ("mesh.box.cells", [2, 2, 2], "mesh.box: size has 2 and cells has 3 entries, expected as many"),
    ("mesh.box.cell", "tetra", "mesh.box: tetra does not fill a box of 2 dimensions"),
    ("mesh.box.cell", "wedge", "mesh.box.cell: 'wedge' given, expected 'triangle', 'triangle6', 'quad', "
     "'quadrilateral', 'quad8', 'quad9', 'tetra', 'tetrahedron', 'tetra10', 'hexahedron', 'hexahedron20' or "
     "'hexahedron27'"),
    # names of the mesh
    ("supports", {"lefft": {"ux": 0}}, f"supports.lefft: the mesh has no boundary 'lefft'; it has: {SIDES}"),
    ("loads", {"rihgt": {"pressure": 1}}, f"loads.rihgt: the mesh has no boundary 'rihgt'; it has: {SIDES}"),
    ("loads", {"left": {"body_force": [0, 1]}}, "loads.left: the mesh has no region 'left'; it has: domain"),
    ("material", {"fibre": ELASTIC, "domain": ELASTIC},
     "material.fibre: the mesh has no region 'fibre'; it has: domain"),
    ("quantities", {"f": {"reaction": "foot", "component": "x"}},
     f"quantities.f.reaction: the mesh has no boundary 'foot'; it has: {SIDES}"),
    # laws
    ("material", {"law": "fnoo"}, f"material.law: 'fnoo' is not installed; installed: {INSTALLED}"),
    ("material", {"law": 3}, f"material.law: 3 is not installed; installed: {INSTALLED}"),
    ("material", {"K": 3.0, "G": 1.0}, f"material.law: missing; expected one of {INSTALLED}"),
    ("material", {}, "material: expected a law, or a law for each named region"),
    ("material", None, "material: None given, expected a block of keys"),
    ("material.K", -1.0, "material.K: -1.0 given, expected greater than 0"),
    ("material.G", MISSING, "material: expected K and G, or E and nu; given: K"),
    ("material", {"law": "elastic", "E": 1.0, "nu": 0.5}, "material.nu: 0.5 given, expected less than 0.5"),
    ("material.K", math.inf, "material.K: inf given, expected a finite number"),
    ("material.K", "inf", "material.K: 'inf' given, expected a finite number"),
    ("material.K", math.nan, "material.K: nan given, expected a finite number"),
    # supports and loads
    ("supports", MISSING, "supports: missing"),
    ("supports", {}, "supports: {} given, expected 1 or more entries"),
    ("supports.left", {}, "supports.left: expected at least one of ux, uy, uz"),
    ("supports.left", None, "supports.left: None given, expected a block of keys"),
    ("supports.left", {"ux": 0.0},
     "supports: the body has a free rigid-body translation along y; expected supports that prevent it"),
    ("supports.left.uz", 0.0, "supports.left: uz given, expected ux and uy in plane strain"),
    ("loads", {}, "loads: no load given; expected a load, or a nonzero prescribed displacement"),
    ("loads", MISSING, "loads: no load given; expected a load, or a nonzero prescribed displacement"),
    ("loads.right", {}, "loads.right: expected at least one of traction, pressure, body_force, displacement"),
    ("loads.right.traction", [0, 0, 1], "loads.right.traction: 3 components given, expected 2"),
    ("loads.right.displacement", {"uz": 1}, "loads.right.displacement: uz given, expected ux and uy in plane strain"),
    # steps
    ("steps", {"count": 1, "times": [1.0]}, "steps: expected either count with end, or times"),
    ("steps", {"end": 1.0}, "steps: expected either count with end, or times"),
    ("steps.count", -2, "steps.count: -2 given, expected greater than 0"),
    ("steps.count", 10**9, "steps.count: 1000000000 given, expected less than or equal to 100000"),
    ("steps.times", [1.0, 0.5], "steps: [1.0, 0.5] given, expected times that increase from above 0"),
    ("steps.times", [math.nan], "steps.times.0: nan given, expected a finite number"),
    ("solver.rtol", math.inf, "solver.rtol: inf given, expected a finite number"),
    # output
    ("output.fields", ["strian"], "output.fields.0: 'strian' given, expected 'displacement', 'reaction', 'strain', "
     "'stress', 'von_mises', 'state' or 'error'"),
    ("output.picture", "strian",
     "output.picture: no field 'strian'; fields: displacement, reaction, strain, stress, von_mises, law_error"),
    ("output.micro", [{"at": [0.5, 0.5]}],
     "output.micro: no law of the case has RVEs whose fields could be written; laws: elastic"),
    ("output.micro", [{}], "output.micro.0: expected at, or most with count"),
    ("quantities.q", UY | {"at": [1.0, 2.0]}, "quantities.q.at: the point [1.0, 2.0] lies outside the body"),
    ("quantities.q", UY | {"at": [1.0, 1.0, 1.0]}, "quantities.q.at: [1.0, 1.0, 1.0] given, expected 2 coordinates"),
    ("quantities.q", UY | {"displacement": "uz"}, "quantities.q: component z given, expected x or y"),
    ("quantities.q", UY | {"reaction": "left"},
     "quantities.q: expected either displacement with at, or reaction with component"),
    ("quantities.q", UY | {"expected": math.nan}, "quantities.q.expected: nan given, expected a finite number"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), BLOCKS)
def test_a_wrong_block_is_refused(refused: Refused, key: str, value: Any, message: str) -> None:
    assert refused(changed(PLANE, key, value)) == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5 * q", f"'q' given, {ARITHMETIC}"),
        ("__import__('os')", f"\"__import__('os')\" given, {ARITHMETIC}"),
        ("t.real", f"'t.real' given, {ARITHMETIC}"),
        ("2 ^ t", f"'2 ^ t' given, {ARITHMETIC}"),
        ("5 t", "'5 t' given, expected an expression in t"),
        ("", "'' given, expected an expression in t"),
        ("+".join("t" * 5000), f"'{'t+' * 29}t… given, expected an expression in t"),
        ("1 / (t - 1)", "'1 / (t - 1)' cannot be evaluated at t = 1 (float division by zero)"),
        ("sqrt(t - 2)", "'sqrt(t - 2)' cannot be evaluated at t = 1 (math domain error)"),
        ("(-t) ** 0.5", "'(-t) ** 0.5' cannot be evaluated at t = 1 (math domain error)"),
        ("9 ** 9 ** 9", "'9 ** 9 ** 9' cannot be evaluated at t = 1 (math range error)"),
        ("max()", "'max()' cannot be evaluated at t = 1 (max expected at least 1 argument, got 0)"),
        ("1e999", "'1e999' is not finite at t = 1"),
        ([[0, 0], [0, 1]], "[[0, 0], [0, 1]] given, expected times that increase"),
        ([[0, 0, 1]], f"[[0, 0, 1]] given, {VALUE}"),
        ([[0, 0], [math.nan, 1]], f"[[0, 0], [nan, 1]] given, {VALUE}"),
        ([], f"[] given, {VALUE}"),
        (math.nan, f"nan given, {VALUE}"),
    ],
)
def test_a_wrong_value_over_time_is_refused(refused: Refused, value: Any, message: str) -> None:
    assert refused(changed(PLANE, "loads.right.traction", [0.0, value])) == f"loads.right.traction.1: {message}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rve.boundry", "periodic", "rve.boundry: unknown key; did you mean 'boundary'?"),
        ("rve.laminate.mesh", 1, "rve.laminate.mesh: unknown key; did you mean 'mesh_size'?"),
        ("rve.circles", CIRCLES, "rve: expected exactly one of mesh, image, circles, ellipses, polygons, spheres, "
         "random_circles, random_spheres, laminate, homogeneous, voxels, tiles; given: circles, laminate"),
        ("rve", {"circles": CIRCLES, "phases": {"matrix": ELASTIC, "fibre": ELASTIC}},
         "rve.circles: inclusion 0 at (0, 0) and inclusion 1 at (0.1, 0) overlap; expected inclusions apart"),
        ("rve.laminate.cell", "wedge", None),
        ("rve.laminate.mesh_size", math.nan, "rve.laminate.mesh_size: nan given, expected a finite number"),
        ("rve.laminate.phases", [["a", 0.0], ["b", 1.0]],
         "rve.laminate.phases.0.1: 0.0 given, expected greater than 0"),
        ("rve.phases.c", ELASTIC, "rve.phases.c: the RVE mesh has no such phase; it has: a, b"),
        ("rve.phases.b", MISSING, "rve.phases: no law for the phase 'b' of the RVE mesh; given: a"),
        ("rve.phases.a", "elastic", "rve.phases.a: 'elastic' given, expected a law with its parameters"),
        ("rve.phases.a.K", -1, "rve.phases.a.K: -1 given, expected greater than 0"),
        ("rve.phases.a.K", math.inf, "rve.phases.a.K: inf given, expected a finite number"),
        ("rve.phases.a", RVE,
         f"rve.phases.a.law: 'nested' cannot be a phase of an RVE; expected one of {PHASES}"),
        ("solver.rtol", -1, "solver.rtol: -1 given, expected greater than 0"),
    ],
)  # fmt: skip
def test_a_wrong_rve_is_refused(refused: Refused, key: str, value: Any, message: str | None) -> None:
    said = refused(changed(NESTED, f"material.{key}", value))
    if message is None:
        assert said.startswith(f"material.{key}: {value!r} given, expected 'triangle', ")
    else:
        assert said == f"material.{message}"


def test_dimensions_have_to_agree(refused: Refused) -> None:
    flat = changed(PLANE, "kinematics", "solid")
    assert refused(flat) == "loads.right.traction: 2 components given, expected 3"
    flat["loads"] = {"right": {"pressure": 1.0}}
    assert refused(flat) == "mesh: the mesh is 2D, expected 3D as in kinematics"
    solid_rve = changed(SOLID, "material", RVE)
    assert refused(solid_rve) == "material.rve.laminate: the RVE is 2D, expected 3D as in the case"
    loose = changed(SOLID, "supports", {"left": {"ux": 0.0}, "bottom": {"uy": 0.0}})
    assert (
        refused(loose)
        == "supports: the body has a free rigid-body translation along z; expected supports that prevent it"
    )


def test_points_of_rve_fields_need_an_rve(refused: Refused, tmp_path: Path) -> None:
    outside = changed(NESTED, "output.micro", [{"most": "strained"}, {"at": [0.5, 5.0]}])
    assert refused(outside) == "output.micro.1.at: the point [0.5, 5.0] lies outside the body"
    flat = changed(NESTED, "output.micro", [{"at": [0.5, 0.5, 0.0]}])
    assert refused(flat) == "output.micro.0.at: [0.5, 0.5, 0.0] given, expected 2 coordinates"
    points = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0], [1, 1, 0], [2, 1, 0]], dtype=float)
    cells = [("quad", np.array([[0, 1, 4, 3], [1, 2, 5, 4]])), ("line", np.array([[0, 3], [2, 5]]))]
    data = {"tag": [np.array([1, 2]), np.array([3, 4])]}
    meshio.Mesh(points, cells, cell_data=data).write(tmp_path / "two.vtu")
    two = NESTED | {"mesh": {"file": "two.vtu", "tags": {"soft": 1, "stiff": 2, "left": 3, "right": 4}}}
    assert refused(two | {"material": {"soft": RVE}}) == (
        "material: no law for the region 'stiff' of the mesh; given: soft"
    )
    two |= {"material": {"soft": RVE, "stiff": ELASTIC}}
    assert refused(changed(two, "output.micro", [{"at": [1.5, 0.5]}])) == (
        "output.micro.0.at: the law at [1.5, 0.5] is 'elastic', which has no RVE"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [1,\nb: }", "is not valid YAML at line 2: expected the node content, but found '}'"),
        (b"title:\n\tx: 1\n", r"is not valid YAML at line 2: found character '\t' that cannot start any token"),
        (b"order: 1\ntitle: b\norder: 2\n",
         "is not valid YAML at line 3: duplicate key 'order', first at line 1"),
        (b"solver: {rtol: 1, rtol: 2}",
         "is not valid YAML at line 1: duplicate key 'rtol', first at line 1"),
        (b"title: !!python/object:os.system x\n", "is not valid YAML at line 1: could not determine a constructor for "
         "the tag 'tag:yaml.org,2002:python/object:os.system'"),
        (b"title: \x01\n", "is not valid YAML: unacceptable character #x0001: special characters are not allowed in "
         '"<unicode string>", position 7'),
        ("title: é".encode("latin-1"), "is not UTF-8 text (byte 7); save it as UTF-8"),
        (b"", "None given, expected a mapping of keys"),
        (b"- 1\n", "[1] given, expected a mapping of keys"),
    ],
)  # fmt: skip
def test_text_that_is_no_case_is_refused(refused: Refused, text: bytes, message: str) -> None:
    assert refused(text) == message


def test_merge_keys_of_yaml_may_be_overridden(tmp_path: Path) -> None:
    text = yaml.safe_dump(PLANE) + "quantities: {a: &a {displacement: ux, at: [1, 1]}, b: {<<: *a, displacement: uy}}"
    (tmp_path / "case.yaml").write_text(text)
    with pytest.raises(SystemExit) as leave:
        main(["check", str(tmp_path / "case.yaml")])
    assert leave.value.code == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("foo", "--set: 'foo' given, expected key=value, for example solver.rtol=1e-6"),
        ("=1", "--set: '=1' given, expected key=value, for example solver.rtol=1e-6"),
        ("a..b=1", "--set: 'a..b=1' given, expected key=value, for example solver.rtol=1e-6"),
        ("foo=1", f"foo: unknown key; expected one of {KNOWN_TOP}"),
        ("steps.count=-2", "steps.count: -2 given, expected greater than 0"),
        ("solver.rtol=.nan", "solver.rtol: nan given, expected a finite number"),
        ("solver.rtol=[1", "--set: '[1' is not valid YAML at line 1: expected ',' or ']', but got '<stream end>'"),
        ("mesh.box.cells.0=3", "--set: 'mesh.box.cells.0': 'cells' is not a block of keys; replace it as a whole"),
    ],
)
def test_a_wrong_override_is_refused(refused: Refused, override: str, message: str) -> None:
    assert refused(PLANE, "--set", override) == message


def test_wrong_arguments_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.yaml"
    for arguments, message in (
        (["check", str(missing)], f"femops: {missing}: cannot be read (No such file or directory)\n"),
        (["mesh", str(missing)], f"femops: {missing}: cannot be read (No such file or directory)\n"),
        (["run", str(tmp_path)], f"femops: {tmp_path}: cannot be read (Is a directory)\n"),
        (["run"], "femops: Missing argument 'CASE'.\n"),
        (["rnu", "a"], "femops: No such command 'rnu'. Did you mean 'run'?\n"),
        (["view", str(tmp_path)], f"femops: {tmp_path}: no results here (expected files *.vtkhdf)\n"),
    ):
        with pytest.raises(SystemExit) as leave:
            main(arguments)
        assert (leave.value.code, capsys.readouterr().err) == (2, message)


def test_results_never_replace_the_case(refused: Refused, tmp_path: Path) -> None:
    assert refused(PLANE, "--output", str(tmp_path), command="run") == (
        "the resolved case would replace the case itself; choose another folder"
    )
    (tmp_path / "taken").touch()
    for command in ("run", "mesh"):
        assert "taken: " in refused(PLANE, "--output", str(tmp_path / "taken"), command=command)


SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.2, 0.2, 0]], dtype=float)
PRISM = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]], dtype=float)
UNEVEN = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0.5, 0]], dtype=float)


@pytest.mark.parametrize(
    ("points", "kind", "cells", "message"),
    [
        (SQUARE, "quad", [[0, 1, 4, 3]],
         "1 cell has no volume or a Jacobian determinant that changes sign, for "
         "example at (0.3, 0.3); expected valid cells"),
        (SQUARE, "triangle", [[0, 1, 1], [0, 1, 2]],
         "1 cell has a repeated node, for example at (0.666667, 0); expected distinct nodes"),
        (PRISM, "wedge", [range(6)], "cell type 'wedge' is not supported; supported: triangle, triangle6, quad, quad8, "
         "quad9, tetra, tetra10, hexahedron, hexahedron20, hexahedron27"),
        (PRISM, "triangle", [[0, 1, 5]], "2D cells have z between 0 and 1; expected a mesh in the x-y plane"),
    ],
)  # fmt: skip
def test_an_unusable_mesh_is_refused_in_both_places(
    refused: Refused, tmp_path: Path, points: Any, kind: str, cells: Any, message: str
) -> None:
    meshio.Mesh(points, [(kind, np.array([list(cell) for cell in cells]))]).write(tmp_path / "bad.vtu")
    assert refused(changed(PLANE, "mesh", {"file": "bad.vtu"})) == f"bad.vtu: mesh: {message}"
    rve = {"mesh": {"file": "bad.vtu"}, "phases": {"domain": ELASTIC}}
    assert refused(changed(NESTED, "material.rve", rve)) == f"bad.vtu: material.rve.mesh: {message}"


def test_an_rve_mesh_without_matching_faces_or_phases_is_refused(refused: Refused, tmp_path: Path) -> None:
    cells = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4]])
    meshio.Mesh(UNEVEN, [("triangle", cells)]).write(tmp_path / "uneven.vtu")
    rve = {"mesh": {"file": "uneven.vtu"}, "phases": {"domain": ELASTIC}}
    assert refused(changed(NESTED, "material.rve", rve)) == (
        "material.rve.mesh: opposite faces of the RVE mesh do not match along x: 1 of 3 nodes of the lower face have "
        "no image, for example the one at (0, 0.5); the largest gap is 0.5, 0.5 of the size; expected the same "
        "nodes on both"
    )
    rve["phases"] = {"fibre": ELASTIC}
    assert refused(changed(NESTED, "material.rve", rve)) == (
        "material.rve.phases.fibre: the RVE mesh has no such phase; it has: domain"
    )


def test_a_loose_part_of_the_body_is_refused_before_it_is_solved(refused: Refused, tmp_path: Path) -> None:
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=float)
    cells = [("quad", np.array([[0, 1, 2, 3], [4, 5, 6, 7]])), ("line", np.array([[0, 3], [5, 6]]))]
    data = {"tag": [np.array([1, 1]), np.array([2, 3])]}
    meshio.Mesh(np.vstack([square, square + np.array([3.0, 0.0, 0.0])]), cells, cell_data=data).write(
        tmp_path / "two.vtu"
    )
    case = PLANE | {"mesh": {"file": "two.vtu", "tags": {"body": 1, "left": 2, "right": 3}}}
    for command in ("check", "run"):
        assert refused(
            case, *(("--output", str(tmp_path / "results")) if command == "run" else ()), command=command
        ) == (
            "supports: the mesh consists of 2 disconnected parts, and one of them has a free rigid-body "
            "translation along x: 1 cell of body around (3.5, 0.5); expected merged nodes, or supports of each part"
        )


def test_a_run_that_cannot_converge_leaves_complete_files_of_its_finished_steps(
    refused: Refused, tmp_path: Path
) -> None:
    case = PLANE | {
        "material": SATURATING,
        "loads": {"right": {"traction": [0.0, "t"]}},
        "steps": {"times": [0.05, 0.1, 10.0], "smallest": 0.3},
        "quantities": {"foot": {"reaction": "left", "component": "y"}},
    }
    folder = tmp_path / "results"
    said = refused(case, "--output", str(folder), command="run", code=3)
    assert said.startswith("not converged: step 3 stopped at t = 0.1 after 2 cutbacks: the macroscale residual stayed")
    summary = json.loads((folder / "summary.json").read_text())
    assert not summary["finished"]
    assert "step 3 stopped" in summary["failure"]
    assert [step["t"] for step in summary["steps"]] == [0.05, 0.1]
    assert summary["quantities"]["foot"] == pytest.approx(-0.1, rel=1e-6)
    with (folder / "curves.csv").open() as file:
        assert [float(row["t"]) for row in csv.DictReader(file)] == [0.05, 0.1]
    body, heading = read_step(folder / "case.vtkhdf")
    assert heading.endswith("step 1, t = 0.1")
    assert np.isfinite(body.cell_data["stress"]).all()
    assert not list(folder.glob(".*"))


def test_a_value_that_cutback_cannot_evaluate_ends_the_run_with_its_time(refused: Refused, tmp_path: Path) -> None:
    """Half of the second step falls on the pole of the load; the check of the case sees only the ends of the steps."""
    case = PLANE | {
        "material": SATURATING,
        "loads": {"right": {"traction": [0.0, "10 * max(t - 1.4, 0) + 0.0001 / abs(t - 1)"]}},
        "steps": {"times": [0.5, 1.5]},
        "solver": {"max_iter": 1, "rtol": 1e-1},
    }
    said = refused(case, "--output", str(tmp_path / "results"), command="run")
    assert "cannot be evaluated at t = 1 (float division by zero)" in said
    assert len(json.loads((tmp_path / "results" / "summary.json").read_text())["steps"]) == 1
