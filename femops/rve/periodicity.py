"""Periodic pairs of nodes on opposite faces of a parallelepiped.

A node on an upper face is the image of the node one period below it. Where a crack cuts the face, several nodes
coincide; they are then paired through matching facets of the two faces, which lie on the same side of the crack.
Interior nodes have no images.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.meshing.building import exterior
from femops.meshing.connectivity import coincident_pairs, components
from femops.notation import Array, Indices
from femops.rve.parallelepiped import TOLERANCE, Parallelepiped

Flags = npt.NDArray[np.bool_]
_ROUND_OFF = 1e-9
_MOST_TOLERANCE = 1e-2


@dataclass(frozen=True)
class _Face:
    """The nodes of the two faces connected by a period, projected onto the lower face.

    Attributes:
        low: Nodes on the lower face. Shape (n_low,).
        high: Nodes on the upper face. Shape (n_high,).
        low_places: Projected positions of `low` [length]. Shape (n_low, dim).
        high_places: Projected positions of `high` [length]. Shape (n_high, dim).
        image: Position in `low` of the nearest node to each node in `high`. Shape (n_high,).
        high_gap: Distance to that node [length]. Shape (n_high,).
        low_gap: Distance of each node in `low` to the nearest in `high` [length]. Shape (n_low,).
    """

    low: Indices
    high: Indices
    low_places: Array
    high_places: Array
    image: Indices
    high_gap: Array
    low_gap: Array

    @staticmethod
    def of(mesh: TaggedMesh, cell: Parallelepiped, axis: int) -> "_Face":
        """Return the pair of faces connected by the period `axis`."""
        low, high = (np.flatnonzero(cell.on_face(mesh.points, side)[:, axis]) for side in (0, 1))
        below, above = (cell.flattened(mesh.points[nodes], axis) for nodes in (low, high))
        high_gap, image = (np.asarray(one) for one in cKDTree(below).query(above))
        return _Face(low, high, below, above, image, high_gap, np.asarray(cKDTree(above).query(below)[0]))


def faces_match(mesh: TaggedMesh, cell: Parallelepiped) -> bool:
    """Return whether the nodes of opposite faces match."""
    faces = [_Face.of(mesh, cell, axis) for axis in range(mesh.dim)]
    return all(max(face.low_gap.max(), face.high_gap.max()) <= cell.gap for face in faces)


def periodic_masters(mesh: TaggedMesh, cell: Parallelepiped) -> Indices:
    """Return the periodic master of each node, not on an upper face, or the node itself. Shape (n_nodes,).

    Raises:
        CaseError: The nodes of opposite faces do not match, or are ambiguous at cracks.
    """
    faces = [_Face.of(mesh, cell, axis) for axis in range(mesh.dim)]
    _check_tolerance(mesh, cell, faces)
    _check(mesh, cell, faces)
    label = components(_pairs(mesh, cell, faces), len(mesh.points))
    below = ~cell.on_face(mesh.points, 1).any(axis=1)
    first = np.full(label.max() + 1, -1, dtype=np.int64)
    for nodes in (np.arange(len(label)), np.flatnonzero(below)):  # nodes that are not on upper faces take precedence
        first[label[nodes[::-1]]] = nodes[::-1]
    return first[label]


def matched(mesh: TaggedMesh, cell: Parallelepiped) -> TaggedMesh:
    """Return the mesh with nodes on upper faces exactly one period above their masters.

    Nodes that differ by more than round-off are moved, and a note is added: nodes of lower faces onto the plane of the
    face, nodes of upper faces onto the images of their masters. Otherwise the strain in a homogeneous RVE would not be
    uniform.

    Raises:
        CaseError: See `periodic_masters`.
    """
    return _moved(mesh, cell, periodic_masters(mesh, cell))


def levelled(mesh: TaggedMesh, cell: Parallelepiped) -> TaggedMesh:
    """Return the mesh with nodes on faces moved onto the planes of the faces, if they differ by more than round-off."""
    return _moved(mesh, cell, np.arange(len(mesh.points)))


def _moved(mesh: TaggedMesh, cell: Parallelepiped, master: Indices) -> TaggedMesh:
    """Return the mesh with nodes on faces moved onto their planes and to whole periods from their masters."""
    lattice = cell.coordinates(mesh.points)
    exact = lattice.copy()
    for side in (0, 1):
        on_face = cell.on_face(mesh.points, side)
        exact[on_face] = side
    exact = exact[master] + np.rint(lattice - exact[master]) * (master != np.arange(len(master)))[:, None]
    moved = (exact - lattice) @ cell.periods
    gap = float(np.linalg.norm(moved, axis=1).max())
    if gap <= _ROUND_OFF * cell.size:
        return mesh
    note = f"faces were uneven or differed by up to {gap:.2g} ({gap / cell.size:.2g} of the size); nodes were moved"
    still = np.linalg.norm(moved, axis=1) == 0.0
    points = np.where(still[:, None], mesh.points, cell.origin + exact @ cell.periods)
    return replace(mesh, points=points, periods=cell.periods, notes=(*mesh.notes, note))


def _check_tolerance(mesh: TaggedMesh, cell: Parallelepiped, faces: list[_Face]) -> None:
    """Check that distinct nodes on faces are farther apart than the tolerance."""
    points = mesh.points[np.unique(np.concatenate([nodes for face in faces for nodes in (face.low, face.high)]))]
    close = coincident_pairs(points, cell.gap)
    apart = np.linalg.norm(points[close[:, 0]] - points[close[:, 1]], axis=1)
    if (apart > TOLERANCE * cell.size).any():
        problem = f"{cell.tolerance:g} given, but nodes on faces are closer to each other than that part of the size"
        raise CaseError(problem, key="mesh.tolerance")


def _check(mesh: TaggedMesh, cell: Parallelepiped, faces: list[_Face]) -> None:
    """Check that the nodes of opposite faces match."""
    for axis, face in enumerate(faces):
        for nodes, gap, side in ((face.low, face.low_gap, "lower"), (face.high, face.high_gap, "upper")):
            if (gap <= cell.gap).all():
                continue
            largest = _largest_gap(mesh, cell, faces)
            at = ", ".join(f"{x:.4g}" for x in mesh.points[nodes][gap.argmax()])
            raise CaseError(
                f"opposite faces of the RVE mesh do not match along {cell.name_of(axis)}: {(gap > cell.gap).sum()} of "
                f"{len(gap)} nodes of the {side} face have no image, for example the one at ({at}); the largest gap "
                f"is {largest:.3g}, {largest / cell.size:.3g} of the size; {_advice(largest / cell.size)}",
                key="mesh",
            )


def _largest_gap(mesh: TaggedMesh, cell: Parallelepiped, faces: list[_Face]) -> float:
    """Return the largest distance of a node on a face from its image or from the plane of the face [length]."""
    gaps = [max(face.low_gap.max(), face.high_gap.max()) for face in faces]
    wide = replace(cell, tolerance=_MOST_TOLERANCE)
    for axis in range(mesh.dim):
        face = _Face.of(mesh, wide, axis)
        height = wide.coordinates(mesh.points)[:, axis] * wide.heights[axis]
        uneven = max(np.abs(height[face.low]).max(), np.abs(height[face.high] - wide.heights[axis]).max())
        gaps[axis] = min(gaps[axis], max(uneven, face.low_gap.max(), face.high_gap.max()))
    return float(max(gaps))


def _advice(relative: float) -> str:
    """Return the advice of an error message for a relative gap."""
    enough = 1.1 * relative
    if enough < _MOST_TOLERANCE:
        return f"`tolerance: {enough:.1e}` in the mesh block accepts it"
    return "expected the same nodes on both"


def _pairs(mesh: TaggedMesh, cell: Parallelepiped, faces: list[_Face]) -> Indices:
    """Return the pairs of nodes on upper faces and their masters on lower faces. Shape (n_pairs, 2)."""
    pairs, ambiguous = [], np.zeros(len(mesh.points), dtype=bool)
    for face in faces:
        ambiguous[_shared(face, cell)] = True
    for face in faces:
        clear = ~(ambiguous[face.high] | ambiguous[face.low[face.image]])
        pairs.append(np.stack([face.high[clear], face.low[face.image[clear]]], axis=1))
    if ambiguous.any():
        pairs += _pairs_of_facets(mesh, cell, ambiguous)
        unpaired = ambiguous.copy()
        unpaired[np.concatenate(pairs).ravel()] = False
        if unpaired.any():
            at = ", ".join(f"{x:.4g}" for x in mesh.points[unpaired.argmax()])
            raise CaseError(
                f"the RVE mesh has several nodes at ({at}) on a face, and their periodic images are ambiguous; "
                "expected facets of the face on both sides of a crack",
                key="mesh",
            )
    return np.concatenate(pairs)


def _shared(face: _Face, cell: Parallelepiped) -> Indices:
    """Return the ambiguous nodes: nodes of either face where several nodes of one face coincide."""
    found = []
    for places in (face.low_places, face.high_places):
        several = coincident_pairs(places, TOLERANCE * cell.size)
        if len(several):
            at = cKDTree(places[np.unique(several)])
            for nodes, where in ((face.low, face.low_places), (face.high, face.high_places)):
                found.append(nodes[np.asarray(at.query(where)[0]) <= cell.gap])
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _pairs_of_facets(mesh: TaggedMesh, cell: Parallelepiped, ambiguous: Flags) -> list[Indices]:
    """Return the pairs of ambiguous nodes from matching facets of opposite faces."""
    facets, _ = exterior(mesh.cells, mesh.kind)
    pairs = []
    for axis in range(mesh.dim):
        low, high = (facets[cell.on_face(mesh.points, side)[facets, axis].all(axis=1)] for side in (0, 1))
        if not len(low) or not len(high):
            continue
        flat = cell.flattened(mesh.points, axis)
        gap, image = cKDTree(flat[low].mean(axis=1)).query(flat[high].mean(axis=1))
        high, low = high[gap <= cell.gap], low[image[gap <= cell.gap]]  # facets without an image border on voids
        distance = np.linalg.norm(flat[high][:, :, None] - flat[low][:, None], axis=-1)
        partner = np.take_along_axis(low, distance.argmin(axis=2), axis=1)
        both = np.stack([high.ravel(), partner.ravel()], axis=1)
        pairs.append(both[ambiguous[both].any(axis=1)])
    return pairs
