"""Random plane domains: a square with rectangular corners cut, and polygons with holes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from femops.notation import Array

Mask = npt.NDArray[np.bool_]

FEWEST_CELLS = 8
"""Smallest number of grid cells along the side of a square with cut corners."""
_SHORTEST_CUT, _LONGEST_CUT = 1 / 8, 7 / 16  # of the side; two cuts leave 1/8 of a side between them

_RADII = (0.22, 0.48)  # of the vertices of a polygon around the centre of the unit square
_HOLE_RADII = (0.06, 0.13)
_JITTER = 0.2  # of the angle between two vertices; below 1/4, a triangle contains its centre
_GAP = 0.06  # smallest distance between parts of the boundary that are not adjacent
_SHARPEST = np.radians(30.0)
_HOLE_VERTICES = (3, 6)
_HOLE_TRIALS, _TRIALS = 20, 10_000


def cut_square(draws: np.random.Generator, n_cuts: int, n: int) -> Mask:
    """Draw a unit square with rectangular corners cut along the lines of a grid; cuts do not touch each other.

    Args:
        draws: Random number generator.
        n_cuts: Number of cut corners, 0 to 4.
        n: Number of grid cells along each side, `FEWEST_CELLS` or more.

    Returns:
        Mask of the grid cells inside; the first axis is x. Shape (n, n).
    """
    chosen = draws.permutation(4)[:n_cuts]
    parts = draws.uniform(_SHORTEST_CUT, _LONGEST_CUT, (4, 2))
    inside = np.ones((n, n), dtype=bool)
    for corner in chosen:
        sides = np.maximum(1, np.floor(parts[corner] * n)).astype(int)
        x, y = (slice(n - c, n) if far else slice(0, c) for c, far in zip(sides, divmod(int(corner), 2), strict=True))
        inside[x, y] = False
    return inside


@dataclass(frozen=True)
class Polygon:
    """A polygon with polygonal holes.

    Attributes:
        outer: Vertices of the outer contour, counterclockwise [length]. Shape (n, 2).
        holes: Vertices of the contour of each hole, counterclockwise [length]. Shape (n, 2) each.
    """

    outer: Array
    holes: tuple[Array, ...] = ()


def polygon(draws: np.random.Generator, vertices: tuple[int, int], holes: tuple[int, int]) -> Polygon:
    """Draw a simple polygon in the unit square, star-shaped around its centre, with polygonal holes.

    Parts of the boundary that are not adjacent are at least 0.06 apart, angles at vertices at least 30°.

    Args:
        draws: Random number generator.
        vertices: Smallest and largest number of vertices of the outer contour.
        holes: Smallest and largest number of holes.

    Raises:
        RuntimeError: No polygon was found.
    """
    n_vertices, n_holes = (int(draws.integers(low, high, endpoint=True)) for low, high in (vertices, holes))
    for _ in range(_TRIALS):
        outer = 0.5 + _star(draws, n_vertices, _RADII)
        if _clearance(outer) < _GAP or _sharpest(outer) < _SHARPEST:
            continue
        circles = _circles(draws, n_holes, outer)
        if circles is not None:
            found = (centre + _hole(draws, radius) for centre, radius in circles)
            return Polygon(outer, tuple(found))
    raise RuntimeError(f"no polygon with {n_vertices} vertices and {n_holes} holes found in {_TRIALS} trials")


def _star(draws: np.random.Generator, n: int, radii: tuple[float, float]) -> Array:
    """Return a polygon that is star-shaped around the origin. Shape (n, 2)."""
    angle = (np.arange(n) + draws.uniform(-_JITTER, _JITTER, n) + draws.uniform()) * 2.0 * np.pi / n
    radius = draws.uniform(*radii, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _hole(draws: np.random.Generator, radius: float) -> Array:
    """Return a polygon inside a circle around the origin, without sharp angles."""
    while True:
        found = _star(draws, int(draws.integers(*_HOLE_VERTICES, endpoint=True)), (0.6 * radius, radius))
        if _sharpest(found) >= _SHARPEST:
            return found


def _circles(draws: np.random.Generator, count: int, outer: Array) -> list[tuple[Array, float]] | None:
    """Draw the circles that contain the holes, apart from each other and the contour; None if there is no room."""
    found: list[tuple[Array, float]] = []
    for _ in range(count):
        for centre, radius in _candidates(draws):
            apart = all(np.linalg.norm(centre - c) >= radius + r + _GAP for c, r in found)
            if apart and _contains(outer, centre) and _to_edges(centre, outer).min() >= radius + _GAP:
                found.append((centre, radius))
                break
        else:
            return None
    return found


def _candidates(draws: np.random.Generator) -> Iterator[tuple[Array, float]]:
    for _ in range(_HOLE_TRIALS):
        yield draws.uniform(0.1, 0.9, 2), float(draws.uniform(*_HOLE_RADII))


def _contains(outer: Array, point: Array) -> bool:
    """Return whether a polygon contains a point: a ray to the right crosses the contour an odd number of times."""
    a, b = outer - point, np.roll(outer, -1, axis=0) - point
    crossing = (a[:, 1] > 0.0) != (b[:, 1] > 0.0)
    right = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] > 0.0) == (b[:, 1] > a[:, 1])
    return bool(np.sum(crossing & right) % 2)


def _to_edges(points: Array, outer: Array) -> Array:
    """Return the distance of points (..., 2) to each edge of a polygon (n, 2). Shape (..., n)."""
    along = np.roll(outer, -1, axis=0) - outer
    offset = points[..., None, :] - outer
    part = np.clip((offset * along).sum(-1) / (along**2).sum(-1), 0.0, 1.0)
    return np.asarray(np.linalg.norm(offset - part[..., None] * along, axis=-1))


def _clearance(outer: Array) -> float:
    """Return the smallest distance between parts of a simple contour that are not adjacent.

    It is the smallest distance of a vertex from an edge that does not end there.
    """
    n = len(outer)
    distance = _to_edges(outer, outer)
    index = np.arange(n)
    distance[index, index] = distance[index, index - 1] = np.inf
    return float(distance.min())


def _sharpest(outer: Array) -> float:
    """Return the smallest angle between adjacent edges [rad]."""
    back, forth = np.roll(outer, 1, axis=0) - outer, np.roll(outer, -1, axis=0) - outer
    cosine = (back * forth).sum(1) / np.linalg.norm(back, axis=1) / np.linalg.norm(forth, axis=1)
    return float(np.arccos(np.clip(cosine, -1.0, 1.0)).min())
