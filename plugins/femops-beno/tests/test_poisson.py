"""Poisson's equation on random shapes: domains, meshes, and finite-element solutions."""

import numpy as np
import pytest

from femops.errors import CaseError
from femops.meshing.building import measures
from femops.pde.options import PoissonBlock
from femops.pde.poisson import poisson as dolfinx_poisson
from femops.pde.solver import PDESolver, draw_inputs
from femops.validation import validated
from femops_beno.contour import Contours
from femops_beno.poisson.assembly import mass_matrix
from femops_beno.poisson.generate import pure_neumann, random_sample, with_dirichlet
from femops_beno.poisson.meshes import grid_mesh, polygon_mesh
from femops_beno.poisson.options import PoissonShapes
from femops_beno.poisson.shapes import Polygon, cut_square, polygon

HOLED = Polygon(
    np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), (np.array([[0.3, 0.3], [0.6, 0.4], [0.4, 0.7]]),)
)


def block(**changes):
    return validated(PoissonShapes, {"shapes": [{"corners": 4}, {"polygon": {}}]} | changes)


def l_mask(n):
    inside = np.ones((n, n), dtype=bool)
    inside[2 * n // 5 :, 2 * n // 5 :] = False
    return inside


def test_cut_corners_never_touch_and_keep_the_perimeter():
    for number in range(200):
        n_cuts = number % 5
        inside = cut_square(np.random.default_rng(number), n_cuts, 16)
        corners = inside[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert (~corners).sum() == n_cuts
        contours = Contours.of(grid_mesh(inside))
        assert len(contours.loops) == 1 and len(np.unique(contours.nodes)) == len(contours.nodes) == 64
        assert inside.any(axis=0).all() and inside.any(axis=1).all()


def test_a_mesh_of_a_grid_has_exactly_the_cells_inside():
    inside = cut_square(np.random.default_rng(3), 4, 16)
    mesh = grid_mesh(inside)
    np.testing.assert_allclose(16 * mesh.points[mesh.cells].mean(axis=1) - 0.5, np.argwhere(inside), atol=1e-12)
    np.testing.assert_allclose(measures(mesh), 1 / 256, rtol=1e-12)


def test_polygons_keep_their_distances_and_their_holes():
    for number in range(40):
        drawn = polygon(np.random.default_rng(number), (5, 12), (0, 3))
        contours = [drawn.outer, *drawn.holes]
        dense = [
            (one[:, None] + np.linspace(0, 1, 40)[:, None] * (np.roll(one, -1, 0) - one)[:, None]).reshape(-1, 2)
            for one in contours
        ]
        for i, one in enumerate(dense):
            for other in dense[:i]:
                assert np.linalg.norm(one[:, None] - other, axis=-1).min() > 0.06
        mesh = polygon_mesh(drawn, 0.05)
        area = [0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1)) for x, y in (one.T for one in contours)]
        assert measures(mesh).sum() == pytest.approx(area[0] - sum(area[1:]), rel=1e-12)
        assert list(mesh.boundaries) == ["outer", *(f"hole_{i}" for i in range(1, len(contours)))]


def test_a_triangulation_has_the_edge_length_asked_for():
    for size in (0.1, 0.05):
        mesh = polygon_mesh(HOLED, size)
        edges = mesh.points[mesh.cells] - np.roll(mesh.points[mesh.cells], 1, axis=1)
        assert np.linalg.norm(edges, axis=-1).mean() == pytest.approx(size, rel=0.15)


SQUARE = Polygon(HOLED.outer)


def rate(problem, make):
    """Return the rate of convergence in L² of `problem(mesh)`, which returns a system and its exact solution."""
    sizes, errors = np.array([1 / 10, 1 / 20, 1 / 40]), []
    for size in sizes:
        mesh = make(size)
        system, exact = problem(mesh)
        error, mass = system.solved().solution - exact, mass_matrix(mesh)
        if system.prescribed.sum() == 1:  # defined up to a constant
            error -= (mass @ error).sum() / mass.sum()
        errors.append(np.sqrt(error @ mass @ error))
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def on_grid(size):
    return grid_mesh(l_mask(round(1 / size)))


@pytest.mark.parametrize("make", [on_grid, lambda size: polygon_mesh(HOLED, size)], ids=["quads", "triangles"])
@pytest.mark.parametrize("mixed", [False, True])
def test_solutions_converge_with_rate_two(make, mixed):
    def problem(mesh):
        x, y = mesh.points.T
        exact, source = np.sin(2.0 * x) * np.exp(y) + x, 3.0 * np.sin(2.0 * x) * np.exp(y)
        outer = mesh.boundaries["outer"]
        left = outer[(mesh.points[outer][:, :, 0] == 0.0).all(axis=1)]
        flux = -(2.0 * np.exp(y) + 1.0)  # ∂u/∂n = −∂u/∂x on the left side
        return with_dirichlet(mesh, source, exact, *([flux, left] if mixed else [])), exact

    assert rate(problem, make) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize(
    "make",
    [lambda size: grid_mesh(np.ones((round(1 / size),) * 2, dtype=bool)), lambda size: polygon_mesh(SQUARE, size)],
    ids=["quads", "triangles"],
)
def test_pure_neumann_solutions_converge_with_rate_two_though_the_data_are_incompatible(make):
    def problem(mesh):
        exact = np.cos(np.pi * mesh.points).prod(axis=1)
        # The flux 5 is incompatible with a source of zero mean: the constant is taken away again.
        system = pure_neumann(mesh, 2.0 * np.pi**2 * exact, np.full(len(exact), 5.0))
        return system, exact

    assert rate(problem, make) == pytest.approx(2.0, abs=0.15)


def test_no_load_acts_where_a_pure_neumann_solution_is_fixed():
    system = random_sample(block().shapes[1], block(boundary="neumann", resolution=12), 4, 0).system
    assert system.prescribed.sum() == 1
    residual = system.stiffness @ system.solution - system.source - system.flux
    assert np.abs(residual).max() < 1e-12


def test_solutions_on_the_square_are_those_of_dolfinx():
    problem = dolfinx_poisson(PoissonBlock(cells=12, boundary="random"))
    inputs = draw_inputs(problem, 1, 5)
    expected = PDESolver(problem).solve(inputs).solution[0]
    nodes = problem.solution.function_space.tabulate_dof_coordinates()[:, :2]
    mesh = grid_mesh(np.ones((12, 12), dtype=bool))
    order = np.linalg.norm(mesh.points[:, None] - nodes, axis=-1).argmin(axis=1)
    system = with_dirichlet(mesh, inputs["source"][0, order], inputs["boundary"][0, order]).solved()
    np.testing.assert_allclose(system.solution, expected[order], atol=1e-14)


def test_parts_of_mixed_boundaries_are_contiguous():
    for number in range(20):
        system = random_sample(block().shapes[1], block(boundary="mixed", resolution=16), 1, number).system
        outer = system.mesh.boundaries["outer"]
        dirichlet = system.prescribed[outer].all(axis=1)
        assert np.abs(np.diff(dirichlet.astype(int), append=int(dirichlet[0]))).sum() == 2
        assert 0.3 < dirichlet.mean() < 0.9
        assert np.abs(system.flux[outer[~dirichlet].ravel()]).max() > 0.0


@pytest.mark.parametrize("number", [0, 1])
def test_a_sample_depends_on_shape_seed_and_number_only(number):
    shape = block().shapes[number]
    one, other = (random_sample(shape, block(resolution=12), 7, 3).system for _ in range(2))
    for name in ("source", "lifting", "solution"):
        assert (getattr(one, name) == getattr(other, name)).all()
    another = random_sample(shape, block(resolution=12), 7, 4).system
    assert another.source.shape != one.source.shape or (another.source != one.source).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected shapes, a list"),
        ({"shapes": [{"corners": 5}]}, "shapes.0.corners: 5 given"),
        ({"shapes": [{"corners": 1, "polygon": {}}]}, "expected exactly one of corners"),
        ({"shapes": [{"polygon": {"vertices": [9, 5]}}]}, "vertices [9, 5] given, expected 5 <= smallest"),
        ({"shapes": [{"corners": 1}, {"corners": 1}]}, "a class is given twice"),
        ({"data": {"train": "a.npz", "test": "b.npz"}, "length": 0.1}, "length given beside data"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(given, message):
    with pytest.raises(CaseError) as caught:
        validated(PoissonShapes, given)
    assert message in str(caught.value) and "\n" not in str(caught.value)
