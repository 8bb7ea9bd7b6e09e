"""Constant contributions of the linear phases to the equations of an RVE, assembled once."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from femops.notation import Array
from femops.phases import Phase
from femops.rve.assembly import Cells, add_stiffness
from femops.rve.boundary import FreeDofs
from femops.rve.discretisation import Discretisation


@dataclass
class LinearPhases:
    """Preassembled linear phases.

    Args:
        discretisation: The RVE; linear phases first.
        phases: The linear phases.
        free: Free dofs of the fluctuation.
        pattern: Sparsity of the upper triangle of the stiffness.
        entries: Position in the pattern of each pair of cell dofs. Shape (n_cells, n_dofs, n_dofs).

    Attributes:
        stiffness: Upper triangle of the stiffness of the linear phases, in the order of the pattern. Shape (nnz,).
        matrix: The same stiffness, both triangles. Shape (n_free, n_free).
        load: Σ w Bᵀ D. Shape (n_free, n_s).
        mean: Σ w D. Shape (n_s, n_s).
        row_33: In plane strain Σ w D₃₃, shape (n_s,), and Σ w Bᵀ D₃₃, (n_free,), with stress_33 = D₃₃ · ε.
    """

    discretisation: Discretisation
    phases: tuple[Phase, ...]
    free: FreeDofs
    pattern: sp.csr_array
    entries: npt.NDArray[np.int64]
    stiffness: Array = field(init=False)
    matrix: sp.csr_array = field(init=False)
    load: Array = field(init=False)
    mean: Array = field(init=False)
    row_33: tuple[Array, Array] = field(init=False)

    def __post_init__(self) -> None:
        rve = self.discretisation
        n_s = rve.n_s
        free_of_cell = self.free.of[rve.dofs]
        values, load = np.zeros((self.pattern.nnz, 1)), np.zeros((self.free.count, n_s, 1))
        self.mean, self.row_33 = np.zeros((n_s, n_s)), (np.zeros(n_s), np.zeros(self.free.count))
        for position, phase in enumerate(self.phases):
            cells = rve.cells_of_phase[position]
            response = phase.evaluate(np.eye(n_s), np.zeros((0, n_s)))
            one, weight = np.asarray(response.tangent[:, :, 0]), rve.weight[cells]
            tangent = np.ascontiguousarray(np.broadcast_to(one[:, :, None, None], (n_s, n_s, weight.size, 1)))
            part = kernel_cells(rve, cells, free_of_cell, self.entries)
            add_stiffness(part, tangent, values, load)
            self.mean += weight.sum() * one
            if response.stress_33 is not None:
                self._add_33(cells, np.asarray(response.stress_33))
        self.stiffness, self.load = values[:, 0], load[:, :, 0]
        upper = self.pattern.copy()
        upper.data = self.stiffness.copy()
        self.matrix = (upper + upper.T - sp.diags_array(upper.diagonal())).tocsr()

    def sum_33(self, strain: Array, fluctuation: Array) -> Array:
        """Return Σ w stress_33 in plane strain. Shape (N,)."""
        mean, of_fluctuation = self.row_33
        return mean @ strain + of_fluctuation @ fluctuation

    def _add_33(self, cells: slice, row: Array) -> None:
        """Add the contribution of a phase with stress_33 = `row` · ε."""
        weight = self.discretisation.weight[cells].ravel()
        gradient = self.discretisation.gradient(self.free.of, cells, self.free.count)
        mean, of_fluctuation = self.row_33
        mean += weight.sum() * row
        of_fluctuation += gradient.T @ np.outer(row, weight).ravel()


def kernel_cells(
    rve: Discretisation, part: slice, free: npt.NDArray[np.int64], entries: npt.NDArray[np.int64]
) -> Cells:
    """Return the data of a slice of cells for the kernels; `free` and `entries` of all cells as in `Cells`."""
    operator, weight = (np.ascontiguousarray(one[part]) for one in (rve.strain_operator, rve.weight))
    return Cells(operator, weight, free[part], entries[part])
