"""Checks for invalid cells: duplicate cells, repeated nodes, zero volume, inverted Jacobian."""

import numpy as np

from femops.errors import CaseError
from femops.meshing.cells import CELLS, CellKind
from femops.notation import Array, Indices


def check_nodes_of_cells(points: Array, cells: Indices) -> None:
    """Check that the nodes of each cell are distinct and that no two cells have the same nodes.

    Raises:
        CaseError: There are such cells; the message gives their number and the position of one.
    """
    nodes = np.sort(cells, axis=1)
    bad = np.flatnonzero((nodes[:, 1:] == nodes[:, :-1]).any(axis=1))
    if len(bad):
        raise CaseError(f"{_count(bad)} a repeated node{_where(points, cells, bad)}; expected distinct nodes")
    # Random hash of the nodes of each cell; only cells with equal hashes are compared node by node.
    number = nodes.astype(np.uint64) @ np.random.default_rng(0).integers(1, 2**63, nodes.shape[1], dtype=np.uint64)
    _, inverse, count = np.unique(number, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(count[np.ravel(inverse)] > 1)
    _, first, count = np.unique(nodes[suspects], axis=0, return_index=True, return_counts=True)
    if extra := int((count - 1).sum()):
        where = _where(points, cells, suspects[first[count > 1]])
        raise CaseError(f"{extra} duplicate {'cell' if extra == 1 else 'cells'}{where}; expected each cell once")


def check_volume_of_cells(points: Array, cells: Indices, kind: CellKind) -> tuple[Array, list[str]]:
    """Check that cells have a volume and a Jacobian determinant that does not change sign.

    The sign must be the same at all quadrature points and, in the straight quadrilateral or hexahedron with the same
    corners (which come first in VTK order), at all corners. A sign change at a node of a curved cell only gives a
    note, as integrals are not affected.

    Returns:
        Orientation of each cell, 1 or −1, shape (n_cells,), and notes.

    Raises:
        CaseError: There are such cells; the message gives their number and the position of one.
    """
    inside = jacobians(points, cells, kind)
    sign = np.sign(inside.sum(axis=1))
    size = np.ptp(points[cells], axis=1).max(axis=1)
    # Round-off of a zero determinant due to the rounding of the coordinates.
    rounding = 8.0 * np.finfo(float).eps * np.abs(points).max() * size ** (kind.dim - 1)
    bad = ~((inside * sign[:, None]).min(axis=1) > rounding)
    if kind.shape in ("quadrilateral", "hexahedron"):
        straight = next(one for one in CELLS.values() if one.shape == kind.shape and one.degree == 1)
        bad |= _wrong_sign(jacobians(points, cells[:, : straight.n_nodes], straight, straight.nodes), sign)
    if bad.any():
        found = np.flatnonzero(bad)
        problem = "no volume or a Jacobian determinant that changes sign"
        raise CaseError(f"{_count(found)} {problem}{_where(points, cells, found)}; expected valid cells")
    if kind.degree == 1:
        return np.asarray(sign), []
    curved = np.flatnonzero(_wrong_sign(jacobians(points, cells, kind, kind.nodes), sign))
    if not len(curved):
        return np.asarray(sign), []
    note = "a Jacobian determinant of the wrong sign at a node"
    return np.asarray(sign), [f"{_count(curved)} {note}{_where(points, cells, curved)}"]


def _wrong_sign(determinants: Array, sign: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return a mask of the cells with a determinant of the wrong sign; zero is allowed (quarter-point elements)."""
    return np.asarray((determinants * sign[:, None]).min(axis=1) < -1e-9 * np.abs(determinants).max(axis=1))


def jacobians(points: Array, cells: Indices, kind: CellKind, at: Array | None = None) -> Array:
    """Return the Jacobian determinant of each cell [length^dim] at reference points, by default those of quadrature.

    Shape (n_cells, n_points).
    """
    at = kind.quadrature()[0] if at is None else at
    return np.asarray(np.linalg.det(np.einsum("cni,qnj->cqij", points[cells], kind.tabulate(at)[1])))


def _count(bad: Indices) -> str:
    return "1 cell has" if len(bad) == 1 else f"{len(bad)} cells have"


def _where(points: Array, cells: Indices, bad: Indices) -> str:
    return f", for example at ({', '.join(f'{x:g}' for x in points[cells[bad[0]]].mean(0))})"
