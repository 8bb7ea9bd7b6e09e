"""Polygons in a periodic cell.

Edge i of a polygon leads from corner i to the next one. Polygons need not be convex.
"""

from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
import numpy.typing as npt

from femops.errors import CaseError
from femops.notation import Array

_TOLERANCE = 1e-6  # distance regarded as touching, relative to the size of a polygon or the cell


@dataclass(frozen=True)
class PolygonInclusion:
    """A polygon.

    Attributes:
        centre: Centre of the bounding box [length]. Shape (2,).
        corners: Corners relative to the centre, in either direction [length]. Shape (n, 2).
        phase: Name of its phase.
    """

    centre: Array
    corners: Array
    phase: str

    @classmethod
    def of(cls, points: Array, phase: str) -> Self:
        """Return the polygon with given corners [length]. Shape (n, 2)."""
        centre = 0.5 * (points.min(axis=0) + points.max(axis=0))
        return cls(centre, points - centre, phase)

    @property
    def points(self) -> Array:
        """Corners [length]. Shape (n, 2)."""
        return self.centre + self.corners

    @property
    def reach(self) -> Array:
        """Half the edges of the bounding box [length]. Shape (2,)."""
        return np.asarray(self.corners.max(axis=0))

    @property
    def radius(self) -> float:
        """Largest distance of a corner from the centre [length]."""
        return float(np.linalg.norm(self.corners, axis=1).max())

    def touched(self, extent: Array) -> str | None:
        """Return which face or corner of a cell, or of a periodic image, the polygon touches; None if it touches none.

        A corner of the polygon may lie on a face if the polygon crosses the face there.

        Args:
            extent: Edge lengths of the cell, which is centred at the origin [length]. Shape (2,).
        """
        heights = self.points / extent + 0.5
        faces = np.rint(heights)
        before, after = (np.roll(heights, shift, axis=0) - faces for shift in (1, -1))
        apart = np.minimum(np.abs(before), np.abs(after)) > _TOLERANCE
        crossing = apart & (np.sign(before) != np.sign(after))
        touching = ((np.abs(heights - faces) < _TOLERANCE) & ~crossing).any(axis=0)
        if touching.any():
            return f"a face {'xy'[touching.argmax()]} = const"
        low, high = np.floor(heights.min(axis=0)), np.ceil(heights.max(axis=0))
        steps = np.array(list(product(*(np.arange(start, end + 1) for start, end in zip(low, high, strict=True)))))
        distance = edge_distances((steps - 0.5) * extent, self.points)
        return "a corner of the cell" if distance.min() < _TOLERANCE * extent.max() else None

    def meets(self, other: "PolygonInclusion") -> bool:
        """Return whether two polygons intersect or touch."""
        one, two = self.points, other.points
        tolerance = _TOLERANCE * max(self.radius, other.radius)
        return bool(
            edge_distances(one, two).min() <= tolerance
            or edge_distances(two, one).min() <= tolerance
            or _edges_cross(one, two).any()
            or _contains(one, two[0])
            or _contains(two, one[0])
        )


def area(points: Array) -> float:
    """Return the area of a polygon [length²], negative if its corners, shape (n, 2), are clockwise."""
    following = np.roll(points, -1, axis=0)
    return float(0.5 * (points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum())


def edge_distances(points: Array, corners: Array) -> Array:
    """Return the distances of points from the edges of a polygon [length]. Shape (n_points, n_edges).

    Args:
        points: Points [length]. Shape (n_points, 2).
        corners: Corners of the polygon [length]. Shape (n_edges, 2).
    """
    along = np.roll(corners, -1, axis=0) - corners
    apart = points[:, None] - corners
    length = np.maximum((along**2).sum(axis=1), np.finfo(float).tiny)  # of repeated corners
    part = np.clip((apart * along).sum(axis=2) / length, 0.0, 1.0)
    return np.asarray(np.linalg.norm(apart - part[..., None] * along, axis=2))


def check_simple(points: Array) -> None:
    """Check that a polygon has an area and does not touch or cross itself.

    Args:
        points: Corners [length]. Shape (n, 2).

    Raises:
        CaseError: It does.
    """
    first = np.arange(len(points))
    adjacent = np.zeros((len(points), len(points)), dtype=bool)  # corners and their edges
    adjacent[first, first] = adjacent[first, first - 1] = True
    distance = edge_distances(points, points)
    touching = np.argwhere(~adjacent & (distance <= _TOLERANCE * np.ptp(points, axis=0).max()))
    if len(touching):
        corner, edge = touching[0]
        problem = f"corner {corner} lies on the edge from corner {edge} to {(edge + 1) % len(points)}"
        raise CaseError(f"{problem}; expected corners and edges apart")
    crossing = np.argwhere(_edges_cross(points, points))
    if len(crossing):
        one, other = (f"from corner {edge} to {(edge + 1) % len(points)}" for edge in crossing[0])
        raise CaseError(f"the edges {one} and {other} cross; expected the corners in order around the polygon")


def _edges_cross(one: Array, two: Array) -> npt.NDArray[np.bool_]:
    """Return whether the ends of each edge lie on different sides of the other. Shape (n, m)."""
    return (_sides(one, two) < 0.0) & (_sides(two, one).T < 0.0)


def _sides(points: Array, corners: Array) -> Array:
    """Return a negative number where the ends of an edge of `points` are on different sides of an edge of `corners`."""
    along = np.roll(corners, -1, axis=0) - corners
    apart = points[:, None] - corners
    side = along[:, 0] * apart[..., 1] - along[:, 1] * apart[..., 0]
    return np.asarray(np.sign(side) * np.sign(np.roll(side, -1, axis=0)))


def _contains(corners: Array, point: Array) -> bool:
    """Return whether a point is inside a polygon: a ray along x crosses its edges an odd number of times."""
    start, end = corners, np.roll(corners, -1, axis=0)
    passing = (start[:, 1] > point[1]) != (end[:, 1] > point[1])
    start, end = start[passing], end[passing]
    place = start[:, 0] + (point[1] - start[:, 1]) / (end[:, 1] - start[:, 1]) * (end[:, 0] - start[:, 0])
    return bool((place > point[0]).sum() % 2)
