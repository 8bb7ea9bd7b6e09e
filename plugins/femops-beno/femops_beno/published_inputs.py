"""Inputs of the published network: a graph of nearest neighbours, nodal features and a list of boundary points.

See `femops_beno.published` for what is taken from the paper. The published data are values at the cell centres of a
grid; here the free nodes of a mesh take their place, and the boundary nodes that of the published boundary points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.spatial import Delaunay, cKDTree

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.meshing.building import measures
from femops.notation import Array, Indices
from femops.surrogate.graph import FEGraph, fe_graph
from femops_beno.contour import Contours
from femops_beno.systems import System

NEIGHBOURS = 10
_WINDOW, _SPREAD = 2.5, 5.0  # half width and standard deviation of the smoothing, over the distance of nodes


@dataclass(frozen=True)
class PublishedInputs:
    """A scalar problem in the plane as the published network sees it, before standardisation.

    Attributes:
        nodes: The free nodes. Shape (n_free,).
        features: Columns x, y, source, smoothed source, its two differences, and the distances to the boundary along
            −x, +x, −y, +y. Shape (n_free, 10).
        edges: Edges between free nodes, both directions and loops: start and end. Shape (2, n_edges).
        boundary: Columns x, y and boundary value: the prescribed one, elsewhere the flux. Shape (n_b, 3).
        lifting: Prescribed values, 0 elsewhere. Shape (n_nodes,).
        solution: The solution, if known. Shape (n_nodes,).
    """

    nodes: Indices
    features: Array
    edges: Indices
    boundary: Array
    lifting: Array
    solution: Array | None

    @classmethod
    def of(cls, system: System) -> "PublishedInputs":
        """Return the inputs of a problem.

        Raises:
            CaseError: The problem has several components or coefficients, is not plane, or its free nodes cannot be
                triangulated.
        """
        given = system.n_components, system.features.shape[1], system.mesh.dim
        if given != (1, 0, 2):
            what = "{} components and {} features per cell in {}D".format(*given)
            raise CaseError(f"the published network solves Poisson's equation in the plane; a system has {what}")
        contours, free = system.contours, np.flatnonzero(~system.prescribed)
        points = system.mesh.points[free]
        if len(points) < 3 or np.linalg.matrix_rank(points - points[0]) < 2:
            what = f"a system has {len(points)} free nodes, all on one line"
            raise CaseError(f"the published network triangulates the free nodes; {what}")
        columns = [points, _source_features(system)[free], _distances(points, contours)]
        edges, boundary = _edges(points), _boundary(system, contours)
        return cls(free, np.concatenate(columns, axis=1), edges, boundary, system.lifting, system.solution)


def source_density(system: System) -> Array:
    """Return the source at the nodes: its load over the area of the node. Shape (n_nodes,)."""
    return system.source / _node_area(system.mesh, _graph(system.mesh))


def _node_area(mesh: TaggedMesh, graph: FEGraph) -> Array:
    """Return the area of each node [length²]. Shape (n_nodes,)."""
    return np.asarray(graph.node_volume * measures(mesh).mean())


def _graph(mesh: TaggedMesh) -> FEGraph:
    return fe_graph(mesh.points, mesh.cells, mesh.kind, np.arange(len(mesh.points)), len(mesh.points))


def _source_features(system: System) -> Array:
    """Return source, smoothed source, and its differences between neighbouring nodes in x and y. Shape (n_nodes, 4)."""
    mesh, graph = system.mesh, _graph(system.mesh)
    area = _node_area(mesh, graph)
    source, spacing = system.source / area, np.sqrt(np.median(area))
    pairs = cKDTree(mesh.points).query_pairs(_WINDOW * spacing, p=np.inf, output_type="ndarray").T
    far = np.linalg.norm(mesh.points[pairs[0]] - mesh.points[pairs[1]], axis=1) / spacing
    weight = np.exp(-0.5 * (far / _SPREAD) ** 2)
    half = sp.coo_array((weight, (pairs[0], pairs[1])), shape=2 * (len(source),)).tocsr()
    blur = half + half.T + sp.eye_array(len(source))
    smooth = (blur @ source) / blur.sum(axis=1)
    slopes = np.einsum("cin,cn->ci", graph.gradient, smooth[mesh.cells])
    share = (graph.mean * graph.volume[:, None]).ravel()
    rows, cells = mesh.cells.ravel(), np.repeat(np.arange(graph.n_cells), mesh.cells.shape[1])
    average = sp.coo_array((share / graph.node_volume[rows], (rows, cells)), shape=(len(source), graph.n_cells))
    return np.column_stack([source, smooth, average.tocsr() @ slopes])


def _distances(points: Array, contours: Contours) -> Array:
    """Return the distances from points to the boundary along −x, +x, −y, +y. Shape (n_points, 4)."""
    start = contours.points[contours.nodes]
    stop = np.concatenate([contours.points[np.roll(loop, -1)] for loop in contours.loops])
    found = []
    for along in (0, 1):
        across = 1 - along
        level = points[:, None, across]
        crossed = (np.minimum(start, stop)[:, across] <= level) & (level < np.maximum(start, stop)[:, across])
        with np.errstate(divide="ignore", invalid="ignore"):
            part = (level - start[:, across]) / (stop - start)[:, across]
        gap = start[:, along] + part * (stop - start)[:, along] - points[:, None, along]
        for sign in (-1.0, 1.0):
            ahead = np.where(crossed & (sign * gap >= 0.0), sign * gap, np.inf).min(axis=1)
            found.append(np.where(np.isfinite(ahead), ahead, 0.0))  # a boundary node may see nothing ahead
    return np.column_stack(found)


def _edges(points: Array) -> Indices:
    """Return the edges to the nearest neighbours and those of a Delaunay triangulation of the points alone."""
    n = len(points)
    near: Indices = cKDTree(points).query(points, k=min(NEIGHBOURS + 1, n))[1]
    corners = Delaunay(points).simplices
    starts = np.concatenate([np.repeat(np.arange(n), near.shape[1]), corners.ravel()])
    stops = np.concatenate([near.ravel(), np.roll(corners, -1, axis=1).ravel()])
    code = np.unique(np.concatenate([starts * n + stops, stops * n + starts]))
    return np.stack([code // n, code % n])


def _boundary(system: System, contours: Contours) -> Array:
    """Return the boundary points in the order of the published arrays: by side (down, right, up, left), then x, y."""
    nodes, normal = contours.nodes, contours.normal
    x, y = np.round(system.mesh.points[nodes], 9).T
    side = np.argmax(np.stack([-normal[:, 1], normal[:, 0], normal[:, 1], -normal[:, 0]]), axis=0)
    value = np.where(system.prescribed[nodes], system.lifting[nodes], system.flux[nodes] / contours.length)
    return np.column_stack([x, y, value])[np.lexsort((y, x, side))]


@dataclass(frozen=True)
class PublishedBatch:
    """Several problems as one graph, in single precision.

    Attributes:
        features: See `PublishedInputs`. Shape (n_free, 10).
        nodes: Each free node, as a node of all meshes together. Shape (n_free,).
        owner: Problem of each free node. Shape (n_free,).
        edges: Shape (2, n_edges).
        boundary: Each boundary point after its predecessor and before its successor in the list, which is closed. Shape
            (n_problems, n_b, 3, 3).
        padding: Mask of the rows that only fill `boundary`. Shape (n_problems, n_b).
        lifting: Shape (n_nodes,).
        solution: NaN where unknown. Shape (n_nodes,).
    """

    features: Tensor
    nodes: Tensor
    owner: Tensor
    edges: Tensor
    boundary: Tensor
    padding: Tensor
    lifting: Tensor
    solution: Tensor

    @classmethod
    def of(cls, problems: Sequence[PublishedInputs]) -> "PublishedBatch":
        """Join problems."""
        free = np.array([len(one.nodes) for one in problems])
        total = np.array([len(one.lifting) for one in problems])
        before_free, before = np.cumsum(free) - free, np.cumsum(total) - total
        longest = max(len(one.boundary) for one in problems)
        boundary, padding = np.zeros((len(problems), longest, 3, 3)), np.ones((len(problems), longest), dtype=bool)
        for rows, empty, one in zip(boundary, padding, problems, strict=True):
            n = len(one.boundary)
            rows[:n] = np.stack([np.roll(one.boundary, shift, axis=0) for shift in (1, 0, -1)], axis=1)
            empty[:n] = False
        unknown = [np.full(n, np.nan) for n in total]
        solution = [none if one.solution is None else one.solution for one, none in zip(problems, unknown, strict=True)]
        return cls(
            _single([one.features for one in problems]),
            torch.from_numpy(np.concatenate([one.nodes + n for one, n in zip(problems, before, strict=True)])),
            torch.from_numpy(np.repeat(np.arange(len(problems)), free)),
            torch.from_numpy(np.concatenate([one.edges + n for one, n in zip(problems, before_free, strict=True)], 1)),
            _single([boundary]),
            torch.from_numpy(padding),
            _single([one.lifting for one in problems]),
            _single(solution),
        )


def _single(parts: Sequence[Array]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))
