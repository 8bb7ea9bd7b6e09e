"""Faces, edges and corners of a box, here called its sides, and the unknowns that neighbours share on them.

A side is −1 or 1 along the axes where it is at the end of the box, and 0 along the others. Sides with the same axes of
the former kind are a class: the two vertical faces of a square, the four edges of a cube along z. In a periodic grid of
boxes every box owns one side of each class, the one without a 1; its neighbours own the others.
"""

from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise, product

import numpy as np

from femops.notation import Array, Indices


@cache
def classes(dim: int) -> tuple[tuple[int, ...], ...]:
    """Return the axes of the classes: faces, in 3D edges, and last the corners."""
    return tuple(axes for count in range(1, dim + 1) for axes in combinations(range(dim), count))


@cache
def sides(dim: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return the class and the position of each side, by class, x running first."""
    found = []
    for number, axes in enumerate(classes(dim)):
        for reversed_ends in product((-1, 1), repeat=len(axes)):
            side = [0] * dim
            for axis, end in zip(axes, reversed(reversed_ends), strict=True):
                side[axis] = end
            found.append((number, tuple(side)))
    return tuple(found)


def slices(dim: int, counts: Sequence[int]) -> list[slice]:
    """Return the places of the sides in a vector with `counts` entries for each side of a class."""
    stops = np.cumsum([0, *(counts[number] for number, _ in sides(dim))])
    return [slice(int(a), int(b)) for a, b in pairwise(stops)]


def nodes_of(points: Array, size: Array, side: Sequence[int], gap: float) -> Indices:
    """Return the nodes inside a side of a box that is centred at the origin, in an order that translations preserve."""
    away = np.abs(points) - 0.5 * size
    at = np.asarray(side)
    here = np.where(at == 0, away < -gap * size, np.abs(points - 0.5 * at * size) <= gap * size).all(axis=1)
    found = np.flatnonzero(here)
    return found[np.argsort(points[found] @ _DIRECTION[: len(size)])]


_DIRECTION = np.array([1.0, 0.8191725134, 0.6710436067])  # in which no two nodes of a grid are at the same place


def spread(points: Array, counts: Sequence[int], size: Array, number: int) -> Array:
    """Return the values on the boundary that continue those of a side, zero on all other sides of its kind.

    They decrease linearly to zero across the sides that it bounds; corners therefore interpolate linearly.

    Args:
        points: Nodes on the boundary, by side. Shape (n, dim).
        counts: Number of nodes inside a side of each class.
        size: Edge lengths of the box. Shape (dim,).
        number: Number of the side.

    Returns:
        Shape (n, n_side).
    """
    dim, every = len(size), slices(len(size), counts)
    here, at = every[number], np.array(sides(dim)[number][1])
    found = np.zeros((len(points), here.stop - here.start))
    found[here] = np.eye(here.stop - here.start)
    for (_, other), place in zip(sides(dim), every, strict=True):
        fixed = np.array(other) != 0
        if fixed.sum() >= (at != 0).sum() or (np.array(other)[fixed] != at[fixed]).any():
            continue
        x = points[place]
        towards = np.flatnonzero((at != 0) & ~fixed)
        weight = (0.5 + at[towards] * x[:, towards] / size[towards]).prod(axis=1)
        found[place] = weight[:, None] * _along(points[here], x, np.flatnonzero(at == 0), size)
    return found


def _along(nodes: Array, x: Array, free: Indices, size: Array) -> Array:
    """Return the linear interpolation at x of values at the nodes of an edge, or of a corner. Shape (n_x, n_nodes)."""
    if not len(free):
        return np.ones((len(x), 1))
    (axis,) = free
    grid = np.concatenate([[-0.5 * size[axis]], nodes[:, axis], [0.5 * size[axis]]])
    hats = np.eye(len(grid))[1:-1]
    return np.stack([np.interp(x[:, axis], grid, hat) for hat in hats], 1) if len(hats) else np.zeros((len(x), 0))


def numbering(shape: tuple[int, ...], counts: Sequence[int]) -> Indices:
    """Return the numbers of unknowns of the interfaces of a periodic arrangement of boxes.

    Args:
        shape: Number of rows and columns, in 3D of layers, rows and columns.
        counts: Number of unknowns of a side of each class without the corners, which have as many as dimensions.

    Returns:
        Numbers of the unknowns of each box, by side; −1 for those of the corner that is fixed, since a translation
        strains nothing. Shape (K, n).
    """
    dim, n = len(shape), int(np.prod(shape))
    place, extent = np.indices(shape).reshape(dim, -1)[::-1], np.array(shape)[::-1, None]
    widths = [*counts, dim]
    first = n * np.cumsum([0, *widths])
    found = []
    for number, side in sides(dim):
        owner = (place + (np.array(side) > 0)[:, None]) % extent
        of_owner = np.ravel_multi_index(tuple(owner[::-1]), shape)
        found.append(first[number] + of_owner[:, None] * widths[number] + np.arange(widths[number]))
    last, every = first[-2], np.concatenate(found, axis=1)
    return np.where(every >= last, np.where(every < last + dim, -1, every - dim), every)
