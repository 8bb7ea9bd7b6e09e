"""Boundary of an RVE: outer surface, voids and cracks, from the exterior facets of its mesh.

An RVE is a parallelepiped, whose voids may reach its faces, or a body of any other shape. Boundary conditions act on
the faces of a parallelepiped, and on the whole outer surface of any other body. The volume includes voids.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.meshing.building import exterior, measures
from femops.meshing.connectivity import coincident_pairs, components, links_of_cells
from femops.notation import Array, Indices
from femops.rve.parallelepiped import TOLERANCE, Parallelepiped, box_of, from_hull, spanned
from femops.rve.periodicity import faces_match

Flags = npt.NDArray[np.bool_]
_NO_VOLUME = 1e-9


@dataclass(frozen=True)
class Surface:
    """The exterior facets of a mesh.

    Attributes:
        facets: Nodes of each facet in VTK order. Shape (n_facets, n_nodes_of_facet).
        normals: ∫ N n dA for each node of a facet, with its shape function N and the outward normal n
            [length^(dim − 1)]. Shape (n_facets, n_nodes_of_facet, dim).
        volumes: ∫ x · n dA / dim; its sum over a closed surface is the enclosed volume, negative for voids
            [length^dim]. Shape (n_facets,).
        centres: Mean of the nodes of each facet [length]. Shape (n_facets, dim).
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
    """Boundary of the body of a mesh; properties are computed on first access.

    Args:
        mesh: The mesh of an RVE. If it has periods, it must span them.
        tolerance: Largest distance of a point on a face from the plane of the face, relative to the size [-].
    """

    def __init__(self, mesh: TaggedMesh, tolerance: float = TOLERANCE) -> None:
        self.mesh, self.tolerance = mesh, tolerance

    @cached_property
    def surface(self) -> Surface:
        """All exterior facets."""
        return Surface.of(self.mesh)

    @cached_property
    def cell(self) -> Parallelepiped | None:
        """The parallelepiped that the mesh fills, apart from voids; None if it has another shape.

        If the mesh has periods, they define it. Otherwise it is the bounding box, if this has facets on all faces and
        nodes in all corners; corners may be missing (void) if opposite faces match and the body is not convex.
        Rotated or sheared parallelepipeds are found from the convex hull.
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
        """Volume including voids [length^dim]."""
        if self.cell is not None:
            return self.cell.volume
        self._outer  # noqa: B018 - raises if there are several bodies
        volumes = self._components[1]
        return float(measures(self.mesh).sum() - volumes[volumes < 0.0].sum())

    @cached_property
    def boundary_nodes(self) -> Flags:
        """Mask of the nodes on the faces of a parallelepiped or the outer surface of another body. Shape (n_nodes,)."""
        if self.cell is not None:
            sides = [self.cell.on_face(self.mesh.points, side).any(axis=1) for side in (0, 1)]
            return np.asarray(sides[0] | sides[1])
        found = np.zeros(len(self.mesh.points), dtype=bool)
        found[self.surface.facets[self._outer]] = True
        return found

    @cached_property
    def crack_faces(self) -> Flags:
        """Mask of the crack faces: facets that coincide with another one. Shape (n_facets,)."""
        centres = self.surface.centres
        found = np.zeros(len(centres), dtype=bool)
        found[coincident_pairs(centres, self._coincidence).ravel()] = True
        return found

    @cached_property
    def given_periods(self) -> Array | None:
        """Periods of the mesh if they cannot be found from its nodes and cells; otherwise None."""
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
        """Return the closed surface of each facet, −1 on cracks, and the volume enclosed by each surface."""
        points, keep = self.mesh.points, ~self.crack_faces
        facets = self.surface.facets[keep]
        links = np.vstack([links_of_cells(facets), coincident_pairs(points, self._coincidence)])
        names, label = np.unique(components(links, len(points))[facets[:, 0]], return_inverse=True)
        component = np.full(len(keep), -1, dtype=np.int64)
        component[keep] = label
        return component, np.bincount(label, weights=self.surface.volumes[keep], minlength=len(names))

    @cached_property
    def _outer(self) -> Flags:
        """Mask of the facets of the outer surface of a body that is not a parallelepiped. Shape (n_facets,)."""
        component, volumes = self._components
        outer = np.flatnonzero(volumes > _NO_VOLUME * self.surface.volumes.sum())
        if len(outer) != 1:
            raise CaseError(
                f"the RVE mesh is not a parallelepiped and consists of {len(outer)} separate bodies; expected one, "
                "or the period vectors of the cell as `periods` in the mesh block",
                key="mesh",
            )
        return np.asarray(component == outer[0])

    @property
    def _coincidence(self) -> float:
        """Largest distance of coincident points [length]."""
        return TOLERANCE * float(np.ptp(self.mesh.points, axis=0).max())

    @property
    def _convex(self) -> bool:
        volumes = self._components[1]
        hull = ConvexHull(self.mesh.points[np.unique(self.surface.facets)])
        return bool(volumes[volumes > 0.0].sum() >= (1.0 - 1e-6) * hull.volume)


def nodal_normals(surface: Surface, chosen: Flags, n_nodes: int) -> Array:
    """Assemble ∫ N n dA of chosen facets at the nodes [length^(dim − 1)]. Shape (n_nodes, dim)."""
    total = np.zeros((n_nodes, surface.normals.shape[2]))
    np.add.at(total, surface.facets[chosen], surface.normals[chosen])
    return total
