"""The macroscale host in a program, without a case file."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import BOXES, ELASTIC, SATURATING, box_problem
from mpi4py import MPI

from femops import CaseError, load_law
from femops.macro.analysis import Analysis, Displacement, Load, Steps
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
    assert [report.t for report in run_steps(problem)] == [0.5, 1.0]
    bulk, shear = ELASTIC["K"], ELASTIC["G"]
    young, nu = 9.0 * bulk * shear / (3.0 * bulk + shear), (3.0 * bulk - 2.0 * shear) / (6.0 * bulk + 2.0 * shear)
    along, across = (1.0, -nu) if dim == 3 else (1.0 - nu**2, -nu * (1.0 + nu))
    expected = 300.0 / young * np.array([along, *[across] * (dim - 1), *[0.0] * (1 if dim == 2 else 3)])
    strain = problem.quadrature.strain()
    np.testing.assert_allclose(strain, np.broadcast_to(expected, strain.shape), atol=1e-14)
    np.testing.assert_allclose(problem.reaction_on("left")[0], -300.0, rtol=1e-12)


@pytest.mark.parametrize("cell", ["triangle", "hexahedron"])
def test_a_program_and_a_case_give_the_same_bits(cell: str) -> None:
    dim = 2 if cell in BOXES[2] else 3
    of_case = box_problem(
        cell, material=SATURATING, steps={"count": 2}, loads={"right": {"displacement": {"ux": "0.1 * t"}}}
    )
    run_steps(of_case)
    supports = {"left": Displacement(ux=0.0), "bottom": Displacement(uy=0.0), "back": Displacement(uz=0.0)}
    supports = {name: one for name, one in supports.items() if dim == 3 or name != "back"}
    pulled = {"right": Load(displacement=Displacement(ux=lambda t: 0.1 * t))}
    mesh = macro_mesh(lambda: box([1.0] * dim, [3] * dim, cell), dim, MPI.COMM_WORLD)  # type: ignore[arg-type]
    law = load_law(SATURATING, dim=dim)
    problem = MacroProblem(Analysis(supports, pulled, Steps([0.5, 1.0])), mesh, {"everywhere": law})
    run_steps(problem)
    np.testing.assert_array_equal(problem.displacement.x.array, of_case.displacement.x.array)


def test_a_name_that_the_mesh_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(CaseError, match=r"^loads\.rigth: the mesh has no boundary 'rigth'; it has: left, right"):
        bar(2, loads={"rigth": Load(pressure=1.0)})


def test_a_load_that_is_not_defined_at_a_time_says_so() -> None:
    def broken(t: float) -> float:
        raise ValueError(f"no load at t = {t:g}")

    with pytest.raises(CaseError, match=r"no load at t = 1"):
        bar(2, loads={"right": Load(pressure=broken)}).solve(1.0, 1.0)


def test_the_program_of_the_page_runs() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(PROGRAM, {})
    *steps, last = printed.getvalue().splitlines()
    assert [line.split()[0] for line in steps] == ["0.25", "0.5", "0.75", "1.0"]
    force = np.array(last.partition("] [")[2].rstrip("]").split(), dtype=float)
    np.testing.assert_allclose(force, [0.0, -2.0], atol=1e-6)


@pytest.mark.mpi
def test_the_program_of_the_page_loads_no_case_and_runs_on_two_ranks() -> None:
    loaded = "import sys; assert not [name for name in sys.modules if name.startswith('femops.inputs')]"
    command = [str(Path(sys.executable).parent / "mpirun"), "-n", "2", sys.executable, "-c", f"{PROGRAM}\n{loaded}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 10
