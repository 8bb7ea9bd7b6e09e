"""What bounds an RVE: its outer surface, voids and cracks, told apart by the facets that belong to one cell only.

An RVE is a parallelepiped, whose voids may reach its faces, or a body of any other shape. Boundary conditions act on
the faces of the one and on the whole outer surface of the other, and the volume of both includes their voids.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, cKDTree

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.meshing.building import exterior, measures
from femops.notation import Array
from femops.rve.parallelepiped import TOLERANCE, Parallelepiped, box_of, from_hull, spanned
from femops.rve.periodicity import faces_match

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
_NO_VOLUME = 1e-9


@dataclass(frozen=True)
class Surface:
    """The exterior facets of a mesh.

    Attributes:
        facets: Their nodes in VTK order. Shape (n_facets, n_nodes_of_facet).
        normals: ∫ N n dA of each of their nodes with its shape function N, n pointing out of the body
            [length^(dim − 1)]. Shape (n_facets, n_nodes_of_facet, dim).
        volumes: ∫ x · n dA / dim; the sum over a closed surface is the volume in it, negative for voids [length^dim].
            Shape (n_facets,).
        centres: Mean of their nodes [length]. Shape (n_facets, dim).
    """

    facets: Indices
    normals: Array
    volumes: Array
    centres: Array

    @staticmethod
    def of(mesh: TaggedMesh) -> "Surface":
        """Return the exterior facets of a mesh."""
        facets, owner = exterior(mesh.cells, mesh.kind)
        kind, nodes = mesh.facet_kind, mesh.points[facets]
        reference, weight = kind.quadrature(2 * kind.degree + (mesh.dim - 1) * kind.degree)
        basis, slopes = kind.tabulate(reference)
        tangents = np.einsum("fni,qnj->fqji", nodes, slopes)
        if mesh.dim == 2:
            normal = np.stack([tangents[:, :, 0, 1], -tangents[:, :, 0, 0]], axis=-1)
        else:
            normal = np.cross(tangents[:, :, 0], tangents[:, :, 1])
        centres = nodes.mean(axis=1)
        inside = mesh.points[mesh.cells[owner]].mean(axis=1)
        sign = np.sign(np.einsum("fi,fqi,q->f", centres - inside, normal, weight))
        weighted = normal * (sign[:, None, None] * weight[None, :, None])
        places = np.einsum("qn,fni->fqi", basis, nodes - mesh.points.mean(0))
        volumes = np.einsum("fqi,fqi->f", places, weighted) / mesh.dim
        return Surface(facets, np.einsum("qn,fqi->fni", basis, weighted), volumes, centres)


class Outline:
    """What bounds the body of a mesh; found when it is first asked for.

    Args:
        mesh: The mesh of an RVE. If it names its periods, it has to span them.
        tolerance: Largest distance from a face of what lies on it, relative to the size [-].
    """

    def __init__(self, mesh: TaggedMesh, tolerance: float = TOLERANCE) -> None:
        self.mesh, self.tolerance = mesh, tolerance

    @cached_property
    def surface(self) -> Surface:
        """All exterior facets."""
        return Surface.of(self.mesh)

    @cached_property
    def cell(self) -> Parallelepiped | None:
        """The parallelepiped that the mesh fills but for voids; None if it has another shape.

        A box around the mesh counts where it has facets on all faces and nodes in all corners; without the corners,
        which may be void, where opposite faces match and the body is not convex. Other parallelepipeds are found by
        the convex hull. The periods of a mesh decide without a search.
        """
        mesh = self.mesh
        if mesh.periods is not None:
            return spanned(mesh.points, mesh.periods, self.tolerance)
        found = box_of(mesh.points, mesh.points[self.surface.facets], self.tolerance)
        if found is None:
            return from_hull(mesh.points, self.tolerance)
        box, has_corners = found
        if has_corners or (not self._convex and faces_match(mesh, box)):
            return box
        return None

    @cached_property
    def volume(self) -> float:
        """Volume with all voids [length^dim]."""
        if self.cell is not None:
            return self.cell.volume
        self._outer  # noqa: B018 - several parts are refused
        volumes = self._components[1]
        return float(measures(self.mesh).sum() - volumes[volumes < 0.0].sum())

    @cached_property
    def boundary_nodes(self) -> Flags:
        """Nodes on the faces of a parallelepiped, or on the outer surface of a body of another shape. Shape (n,)."""
        if self.cell is not None:
            sides = [self.cell.on_face(self.mesh.points, side).any(axis=1) for side in (0, 1)]
            return np.asarray(sides[0] | sides[1])
        found = np.zeros(len(self.mesh.points), dtype=bool)
        found[self.surface.facets[self._outer]] = True
        return found

    @cached_property
    def walls(self) -> Flags:
        """Facets of cracks: those that another one lies upon. Shape (n_facets,)."""
        centres = self.surface.centres
        pairs = cKDTree(centres).query_pairs(TOLERANCE * np.ptp(self.mesh.points, axis=0).max(), output_type="ndarray")
        found = np.zeros(len(centres), dtype=bool)
        found[pairs.ravel()] = True
        return found

    @cached_property
    def told_periods(self) -> Array | None:
        """Periods of the mesh, where its nodes and cells alone do not tell them."""
        if self.mesh.periods is None or self.cell is None:
            return None
        found = Outline(replace(self.mesh, periods=None), self.tolerance).cell
        same = found is not None and np.array_equal(found.periods, self.cell.periods)
        return None if same else self.cell.periods

    @property
    def voids_on_faces(self) -> bool:
        """Whether voids reach the faces of a parallelepiped."""
        if self.cell is None:
            return False
        volumes = self._components[1]
        return bool(volumes[volumes > 0.0].sum() < (1.0 - 1e-6) * self.cell.volume)

    @cached_property
    def _components(self) -> tuple[Indices, Array]:
        """Return the surface that each facet belongs to, −1 on cracks, and the volume inside each surface."""
        mesh, keep = self.mesh, ~self.walls
        facets = _places(mesh.points)[self.surface.facets[keep]]
        rows = np.repeat(facets[:, :1], facets.shape[1] - 1, axis=1).ravel()
        links = (np.ones(len(rows)), (rows, facets[:, 1:].ravel()))
        n = len(mesh.points)
        of_node = connected_components(sp.coo_array(links, shape=(n, n)), directed=False)[1]
        names, label = np.unique(of_node[facets[:, 0]], return_inverse=True)
        component = np.full(len(keep), -1, dtype=np.int64)
        component[keep] = label
        return component, np.bincount(label, weights=self.surface.volumes[keep], minlength=len(names))

    @cached_property
    def _outer(self) -> Flags:
        """Facets of the outer surface of a body that is no parallelepiped. Shape (n_facets,)."""
        component, volumes = self._components
        outer = np.flatnonzero(volumes > _NO_VOLUME * self.surface.volumes.sum())
        if len(outer) != 1:
            raise CaseError(
                f"the RVE mesh is no parallelepiped and has {len(outer)} parts that touch nothing; expected one body, "
                "or the period vectors of the cell as `periods` in the mesh block",
                key="mesh",
            )
        return np.asarray(component == outer[0])

    @property
    def _convex(self) -> bool:
        volumes = self._components[1]
        hull = ConvexHull(self.mesh.points[np.unique(self.surface.facets)])
        return bool(volumes[volumes > 0.0].sum() >= (1.0 - 1e-6) * hull.volume)


def nodal_normals(surface: Surface, chosen: Flags, n_nodes: int) -> Array:
    """Return Σ ∫ N n dA of some facets at the nodes [length^(dim − 1)]. Shape (n_nodes, dim)."""
    total = np.zeros((n_nodes, surface.normals.shape[2]))
    np.add.at(total, surface.facets[chosen], surface.normals[chosen])
    return total


def _places(points: Array) -> Indices:
    """Return for each node the first one at the same place. Shape (n_nodes,)."""
    gap = TOLERANCE * np.ptp(points, axis=0).max()
    pairs = cKDTree(points).query_pairs(gap, output_type="ndarray")
    if not len(pairs):
        return np.arange(len(points))
    links = sp.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2)
    label = connected_components(links, directed=False)[1]
    return np.unique(label, return_index=True)[1][label]
