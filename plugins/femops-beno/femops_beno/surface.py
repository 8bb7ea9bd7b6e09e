"""Boundary of a solid as closed surfaces."""

from dataclasses import dataclass

import numpy as np

from femops.meshing import TaggedMesh
from femops.meshing.connectivity import components, links_of_cells
from femops.notation import Array, Indices
from femops.rve.outline import Surface, nodal_normals


@dataclass(frozen=True)
class Surfaces:
    """Closed surfaces of a mesh of tetrahedra or hexahedra, the outer one (with the largest extent) first.

    Attributes:
        nodes: Nodes, surface by surface. Shape (n_b,).
        loop: Surface of each of `nodes`. Shape (n_b,).
        normal: Outward unit normal at each of `nodes`, the mean of its facets by area. Shape (n_b, 3).
        length: Area that belongs to each of `nodes` [length²]. Shape (n_b,).
    """

    nodes: Indices
    loop: Indices
    normal: Array
    length: Array

    @classmethod
    def of(cls, mesh: TaggedMesh) -> "Surfaces":
        """Return the surfaces of a mesh."""
        surface = Surface.of(mesh)
        vector = nodal_normals(surface, np.ones(len(surface.facets), dtype=bool), len(mesh.points))
        area = np.zeros(len(mesh.points))
        np.add.at(area, surface.facets, np.linalg.norm(surface.normals, axis=2))
        nodes, loop = _ordered(surface.facets, mesh.points)
        length = np.maximum(np.linalg.norm(vector[nodes], axis=1, keepdims=True), np.finfo(float).tiny)
        return cls(nodes, loop, vector[nodes] / length, area[nodes])


def _ordered(facets: Indices, points: Array) -> tuple[Indices, Indices]:
    """Return the nodes of facets, connected ones together, and the number of the surface of each."""
    label = components(links_of_cells(facets), len(points))
    nodes = np.unique(facets)
    names, surface = np.unique(label[nodes], return_inverse=True)
    extent = [np.ptp(points[nodes[surface == i]], axis=0).max() for i in range(len(names))]
    rank = np.argsort(np.argsort(-np.array(extent), kind="stable"), kind="stable")[surface]
    order = np.argsort(rank, kind="stable")
    return nodes[order], rank[order]
