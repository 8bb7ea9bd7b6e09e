"""Modes of the original EquiNO: decompositions of plain snapshots in L2 norms by quadrature."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from femops.notation import Array
from femops.rve.spec import RVE
from femops.surrogate import FitTask

_DEPENDENT = 1e-10


@dataclass(frozen=True)
class OriginalModes:
    """Orthonormal modes in the norms √(Σ w |·|²).

    Attributes:
        displacement: Φ_u at the free dofs. Shape (n_free, n_displacement_modes).
        stress: Φ_σ at the quadrature points. Shape (n_s · n_points, n_stress_modes).
        normal: Mean stress normal to the plane of each stress mode, in plane strain; empty in 3D. Shape (n_modes,).
        displacement_unit: Root mean square of the snapshots' coefficients. Shape (n_displacement_modes,).
        stress_unit: The same for stresses. Shape (n_stress_modes,).
        lost: Relative norm of the snapshots lost by the first k modes, for k = 0, 1, ….
    """

    displacement: Array
    stress: Array
    normal: Array
    displacement_unit: Array
    stress_unit: Array
    lost: Mapping[str, Array]


def original_modes(task: FitTask, n_displacement: int, n_stress: int) -> OriginalModes:
    """Compute the modes of fluctuations and stresses by proper orthogonal decomposition.

    Args:
        task: Training task; its snapshots are used without sensitivities.
        n_displacement: Maximum number of displacement modes.
        n_stress: Maximum number of stress modes.
    """
    weight = task.rve.discretisation.weight.ravel()
    fluctuation = np.asarray(task.snapshots["fluctuation"]).T
    stress = np.asarray(task.snapshots["phase_stress"]).reshape(fluctuation.shape[1], -1).T
    at_points = displacement_at_points(task.rve, task.solver.solver.full_fluctuation(fluctuation))
    of_displacement = _decompose(at_points.reshape(-1, len(fluctuation.T)), weight, n_displacement)
    of_stress = _decompose(stress, weight, n_stress)
    planar = task.rve.discretisation.dim == 2
    return OriginalModes(
        fluctuation @ of_displacement[0],
        stress @ of_stress[0],
        np.asarray(task.snapshots["stress_33"]) @ of_stress[0] if planar else np.zeros(0),
        of_displacement[1],
        of_stress[1],
        {"displacement": of_displacement[2], "stress": of_stress[2]},
    )


def displacement_at_points(rve: RVE, nodal: Array) -> Array:
    """Return displacements (n_nodes, dim, n) at the quadrature points. Shape (dim, n_points, n)."""
    mesh = rve.discretisation.mesh
    basis, _ = mesh.kind.tabulate(mesh.kind.quadrature()[0])
    values = np.einsum("qa,cain->icqn", basis, nodal[mesh.cells], optimize=True)
    return np.asarray(values.reshape(nodal.shape[1], -1, nodal.shape[2]))


def _decompose(fields: Array, weight: Array, largest: int) -> tuple[Array, Array, Array]:
    """Return the modes as combinations of fields (n_components · n_points, n), their units and the lost norms."""
    n = fields.shape[1]
    weighted = (fields.reshape(-1, len(weight), n) * np.sqrt(weight)[:, None]).reshape(-1, n)
    _, values, right = np.linalg.svd(weighted, full_matrices=False)
    n_modes = min(largest, int(np.count_nonzero(values > _DEPENDENT * values[0])))
    tail = np.concatenate([[0.0], np.cumsum(values[::-1] ** 2)])[::-1]
    kept = values[:n_modes]
    return right[:n_modes].T / kept, kept / np.sqrt(n), np.sqrt(tail / tail[0])
