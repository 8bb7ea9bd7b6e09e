"""Compiled assembly kernels for a batch of RVEs; the batch is the last axis of every array."""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from femops.notation import Array


class Cells(NamedTuple):
    """Data of a set of cells for the kernels.

    Attributes:
        operator: Strain operators. Shape (n_cells, n_q, n_s, n_dofs).
        weight: Quadrature weights. Shape (n_cells, n_q).
        free: Free dof of each cell dof, −1 for none. Shape (n_cells, n_dofs).
        entries: Position in the upper triangle of each pair of cell dofs, −1 for none. Shape (n_cells, n_dofs, n_dofs).
    """

    operator: Array
    weight: Array
    free: npt.NDArray[np.int64]
    entries: npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def add_stiffness(cells: Cells, tangent: Array, values: Array, load: Array) -> None:
    """Assemble the stiffness and the loads of unit macroscale strains of some cells for a batch of RVEs.

    Args:
        cells: The cells.
        tangent: Point tangents. Shape (n_s, n_s, n_cells · n_q, N).
        values: Upper triangle of the stiffness, updated in place. Shape (nnz, N).
        load: Σ w Bᵀ D, updated in place. Shape (n_free, n_s, N).
    """
    operator, weight, free, entries = cells
    n_cells, n_q, n_s, n_dofs = operator.shape
    n_batch = tangent.shape[3]
    cell_stiffness = np.zeros((n_dofs, n_dofs, n_batch))
    stress = np.zeros((n_s, n_batch))
    for c in range(n_cells):
        cell_stiffness[:] = 0.0
        for q in range(n_q):
            g = c * n_q + q
            w = weight[c, q]
            for j in range(n_dofs):
                for s in range(n_s):
                    row = stress[s]
                    row[:] = 0.0
                    for t in range(n_s):
                        b = w * operator[c, q, t, j]
                        if b != 0.0:
                            d = tangent[s, t, g]
                            for n in range(n_batch):
                                row[n] += b * d[n]
                if free[c, j] >= 0:
                    for s in range(n_s):
                        target = load[free[c, j], s]
                        for n in range(n_batch):
                            target[n] += stress[s, n]
                for i in range(n_dofs):
                    if entries[c, i, j] >= 0:
                        target = cell_stiffness[i, j]
                        for s in range(n_s):
                            b = operator[c, q, s, i]
                            if b != 0.0:
                                for n in range(n_batch):
                                    target[n] += b * stress[s, n]
        for i in range(n_dofs):
            for j in range(n_dofs):
                e = entries[c, i, j]
                if e >= 0:
                    target = values[e]
                    for n in range(n_batch):
                        target[n] += cell_stiffness[i, j, n]


@numba.njit(cache=True, nogil=True)
def add_stress_of_unit_strains(cells: Cells, tangent: Array, sensitivity: Array, total: Array, load: Array) -> None:
    """Assemble the integrated stresses D (1 + B X) of some cells and their nodal forces for a batch of RVEs.

    Args:
        cells: The cells.
        tangent: Point tangents. Shape (n_s, n_s, n_cells · n_q, N).
        sensitivity: X = dq/dE. Shape (n_free, n_s, N).
        total: Σ w D (1 + B X), updated in place. Shape (n_s, n_s, N).
        load: Σ w Bᵀ D (1 + B X), updated in place. Shape (n_free, n_s, N).
    """
    operator, weight, free, _ = cells
    n_cells, n_q, n_s, n_dofs = operator.shape
    n_batch = tangent.shape[3]
    strain = np.zeros((n_s, n_batch))
    stress = np.zeros((n_s, n_batch))
    for c in range(n_cells):
        for q in range(n_q):
            g = c * n_q + q
            w = weight[c, q]
            for a in range(n_s):
                strain[:] = 0.0
                strain[a] = 1.0
                for j in range(n_dofs):
                    if free[c, j] >= 0:
                        x = sensitivity[free[c, j], a]
                        for s in range(n_s):
                            b = operator[c, q, s, j]
                            if b != 0.0:
                                for n in range(n_batch):
                                    strain[s, n] += b * x[n]
                for s in range(n_s):
                    row = stress[s]
                    row[:] = 0.0
                    for t in range(n_s):
                        d = tangent[s, t, g]
                        for n in range(n_batch):
                            row[n] += d[n] * strain[t, n]
                    target = total[s, a]
                    for n in range(n_batch):
                        row[n] *= w
                        target[n] += row[n]
                for j in range(n_dofs):
                    if free[c, j] >= 0:
                        target = load[free[c, j], a]
                        for s in range(n_s):
                            b = operator[c, q, s, j]
                            if b != 0.0:
                                for n in range(n_batch):
                                    target[n] += b * stress[s, n]


def upper_pattern(free: npt.NDArray[np.int64], n_free: int) -> tuple[sp.csr_array, npt.NDArray[np.int64]]:
    """Return the sparsity of the upper triangle of the stiffness and the position of each pair of cell dofs in it.

    Args:
        free: Free dof of each cell dof, −1 for none. Shape (n_cells, n_dofs).
        n_free: Number of free dofs.

    Returns:
        A matrix of ones with sorted indices, shape (n_free, n_free), and positions in its data, −1 for none, shape
        (n_cells, n_dofs, n_dofs).
    """
    rows, columns = np.broadcast_arrays(free[:, :, None], free[:, None, :])
    keep = (rows >= 0) & (columns >= rows)
    keys = rows[keep] * n_free + columns[keep]
    unique, position = np.unique(keys, return_inverse=True)
    entries = np.full(keep.shape, -1, dtype=np.int64)
    entries[keep] = position
    indptr = np.zeros(n_free + 1, dtype=np.int32)
    np.cumsum(np.bincount(unique // n_free, minlength=n_free), out=indptr[1:])
    indices = (unique % n_free).astype(np.int32)
    return sp.csr_array((np.ones(len(unique)), indices, indptr), shape=(n_free, n_free)), entries
