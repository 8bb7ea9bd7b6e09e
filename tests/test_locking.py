"""Volumetric locking of first-order cells is detected and reported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import BOXES, ELASTIC, box_case, box_problem
from mpi4py import MPI

from femops import load_law, notation
from femops.commands.prepare import prepare
from femops.commands.run import solve
from femops.law import LawResponse
from femops.macro.locking import LARGEST_RATIO, moduli, ratio
from femops.macro.mesh import macro_mesh
from femops.macro.problem import MacroProblem
from femops.macro.stepping import run_steps
from femops.macro.timers import Timers
from femops.meshing.box import box
from femops.meshing.writing import write_mesh
from femops.phases.j2 import J2

DIMS = pytest.mark.parametrize("dim", [2, 3])
LOCKING = "where cells of order: 1 can be much too stiff (locking); take order: 2"


def isotropic(bulk: float, shear: float) -> np.ndarray:
    """C_ijkl = (K − 2G/3) δ_ij δ_kl + G (δ_ik δ_jl + δ_il δ_jk) in Mandel notation."""
    delta = np.eye(3)
    full = (bulk - 2.0 * shear / 3.0) * np.einsum("ij,kl->ijkl", delta, delta)
    full += shear * (np.einsum("ik,jl->ijkl", delta, delta) + np.einsum("il,jk->ijkl", delta, delta))
    rows, columns = np.array(notation.PAIRS[3]).T
    factor = notation.weights(3)
    return full[rows[:, None], columns[:, None], rows, columns] * np.outer(factor, factor)


@DIMS
@pytest.mark.parametrize(("bulk", "shear"), [(4780.0, 2200.0), (1666666.7, 333.3), (1.0, 3.0)])
def test_the_ratio_of_an_isotropic_tangent_is_that_of_its_moduli(dim: int, bulk: float, shear: float) -> None:
    kept = [notation.PAIRS[3].index(pair) for pair in notation.PAIRS[dim]]  # plane strain: no strain out of plane
    found = moduli(isotropic(bulk, shear)[np.ix_(kept, kept)][None])
    for value, expected in ((found.bulk, bulk), (found.shear, shear), (found.softest, shear)):
        assert value[0] == pytest.approx(expected, rel=1e-12 * max(bulk / shear, 1.0))
    assert ratio(found.bulk, found.shear)[0] == pytest.approx(bulk / shear, rel=1e-11)


@DIMS
def test_moduli_do_not_turn_with_the_axes(dim: int) -> None:
    rng = np.random.default_rng(0)
    n_s = notation.n_strain(dim)
    tangent = rng.uniform(size=(n_s, n_s)) + 3.0 * np.eye(n_s)  # neither isotropic nor symmetric
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    basis = notation.to_tensor(np.eye(n_s))
    rotation = notation.from_tensor(turn @ basis @ turn.T).T
    one, other = moduli(tangent[None]), moduli((rotation @ tangent @ rotation.T)[None])
    for name in ("bulk", "shear", "softest"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-12)


@DIMS
def test_the_softest_modulus_of_plastic_flow_is_that_of_the_closed_form(dim: int) -> None:
    """In pure shear the stress of J2 flow grows by 2 G H/(3 G + H) with the strain, whatever the step."""
    phase = J2(K=100.0, G=40.0, yield_stress=0.5, hardening=6.0)
    shear = np.zeros((notation.n_strain(dim), 1))
    shear[-1] = 0.05
    found = moduli(phase.evaluate(shear, np.zeros((len(shear) + 1, 1))).tangent.transpose(2, 0, 1))
    assert found.softest[0] == pytest.approx(40.0 * 6.0 / (3.0 * 40.0 + 6.0), rel=1e-12)


@DIMS
def test_points_that_lock_are_those_whose_softest_modulus_says_so(dim: int) -> None:
    rng = np.random.default_rng(0)
    n_s = notation.n_strain(dim)
    part = rng.normal(size=(2000, n_s, n_s))
    tangent = 0.2 * part @ part.transpose(0, 2, 1) + np.linspace(0.0, 9.0, 2000)[:, None, None] * np.eye(n_s)
    tangent += 20.0 * rng.uniform(size=(2000, 1, 1)) * np.outer(notation.identity(dim), notation.identity(dim))
    found = moduli(tangent)
    expected = ratio(found.bulk, found.softest) > LARGEST_RATIO
    assert 100 < expected.sum() < 1900
    assert (found.lock() == expected).all()


def test_a_material_without_shear_stiffness_has_an_infinite_ratio() -> None:
    assert ratio(np.array([1.0, 1.0, 0.0]), np.array([0.0, -1.0, 0.0])).tolist() == [np.inf, np.inf, 0.0]


def ring(dim: int, order: int, poisson: float) -> MacroProblem:
    """A quarter of a thick tube of radii 1 and 2 under a pressure of 10 inside, E = 1000, in plane strain."""
    axes = [1.0, 1.0, 0.1][:dim]
    unit = box(axes, [8, 16, 1][:dim], "quad" if dim == 2 else "hexahedron")
    radius, angle = 1.0 + unit.points[:, 0], 0.5 * np.pi * unit.points[:, 1]
    points = unit.points.copy()
    points[:, 0], points[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    supports: dict[str, Any] = {"bottom": {"uy": 0.0}, "top": {"ux": 0.0}}
    if dim == 3:
        supports |= {"back": {"uz": 0.0}, "front": {"uz": 0.0}}
    material = {"law": "elastic", "E": 1000.0, "nu": poisson}
    changes = {"material": material, "supports": supports, "loads": {"left": {"pressure": 10.0}}}
    case = box_case(BOXES[dim][1], order=order, **changes)
    mesh = macro_mesh(lambda: replace(unit, points=points), dim, MPI.COMM_WORLD)
    return MacroProblem(case.analysis(), mesh, {"everywhere": load_law(material, dim=dim)}, Timers())


def lame(poisson: float, radius: float) -> float:
    """u(r) = (1 + ν)/E · p a²/(b² − a²) · ((1 − 2ν) r + b²/r)."""
    return (1.0 + poisson) / 1000.0 * 10.0 / 3.0 * ((1.0 - 2.0 * poisson) * radius + 4.0 / radius)


def widening(problem: MacroProblem) -> float:
    """Mean displacement of the nodes inside along the radius."""
    problem.solve(1.0, 1.0)
    moved = problem.mean_displacement_of("bottom"), problem.mean_displacement_of("top")
    return float(0.5 * (moved[0][0] + moved[1][1]))


@DIMS
@pytest.mark.parametrize("poisson", [0.4999, 0.3])
def test_a_tube_under_pressure_is_noted_where_it_locks(dim: int, poisson: float) -> None:
    first, second = ring(dim, 1, poisson), ring(dim, 2, poisson)
    assert second.locking.notes() == ()
    nodes = np.linspace(1.0, 2.0, 9), np.linspace(1.0, 2.0, 17)
    expected = [np.mean([lame(poisson, r) for r in one]) for one in nodes]
    assert widening(second) == pytest.approx(expected[1], rel=0.01)
    if poisson == 0.3:
        assert first.locking.notes() == ()
        assert widening(first) == pytest.approx(expected[0], rel=0.02)
    else:  # K/G = 2 (1 + ν)/(3 (1 − 2ν))
        assert first.locking.notes() == (f"the body: K/G = 5000 is above 20, {LOCKING}",)
        assert widening(first) < 0.3 * expected[0]


class Nameless:
    """J2 plasticity that does not tell which parts of its state are plastic strains."""

    def __init__(self, hardening: float, dim: int) -> None:
        self.law = load_law(flowing(hardening), dim=dim)
        self.strain_measure, self.dim, self.n_state = self.law.strain_measure, dim, self.law.n_state
        self.state_fields: dict[str, slice] = {}

    def evaluate(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
        return self.law.evaluate(strain, state, dt)


def flowing(hardening: float) -> dict[str, Any]:
    return {"law": "j2", "E": 100.0, "nu": 0.3, "yield_stress": 0.4, "hardening": hardening}


def stretched(dim: int, law: Any, largest: float, **changes: Any) -> MacroProblem:
    """A box of one cell that is stretched and unloaded."""
    loads = {"right": {"displacement": {"ux": [[0, 0], [1, largest], [2, 0.9 * largest]]}}}
    case = box_case(BOXES[dim][1], loads=loads, steps={"count": 2, "end": 2.0}, **changes)
    unit = box([1.0] * dim, [1] * dim, "quad" if dim == 2 else "hexahedron")
    problem = MacroProblem(
        case.analysis(), macro_mesh(lambda: unit, dim, MPI.COMM_WORLD), {"everywhere": law}, Timers()
    )
    assert problem.locking.notes() == ()
    list(run_steps(problem))
    return problem


@DIMS
def test_plastic_flow_is_noted_after_it_came(dim: int) -> None:
    law = load_law(flowing(1.0), dim=dim)
    line = f"the body: 100% of the points flow plastically, {LOCKING}"
    assert stretched(dim, law, 0.01).locking.notes() == (line,)
    assert stretched(dim, law, 0.003).locking.notes() == ()  # E ε below the yield stress
    assert stretched(dim, law, 0.01, order=2).locking.notes() == ()


@DIMS
def test_flow_that_a_law_does_not_tell_is_found_in_its_tangent(dim: int) -> None:
    """K/softest = K (3G + H)/(G H): 252 with little hardening, 7 with much."""
    line = f"the body: K/G of the tangent is above 20 at 100% of the points, {LOCKING}"
    assert stretched(dim, Nameless(1.0, dim), 0.01).locking.notes() == (line,)
    assert stretched(dim, Nameless(50.0, dim), 0.01).locking.notes() == ()


SOFT = {"law": "elastic", "E": 1.0, "nu": 0.499}
LAYERS = [["matrix", 0.5], ["fibre", 0.5]]


@pytest.mark.parametrize(
    ("dim", "cell", "matrix", "what"),
    [
        (2, "quad", SOFT, "K/G = 499.7 of matrix is above 20, where quad cells {}; take quad8 cells"),
        (3, "tetra", SOFT, "K/G = 499.7 of matrix is above 20, where tetra cells {}; take tetra10 cells"),
        (2, "triangle", flowing(1.0), "matrix flows plastically, where triangle cells {}; take triangle6 cells"),
        (2, "quad8", SOFT, ""),
        (2, "quad", ELASTIC, ""),
    ],
)
def test_linear_cells_of_an_rve_are_noted_too(dim: int, cell: str, matrix: Any, what: str) -> None:
    size = [1.0] * dim
    layers = {"laminate": {"size": size, "phases": LAYERS, "mesh_size": 0.5, "cell": cell}}
    law = load_law({"law": "nested", "rve": {**layers, "phases": {"matrix": matrix, "fibre": ELASTIC}}}, dim=dim)
    unit = box([1.0] * dim, [1] * dim, "quad" if dim == 2 else "hexahedron")
    mesh = macro_mesh(lambda: unit, dim, MPI.COMM_WORLD)
    problem = MacroProblem(box_case(BOXES[dim][1], order=2).analysis(), mesh, {"everywhere": law}, Timers())
    line = f"RVE of everywhere: {what.format('can be much too stiff (locking)')}"
    assert problem.locking.notes() == ((line,) if what else ())


def test_an_rve_of_one_phase_is_strained_alike_everywhere_and_cannot_lock() -> None:
    rve = {"homogeneous": {"phase": "matrix"}, "phases": {"matrix": SOFT}}
    problem = box_problem("quadrilateral", cells=1, order=2, material={"law": "nested", "rve": rve})
    assert problem.locking.notes() == ()


def test_notes_before_and_after_a_run_reach_its_summary(tmp_path: Path) -> None:
    """The elastic half is known to lock before anything is solved, the other half flows on the way."""
    mesh = box([2.0, 1.0], [2, 1], "quad")
    write_mesh(replace(mesh, regions={"soft": np.array([0]), "hard": np.array([1])}), tmp_path / "two.msh")
    case = box_case(
        "quadrilateral",
        mesh={"file": "two.msh"},
        material={"soft": SOFT, "hard": flowing(1.0)},
        loads={"right": {"displacement": {"ux": 1.0}}},
        output={"fields": ["displacement"]},
    )
    ready = prepare(case, tmp_path / "case.yaml", MPI.COMM_WORLD)
    before = f"soft: K/G = 499.7 is above 20, {LOCKING}"
    assert ready.notes == (before,)
    summary = solve(ready, tmp_path / "case.yaml", tmp_path / "results")
    assert summary["notes"] == (before, f"hard: 100% of the points flow plastically, {LOCKING}")
