"""The macroscale problem: patch tests, convergence rates, Newton, agreement with UFL, reactions, stepping."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ufl
from dolfinx import fem
from dolfinx.fem import petsc as fem_petsc
from helpers import BOXES, ELASTIC, SATURATING, box_case, box_problem
from mpi4py import MPI

from femops import CaseError, NotConverged, load_law, notation
from femops.commands.run import run_case
from femops.law import LawResponse
from femops.macro.mesh import macro_mesh
from femops.macro.problem import MacroProblem
from femops.macro.stepping import run_steps
from femops.macro.timers import Timers
from femops.meshing.box import box
from femops.meshing.writing import write_mesh

ALL_CELLS = [*BOXES[2], *BOXES[3]]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("cell", ALL_CELLS)
def test_uniform_strain_is_exact_on_distorted_cells(cell: str, order: int, tmp_path: Path) -> None:
    dim = 2 if cell in BOXES[2] else 3
    kind = {"quadrilateral": "quad", "tetrahedron": "tetra"}.get(cell, cell)
    mesh = box([1.0] * dim, [3] * dim, kind)
    points = mesh.points.copy()
    inside = ((points > 1e-9) & (points < 1 - 1e-9)).all(axis=1)
    points[inside] += np.random.default_rng(0).uniform(-0.06, 0.06, (int(inside.sum()), dim))
    write_mesh(replace(mesh, points=points), tmp_path / "distorted.msh")
    problem = box_problem(cell, tmp_path, order=order, mesh={"file": "distorted.msh"})
    problem.solve(1.0, 1.0)
    young, poisson = _young_and_poisson()
    lateral = -poisson / (1.0 - poisson) if dim == 2 else -poisson
    expected = np.zeros(notation.n_strain(dim))
    expected[:dim] = [0.01, *[0.01 * lateral] * (dim - 1)]
    assert np.abs(problem.quadrature.strain() - expected).max() < 1e-12
    modulus = young / (1.0 - poisson**2) if dim == 2 else young
    assert problem.reaction_on("right")[0] == pytest.approx(0.01 * modulus, rel=1e-11)


def _young_and_poisson() -> tuple[float, float]:
    bulk, shear = ELASTIC["K"], ELASTIC["G"]
    return 9 * bulk * shear / (3 * bulk + shear), (3 * bulk - 2 * shear) / (2 * (3 * bulk + shear))


def _weight_error(cell: str, cells: int, order: int) -> float:
    """Error of the strain of a column under its own weight: ε_11 = b (1 − x)/M with M the oedometer modulus."""
    dim = 2 if cell in BOXES[2] else 3
    sides = {"bottom": {"uy": 0.0}, "top": {"uy": 0.0}}
    if dim == 3:
        sides |= {"back": {"uz": 0.0}, "front": {"uz": 0.0}}
    problem = box_problem(
        cell,
        cells=cells,
        order=order,
        supports={"left": {"ux": 0.0}, **sides},
        loads={"everywhere": {"body_force": [100.0, *[0.0] * (dim - 1)]}},
    )
    problem.solve(1.0, 1.0)
    modulus = ELASTIC["K"] + 4.0 / 3.0 * ELASTIC["G"]
    error = problem.quadrature.strain()
    error[:, 0] -= 100.0 / modulus * (1.0 - problem.quadrature.coordinates()[:, 0])
    weights = problem.quadrature.weights()
    return float(np.sqrt(weights @ (error**2).sum(1)) / (100.0 / modulus))


@pytest.mark.parametrize("cell", ["quadrilateral", "hexahedron"])
def test_strain_converges_with_the_order_of_the_cells(cell: str) -> None:
    sizes = np.array([2, 4, 8])
    errors = [_weight_error(cell, int(n), 1) for n in sizes]
    rate = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert rate == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("cell", ALL_CELLS)
def test_second_order_cells_hold_a_quadratic_displacement(cell: str) -> None:
    assert _weight_error(cell, 2, 2) < 1e-12


@pytest.mark.parametrize("cell", ALL_CELLS)
def test_law_in_quadrature_spaces_equals_the_same_law_in_ufl(cell: str) -> None:
    problem = box_problem(cell, cells=2, material=SATURATING, loads={"right": {"displacement": {"ux": 0.05}}})
    u, v = problem.displacement, ufl.TestFunction(problem.displacement.function_space)
    u.x.array[:] = np.random.default_rng(1).uniform(-0.02, 0.02, len(u.x.array))
    problem.evaluate(1.0)
    dim = problem.dim
    strain = ufl.variable(ufl.sym(ufl.grad(u)))
    squared = ufl.inner(strain, strain) - ufl.tr(strain) ** 2 / 3
    n = ufl.sqrt(squared)
    psi = 0.5 * SATURATING["K"] * ufl.tr(strain) ** 2
    psi += SATURATING["alpha1"] * (n - SATURATING["alpha2"] * ufl.ln(1 + n / SATURATING["alpha2"]))
    residual = ufl.inner(ufl.diff(psi, strain), ufl.sym(ufl.grad(v))) * problem.quadrature.measure
    jacobian = ufl.derivative(residual, u)
    expected = fem_petsc.assemble_vector(fem.form(residual)).array
    found = fem_petsc.assemble_vector(problem._internal).array
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()
    expected_matrix = fem_petsc.assemble_matrix(fem.form(jacobian))
    found_matrix = fem_petsc.assemble_matrix(problem._jacobian)
    for matrix in (expected_matrix, found_matrix):
        matrix.assemble()
    scale = expected_matrix.norm()
    expected_matrix.axpy(-1.0, found_matrix)
    assert expected_matrix.norm() < 1e-12 * scale
    assert dim == notation.dimension(problem.material.stress.shape[1])


@pytest.mark.parametrize("material", [SATURATING, {"law": "j2", "E": 100.0, "nu": 0.3, "yield_stress": 0.4}])
def test_jacobian_is_the_derivative_of_the_residual(material: dict[str, object]) -> None:
    problem = box_problem("quadrilateral", material=material)
    u = problem.displacement
    rng = np.random.default_rng(2)
    base = rng.uniform(-0.02, 0.02, len(u.x.array))
    direction = rng.uniform(-1.0, 1.0, len(base))

    def residual(length: float) -> np.ndarray:
        u.x.array[:] = base + length * direction
        problem.evaluate(1.0)
        return fem_petsc.assemble_vector(problem._internal).array.copy()

    start = residual(0.0)
    matrix = fem_petsc.assemble_matrix(problem._jacobian)
    matrix.assemble()
    vector = matrix.createVecRight()
    vector.array[:] = direction
    slope = (matrix * vector).array.copy()
    lengths = 1e-4 * 0.5 ** np.arange(5)
    remainders = [np.linalg.norm(residual(h) - start - h * slope) for h in lengths]
    rate = np.polyfit(np.log(lengths), np.log(remainders), 1)[0]
    assert rate == pytest.approx(2.0, abs=0.1)


def test_newton_converges_quadratically() -> None:
    supports = {"left": {"ux": 0.0, "uy": 0.0}}
    loads = {"right": {"traction": [0.0, 12.0]}}
    problem = box_problem("quadrilateral", cells=6, material=SATURATING, supports=supports, loads=loads)
    residuals = np.array(problem.solve(1.0, 1.0).residuals)
    tail = residuals[(residuals < 0.1) & (residuals > 1e-11)]
    assert len(tail) >= 3
    orders = np.diff(np.log(tail[1:])) / np.diff(np.log(tail[:-1]))
    assert orders[-1] > 1.8


@pytest.mark.parametrize("cell", ["triangle", "hexahedron"])
def test_reactions_balance_traction_pressure_and_weight(cell: str) -> None:
    dim = 2 if cell in BOXES[2] else 3
    problem = box_problem(
        cell,
        supports={"left": {axis: 0.0 for axis in ("ux", "uy", "uz")[:dim]}},
        loads={
            "right": {"traction": [3.0, 1.0, 0.5][:dim]},
            "top": {"pressure": 7.0},
            "everywhere": {"body_force": [0.0, 2.0, 0.0][:dim]},
        },
    )
    problem.solve(1.0, 1.0)
    expected = -np.array([3.0, 1.0 - 7.0 + 2.0, 0.5])[:dim]
    assert problem.reaction_on("left") == pytest.approx(expected, rel=1e-9)


def test_each_region_has_its_own_law(tmp_path: Path) -> None:
    mesh = box([2.0, 1.0], [4, 2], "quad")
    soft = np.flatnonzero(mesh.points[mesh.cells].mean(axis=1)[:, 0] < 1.0)
    hard = np.setdiff1d(np.arange(len(mesh.cells)), soft)
    write_mesh(replace(mesh, regions={"soft": soft, "hard": hard}), tmp_path / "two.msh")
    material = {"soft": {"law": "elastic", "E": 1.0, "nu": 0.0}, "hard": {"law": "elastic", "E": 3.0, "nu": 0.0}}
    problem = box_problem("quadrilateral", tmp_path, mesh={"file": "two.msh"}, material=material)
    problem.solve(1.0, 1.0)
    # two springs in series: the soft half takes three quarters of the extension
    assert problem.reaction_on("right")[0] == pytest.approx(0.01 / (1.0 + 1.0 / 3.0), rel=1e-10)


class _Brittle:
    """Elastic, but refuses increments of strain above a limit: forces cutbacks."""

    def __init__(self, limit: float) -> None:
        law = load_law(ELASTIC)
        self.strain_measure, self.dim, self.inner = law.strain_measure, law.dim, law
        self.n_state, self.state_fields, self.limit = 3, {}, limit

    def evaluate(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
        if np.abs(strain - state).max(initial=0.0) > self.limit:
            raise NotConverged("increment too large")
        answer = self.inner.evaluate(strain, state[:, :0], dt)
        return replace(answer, state=strain.copy())


def _brittle_problem(limit: float, **changes: object) -> MacroProblem:
    case = box_case("quadrilateral", **changes)
    mesh = macro_mesh(lambda: box([1.0, 1.0], [2, 2], "quad"), 2, MPI.COMM_WORLD)
    return MacroProblem(case.analysis(), mesh, {"everywhere": _Brittle(limit)}, Timers())


def test_steps_are_cut_back_and_grow_again() -> None:
    problem = _brittle_problem(0.003, steps={"count": 2, "end": 2.0})
    reports = list(run_steps(problem))
    assert [report.t for report in reports] == [1.0, 2.0]
    assert reports[0].cutbacks >= 2
    assert reports[0].increments >= 4
    assert problem.mean_displacement_of("right")[0] == pytest.approx(0.02, rel=1e-12)


class _Stiffening(_Brittle):
    """Refuses increments above the limit only while it has not been strained by more than that."""

    def evaluate(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
        limit = self.limit if np.abs(state).max(initial=0.0) <= self.limit else np.inf
        if np.abs(strain - state).max(initial=0.0) > limit:
            raise NotConverged("increment too large")
        return replace(self.inner.evaluate(strain, state[:, :0], dt), state=strain.copy())


def test_increments_grow_by_half_after_each_that_was_easy() -> None:
    case = box_case("quadrilateral", steps={"count": 1, "end": 1.0})
    mesh = macro_mesh(lambda: box([1.0, 1.0], [2, 2], "quad"), 2, MPI.COMM_WORLD)
    problem = MacroProblem(case.analysis(), mesh, {"everywhere": _Stiffening(0.001)}, Timers())  # a step of 0.01
    times = []
    reports = list(run_steps(problem, lambda number, t, iteration, residual: times.append(t)))
    length = 1.0 / 16  # the first half of a half that is short enough
    expected = [length * sum(1.5**i for i in range(n)) for n in range(1, 6)]
    assert sorted(set(times)) == pytest.approx([*expected, 1.0])
    assert (reports[0].increments, reports[0].cutbacks) == (6, 4)


def test_hopeless_steps_say_where_and_leave_the_last_state() -> None:
    problem = _brittle_problem(1e-9, steps={"count": 2, "end": 2.0})
    with pytest.raises(NotConverged, match=r"step 1 stopped at t = 0 after \d+ cutbacks: .*increment too large"):
        list(run_steps(problem))
    assert np.abs(problem.displacement.x.array).max() == 0.0


class _Doubtful:
    """Elastic, and states an error at every point."""

    def __init__(self, error: float, *, valid: bool = True) -> None:
        law = load_law(ELASTIC)
        self.strain_measure, self.dim, self.inner = law.strain_measure, law.dim, law
        self.n_state, self.state_fields, self.error, self.valid = 0, {}, error, valid

    def evaluate(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
        answer = self.inner.evaluate(strain, state, dt)
        return replace(answer, error=np.full(len(strain), self.error), valid=np.full(len(strain), self.valid))


def _trusting(law: _Doubtful, on_violation: str) -> MacroProblem:
    case = box_case("quadrilateral", trust={"tolerance": 1e-3, "on_violation": on_violation})
    mesh = macro_mesh(lambda: box([1.0, 1.0], [2, 2], "quad"), 2, MPI.COMM_WORLD)
    return MacroProblem(case.analysis(), mesh, {"everywhere": law}, Timers())


def test_an_error_above_the_tolerance_stops_the_step() -> None:
    with pytest.raises(NotConverged, match=r"exceeds trust\.tolerance at 16 points"):
        _trusting(_Doubtful(2e-3), "stop").solve(1.0, 1.0)


def test_an_error_above_the_tolerance_is_counted_where_the_case_only_wants_a_warning() -> None:
    problem = _trusting(_Doubtful(2e-3), "warn")
    problem.solve(1.0, 1.0)
    assert problem.material.statistics.points_above_tolerance >= 16
    assert problem.material.statistics.largest_error == pytest.approx(2e-3)


def test_an_invalid_answer_stops_the_step() -> None:
    with pytest.raises(NotConverged, match="invalid at 16 points"):
        _trusting(_Doubtful(0.0, valid=False), "stop").solve(1.0, 1.0)


class _Broken(_Doubtful):
    """Answers NaN beyond a strain."""

    def evaluate(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
        answer = self.inner.evaluate(strain, state, dt)
        return replace(answer, stress=np.where(np.abs(strain).max() > 1e-4, np.nan, answer.stress))


def test_an_answer_that_is_no_number_never_converges() -> None:
    with pytest.raises(NotConverged, match="law of everywhere: stress is not finite at 16 of 16 points"):
        _trusting(_Broken(0.0), "warn").solve(1.0, 1.0)


def test_an_error_that_is_no_number_counts_as_invalid() -> None:
    with pytest.raises(NotConverged, match="invalid at 16 points"):
        _trusting(_Doubtful(np.nan), "stop").solve(1.0, 1.0)


def test_a_law_of_another_dimension_is_refused() -> None:
    mesh = macro_mesh(lambda: box([1.0, 1.0], [2, 2], "quad"), 2, MPI.COMM_WORLD)
    law = {"everywhere": load_law(ELASTIC, dim=3)}
    with pytest.raises(CaseError, match="the law is 3D, expected 2D"):
        MacroProblem(box_case("quadrilateral").analysis(), mesh, law, Timers())


RVE = {
    "circles": {"circles": [{"center": [0.0, 0.0], "radius": 0.25}], "mesh_size": 0.2, "cell": "triangle"},
    "phases": {"matrix": SATURATING, "fibre": ELASTIC},
}


def test_a_step_without_load_is_solved_though_the_law_answers_round_off_to_no_strain() -> None:
    class Rounding(_Stiffening):
        def evaluate(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
            answer = super().evaluate(strain, state, dt)
            noise = 1e-45 * np.random.default_rng(0).standard_normal(strain.shape)
            return replace(answer, stress=answer.stress + noise)

    loads = {"right": {"displacement": {"ux": [[0.0, 0.0], [0.5, 0.0], [1.0, 0.01]]}}}
    case = box_case("quadrilateral", steps={"count": 2, "end": 1.0}, loads=loads)
    mesh = macro_mesh(lambda: box([1.0, 1.0], [2, 2], "quad"), 2, MPI.COMM_WORLD)
    problem = MacroProblem(case.analysis(), mesh, {"everywhere": Rounding(1.0)}, Timers())
    reports = list(run_steps(problem))
    assert [report.cutbacks for report in reports] == [0, 0]
    assert problem.mean_displacement_of("right")[0] == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("material", [SATURATING, {"law": "nested", "rve": RVE}], ids=["closed", "nested"])
@pytest.mark.parametrize("by", ["displacement", "traction"])
def test_a_body_unloads_to_zero(material: dict[str, object], by: str) -> None:
    history = [[0, 0.0], [1, 0.01 if by == "displacement" else 8.0], [2, 0.0]]
    load = {"displacement": {"ux": history}} if by == "displacement" else {"traction": [history, 0.0]}
    problem = box_problem("quadrilateral", cells=2, material=material, loads={"right": load})
    problem.solve(1.0, 1.0)
    largest = np.abs(problem.displacement.x.array).max()
    report = problem.solve(2.0, 1.0)
    assert report.iterations <= 5
    assert np.abs(problem.displacement.x.array).max() < 1e-9 * largest


def test_pressure_inside_the_body_is_refused(tmp_path: Path) -> None:
    mesh = box([2.0, 1.0], [2, 1], "quad")
    middle = np.array([[i for i, x in enumerate(mesh.points) if x[0] == 1.0]])
    write_mesh(replace(mesh, boundaries={**mesh.boundaries, "middle": middle}), tmp_path / "middle.msh")
    with pytest.raises(CaseError, match=r"loads\.middle: lies inside the body"):
        box_problem("quadrilateral", tmp_path, mesh={"file": "middle.msh"}, loads={"middle": {"pressure": 1.0}})


def test_boundaries_that_meet_must_agree() -> None:
    problem = box_problem(
        "quadrilateral", loads={"right": {"displacement": {"ux": "t"}}, "top": {"displacement": {"ux": 0.0}}}
    )
    with pytest.raises(CaseError, match=r"ux of top is 0 and ux of left is 0|share nodes"):
        problem.solve(1.0, 1.0)


def test_only_prescribed_components_have_reactions() -> None:
    with pytest.raises(CaseError, match=r"quantities\.force: 'left' has no reaction along y"):
        box_problem("quadrilateral", quantities={"force": {"reaction": "left", "component": "y"}})


def test_one_law_for_all_does_not_mix_with_regions() -> None:
    with pytest.raises(ValueError, match="'everywhere' and named regions given"):
        box_case("quadrilateral", material={"everywhere": ELASTIC, "domain": ELASTIC})


@pytest.mark.mpi
def test_a_failure_on_one_rank_is_seen_by_all(tmp_path: Path) -> None:
    script = tmp_path / "fail.py"
    script.write_text(
        "import femops\n"
        "from mpi4py import MPI\n"
        "from femops.parallel import on_every_rank\n"
        "def work():\n"
        "    if MPI.COMM_WORLD.rank == 1:\n"
        "        raise femops.CaseError('only here', key='law')\n"
        "try:\n"
        "    on_every_rank(MPI.COMM_WORLD, work)\n"
        "except femops.CaseError as error:\n"
        "    print('seen:', error, flush=True)\n"
    )
    command = [str(Path(sys.executable).parent / "mpirun"), "-n", "2", sys.executable, str(script)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert output.count("only here") == 2


@pytest.mark.parametrize("material", [ELASTIC, SATURATING], ids=["elastic", "saturating"])
def test_a_rigid_motion_is_in_equilibrium(material: dict[str, object]) -> None:
    problem = box_problem("quadrilateral", material=material, supports={"left": {"ux": 0.1, "uy": 0.2}}, loads={})
    problem.solve(1.0, 1.0)
    assert np.abs(problem.material.stress).max() < 1e-8
    assert problem.mean_displacement_of("right") == pytest.approx([0.1, 0.2], rel=1e-12)


def test_a_singular_stiffness_is_cut_back_and_named(tmp_path: Path) -> None:
    supports = {"left": {"ux": 0.0, "uy": 0.0, "uz": 0.0}}
    changes = {"supports": supports, "order": 2, "quadrature_degree": 0, "steps": {"count": 1, "smallest": 0.4}}
    problem = box_problem("tetrahedron", cells=2, loads={"right": {"traction": [1.0, 0.0, 0.0]}}, **changes)
    with pytest.raises(NotConverged, match="step 1 stopped at t = 0"):
        list(run_steps(problem))


def test_a_run_that_cannot_begin_leaves_the_earlier_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, path, folder = (
        box_case("quadrilateral", output={"picture": None}),
        tmp_path / "box.yaml",
        tmp_path / "results",
    )
    path.touch()
    run_case(case, path, folder, MPI.COMM_WORLD)
    before = {one.name for one in folder.iterdir()}

    def broken(*_: object) -> None:
        raise CaseError("no room")

    monkeypatch.setattr("femops.commands.run.Results", broken)
    with pytest.raises(CaseError, match="no room"):
        run_case(case, path, folder, MPI.COMM_WORLD)
    assert {one.name for one in folder.iterdir()} == before
