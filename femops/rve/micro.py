"""Displacement, strain and stress fields inside an RVE."""

from dataclasses import dataclass

import numpy as np

from femops import notation
from femops.notation import Array
from femops.rve.solver import RVESolver
from femops.rve.spec import RVE


@dataclass(frozen=True)
class MicroFields:
    """Fields inside the RVE of one macroscale point.

    Attributes:
        displacement: E · (x − centre of the bounding box) + fluctuation at the nodes [length]. Shape (n_nodes, dim).
        fluctuation: Fluctuation with zero mean at the nodes [length]. Shape (n_nodes, dim).
        strain: Mean strain of each cell, Mandel [-]. Shape (n_cells, n_s).
        stress: Mean stress of each cell, Mandel [stress]. Shape (n_cells, n_s).
        stress_33: In plane strain the mean out-of-plane stress of each cell [stress], shape (n_cells,); None in 3D.
    """

    displacement: Array
    fluctuation: Array
    strain: Array
    stress: Array
    stress_33: Array | None


def micro_fields(rve: RVE, solver: RVESolver, strain: Array, fluctuation: Array, state: list[Array]) -> MicroFields:
    """Return the fields of an RVE from its fluctuation.

    Args:
        rve: The RVE.
        solver: Solver of the RVE, which has the numbering of the free dofs.
        strain: Macroscale strain, Mandel [-]. Shape (n_s,).
        fluctuation: Free dofs of the fluctuation [length]. Shape (n_free,).
        state: Committed state of each phase at the start of the increment. Shape (n_state, n_points_of_phase) each.
    """
    d = rve.discretisation
    nodal = solver.full_fluctuation(fluctuation[:, None])[:, :, 0]
    of_cells = nodal[d.mesh.cells].reshape(len(d.mesh.cells), -1)
    local = np.einsum("cqsd,cd->scq", d.strain_operator, of_cells) + strain[:, None, None]
    stress, stress_33 = np.empty_like(local), np.zeros(local.shape[1:])
    for position, phase in enumerate(rve.phases):
        cells = d.cells_of_phase[position]
        response = phase.evaluate(local[:, cells].reshape(d.n_s, -1), state[position])
        stress[:, cells] = response.stress.reshape(local[:, cells].shape)
        if response.stress_33 is not None:
            stress_33[cells] = response.stress_33.reshape(local[0, cells].shape)
    mean = d.weight / d.weight.sum(axis=1, keepdims=True)
    centred = d.mesh.points - 0.5 * sum(d.mesh.bounds)
    return MicroFields(
        centred @ notation.to_tensor(strain) + nodal,
        nodal,
        np.einsum("cq,scq->cs", mean, local),
        np.einsum("cq,scq->cs", mean, stress),
        np.einsum("cq,cq->c", mean, stress_33) if d.dim == 2 else None,
    )
