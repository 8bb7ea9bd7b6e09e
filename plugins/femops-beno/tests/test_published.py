"""The published network: its graph, features and boundary points, correct batches, and that it trains."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from femops.devices.torch_library import torch
from femops.errors import CaseError
from femops.meshing import CELLS, TaggedMesh
from femops.meshing.building import exterior_facets
from femops_beno.published import PublishedBENO
from femops_beno.published_inputs import PublishedInputs, source_density
from femops_beno.systems import System

STIFFNESS = np.array([[4, -1, -2, -1], [-1, 4, -1, -2], [-2, -1, 4, -1], [-1, -2, -1, 4]]) / 6.0
MASS = np.array([[4, 2, 1, 2], [2, 4, 2, 1], [1, 2, 4, 2], [2, 1, 2, 4]]) / 36.0


def assembled(cells, matrix, n):
    rows, columns = np.repeat(cells, 4, axis=1).ravel(), np.tile(cells, 4).ravel()
    return sp.coo_array((np.tile(matrix.ravel(), len(cells)), (rows, columns)), shape=(n, n)).tocsr()


def problem(inside, source, value):
    """−Δu = f, u = g on the cells of a grid of the unit square, f and g functions of the points."""
    n = len(inside)
    x, y = np.nonzero(inside)
    corners = np.stack([(x + i) * (n + 1) + y + j for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))], axis=1)
    used, cells = np.unique(corners, return_inverse=True)
    cells, points = cells.reshape(-1, 4), np.stack(np.divmod(used, n + 1), axis=1) / n
    mesh, size = TaggedMesh(points, cells, CELLS["quad"]), len(points)
    prescribed = np.zeros(size, dtype=bool)
    prescribed[exterior_facets(cells, mesh.kind)] = True
    load = assembled(cells, MASS / n**2, size) @ source(points)
    lifting = np.where(prescribed, value(points), 0.0)
    none = np.zeros(size)
    stiffness = assembled(cells, STIFFNESS, size)
    return System(mesh, prescribed, stiffness, load, none, lifting, np.zeros((len(cells), 0))).solved()


def notched(n, x, y):
    """A square without its upper right corner of x × y cells."""
    inside = np.ones((n, n), dtype=bool)
    inside[n - x :, n - y :] = False
    return inside


def random_problems(count, n=6):
    draws = np.random.default_rng(0)
    found = []
    for _ in range(count):
        a, b, c = draws.normal(size=(3, 3))
        inside = notched(n, *draws.integers(1, n // 2, 2))
        source = lambda x, a=a, b=b: a[0] + np.cos(x @ b[:2] * 3.0 + b[2])  # noqa: E731
        found.append(problem(inside, source, lambda x, c=c: c[0] + x @ c[1:]))
    return found


def network(encoded, seed=0):
    torch.manual_seed(seed)
    model = PublishedBENO()
    model.standardise(encoded)
    return model


def inputs_at(found, system, point):
    row = np.flatnonzero((np.abs(system.mesh.points[found.nodes] - point) < 1e-9).all(axis=1))
    return int(row[0])


def test_distances_reach_the_boundary_along_the_axes():
    system = problem(notched(8, 4, 2), lambda x: x[:, 0], lambda x: x[:, 1])
    found = PublishedInputs.of(system)
    left = inputs_at(found, system, (0.25, 0.875))
    np.testing.assert_allclose(found.features[left, 6:], [0.25, 0.25, 0.875, 0.125])
    below = inputs_at(found, system, (0.625, 0.25))
    np.testing.assert_allclose(found.features[below, 6:], [0.625, 0.375, 0.25, 0.5])


def test_source_features_of_a_linear_source():
    system = problem(np.ones((16, 16), dtype=bool), lambda x: 3.0 * x[:, 0] - x[:, 1], lambda x: 0.0 * x[:, 0])
    found = PublishedInputs.of(system)
    middle = inputs_at(found, system, (0.5, 0.4375))
    expected = [3.0 * 0.5 - 0.4375] * 2 + [3.0 / 16, -1.0 / 16]
    np.testing.assert_allclose(found.features[middle, 2:6], expected, rtol=1e-9)
    assert source_density(system).shape == (17 * 17,)


def test_the_smoothing_is_that_of_five_by_five_nodes():
    system = problem(np.ones((16, 16), dtype=bool), lambda x: np.cos(40.0 * x[:, 0]), lambda x: 0.0 * x[:, 0])
    found = PublishedInputs.of(system)
    density = dict(zip(map(tuple, np.round(16 * system.mesh.points).astype(int)), source_density(system), strict=True))
    weight = np.exp(-0.5 * (np.arange(-2, 3) / 5.0) ** 2)
    window = np.array([[density[8 + i, 7 + j] for j in range(-2, 3)] for i in range(-2, 3)])
    expected = weight @ window @ weight / weight.sum() ** 2
    np.testing.assert_allclose(found.features[inputs_at(found, system, (0.5, 0.4375)), 3], expected, rtol=1e-9)


def test_edges_cross_a_notch():
    inside = np.ones((12, 12), dtype=bool)
    inside[5:7, 4:] = False
    system = problem(inside, lambda x: x[:, 0], lambda x: x[:, 1])
    found = PublishedInputs.of(system)
    start, stop = found.features[found.edges, :2]
    pairs = set(map(tuple, found.edges.T))
    assert {(b, a) for a, b in pairs} == pairs and all((i, i) in pairs for i in range(len(found.nodes)))
    assert np.bincount(found.edges[0]).min() >= 11
    assert ((start[:, 0] < 0.4) & (stop[:, 0] > 0.6) & (start[:, 1] > 0.5) & (stop[:, 1] > 0.5)).any()


def test_boundary_points_stand_by_side_as_in_the_published_arrays():
    system = problem(notched(8, 4, 2), lambda x: x[:, 0], lambda x: 10.0 * x[:, 0] + x[:, 1])
    found = PublishedInputs.of(system).boundary
    assert len(found) == 32
    np.testing.assert_allclose(found[:, 2], 10.0 * found[:, 0] + found[:, 1])
    side = np.flatnonzero(found[:, 1] == 0.0)
    np.testing.assert_allclose(found[side[:7], 0], np.arange(7) / 8 if found[0, 0] == 0.0 else np.arange(1, 8) / 8)
    right = [(x, y) for x, y in found[:, :2] if x == 0.5 and y > 0.75]
    far = [(x, y) for x, y in found[:, :2] if x == 1.0 and 0.0 < y < 0.75]
    order = [tuple(row) for row in found[:, :2]]
    assert max(map(order.index, right)) < min(map(order.index, far))


def test_a_batch_equals_single_problems():
    systems = [*random_problems(3), *random_problems(1, n=9)]
    encoded = [PublishedBENO.encode(one) for one in systems]
    model = network(encoded)
    with torch.no_grad():
        single = torch.cat([model(model.join([one])) for one in encoded])
        torch.testing.assert_close(model(model.join(encoded)), single, rtol=1e-4, atol=1e-5)


def test_prescribed_nodes_have_their_values():
    systems = random_problems(2)
    encoded = [PublishedBENO.encode(one) for one in systems]
    model = network(encoded)
    found = model(model.join(encoded)).detach().numpy()
    held, given = (np.concatenate([getattr(one, name) for one in systems]) for name in ("prescribed", "lifting"))
    np.testing.assert_allclose(found[held], given[held], rtol=1e-6)


def test_it_learns_sixteen_problems():
    encoded = [PublishedBENO.encode(one) for one in random_problems(16, n=4)]
    model = network(encoded)
    batch, optimiser = model.join(encoded), torch.optim.Adam(model.parameters(), 3e-4)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = model.loss(batch, model(batch))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]


def test_scaled_data_are_other_data():
    """Ten times the data does not give ten times the solution: standardisation is by the training data."""
    systems = random_problems(4)
    encoded = [PublishedBENO.encode(one) for one in systems]
    model = network(encoded)
    one = encoded[0]
    features = one.features.copy()
    features[:, 2:6] *= 10.0
    boundary, lifting = one.boundary * [1.0, 1.0, 10.0], 10.0 * one.lifting
    tenfold = replace(one, features=features, boundary=boundary, lifting=lifting)
    with torch.no_grad():
        small, large = (model(model.join([given]))[one.nodes] for given in (one, tenfold))
    assert (large - 10.0 * small).norm() > 0.1 * (10.0 * small).norm()


def test_what_the_branches_see():
    """Sources and boundary values are zero at nodes and boundary points of the other branch, but not along edges."""
    encoded = [PublishedBENO.encode(one) for one in random_problems(2)]
    model = network(encoded)
    seen = {}
    for name in ("of_source", "of_boundary"):
        hook = lambda module, given, name=name: seen.update({name: given})  # noqa: E731
        getattr(model, name).register_forward_pre_hook(hook)
    batch = model.join(encoded)
    with torch.no_grad():
        model(batch)
    (no_values, source, edges), (with_values, no_source, other_edges) = seen["of_source"], seen["of_boundary"]
    assert not no_values.boundary[..., 2].any() and not no_source[:, 2:6].any()
    assert with_values.boundary[..., 2].all() and source[:, 2:6].all()
    torch.testing.assert_close(no_source[:, [0, 1, 6, 7, 8, 9]], batch.features[:, [0, 1, 6, 7, 8, 9]])
    assert edges is other_edges
    ends = source[batch.edges]
    torch.testing.assert_close(edges[:, :6], torch.cat([ends[0, :, :3], ends[1, :, :3]], dim=1))


def test_vector_problems_are_refused():
    system = random_problems(1)[0]
    twice = np.repeat(system.source, 2)
    double = replace(system, source=twice)
    with pytest.raises(CaseError, match="a system has 2 components and 0 features per cell in 2D"):
        PublishedBENO.encode(double)
