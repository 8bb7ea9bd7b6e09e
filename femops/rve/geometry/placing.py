"""Random periodic arrangements of nonoverlapping ellipses or balls of different size.

The distance of two convex bodies is the largest gap between parallel separating planes, n · r − |Faᵀ n| − |Fbᵀ n| with
the unit normal n and the shapes F (semi-axes as columns). The normals ((1 − λ) Fa Faᵀ + λ Fb Fbᵀ)⁻¹ r, 0 < λ < 1, of
Perram and Wertheim (doi:10.1016/0021-9991(85)90171-8) include the common normal of touching ellipses. The maximum
over a few λ is a lower bound of the distance, exact for balls.
"""

import numpy as np

from femops.notation import Array
from femops.rve.geometry.packing import periodic_offsets

_CANDIDATES = 100
_RELAXATIONS = 300
_MIXTURES = np.linspace(0.05, 0.95, 9)[:, None, None]


def place(rng: np.random.Generator, extent: Array, frames: Array, min_gap: float) -> Array | None:
    """Place inclusions of given shape and orientation at random in a periodic cell.

    Random sequential insertion in the given order; if it fails, random positions are relaxed by pushing pairs apart
    that are too close.

    Args:
        rng: Random generator.
        extent: Edge lengths of the cell [length]. Shape (dim,).
        frames: Semi-axes as columns [length], large inclusions first. Shape (n, dim, dim).
        min_gap: Smallest distance between surfaces, periodic images included [length].

    Returns:
        Centres in the cell that starts at the origin [length], shape (n, dim); None if no arrangement was found.
    """
    dim = len(extent)
    images = np.broadcast_to(periodic_offsets(extent)[1:], (1, len(frames), 3**dim - 1, dim))
    largest = 2.0 * np.linalg.norm(frames, axis=1).max() + min_gap
    own, _ = _distances(images, frames, frames)
    if largest > 1.5 * extent.min() or own.min() < min_gap:
        return None
    centres = _inserted(rng, extent, frames, min_gap)
    if centres is None:
        centres = _relaxed(rng.uniform(0.0, 1.0, (len(frames), dim)) * extent, extent, frames, min_gap)
    return centres


def _inserted(rng: np.random.Generator, extent: Array, frames: Array, min_gap: float) -> Array | None:
    """Insert inclusions one by one at random positions; None if there is no room for one."""
    centres = rng.uniform(0.0, 1.0, (1, len(extent))) * extent
    for frame, others in ((frames[number], frames[:number]) for number in range(1, len(frames))):
        candidates = rng.uniform(0.0, 1.0, (_CANDIDATES, len(extent))) * extent
        distance, _ = _distances(_apart(candidates[:, None], centres, extent), others, frame[None])
        free = np.flatnonzero((distance >= min_gap).all(axis=(1, 2)))
        if not len(free):
            return None
        centres = np.vstack([centres, candidates[free[0]]])
    return centres


def _relaxed(centres: Array, extent: Array, frames: Array, min_gap: float) -> Array | None:
    """Push pairs apart that are too close, including periodic images; None without convergence."""
    first, second = np.triu_indices(len(centres), 1)
    goal = min_gap + 1e-3 * np.linalg.norm(frames, axis=1).min()
    for _ in range(_RELAXATIONS):
        apart = _apart(centres[second], centres[first], extent)
        distance, normal = _distances(apart[None], frames[first], frames[second])
        if distance.min() >= min_gap:
            return np.mod(centres, extent)
        push = (0.5 * np.maximum(goal - distance, 0.0)[..., None] * normal)[0].sum(axis=1)
        np.add.at(centres, second, push)
        np.add.at(centres, first, -push)
    return None


def _apart(to: Array, from_: Array, extent: Array) -> Array:
    """Return the vectors between points, to the nearest image and its neighbours. Shape (..., n_images, dim)."""
    apart = to - from_
    apart -= extent * np.rint(apart / extent)
    return apart[..., None, :] + periodic_offsets(extent)


def _distances(apart: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Return distances between surfaces, negative where they overlap, and unit normals from the first to the second.

    Args:
        apart: From the centre of the first to that of the second [length]. Shape (n, n_pairs, n_images, dim).
        first: Semi-axes as columns [length]. Shape (n_pairs, dim, dim).
        second: Likewise of the second; a leading 1 is broadcast over the pairs.

    Returns:
        Distances [length], shape (n, n_pairs, n_images), and normals, shape (n, n_pairs, n_images, dim).
    """
    mixture = _MIXTURES if apart.shape[-1] == 2 else _MIXTURES[:1]  # 3D inclusions are balls
    one, two = (frame @ np.swapaxes(frame, -1, -2) for frame in (first, second))
    mixed = one[:, None] * (1.0 - mixture) + two[:, None] * mixture
    normals = np.einsum("plij,npmj->npmli", np.linalg.inv(mixed), apart)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    widths = np.einsum("npmli,npmi->npml", normals, apart)
    for frame in (first, second):
        semi_axes = np.broadcast_to(frame, one.shape)
        widths -= np.linalg.norm(np.einsum("npmli,pij->npmlj", normals, semi_axes), axis=-1)
    best = widths.argmax(axis=-1)[..., None]
    return np.take_along_axis(widths, best, -1)[..., 0], np.take_along_axis(normals, best[..., None], -2)[..., 0, :]
