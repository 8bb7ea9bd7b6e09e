"""The macroscale host in a program, without a case file."""

import contextlib
import io
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import BOXES, ELASTIC, SATURATING, box_case, box_problem
from mpi4py import MPI

from femops import CaseError, load_law
from femops.macro.analysis import Analysis, Displacement, Load, Newton, Steps, Trust
from femops.macro.mesh import macro_mesh
from femops.macro.problem import MacroProblem
from femops.macro.stepping import run_steps
from femops.meshing.box import box

CELLS: dict[int, Any] = {2: "quad", 3: "hexahedron"}
PAGE = Path(__file__).parents[1] / "cases" / "README.md"
PROGRAM = "\n".join(
    line.removeprefix("    ")
    for line in PAGE.read_text().partition("## The host in a program")[2].splitlines()
    if line.startswith("    ")
)


def bar(dim: int, **changes: object) -> MacroProblem:
    """Return a bar of length 2 with sliding supports."""
    law = load_law(ELASTIC, dim=dim)
    mesh = macro_mesh(lambda: box([2.0, *[1.0] * (dim - 1)], [4, *[2] * (dim - 1)], CELLS[dim]), dim, MPI.COMM_WORLD)
    supports = {"left": Displacement(ux=0.0), "bottom": Displacement(uy=0.0), "back": Displacement(uz=0.0)}
    supports = {name: one for name, one in supports.items() if dim == 3 or name != "back"}
    return MacroProblem(Analysis(**{"supports": supports, **changes}), mesh, {"everywhere": law})  # type: ignore[arg-type]


@pytest.mark.parametrize("dim", [2, 3])
def test_a_bar_under_traction_has_the_strains_of_elasticity(dim: int) -> None:
    traction = [lambda t: 300.0 * t**2, *[0.0] * (dim - 1)]
    problem = bar(dim, loads={"right": Load(traction=traction)}, steps=Steps([0.5, 1.0]))
    found = [(report.t, problem.reaction_on("left")[0]) for report in run_steps(problem)]
    np.testing.assert_allclose(found, [(0.5, -75.0), (1.0, -300.0)], rtol=1e-12)
    bulk, shear = ELASTIC["K"], ELASTIC["G"]
    young, nu = 9.0 * bulk * shear / (3.0 * bulk + shear), (3.0 * bulk - 2.0 * shear) / (6.0 * bulk + 2.0 * shear)
    along, across = (1.0, -nu) if dim == 3 else (1.0 - nu**2, -nu * (1.0 + nu))
    expected = 300.0 / young * np.array([along, *[across] * (dim - 1), *[0.0] * (1 if dim == 2 else 3)])
    strain = problem.quadrature.strain()
    np.testing.assert_allclose(strain, np.broadcast_to(expected, strain.shape), atol=1e-14)


@pytest.mark.parametrize("cell", ["triangle", "hexahedron"])
def test_a_program_and_a_case_give_the_same_bits(cell: str) -> None:
    dim = 2 if cell in BOXES[2] else 3
    of_case = box_problem(
        cell, material=SATURATING, steps={"count": 2}, loads={"right": {"displacement": {"ux": "0.1 * t"}}}
    )
    list(run_steps(of_case))
    supports = {"left": Displacement(ux=0.0), "bottom": Displacement(uy=0.0), "back": Displacement(uz=0.0)}
    supports = {name: one for name, one in supports.items() if dim == 3 or name != "back"}
    pulled = {"right": Load(displacement=Displacement(ux=lambda t: 0.1 * t))}
    mesh = macro_mesh(lambda: box([1.0] * dim, [3] * dim, cell), dim, MPI.COMM_WORLD)  # type: ignore[arg-type]
    law = load_law(SATURATING, dim=dim)
    problem = MacroProblem(Analysis(supports, pulled, Steps([0.5, 1.0])), mesh, {"everywhere": law})
    list(run_steps(problem))
    np.testing.assert_array_equal(problem.displacement.x.array, of_case.displacement.x.array)


def test_a_name_that_the_mesh_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(CaseError, match=r"^loads\.rigth: the mesh has no boundary 'rigth'; it has: left, right"):
        bar(2, loads={"rigth": Load(pressure=1.0)})


def test_a_load_that_is_not_defined_at_a_time_says_so() -> None:
    def broken(t: float) -> float:
        raise ValueError(f"no load at t = {t:g}")

    with pytest.raises(CaseError, match=r"^loads\.right\.pressure: no load at t = 1"):
        bar(2, loads={"right": Load(pressure=broken)})


def test_a_load_that_is_not_defined_between_the_ends_of_steps_is_refused_when_an_increment_ends_there() -> None:
    problem = bar(2, loads={"right": Load(pressure=lambda t: math.nan if t == 0.5 else 1.0)})
    with pytest.raises(CaseError, match=r"nan given at t = 0\.5, expected a finite number"):
        problem.solve(0.5, 0.5)


@pytest.mark.parametrize(
    ("loads", "problem"),
    [
        ({"right": Load(traction=[1.0])}, "loads.right.traction: 1 components given, expected 2"),
        ({"everywhere": Load(body_force=[1.0] * 3)}, "loads.everywhere.body_force: 3 components given, expected 2"),
        ({"right": Load(displacement=Displacement(uz=1.0))}, "loads.right.displacement: uz given, expected ux and uy"),
        ({"right": Load(traction=[0.0, math.inf])}, "loads.right.traction.1: inf given at t = 1, expected a finite"),
    ],
)
def test_a_load_that_does_not_fit_the_mesh_is_refused(loads: dict[str, Load], problem: str) -> None:
    with pytest.raises(CaseError, match=f"^{re.escape(problem)}"):
        bar(2, loads=loads)


def test_a_law_of_the_whole_body_does_not_mix_with_laws_of_regions() -> None:
    law = load_law(ELASTIC, dim=2)
    with pytest.raises(CaseError, match=r"^material: 'everywhere' and named regions given"):
        MacroProblem(bar(2).analysis, bar(2).mesh, {"everywhere": law, "domain": law})


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (Displacement, "expected at least one of ux, uy, uz"),
        (Load, "expected at least one of traction, pressure, body_force, displacement"),
        (lambda: Steps([]), "[] given, expected times that increase from above 0"),
        (lambda: Steps([0.0, 1.0]), "[0.0, 1.0] given, expected times that increase from above 0"),
        (lambda: Steps([1.0, 0.5]), "[1.0, 0.5] given, expected times that increase from above 0"),
        (lambda: Steps([math.inf]), "[inf] given, expected times that increase from above 0"),
        (lambda: Steps(smallest=0.0), "smallest 0 given, expected a number above 0 and at most 1"),
        (lambda: Newton(max_iter=0), "rtol 1e-08 and max_iter 0 given, expected positive numbers"),
        (lambda: Trust(tolerance=math.nan), "tolerance nan given, expected a positive number"),
        (lambda: Trust(on_violation="sole"), "on_violation 'sole' given, expected one of solve, stop, warn"),  # type: ignore[arg-type]
        (lambda: Trust(certificate="b"), "certificate 'b' given, expected one of bound, indicator"),  # type: ignore[arg-type]
        (lambda: Trust(enrich=True), "enrich with on_violation 'stop' given, expected on_violation: solve"),
        (lambda: Analysis({}, order=3), "order 3 given, expected 1 or 2"),
        (lambda: Analysis({}, quadrature_degree=-1), "quadrature_degree -1 given, expected at least 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        make()


def test_defaults_are_those_of_a_case() -> None:
    supports = {"left": Displacement(ux=0.0), "bottom": Displacement(uy=0.0)}
    loads = {"right": Load(displacement=Displacement(ux=0.01))}
    case = box_case("quadrilateral", loads={"right": {"displacement": {"ux": 0.01}}}, trust={})
    assert case.analysis() == Analysis(supports, loads, trust=Trust(), law_names={"everywhere": "elastic"})


def test_the_program_of_the_page_runs() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(PROGRAM, {})
    found = np.array([line.split() for line in printed.getvalue().splitlines()], dtype=float)
    times = np.array([0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(found[:, 0], times)
    np.testing.assert_allclose(found[:, 3:], np.outer(times, [0.0, -2.0]), atol=1e-6)


@pytest.mark.mpi
def test_the_program_of_the_page_loads_no_case_and_gives_the_same_on_two_ranks(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(PROGRAM, names)
    script = (
        f"{PROGRAM}\n"
        "import sys\n"
        "assert not [name for name in sys.modules if name.startswith('femops.inputs')]\n"
        "problem.mean_displacement_of('right').tofile(f'rank{MPI.COMM_WORLD.rank}')\n"
    )
    command = [str(Path(sys.executable).parent / "mpirun"), "-n", "2", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    expected = names["problem"].mean_displacement_of("right")
    for rank in (0, 1):
        np.testing.assert_allclose(np.fromfile(tmp_path / f"rank{rank}"), expected, rtol=1e-9, atol=1e-12)
