"""Mesh refinement in the narrow gaps between inclusions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.spatial import cKDTree

from femops.notation import Array
from femops.rve.geometry.packing import periodic_offsets
from femops.rve.geometry.polygon_inclusion import PolygonInclusion, edge_distances
from femops.rve.geometry.round_inclusion import RoundInclusion

_SMALLEST = 0.1  # smallest cell in a gap, relative to the mesh size
_GROWTH = 0.4  # increase of the cell size per distance from a gap
_PER_GAP = 1.5  # cell size in a gap, relative to the gap
_LEVELS = 12
_ON_FACE = 1e-6  # distance of corners on a face, relative to the cell


@dataclass(frozen=True)
class SizeGrid:
    """Mesh sizes on a regular grid that covers the periodic cell.

    Attributes:
        origin: First grid point [length]. Shape (dim,).
        spacing: Grid spacing along each axis [length]. Shape (dim,).
        sizes: Mesh sizes [length]. Shape (n_x, n_y) or (n_x, n_y, n_z).
    """

    origin: Array
    spacing: Array
    sizes: Array


def gap_sizes(
    inclusions: Sequence[RoundInclusion | PolygonInclusion], extent: Array, mesh_size: float
) -> SizeGrid | None:
    """Return mesh sizes that resolve narrow gaps, below `mesh_size` / 1.5; None if there are none.

    Args:
        inclusions: Inclusions of one kind, with their centres in the cell.
        extent: Edge lengths of the cell [length]. Shape (dim,).
        mesh_size: Largest mesh size [length].
    """
    limit = mesh_size / _PER_GAP
    polygons = [one.points for one in inclusions if isinstance(one, PolygonInclusion)]
    if polygons:
        places, gaps = narrow_gaps_of_polygons(polygons, extent, limit)
    else:
        frames = np.array([one.frame for one in inclusions if isinstance(one, RoundInclusion)])
        places, gaps = narrow_gaps(frames, np.array([one.centre for one in inclusions]), extent, limit)
    if not len(places):
        return None
    counts = np.ceil(extent / (mesh_size / (5.0 if len(extent) == 2 else 3.0))).astype(int)
    spacing = extent / counts
    origin = -0.5 * extent - spacing
    axes = [start + step * np.arange(n + 3) for start, step, n in zip(origin, spacing, counts, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    sizes = np.full(points.shape[:-1], mesh_size)
    wanted = np.maximum(_PER_GAP * gaps, _SMALLEST * mesh_size)
    levels = mesh_size * _SMALLEST ** (np.arange(_LEVELS + 1) / _LEVELS)
    for upper, lower in pairwise(levels):
        chosen = (wanted <= upper) & ((wanted > lower) | (lower == levels[-1]))
        if chosen.any():
            distance = cKDTree(places[chosen]).query(points, distance_upper_bound=mesh_size / _GROWTH)[0]
            sizes = np.minimum(sizes, lower + _GROWTH * distance)
    return SizeGrid(origin, spacing, sizes)


def narrow_gaps(frames: Array, centres: Array, extent: Array, limit: float) -> tuple[Array, Array]:
    """Return points on the surfaces of ellipses or spheres with gaps narrower than `limit`, and these gaps.

    A gap is the first-order distance to another inclusion, or the distance of an extreme point to the nearest face.

    Args:
        frames: Semi-axes of the inclusions as columns [length]. Shape (n, dim, dim).
        centres: Centres of the inclusions in the cell [length]. Shape (n, dim).
        extent: Edge lengths of the cell [length]. Shape (dim,).
        limit: Largest gap of interest [length].

    Returns:
        Points, shape (n, dim), and gaps, shape (n,) [length], including periodic images near the cell.
    """
    dim = len(extent)
    surface = centres[:, None, :] + np.einsum("ijk,pk->ipj", frames, _unit_ball(dim))
    gaps = np.full(surface.shape[:2], np.inf)
    for other in range(len(centres)):
        for offset in periodic_offsets(extent):
            if np.abs(offset).sum() == 0.0:
                continue
            _narrow(gaps, surface, frames[other], centres[other] + offset)
        rest = np.arange(len(centres)) != other
        gaps[rest] = _narrow(gaps[rest], surface[rest], frames[other], centres[other])
    extreme = np.einsum("ijk,iak->iaj", frames, frames / np.linalg.norm(frames, axis=2, keepdims=True))
    tips = np.stack([centres[:, None, :] - extreme, centres[:, None, :] + extreme])
    heights = np.diagonal(tips, axis1=2, axis2=3) / extent + 0.5
    passing = np.abs(heights - np.rint(heights)) * extent
    places = np.vstack([surface.reshape(-1, dim), tips.reshape(-1, dim)])
    widths = np.concatenate([gaps.ravel(), passing.ravel()])
    return _with_images(places, widths, extent, limit)


def narrow_gaps_of_polygons(polygons: Sequence[Array], extent: Array, limit: float) -> tuple[Array, Array]:
    """Return points on polygons with gaps narrower than `limit`, and these gaps; see `narrow_gaps`.

    A gap is the distance to another polygon, or that of a corner to the nearest face unless it lies on the face.

    Args:
        polygons: Corners of each polygon, shape (n_corners, 2) [length].
        extent: Edge lengths of the cell [length]. Shape (2,).
        limit: Largest gap of interest [length].
    """
    surfaces = [_along_edges(corners, 0.5 * limit) for corners in polygons]
    gaps = [np.full(len(surface), np.inf) for surface in surfaces]
    for one, surface in enumerate(surfaces):
        for other, corners in enumerate(polygons):
            for offset in periodic_offsets(extent):
                image = corners + offset
                if one == other and not offset.any():
                    continue
                low, high = image.min(axis=0) - limit, image.max(axis=0) + limit
                near = ((surface > low) & (surface < high)).all(axis=1)
                distance = edge_distances(surface[near], image).min(axis=1)
                gaps[one][near] = np.minimum(gaps[one][near], distance)
    corners = np.vstack(polygons)
    heights = corners / extent + 0.5
    passing = np.abs(heights - np.rint(heights)) * extent
    passing[passing < _ON_FACE * extent] = np.inf
    places, widths = np.vstack([*surfaces, corners]), np.concatenate([*gaps, passing.min(axis=1)])
    return _with_images(places, widths, extent, limit)


def _along_edges(corners: Array, spacing: float) -> Array:
    """Return points on the edges of a polygon, corners included. Shape (n, 2)."""
    along = np.roll(corners, -1, axis=0) - corners
    counts = np.ceil(np.linalg.norm(along, axis=1) / spacing).astype(int)
    parts = np.concatenate([np.arange(count) / count for count in counts])
    return np.asarray(np.repeat(corners, counts, axis=0) + parts[:, None] * np.repeat(along, counts, axis=0))


def _with_images(places: Array, widths: Array, extent: Array, limit: float) -> tuple[Array, Array]:
    """Return the narrow gaps among gaps at some points, with those of their periodic images near the cell."""
    places, widths = places[widths < limit], widths[widths < limit]
    offsets = periodic_offsets(extent)
    places = (places[None] + offsets[:, None]).reshape(-1, len(extent))
    near = (np.abs(places) < 0.5 * extent + limit).all(axis=1)
    return places[near], np.tile(widths, len(offsets))[near]


def _narrow(gaps: Array, surface: Array, frame: Array, centre: Array) -> Array:
    """Take the minimum of gaps, in place, with the first-order distances from one ellipse or sphere."""
    reduced = (surface - centre) @ np.linalg.inv(frame).T
    level = np.linalg.norm(reduced, axis=-1)
    slope = np.linalg.norm(reduced @ np.linalg.inv(frame), axis=-1) / level
    return np.minimum(gaps, (level - 1.0) / slope, out=gaps)


def _unit_ball(dim: int) -> Array:
    """Return points distributed evenly over the unit circle or sphere. Shape (n, dim)."""
    if dim == 2:
        turns = np.linspace(0.0, 2.0 * np.pi, 180, endpoint=False)
        return np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    steps = np.arange(600) + 0.5
    height, turns = 1.0 - steps / 300.0, np.pi * (1.0 + np.sqrt(5.0)) * steps
    ring = np.sqrt(1.0 - height**2)
    return np.stack([ring * np.cos(turns), ring * np.sin(turns), height], axis=-1)
