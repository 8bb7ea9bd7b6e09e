"""Boundary of a plane domain as closed contours of nodes in order."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from femops.meshing import TaggedMesh
from femops.meshing.building import exterior
from femops.notation import Array, Indices


@dataclass(frozen=True)
class Contours:
    """Closed contours of a mesh of triangles or quadrilaterals; the domain lies on their left.

    The outer contour runs counterclockwise and is the first one, the contours of holes run clockwise.

    Attributes:
        points: Coordinates of the nodes of the mesh [length]. Shape (n_nodes, 2).
        loops: Nodes of each contour in order, without repetition of the first. A node at which the domain touches
            itself appears more than once.
    """

    points: Array
    loops: tuple[Indices, ...]

    @classmethod
    def of(cls, mesh: TaggedMesh) -> "Contours":
        """Return the contours of a mesh."""
        edges, owner = exterior(mesh.cells, mesh.kind)
        ends = edges[:, :2]
        along = mesh.points[ends[:, 1]] - mesh.points[ends[:, 0]]
        inside = mesh.points[mesh.cells[owner]].mean(axis=1) - mesh.points[ends[:, 0]]
        turned = along[:, 0] * inside[:, 1] - along[:, 1] * inside[:, 0] < 0.0
        ends = np.where(turned[:, None], ends[:, ::-1], ends)
        loops = _chained(ends, mesh.points)
        area = np.array([_area(mesh.points[loop]) for loop in loops])
        return cls(mesh.points, tuple(loops[i] for i in np.argsort(-area, kind="stable")))

    @cached_property
    def nodes(self) -> Indices:
        """Nodes of all contours, one contour after the other. Shape (n_b,)."""
        return np.concatenate(self.loops)

    @cached_property
    def loop(self) -> Indices:
        """Contour of each of `nodes`. Shape (n_b,)."""
        return np.repeat(np.arange(len(self.loops)), [len(one) for one in self.loops])

    @cached_property
    def normal(self) -> Array:
        """Outward unit normal at each of `nodes`, the mean of both edges by length. Shape (n_b, 2)."""
        parts = [self.points[np.roll(loop, -1)] - self.points[np.roll(loop, 1)] for loop in self.loops]
        chord = np.concatenate(parts)
        length = np.maximum(np.linalg.norm(chord, axis=1, keepdims=True), np.finfo(float).tiny)
        return np.stack([chord[:, 1], -chord[:, 0]], axis=1) / length

    @cached_property
    def length(self) -> Array:
        """Length of the contour that belongs to each of `nodes`: half of both edges [length]. Shape (n_b,)."""
        parts = []
        for loop in self.loops:
            edge = np.linalg.norm(self.points[np.roll(loop, -1)] - self.points[loop], axis=1)
            parts.append(0.5 * (edge + np.roll(edge, 1)))
        return np.concatenate(parts)

    @cached_property
    def arc(self) -> Array:
        """Position of each of `nodes` along its contour, as a part of the length of the contour [-]. Shape (n_b,)."""
        parts = []
        for loop in self.loops:
            edge = np.linalg.norm(self.points[np.roll(loop, -1)] - self.points[loop], axis=1)
            parts.append((np.cumsum(edge) - edge) / edge.sum())
        return np.concatenate(parts)


def _chained(edges: Indices, points: Array) -> list[Indices]:
    """Return the closed chains of directed edges (n, 2).

    Where several edges start at a node, at which the domain touches itself, the chain takes the sharpest turn to the
    left, so that it does not cross itself.
    """
    order = np.argsort(edges[:, 0], kind="stable")
    starts = edges[order, 0]
    unused = np.ones(len(edges), dtype=bool)
    chains = []
    for first in range(len(edges)):
        if not unused[first]:
            continue
        chain, edge = [], first
        while unused[edge]:
            unused[edge] = False
            chain.append(int(edges[edge, 0]))
            end = edges[edge, 1]
            following = order[np.searchsorted(starts, end, "left") : np.searchsorted(starts, end, "right")]
            edge = int(following[0] if len(following) == 1 else _leftmost(edges, points, edge, following))
        chains.append(np.array(chain))
    return chains


def _leftmost(edges: Indices, points: Array, edge: int, following: Indices) -> int:
    """Return the edge that turns furthest to the left."""
    come = points[edges[edge, 1]] - points[edges[edge, 0]]
    go = points[edges[following, 1]] - points[edges[following, 0]]
    turn = np.arctan2(come[0] * go[:, 1] - come[1] * go[:, 0], go @ come)
    return int(following[np.argmax(turn)])


def _area(points: Array) -> float:
    """Return the signed area of a polygon (n, 2), positive if counterclockwise."""
    x, y = points.T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
