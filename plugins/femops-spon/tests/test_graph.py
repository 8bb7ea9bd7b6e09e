"""The operators of the graphs, and the processors on them."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp

from femops.devices.torch_library import torch
from femops.meshing.box import grid
from femops.meshing.cells import CELLS
from femops.surrogate.graph import (
    CellPoints,
    Level,
    PeriodicBox,
    fe_graph,
    graph_of_matrices,
    grid_graph,
    interpolation,
    periodic_hierarchy,
    pooling,
    rotated,
)
from femops.surrogate.message_passing import HierarchyMaps, LevelMaps, Processor, ProcessorOptions, Shape, cell_operator
from femops_spon.plain import PlainGraphNetwork

SMALL = ProcessorOptions(widths=(6, 8), layers=(1, 1))


def _square(n=8):
    """A periodic grid with two coarser ones."""
    lattice = np.stack(np.unravel_index(np.arange(n * n), (n, n), order="F"), axis=-1) / n
    points = CellPoints((lattice + 0.5 / n)[:, None], np.ones((n * n, 1)))
    counts = np.array([[n // 2] * 2, [n // 4] * 2])
    return periodic_hierarchy(
        grid_graph((n, n), (1.0, 1.0)), lattice, points, counts, PeriodicBox(np.zeros(2), np.ones(2))
    )


def _normal(*shape, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("cell", ["triangle", "triangle6", "quad", "quad8", "tetra", "hexahedron"])
def test_cells_see_mean_and_gradient_of_linear_functions_exactly(cell):
    kind = CELLS[cell]
    mesh = grid([np.array([0.0, 0.3, 1.0])] * kind.dim, cell)
    graph = fe_graph(mesh.points, mesh.cells, kind, np.arange(len(mesh.points)), len(mesh.points))
    slope = np.arange(1.0, 1.0 + kind.dim)
    seen = (cell_operator(graph) @ (mesh.points @ slope)).reshape(graph.n_cells, -1)
    length = (graph.volume / graph.n_cells) ** (1.0 / kind.dim)  # the body has the volume 1
    corners = mesh.points[mesh.cells]
    assert np.allclose(seen[:, 1:], length[:, None] * slope)
    if kind.degree == 1:
        assert np.allclose(seen[:, 0], corners.mean(axis=1) @ slope)
    integral = graph.node_volume @ (mesh.points @ slope) / graph.n_cells
    assert integral == pytest.approx(0.5 * slope.sum(), rel=1e-12)


@pytest.mark.parametrize("counts", [(4, 6), (3, 4, 5)])
def test_the_graph_of_a_periodic_grid_is_that_of_its_mesh(counts):
    size = np.array([1.0, 2.0, 0.5])[: len(counts)]
    cell = "quad" if len(counts) == 2 else "hexahedron"
    mesh = grid([np.linspace(0.0, edge, n + 1) for edge, n in zip(size, counts, strict=True)], cell)
    index = np.rint(mesh.points / size * counts).astype(int) % counts
    nodes = np.ravel_multi_index(tuple(index.T), counts, order="F")
    expected, found = fe_graph(mesh.points, mesh.cells, CELLS[cell], nodes, np.prod(counts)), grid_graph(counts, size)
    assert np.allclose(cell_operator(found).toarray(), cell_operator(expected).toarray())
    assert np.allclose(found.volume, expected.volume)
    assert np.allclose(_offsets_by_node(found), _offsets_by_node(expected))


def _offsets_by_node(graph):
    """Offsets of the nodes of each cell, sorted by node."""
    return np.take_along_axis(graph.offset, np.argsort(graph.cells, axis=1)[..., None], axis=1)


def test_answers_go_back_by_the_transpose():
    for maps in HierarchyMaps(_square()):
        graph = maps.graph
        nodes, cells = _normal(2, graph.n_nodes, 3), _normal(2, graph.n_cells, 9, seed=1)
        volume, node_volume = torch.as_tensor(graph.volume), torch.as_tensor(graph.node_volume)
        at_cells = (maps.to_cells(nodes) * cells * volume[:, None]).sum()
        assert torch.allclose(at_cells, (nodes * maps.to_nodes(cells) * node_volume[:, None]).sum())


def test_coarse_functions_are_interpolated_exactly_and_constants_survive_all_transfers():
    levels = _square()
    for fine, coarse in pairwise(levels):
        maps = LevelMaps(coarse, fine.graph)
        ones = torch.ones(1, coarse.graph.n_nodes, 1, dtype=torch.float64)
        assert torch.allclose(maps.prolong(ones), torch.ones(1, fine.graph.n_nodes, 1, dtype=torch.float64))
        assert torch.allclose(maps.restrict(maps.prolong(ones)), ones)
        assert torch.allclose(maps.pool(torch.ones(1, fine.graph.n_cells, 1, dtype=torch.float64)), ones)
        # The mean over a coarse cell is the mean of the means over its fine ones: the functions are the same.
        values = _normal(1, coarse.graph.n_nodes, 1)
        on_fine = LevelMaps(fine, None).to_cells(maps.prolong(values))[..., :1]
        assert torch.allclose(maps.pool(on_fine), maps.to_cells(values)[..., :1])


def test_pooling_weights_the_points_of_the_fine_cells_in_a_coarse_one():
    matrix = pooling(np.array([[0, 1], [1, 1]]), np.array([[3.0, 1.0], [2.0, 2.0]]), 3)
    assert np.allclose(matrix.toarray(), [[1.0, 0.0], [0.2, 0.8], [0.0, 0.0]])


def test_interpolation_takes_any_points():
    points = np.random.default_rng(0).random((20, 2)) * 0.75
    matrix = interpolation(points, np.array([4, 4]), PeriodicBox(np.zeros(2), np.ones(2)))
    lattice = np.stack(np.unravel_index(np.arange(16), (4, 4), order="F"), axis=-1) / 4
    assert np.allclose(matrix @ lattice, points)


def test_graph_of_matrices_is_the_graph_they_came_from():
    graph = grid_graph((4, 6), (1.0, 2.0))
    seen = cell_operator(graph).toarray().reshape(graph.n_cells, 3, -1)
    parts = [sp.csr_array(seen[:, i]) for i in range(3)]
    again = graph_of_matrices(parts[0], sp.vstack(parts[1:], format="csr"), np.full(24, 0.1))
    assert np.allclose(cell_operator(again).toarray(), cell_operator(graph).toarray())
    assert np.allclose(again.volume, graph.volume)


def test_cells_of_a_graph_may_have_different_numbers_of_nodes():
    mean, slopes = np.array([[0.2, 0.3, 0.5], [0.4, 0.6, 0.0]]), np.array([[-1.0, 1.0, 0.0], [-2.0, 2.0, 0.0]])
    graph = graph_of_matrices(sp.csr_array(mean), sp.csr_array(np.vstack([slopes, 3.0 * slopes])), np.ones(2))
    seen = cell_operator(graph).toarray().reshape(2, 3, 3)
    assert np.allclose(seen, np.stack([mean, slopes, 3.0 * slopes], axis=1))


def _network(kind, options=SMALL, levels=3, seed=0):
    torch.manual_seed(seed)
    return kind(Shape(2, 2, 3, 2, levels), options).double()


@pytest.mark.parametrize("kind", [Processor, PlainGraphNetwork])
def test_a_batch_is_its_samples_one_by_one(kind):
    levels = HierarchyMaps(_square())
    network, nodes, cells = _network(kind), _normal(3, 64, 2), _normal(3, 64, 2, seed=1)
    together = network(levels, nodes, cells)
    one_by_one = [network(levels, nodes[i : i + 1], cells[i : i + 1]) for i in range(3)]
    assert torch.allclose(together, torch.cat(one_by_one), atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [Processor, PlainGraphNetwork])
def test_numbers_of_nodes_and_cells_do_not_matter(kind):
    graph, rng = grid_graph((4, 4), (1.0, 1.0)), np.random.default_rng(0)
    node, cell = rng.permutation(16), rng.permutation(16)  # new number -> old number
    corner = rng.permutation(4)
    other = type(graph)(
        np.argsort(node)[graph.cells[cell]][:, corner],
        graph.mean[cell][:, corner],
        graph.gradient[cell][:, :, corner],
        graph.volume[cell],
        graph.n_nodes,
        graph.offset[cell][:, corner],
    )
    network, nodes, cells = _network(kind, levels=1), _normal(1, 16, 2), _normal(1, 16, 2, seed=1)
    answer = network(HierarchyMaps((Level(graph),)), nodes, cells)
    renumbered = network(HierarchyMaps((Level(other),)), nodes[:, node], cells[:, cell])
    assert torch.allclose(renumbered, answer[:, node], atol=1e-12)


def test_messages_follow_a_shift_by_coarse_cells():
    levels = HierarchyMaps(_square())
    network, nodes, cells = _network(Processor), _normal(1, 64, 2), _normal(1, 64, 2, seed=1)

    def shifted(values):
        return values.view(1, 8, 8, -1).roll((4, 4), dims=(1, 2)).reshape(values.shape)

    answer = network(levels, nodes, cells)
    assert torch.allclose(network(levels, shifted(nodes), shifted(cells)), shifted(answer), atol=1e-12)


def test_a_linear_processor_is_linear_in_the_nodes_and_steered_by_the_cells():
    network = _network(Processor, ProcessorOptions(widths=(6, 8), layers=(1, 1), linear=True))
    levels = HierarchyMaps(_square())
    a, b, cells = _normal(1, 64, 2), _normal(1, 64, 2, seed=1), _normal(1, 64, 2, seed=2)
    both = network(levels, 2.0 * a - 3.0 * b, cells)
    assert torch.allclose(both, 2.0 * network(levels, a, cells) - 3.0 * network(levels, b, cells), atol=1e-12)
    assert not torch.allclose(network(levels, a, cells), network(levels, a, 2.0 * cells), atol=1e-4)


def test_turned_graphs_have_turned_gradients():
    levels, turn = _square(), np.array([[0.0, -1.0], [1.0, 0.0]])
    plain, other = (cell_operator(one[0].graph).toarray().reshape(64, 3, 64) for one in (levels, rotated(levels, turn)))
    assert np.allclose(other[:, 0], plain[:, 0])
    assert np.allclose(other[:, 1:], np.einsum("ij,cjn->cin", turn, plain[:, 1:]))


def test_a_rotated_graph_is_that_of_the_rotated_mesh():
    mesh = grid([np.array([0.0, 0.3, 1.0]), np.array([0.0, 0.4, 0.5])], "triangle")
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    plain, expected = (
        fe_graph(points, mesh.cells, CELLS["triangle"], np.arange(len(points)), len(points))
        for points in (mesh.points, mesh.points @ turn.T)
    )
    found = rotated((Level(plain),), turn)[0].graph
    assert np.allclose(found.gradient, expected.gradient)
    assert np.allclose(found.offset, expected.offset)


def test_products_have_exact_derivatives_of_both_orders():
    maps = LevelMaps(_square(4)[0], None)
    nodes = _normal(1, 16, 1).requires_grad_(True)
    assert torch.autograd.gradcheck(maps.to_cells, nodes, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: maps.to_cells(x) ** 2, nodes, fast_mode=True)
