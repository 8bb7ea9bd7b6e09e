"""Parallelepipeds spanned by period vectors, given or found from a mesh."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError, cKDTree

from femops.errors import CaseError
from femops.notation import Array

TOLERANCE = 1e-6
"""Points closer than this fraction of the size of a cell coincide."""


@dataclass(frozen=True)
class Parallelepiped:
    """The points origin + ξ · periods with lattice coordinates 0 ≤ ξ_i ≤ 1.

    Attributes:
        origin: A corner [length]. Shape (dim,).
        periods: Edge vectors from the origin, as rows [length]. Shape (dim, dim).
        tolerance: Largest distance of a point on a face from the plane of the face, relative to the size [-].
    """

    origin: Array
    periods: Array
    tolerance: float = field(default=TOLERANCE, compare=False)

    @property
    def dim(self) -> int:
        """Dimension of space."""
        return len(self.origin)

    @property
    def size(self) -> float:
        """Length of the longest period [length]."""
        return float(np.linalg.norm(self.periods, axis=1).max())

    @property
    def gap(self) -> float:
        """Absolute tolerance [length]."""
        return self.tolerance * self.size

    @property
    def aligned(self) -> bool:
        """Whether each edge is parallel to its coordinate axis."""
        return not (self.periods - np.diag(np.diag(self.periods))).any()

    @property
    def volume(self) -> float:
        """Volume [length^dim]."""
        if self.aligned:
            return float(np.prod(np.abs(np.diag(self.periods))))
        return float(abs(np.linalg.det(self.periods)))

    @cached_property
    def _inverse(self) -> Array:
        return np.asarray(np.linalg.inv(self.periods))

    @property
    def heights(self) -> Array:
        """Distance between the two faces connected by each period [length]. Shape (dim,)."""
        return np.asarray(1.0 / np.linalg.norm(self._inverse, axis=0))

    def coordinates(self, points: Array) -> Array:
        """Return the lattice coordinates ξ of points. Shape (n, dim)."""
        return np.asarray((points - self.origin) @ self._inverse)

    def corner(self, fractions: npt.ArrayLike) -> Array:
        """Return the corner with the given ξ [length]. Shape (dim,)."""
        return np.asarray(self.origin + np.asarray(fractions, dtype=np.float64) @ self.periods)

    def on_face(self, points: Array, side: int) -> npt.NDArray[np.bool_]:
        """Return a mask of the points on the lower (0) or upper (1) face of each period. Shape (n, dim)."""
        return np.asarray(np.abs(self.coordinates(points) - side) * self.heights < self.gap)

    def flattened(self, points: Array, axis: int) -> Array:
        """Project points along one period onto its lower face [length]. Shape (n, dim)."""
        return np.asarray(points - self.coordinates(points)[:, axis, None] * self.periods[axis])

    def name_of(self, axis: int) -> str:
        """Return the name of a period for messages."""
        return "xyz"[axis] if self.aligned else f"the period [{', '.join(f'{x:.6g}' for x in self.periods[axis])}]"


def spanned(points: Array, periods: Array, tolerance: float = TOLERANCE) -> Parallelepiped:
    """Return the parallelepiped with the given periods that is spanned by points.

    Raises:
        CaseError: The periods are invalid, or the points do not span exactly one of each.
    """
    dim = points.shape[1]
    if periods.shape != (dim, dim):
        raise CaseError(f"{periods.tolist()} given, expected {dim} vectors of {dim} numbers", key="mesh.periods")
    lengths = np.linalg.norm(periods, axis=1)
    if abs(np.linalg.det(periods)) <= TOLERANCE * np.prod(lengths):
        raise CaseError(f"{periods.tolist()} given, expected vectors that span a cell", key="mesh.periods")
    lattice = points @ np.linalg.inv(periods)
    low, extent = lattice.min(0), np.ptp(lattice, axis=0)
    found = Parallelepiped(low @ periods, periods, tolerance)
    if (np.abs(extent - 1.0) * found.heights > 2.0 * found.gap).any():
        spans = ", ".join(f"{x:.8g}" for x in extent)
        raise CaseError(f"the mesh spans {spans} times the period vectors, expected 1 of each", key="mesh.periods")
    box = _box_of(points, tolerance)
    return box if (np.abs(box.periods - periods) <= TOLERANCE * found.size).all() else found


def box_of(points: Array, on_faces: Array, tolerance: float = TOLERANCE) -> tuple[Parallelepiped, bool] | None:
    """Return the bounding box of points and whether it has points in all corners; None if a face has no facet.

    Args:
        points: Coordinates [length]. Shape (n, dim).
        on_faces: Node coordinates of the exterior facets [length]. Shape (n_facets, n_nodes_of_facet, dim).
        tolerance: See `Parallelepiped`.
    """
    box = _box_of(points, tolerance)
    flat = on_faces.reshape(-1, box.dim)
    for side in (0, 1):
        if not box.on_face(flat, side).reshape(*on_faces.shape[:2], box.dim).all(axis=1).any(axis=0).all():
            return None
    return box, _has_corners(box, points)


def from_hull(points: Array, tolerance: float = TOLERANCE) -> Parallelepiped | None:
    """Return the convex hull of points if it is a parallelepiped, otherwise None."""
    try:
        hull = ConvexHull(points)
    except QhullError:
        return None
    dim, gap = points.shape[1], tolerance * float(np.ptp(points, axis=0).max())
    corners = points[hull.simplices]
    area = np.abs(np.linalg.det(np.concatenate([corners[:, 1:] - corners[:, :1], hull.equations[:, None, :dim]], 1)))
    left = np.ones(len(area), dtype=bool)
    normals: list[Array] = []
    while left.any() and len(normals) < dim:
        normal = hull.equations[np.argmax(np.where(left, area, -1.0)), :dim]
        normals.append(normal * np.sign(normal[np.abs(normal).round(9).argmax()]))
        heights, of_corners = points @ normals[-1], corners @ normals[-1]
        for level in (heights.min(), heights.max()):
            left &= ~(np.abs(of_corners - level) <= gap).all(axis=1)
    if left.any() or len(normals) < dim or abs(np.linalg.det(np.array(normals))) < TOLERANCE:
        return None
    normals.sort(key=lambda one: int(np.abs(one).round(9).argmax()))
    return _with_normals(points, np.array(normals), tolerance)


def _with_normals(points: Array, normals: Array, tolerance: float) -> Parallelepiped | None:
    """Return the parallelepiped with these face normals that encloses points; None if a corner has no point."""
    heights, inverse = points @ normals.T, np.linalg.inv(normals)
    tree = cKDTree(points)
    origin = points[tree.query(inverse @ heights.min(0))[1]]
    edges = (inverse * np.ptp(heights, axis=0)).T
    found = Parallelepiped(origin, points[tree.query(origin + edges)[1]] - origin, tolerance)
    return found if _has_corners(found, points) else None


def _box_of(points: Array, tolerance: float) -> Parallelepiped:
    lower, upper = points.min(0), points.max(0)
    return Parallelepiped(lower, np.diag(upper - lower), tolerance)


def _has_corners(cell: Parallelepiped, points: Array) -> bool:
    """Return whether every corner has a point."""
    corners = cell.corner(np.array(list(np.ndindex(*(2,) * cell.dim))))
    return bool(np.all(np.asarray(cKDTree(points).query(corners)[0]) <= 2.0 * cell.dim * cell.gap))
