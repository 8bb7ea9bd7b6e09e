"""Random periodic packings of equal discs and spheres."""

from itertools import product
from math import gamma, pi

import numpy as np

from femops.errors import CaseError
from femops.notation import Array

# Volume fraction of the densest packing of equal discs and spheres.
_DENSEST = {2: pi / np.sqrt(12.0), 3: pi / np.sqrt(18.0)}
_INSERTIONS = 2000
_RELAXATIONS = 1500
_RESTARTS = 3


def pack(extent: Array, count: int, volume_fraction: float, min_gap: float | None, seed: int) -> tuple[Array, float]:
    """Place equal discs or spheres at random in a periodic cell without overlap.

    Random sequential insertion; if it fails, random positions are relaxed by pushing overlapping pairs apart.
    Finally the cell is shifted so that its faces are as far as possible from touching an inclusion.

    Args:
        extent: Edge lengths of the cell [length]. Shape (dim,).
        count: Number of inclusions.
        volume_fraction: Volume fraction of the inclusions [-].
        min_gap: Smallest distance between surfaces [length]; a tenth of the radius if None.
        seed: Seed of the random generator.

    Returns:
        Centres in the cell centred at the origin [length], shape (count, dim), and the radius [length].

    Raises:
        CaseError: no packing was found.
    """
    dim = len(extent)
    unit_ball = pi ** (dim / 2) / gamma(dim / 2 + 1)
    radius = float((volume_fraction * np.prod(extent) / (count * unit_ball)) ** (1.0 / dim))
    distance = 2.0 * radius + (0.1 * radius if min_gap is None else min_gap)
    dense = count * unit_ball * (0.5 * distance) ** dim / float(np.prod(extent))
    if dense > _DENSEST[dim] or distance > extent.min():
        raise CaseError(
            f"{count} inclusions of volume fraction {volume_fraction:g} with gaps of {distance - 2 * radius:.3g} "
            f"cannot fit into the cell; expected a smaller volume_fraction or min_gap"
        )
    rng = np.random.default_rng(seed)
    centres = _inserted(rng, extent, count, distance)
    for _ in range(_RESTARTS):
        if centres is None:
            centres = _relaxed(rng.uniform(0.0, 1.0, (count, dim)) * extent, extent, distance)
    if centres is None:
        raise CaseError(
            f"no packing of {count} inclusions with volume fraction {volume_fraction:g} and gaps of "
            f"{distance - 2 * radius:.3g} was found; expected a smaller volume_fraction or min_gap"
        )
    return away_from_faces(centres, extent, np.full_like(centres, radius)), radius


def periodic_offsets(extent: Array, reach: int = 1) -> Array:
    """Return the translations to the periodic images of a cell, zero first. Shape (n_images, dim)."""
    steps = sorted(product(range(-reach, reach + 1), repeat=len(extent)), key=lambda step: (np.abs(step).sum(), step))
    return np.array(steps, dtype=np.float64) * extent


def _inserted(rng: np.random.Generator, extent: Array, count: int, distance: float) -> Array | None:
    """Insert inclusions one by one at random positions; None if there is no room for one."""
    centres = np.empty((0, len(extent)))
    for _ in range(count):
        candidates = rng.uniform(0.0, 1.0, (_INSERTIONS, len(extent))) * extent
        apart = candidates[:, None, :] - centres[None, :, :]
        apart -= extent * np.rint(apart / extent)
        free = np.flatnonzero((np.linalg.norm(apart, axis=-1) >= distance).all(axis=1))
        if not len(free):
            return None
        centres = np.vstack([centres, candidates[free[0]]])
    return centres


def _relaxed(centres: Array, extent: Array, distance: float) -> Array | None:
    """Push overlapping pairs apart, including periodic images, until none overlaps; None without convergence."""
    offsets = periodic_offsets(extent)
    goal = 1.001 * distance
    own = np.eye(len(centres), dtype=bool)
    for _ in range(_RELAXATIONS):
        apart = centres[:, None, None, :] - centres[None, :, None, :] + offsets
        norms = np.linalg.norm(apart, axis=-1)
        norms[own] = np.inf
        if norms.min() >= distance:
            return np.mod(centres, extent)
        push = 0.5 * np.maximum(goal - norms, 0.0) / np.maximum(norms, 1e-12 * distance)
        centres = centres + (push[..., None] * apart).sum(axis=(1, 2))
    return None


def away_from_faces(centres: Array, extent: Array, reach: Array) -> Array:
    """Shift the cell so that each face lies midway in the largest interval where it touches no inclusion.

    Args:
        centres: Centres of the inclusions [length]. Shape (n, dim).
        extent: Edge lengths of the cell [length]. Shape (dim,).
        reach: Half the edge lengths of their bounding boxes [length]. Shape (n, dim).

    Returns:
        Centres in the cell centred at the origin [length]. Shape (n, dim).
    """
    shifted = np.empty_like(centres)
    for axis, length in enumerate(extent):
        ends = np.concatenate([centres[:, axis] - reach[:, axis], centres[:, axis] + reach[:, axis]])
        faces, gaps = intervals(ends, length)
        shifted[:, axis] = np.mod(centres[:, axis] - faces[gaps.argmax()], length) - 0.5 * length
    return shifted


def intervals(places: Array, period: float) -> tuple[Array, Array]:
    """Return the middles and the widths of the intervals between places on a periodic axis [length]. Shape (n,)."""
    ordered = np.sort(np.mod(places, period))
    widths = np.diff(ordered, append=ordered[0] + period)
    return ordered + 0.5 * widths, widths
