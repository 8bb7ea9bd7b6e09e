"""What the network guarantees for any weights."""

from dataclasses import replace

import numpy as np
import pytest

from femops.devices.torch_library import torch
from femops_beno.encoding import Batch, encode
from femops_beno.levels import shape_hierarchy
from femops_beno.network import BENO, Architecture
from femops_beno.operator import Operator
from femops_beno.poisson.generate import random_sample
from femops_beno.poisson.options import PoissonShapes, Shape
from femops_beno.systems import System


def _systems(boundary="mixed", resolution=16):
    """Return systems of three classes: different meshes, cells, holes and numbers of levels."""
    shapes = [Shape(corners=4), Shape(polygon={"vertices": (5, 8), "holes": (1, 2)}), Shape(corners=0)]
    block = PoissonShapes(shapes=tuple(shapes), resolution=resolution, boundary=boundary, amplitude=0.5)
    return [random_sample(shape, block, 3, 0).system for shape in shapes]


def _operator(passes=2, n_components=1):
    return Operator(BENO(Architecture(2, n_components, 0, (8, 8), (1, 1), 8, 1, passes, 2)).double())


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "mixed"])
def test_prescribed_values_are_met_exactly(boundary):
    systems = _systems(boundary)
    for system, found in zip(systems, _operator().evaluate(systems), strict=True):
        assert system.prescribed.any()
        assert np.array_equal(found[system.prescribed], system.lifting[system.prescribed])
        assert np.abs(found[~system.prescribed]).max() > 0.0


@pytest.mark.parametrize("passes", [1, 3])
def test_the_answer_is_linear_in_source_boundary_values_and_flux(passes):
    operator = _operator(passes)
    for one in _systems():
        other = replace(one, source=one.source[::-1].copy(), flux=2.0 * one.flux, lifting=-0.3 * one.lifting)
        both = replace(
            one,
            source=one.source + 1000.0 * other.source,
            flux=one.flux + 1000.0 * other.flux,
            lifting=one.lifting + 1000.0 * other.lifting,
        )
        first, second, together = operator.evaluate([one, other, both])
        expected = first + 1000.0 * second
        assert np.abs(together - expected).max() < 1e-11 * np.abs(expected).max()


def test_source_and_boundary_data_have_a_branch_each():
    operator = _operator(passes=1)
    system = _systems()[0]
    zero = np.zeros_like(system.source)
    sourced = replace(system, flux=zero, lifting=zero)
    bounded = replace(system, source=zero)
    whole, source, boundary = operator.evaluate([system, sourced, bounded])
    assert np.allclose(whole, source + boundary, rtol=0.0, atol=1e-12 * np.abs(whole).max())
    with torch.no_grad():
        for weight in operator.network.of_boundary.parameters():
            weight.mul_(1.5)
    assert np.allclose(operator.evaluate([sourced])[0], source, rtol=0.0, atol=1e-12 * np.abs(source).max())
    assert not np.allclose(operator.evaluate([bounded])[0], boundary)


def test_a_batch_of_shapes_equals_single_evaluations():
    systems = _systems()
    assert len({len(encode(system).levels) for system in [*systems, *_systems(resolution=40)]}) > 1
    systems += _systems(resolution=40)
    operator = _operator()
    together = operator.evaluate(systems)
    for system, found in zip(systems, together, strict=True):
        alone = operator.evaluate([system])[0]
        assert np.abs(found - alone).max() < 1e-11 * np.abs(alone).max()


def test_the_boundary_data_reach_the_inside_through_the_transformer():
    system = _systems("dirichlet")[0]
    network = _operator().network
    batch = Batch.of([encode(system)], torch.float64)
    before = network(batch)
    with torch.no_grad():
        network.boundary.gate.weight.mul_(2.0)
    assert not torch.allclose(network(batch), before)


def test_no_level_joins_nodes_across_a_notch():
    """A slit of one cell, from the upper side nearly to the lower one: no coarse function lives on both sides."""
    system = _slit(16)
    hierarchy = shape_hierarchy(system.mesh, ~system.prescribed, system.stiffness)
    assert len(hierarchy) > 1
    nodes = system.mesh.points[~system.prescribed]
    functions = hierarchy[1].prolongation.toarray()
    upper = nodes[:, 1] > 0.5
    left, right = (np.abs(functions[upper & side]).max(axis=0) > 0.0 for side in (nodes[:, 0] < 0.5, nodes[:, 0] > 0.5))
    assert not (left & right).any()
    assert left.any() and right.any()


def test_functions_of_each_level_add_up_to_one_inside():
    system = _systems("dirichlet", resolution=40)[2]
    hierarchy = shape_hierarchy(system.mesh, ~system.prescribed, system.stiffness)
    sums = hierarchy[1].prolongation.sum(axis=1)
    inside = np.abs(system.mesh.points[~system.prescribed] - 0.5).max(axis=1) < 0.3
    assert np.allclose(sums[inside], 1.0, atol=1e-3)
    assert len(hierarchy) > 2


def _slit(n) -> System:
    """Return a unit square of n × n cells with a slit of one cell from the upper side to a quarter of the height."""
    from femops.meshing import CELLS, TaggedMesh

    grid = np.linspace(0.0, 1.0, n + 1)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    number = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    cells = np.stack([number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]], axis=-1)
    kept = np.ones((n, n), dtype=bool)
    kept[n // 2, n // 4 :] = False
    used, compact = np.unique(cells[kept], return_inverse=True)
    mesh = TaggedMesh(points[used], compact.reshape(-1, 4), CELLS["quad"], {"domain": np.arange(int(kept.sum()))})
    from femops_beno.poisson.assembly import stiffness_matrix

    count = np.bincount(mesh.cells.ravel())
    zero = np.zeros(len(mesh.points))
    return System(mesh, count < 4, stiffness_matrix(mesh), zero, zero, zero, np.zeros((len(mesh.cells), 0)))
