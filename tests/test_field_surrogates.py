"""Stress and error bounds of predicted fields, and batched solvers that correct them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg

from femops import CaseError
from femops.devices.torch_library import Tensor, torch
from femops.meshing.box import grid
from femops.notation import Array
from femops.phases import Phase
from femops.phases.elastic import Elastic
from femops.phases.j2 import J2
from femops.phases.saturating import Saturating
from femops.rve.discretisation import discretise
from femops.rve.geometry.generators import Circle, Circles, Homogeneous, Laminate, generate
from femops.rve.solver import RVESolver
from femops.rve.spec import RVE
from femops.surrogate.exact import ExactRVE
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.homogeneous import homogeneous_solver, homogeneous_stiffness
from femops.surrogate.fields.hyperelastic import HyperelasticFields
from femops.surrogate.fields.linear import LinearFields, stress_error_bound
from femops.surrogate.fields.multigrid import Multigrid, galerkin, grid_prolongations, periodic_grid

MATRIX = Elastic(4.0, 2.0)
SOFTENING = Saturating(4780.0, 50.0, 0.06)
STIFF = Elastic(43452.381, 29918.033)
NAMES = ("matrix", "fibre")


def grid_rve(
    seed: int,
    cells: int = 8,
    cell: str = "quad",
    phases: Sequence[Phase] | None = None,
    size: Sequence[float] | None = None,
) -> RVE:
    """A periodic grid whose cells are fibre where they are in one of three random balls."""
    dim = 3 if cell in ("tetra", "hexahedron") else 2
    mesh = grid([np.linspace(-0.5, 0.5, cells + 1)] * dim, cell)
    away = mesh.points[mesh.cells].mean(1)[:, None] - np.random.default_rng(seed).uniform(-0.5, 0.5, (3, dim))
    inside = (np.linalg.norm(away - np.rint(away), axis=2) < 0.25).any(1)
    regions = {"matrix": np.flatnonzero(~inside), "fibre": np.flatnonzero(inside)}
    points = mesh.points if size is None else mesh.points * np.array(size)
    mesh = replace(mesh, points=points, regions=regions, boundaries={})
    return RVE(discretise(mesh, NAMES), tuple(phases or (MATRIX, Elastic(400.0, 200.0))), "periodic")


def circle_rve(phases: Sequence[Phase] = (MATRIX, Elastic(40.0, 60.0)), names: Sequence[str] = NAMES) -> RVE:
    circle = Circle(center=(0.1, 0.05), radius=0.3)
    mesh = generate(Circles(circles=[circle], mesh_size=0.2, cell="triangle6"))
    return RVE(discretise(mesh, tuple(names)), tuple(phases), "periodic")


def laminate_rve() -> RVE:
    mesh = generate(Laminate(phases=[("matrix", 0.5), ("fibre", 0.5)], mesh_size=0.3, cell="tetra"))
    return RVE(discretise(mesh, NAMES), (MATRIX, Elastic(7.0, 90.0)), "periodic")


RVES = {
    "quad": lambda: grid_rve(0),
    "wide quad": lambda: grid_rve(0, size=(3.0, 1.0)),
    "triangle6": circle_rve,
    "hexahedron": lambda: grid_rve(1, 4, "hexahedron"),
    "tetra": laminate_rve,
    "kinematic quad": lambda: replace(grid_rve(0), boundary="kinematic"),
    "kinematic triangle6": lambda: replace(circle_rve(), boundary="kinematic"),
    "kinematic hexahedron": lambda: replace(grid_rve(1, 4, "hexahedron"), boundary="kinematic"),
}


def solved(rve: RVE, space: FluctuationSpace) -> tuple[Tensor, Array, Array | None]:
    """The exact fields, homogenized tangent and row of stress_33 of an RVE of linear phases."""
    solver = RVESolver(rve.discretisation, rve.phases, rve.boundary)
    unit = np.eye(rve.discretisation.n_s)
    solution = solver.solve(unit, solver.virgin_state(len(unit)))
    fields = space.from_free(solution.fluctuation)
    return as_fields(space, fields), solution.stress, solution.stress_33


def as_fields(space: FluctuationSpace, fields: Array) -> Tensor:
    return torch.as_tensor(fields).reshape(1, space.n_nodes, space.discretisation.dim, -1)


def random_fields(like: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


@pytest.mark.parametrize("kind", RVES)
def test_fields_of_a_nested_solve_give_its_answer(kind: str) -> None:
    rve = RVES[kind]()
    problem = LinearFields.of([rve])
    fields, tangent, row_33 = solved(rve, problem.space)
    np.testing.assert_allclose(problem.homogenized(fields)[0], tangent, rtol=0, atol=1e-12 * tangent.max())
    assert problem.residual(fields).norm() < 1e-12 * problem.load.norm()
    answer = problem.row_33(fields)
    if row_33 is None:
        assert answer is None
    else:
        np.testing.assert_allclose(answer[0], row_33, rtol=0, atol=1e-11 * row_33.max())


@pytest.mark.parametrize("kind", RVES)
def test_any_values_are_a_periodic_field_of_zero_mean_that_leaves_the_mean_strain(kind: str) -> None:
    space = FluctuationSpace(RVES[kind]())
    rve = space.discretisation
    values = np.random.default_rng(0).normal(size=(space.n_dofs, 2))
    field = space.centred(values)
    nodal = field.reshape(space.n_nodes, rve.dim, 2)[space.node_of]
    lower, upper = rve.mesh.bounds
    for axis in range(rve.dim):
        faces = [np.flatnonzero(np.isclose(rve.mesh.points[:, axis], end[axis])) for end in (lower, upper)]
        low, high = (face[np.lexsort(np.delete(rve.mesh.points[face], axis, 1).round(6).T)] for face in faces)
        np.testing.assert_array_equal(nodal[low], nodal[high])
    basis, _ = rve.mesh.kind.tabulate(rve.mesh.kind.quadrature()[0])
    mean = np.einsum("cq,qa,caik->ik", rve.weight, basis, nodal[rve.mesh.cells])
    np.testing.assert_allclose(mean, 0.0, atol=1e-13)
    strain = (space.gradient @ field).reshape(rve.n_s, -1, 2)
    np.testing.assert_allclose(np.einsum("sgk,g->sk", strain, rve.weight.ravel()), 0.0, atol=1e-12)
    np.testing.assert_allclose(space.from_free(space.to_free(values)), field, atol=1e-14)


def test_the_quadratic_form_is_the_one_of_the_strains_at_the_points() -> None:
    rve = grid_rve(0)
    problem = LinearFields.of([rve])
    fields = random_fields(problem.load)
    found = np.zeros((3, 3))
    flat = FluctuationSpace(rve).gradient @ fields.reshape(-1, 3).numpy()
    strain = flat.reshape(3, -1, 3) + np.eye(3)[:, None]
    for position, phase in enumerate(rve.phases):
        part = rve.discretisation.points_of_phase(position)
        weight = rve.discretisation.weight[rve.discretisation.cells_of_phase[position]].ravel()
        tangent = phase.evaluate(np.eye(3), np.zeros((0, 3))).tangent[:, :, 0]
        found += np.einsum("sgk,st,tgl,g->kl", strain[:, part], tangent, strain[:, part], weight)
    np.testing.assert_allclose(problem.homogenized(fields)[0], found, rtol=1e-12)
    single = LinearFields.of([rve], dtype=torch.float32).homogenized(fields.float())
    np.testing.assert_allclose(single[0], found, rtol=1e-5)


def test_the_derivative_of_the_quadratic_form_is_exact() -> None:
    problem = LinearFields.of([grid_rve(0, 4), grid_rve(1, 4)])
    fields = random_fields(problem.load).requires_grad_()
    assert torch.autograd.gradcheck(problem.homogenized, fields)


def test_a_batch_answers_as_each_of_its_microstructures_alone() -> None:
    rves = [grid_rve(seed, phases=(Elastic(1.0 + seed, 2.0), Elastic(50.0, 30.0 * seed))) for seed in range(1, 4)]
    batch = LinearFields.of(rves)
    fields = random_fields(batch.load)
    for i, rve in enumerate(rves):
        space = FluctuationSpace(rve)  # with its cells sorted by phase
        alone = LinearFields.of([rve])
        assert not np.array_equal(space.cells, batch.space.cells)
        torch.testing.assert_close(alone.homogenized(fields[i : i + 1])[0], batch.homogenized(fields)[i])
        for chosen in (batch[[i]], batch[i : i + 1]):
            torch.testing.assert_close(chosen.residual(fields[i : i + 1]), alone.residual(fields[i : i + 1]))
            torch.testing.assert_close(chosen.bound(fields[i : i + 1]), alone.bound(fields[i : i + 1]))


def test_microstructures_of_a_batch_need_one_mesh_and_linear_phases() -> None:
    with pytest.raises(CaseError, match="meshes of two RVEs differ"):
        LinearFields.of([grid_rve(0), grid_rve(0, 6)])
    with pytest.raises(CaseError, match=r"phases\.fibre: is nonlinear"):
        LinearFields.of([grid_rve(0, phases=(MATRIX, Saturating(1.0, 1.0, 1.0)))])


@pytest.mark.parametrize("kind", RVES)
def test_the_error_of_any_fields_is_positive_and_bounded(kind: str) -> None:
    problem = LinearFields.of([RVES[kind]()])
    exact, tangent, _ = solved(RVES[kind](), problem.space)
    for scale in (0.0, 1e-3, 1.0):
        fields = exact + scale * random_fields(exact)
        found = problem.homogenized(fields)[0].numpy()
        error, bound = found - tangent, problem.bound(fields)[0].numpy()
        np.testing.assert_array_equal(found, found.T)
        slack = 1e-11 * tangent.max()
        assert np.linalg.eigvalsh(error).min() > -slack
        assert np.linalg.eigvalsh(bound - error).min() > -slack
        assert scale == 0.0 or bound.trace() < 200.0 * error.trace()  # the contrast at most, about


def test_the_bound_of_the_stress_error_is_attained_in_the_worst_strain_and_never_exceeded() -> None:
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(2, 3, 3))
    bound, exact = roots[0] @ roots[0].T, roots[1] @ roots[1].T + np.eye(3)
    stiffness = exact + bound
    values, vectors = scipy.linalg.eigh(bound, stiffness)

    def norm(stress: Array) -> Array:
        return np.asarray(np.sqrt(np.einsum("ns,st,nt->n", stress, np.linalg.inv(stiffness), stress)))

    worst = vectors[:, -1:].T
    assert stress_error_bound(worst, stiffness, bound)[0] == pytest.approx(values[-1], rel=1e-10)
    assert (norm(worst @ bound) / norm(worst @ stiffness))[0] == pytest.approx(values[-1], rel=1e-10)
    strain = rng.normal(size=(200, 3))
    for root in (roots[0], roots[0] * [1.0, 0.0, 0.0]):  # 0 ≤ ΔC ≤ Δ
        error = norm(strain @ (root @ root.T)) / norm(strain @ stiffness)
        assert (stress_error_bound(strain, stiffness, bound) >= error * (1.0 - 1e-12)).all()
    assert stress_error_bound(np.zeros((1, 3)), stiffness, bound)[0] == 0.0


@pytest.mark.parametrize("cell", ["quad", "hexahedron"])
def test_the_bound_of_a_homogeneous_rve_is_the_error_itself(cell: str) -> None:
    """There K₀ = K, so that nothing is lost between the residual and the error."""
    problem = LinearFields.of([grid_rve(0, 4, cell, phases=(MATRIX, MATRIX))])
    fields = random_fields(problem.load)
    tangent = MATRIX.evaluate(np.eye(problem.load.shape[3]), None).tangent[:, :, 0]
    error = problem.homogenized(fields)[0].numpy() - tangent
    np.testing.assert_allclose(problem.bound(fields)[0], error, rtol=0, atol=1e-11 * error.max())


def test_the_bound_holds_for_a_batch_of_different_softest_phases() -> None:
    pairs = [((1.0, 5.0), (70.0, 1.0)), ((9.0, 1.0), (1.0, 40.0)), ((600.0, 300.0), (100.0, 800.0))]
    rves = [grid_rve(i, phases=[Elastic(*moduli) for moduli in pair]) for i, pair in enumerate(pairs)]
    problem = LinearFields.of(rves)
    exact = torch.cat([solved(rve, problem.space)[0] for rve in rves])
    fields = exact + 0.01 * random_fields(exact)
    error = problem.homogenized(fields) - problem.homogenized(exact)
    assert torch.linalg.eigvalsh(problem.bound(fields) - error).min() > 0.0


@pytest.mark.parametrize("cell", ["quad", "triangle", "hexahedron", "tetra"])
def test_prolongations_reproduce_the_coarse_finite_elements(cell: str) -> None:
    dim = 3 if cell in ("hexahedron", "tetra") else 2
    fine, coarse = (FluctuationSpace(grid_homogeneous(dim, [4 * n, 6 * n, 4 * n][:dim], cell)) for n in (2, 1))
    prolongation = grid_prolongations(fine)[0]
    np.testing.assert_allclose(prolongation.sum(axis=1), 1.0, atol=1e-15)
    tangent = MATRIX.evaluate(np.eye(fine.discretisation.n_s), None).tangent[:, :, 0]
    grid_of_coarse = periodic_grid(coarse)
    assert grid_of_coarse is not None
    order = np.argsort(grid_of_coarse.number)
    dofs = (order[:, None] * dim + np.arange(dim)).ravel()
    wide = np.kron(prolongation.toarray(), np.eye(dim))
    found = wide.T @ homogeneous_stiffness(fine, tangent) @ wide
    np.testing.assert_allclose(found, homogeneous_stiffness(coarse, tangent).toarray()[np.ix_(dofs, dofs)], atol=1e-12)


def grid_homogeneous(dim: int, cells: list[int], cell: str) -> RVE:
    mesh = generate(Homogeneous(dim=dim, cells=cells, cell=cell, size=[1.0, 2.0, 0.5][:dim]))  # type: ignore[arg-type]
    return RVE(discretise(mesh, ("matrix",)), (MATRIX,), "periodic")


def test_grids_are_halved_until_an_axis_has_fewer_than_eight_cells() -> None:
    space = FluctuationSpace(grid_homogeneous(2, [16, 24], "quad"))
    assert [one.shape for one in grid_prolongations(space)] == [(16 * 24, 8 * 12), (8 * 12, 4 * 6)]


def test_meshes_that_are_no_grid_have_no_coarser_ones() -> None:
    mesh = generate(Homogeneous(cells=8, cell="quad"))
    moved = replace(mesh, points=mesh.points + 0.01 * (np.abs(mesh.points) < 0.2).all(1)[:, None])
    for one in (moved, generate(Homogeneous(cells=8, cell="quad8")), generate(Homogeneous(cells=7))):
        assert grid_prolongations(FluctuationSpace(RVE(discretise(one, ("matrix",)), (MATRIX,), "periodic"))) == []


@pytest.mark.parametrize("cell", ["quad", "triangle", "tetra"])
def test_galerkin_products_of_a_batch_are_those_of_each_matrix(cell: str) -> None:
    problem = LinearFields.of([grid_rve(seed, 8, cell) for seed in range(2)])
    (prolongation,) = grid_prolongations(problem.space)
    wide = torch.as_tensor(np.kron(prolongation.toarray(), np.eye(problem.space.discretisation.dim)))
    expected = wide.T @ problem.stiffness.dense() @ wide
    coarse = galerkin(problem.stiffness, prolongation)
    torch.testing.assert_close(coarse.dense(), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(coarse.diagonal.flatten(1), expected.diagonal(dim1=1, dim2=2), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["quad", "hexahedron", "triangle6"])
def test_a_homogeneous_stiffness_is_inverted(kind: str) -> None:
    space = FluctuationSpace.shared(RVES[kind]())
    dim = space.discretisation.dim
    tangent = MATRIX.evaluate(np.eye(space.discretisation.n_s), None).tangent[:, :, 0]
    fields = random_fields(torch.zeros(2, space.n_nodes, dim, 3, dtype=torch.float64))
    columns = fields.permute(1, 2, 0, 3).reshape(space.n_dofs, 6).numpy()
    force = torch.as_tensor(homogeneous_stiffness(space, tangent) @ columns)
    force = force.reshape(space.n_nodes, dim, 2, 3).permute(2, 0, 1, 3)
    error = homogeneous_solver(space, tangent)(force) - fields
    torch.testing.assert_close(error, error[:, :1].expand_as(error), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("cell", "cells"), [("quad", 16), ("triangle", 16), ("hexahedron", 8)])
def test_two_steps_bring_the_error_of_fields_from_10_percent_below_1(cell: str, cells: int) -> None:
    rves = [grid_rve(seed, cells, cell) for seed in range(3)]  # contrast 100
    problem = LinearFields.of(rves)
    exact = torch.cat([solved(rve, problem.space)[0] for rve in rves])
    precondition = problem.preconditioner()
    assert isinstance(precondition, Multigrid)
    for wrong in (exact * (1.0 + 0.1 * random_fields(exact[:, :1])), exact + 0.1 * exact.std() * random_fields(exact)):
        before = energy(problem, wrong - exact)
        after = energy(problem, problem.improve(wrong, 2, precondition) - exact)
        assert (after < 0.01 * before).all()  # energies: squares of the fields, as the error of C̄ is


@pytest.mark.parametrize(
    ("cell", "cells", "largest"), [("quad", 16, 0.15), ("triangle", 16, 0.5), ("hexahedron", 8, 0.15)]
)
def test_a_cycle_of_a_homogeneous_rve_contracts_every_error(cell: str, cells: int, largest: float) -> None:
    """The smoother needs the largest eigenvalue: an estimate that is too low or too high makes it much worse."""
    problem = LinearFields.of([grid_rve(0, cells, cell, phases=(MATRIX, MATRIX))])
    cycle, error = problem.preconditioner(), problem.centred(random_fields(problem.load))
    for _ in range(12):  # the power method: what contracts least is left
        before = energy(problem, error)
        error = problem.centred(error - cycle(problem.stiffness @ error))
    assert float((energy(problem, error) / before).sqrt()) < largest


def test_steps_never_make_the_tangent_larger_and_end_at_the_exact_one() -> None:
    problem = LinearFields.of([circle_rve()])
    _, tangent, _ = solved(circle_rve(), problem.space)
    precondition = problem.preconditioner()
    fields = torch.zeros_like(problem.load)
    values = [problem.homogenized(problem.improve(fields, k, precondition))[0] for k in range(8)]
    for old, new in pairwise(values):
        assert torch.linalg.eigvalsh(old - new).min() > -1e-12 * tangent.max()
    np.testing.assert_allclose(values[-1], tangent, rtol=0, atol=1e-3 * tangent.max())
    exact = problem.homogenized(problem.improve(fields, 30, precondition))[0]
    np.testing.assert_allclose(exact, tangent, rtol=0, atol=1e-11 * tangent.max())


def energy(problem: LinearFields, fields: Tensor) -> Tensor:
    return (fields * (problem.stiffness @ fields)).sum((1, 2, 3))


NONLINEAR = {
    "quad": lambda: grid_rve(0, phases=(STIFF, SOFTENING)),
    "wide quad": lambda: grid_rve(0, phases=(STIFF, SOFTENING), size=(3.0, 1.0)),
    "triangle6": lambda: circle_rve((STIFF, SOFTENING), NAMES[::-1]),
    "hexahedron": lambda: grid_rve(1, 8, "hexahedron", (STIFF, SOFTENING)),
}


def strains(n: int, n_s: int) -> Array:
    return np.random.default_rng(0).uniform(-0.04, 0.04, (n, n_s))


def curved_fields(problem: HyperelasticFields, strain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """w = (A + C E) E with random A and C, its derivative, and d²w/dE²."""
    n_s = strain.shape[1]
    shape = (problem.space.n_nodes, problem.rve.discretisation.dim, n_s)
    first, second = 0.02 * random_fields(torch.zeros(shape)), 0.2 * random_fields(torch.zeros(*shape, n_s), 1)
    first, second = first.to(strain), (second + second.transpose(2, 3)).to(strain)
    slope = first + 0.5 * torch.einsum("adst,nt->nads", second, strain)
    return torch.einsum("nads,ns->nad", slope, strain), 2.0 * slope - first, second


@pytest.mark.parametrize("kind", ["quad", "triangle6", "hexahedron"])
def test_stress_and_tangent_are_the_derivatives_of_the_energy_of_the_fields(kind: str) -> None:
    problem = HyperelasticFields(NONLINEAR[kind]())
    n_s = problem.rve.discretisation.n_s
    strain = torch.as_tensor(strains(1, n_s))
    step = 1e-5
    around = torch.cat([strain, strain + step * torch.eye(n_s), strain - step * torch.eye(n_s)])
    fluctuation, sensitivity, second = curved_fields(problem, around)

    def curvature(part: slice, force: Tensor) -> Tensor:
        return torch.einsum("adst,nad->nst", second, force)

    found = problem.evaluate(around, fluctuation, sensitivity, curvature)
    slope = (found.energy[1 : n_s + 1] - found.energy[n_s + 1 :]) / (2 * step)
    torch.testing.assert_close(found.stress[0], slope, rtol=1e-5, atol=1e-5 * float(slope.abs().max()))
    slopes = (found.stress[1 : n_s + 1] - found.stress[n_s + 1 :]) / (2 * step)
    torch.testing.assert_close(found.tangent[0], slopes, rtol=1e-5, atol=1e-5 * float(slopes.abs().max()))


@pytest.mark.parametrize("kind", NONLINEAR)
def test_newton_steps_end_at_the_nested_solution(kind: str) -> None:
    rve = NONLINEAR[kind]()
    problem = HyperelasticFields(rve)
    given = strains(3, rve.discretisation.n_s)
    nested_answer = ExactRVE(rve).solve(given)
    strain = torch.as_tensor(given)
    start = curved_fields(problem, strain)[:2]
    raw, errors = problem.evaluate(strain, *start), []
    for steps in (1, 3, 12):
        answer = problem.evaluate(strain, *problem.improve(strain, *start, steps, inner=3))
        assert (answer.energy < raw.energy).all()
        errors.append(float(np.abs(answer.stress.numpy() - nested_answer.stress).max() / nested_answer.stress.max()))
    assert errors[1] < 0.1 * errors[0] and errors[1] < 1e-2
    np.testing.assert_allclose(answer.stress, nested_answer.stress, atol=1e-5 * np.abs(nested_answer.stress).max())
    np.testing.assert_allclose(answer.tangent, nested_answer.tangent, atol=1e-4 * nested_answer.tangent.max())
    assert (answer.gap < 1e-8).all() and (raw.gap > 1e-3).all()
    if answer.stress_33 is not None and nested_answer.stress_33 is not None:
        scale = np.abs(nested_answer.stress_33).max()
        np.testing.assert_allclose(answer.stress_33, nested_answer.stress_33, atol=1e-3 * scale)


def test_the_gap_tells_the_error_of_the_energy_of_linear_phases() -> None:
    rve = circle_rve()
    problem = HyperelasticFields(rve)
    exact, tangent, _ = solved(rve, problem.space)
    strain = torch.as_tensor(strains(2, 3))
    sensitivity = exact + 1e-3 * random_fields(exact.expand(2, -1, -1, -1))
    fluctuation = torch.einsum("nads,ns->nad", sensitivity, strain)
    found = problem.evaluate(strain, fluctuation, sensitivity)
    exact_energy = 0.5 * torch.einsum("ns,st,nt->n", strain, torch.as_tensor(tangent), strain)
    torch.testing.assert_close(found.gap, 1.0 - exact_energy / found.energy, rtol=1e-8, atol=0.0)


def test_a_line_search_shortens_a_step_that_is_too_long_and_rejects_one_uphill() -> None:
    problem = HyperelasticFields(grid_rve(0, phases=(STIFF, SOFTENING)))
    strain = torch.as_tensor(strains(3, 3))
    start, _ = problem.zero_fields(strain)
    energy = problem.energy(strain, start)
    downhill = -problem.elastic_inverse(problem.residual(strain, start)[..., None])[..., 0]
    too_long = 16.0 * downhill
    assert (problem.energy(strain, start + too_long) > energy).all()
    assert (problem.energy(strain, problem.line_search(strain, start, too_long, energy)) < 0.99 * energy).all()
    torch.testing.assert_close(problem.line_search(strain, start, -downhill, energy), start, rtol=0, atol=0)


def test_a_linearised_problem_has_the_means_of_the_phase_tangents_over_cells_of_any_size() -> None:
    rve = circle_rve()
    problem = HyperelasticFields(rve)
    strain = torch.as_tensor(strains(2, 3))
    found = problem.linearised(strain, problem.zero_fields(strain)[0]).tangent.numpy()
    for phase, part in zip(rve.phases, rve.discretisation.cells_of_phase, strict=True):
        tangent = phase.evaluate(np.eye(3), np.zeros((0, 3))).tangent[:, :, 0]
        np.testing.assert_allclose(found[:, part], np.broadcast_to(tangent, found[:, part].shape), rtol=1e-12)


def test_the_energy_can_be_trained_on() -> None:
    problem = HyperelasticFields(grid_rve(0, 4, phases=(STIFF, SOFTENING)))
    strain = torch.as_tensor(strains(2, 3))
    fluctuation = curved_fields(problem, strain)[0].requires_grad_()
    assert torch.autograd.gradcheck(problem.energy, (strain.requires_grad_(), fluctuation))
    zero = torch.zeros_like(fluctuation).requires_grad_()
    problem.energy(torch.zeros_like(strain), zero).sum().backward()
    assert zero.grad is not None and (zero.grad == 0.0).all()


def test_strains_are_answered_in_parts_that_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = HyperelasticFields(grid_rve(0, phases=(STIFF, SOFTENING)))
    strain = torch.as_tensor(strains(3, 3))
    fields = curved_fields(problem, strain)[:2]
    whole = problem.evaluate(strain, *problem.improve(strain, *fields, 1))
    monkeypatch.setattr(HyperelasticFields, "bytes_of_one", 1e12)
    parts = problem.evaluate(strain, *problem.improve(strain, *fields, 1))
    for name in ("energy", "stress", "tangent", "stress_33", "gap"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-12)
    none = problem.evaluate(strain[:0], *problem.improve(strain[:0], *(one[:0] for one in fields), 1))
    assert none.tangent.shape == (0, 3, 3)


def test_fields_need_phases_without_memory_and_conditions_that_fix_their_boundary() -> None:
    with pytest.raises(CaseError, match="has a memory"):
        HyperelasticFields(grid_rve(0, phases=(STIFF, J2(1.0, 1.0, 1.0, 1.0))))
    with pytest.raises(CaseError, match="expected periodic or kinematic"):
        FluctuationSpace(replace(grid_rve(0), boundary="static"))
