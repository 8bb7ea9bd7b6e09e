"""Linear solver of the RVE with the zero-mean-strain constraint of static boundary conditions."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from femops.notation import Array
from femops.rve.linear import LinearSolver, Slots


@dataclass(frozen=True)
class ConstrainedSolver:
    """Solves K x = rhs subject to C x = 0 by a Schur complement: x − K⁻¹ Cᵀ λ with x = K⁻¹ rhs.

    The columns of Cᵀ are the nodal forces of unit tractions; the multiplier λ solves C K⁻¹ Cᵀ λ = C x.

    Args:
        solver: Solver of K.
        mean_strain: C, shape (n_s, n_free), or None without constraint.
    """

    solver: LinearSolver
    mean_strain: Array | None

    def solve(self, values: Array, rhs: Array, slots: Slots | None = None) -> tuple[Array, Any]:
        """See `LinearSolver.solve`."""
        solution, success = self.solver.solve(values, self._with_tractions(rhs), slots)
        return self._constrained(solution), success

    def resolve(self, slots: Slots, rhs: Array) -> Array:
        """See `LinearSolver.resolve`."""
        return self._constrained(self.solver.resolve(slots, self._with_tractions(rhs)))

    @property
    def n_kept(self) -> int:
        """See `LinearSolver.n_kept`."""
        return self.solver.n_kept

    @property
    def concurrent(self) -> bool:
        """See `LinearSolver.concurrent`."""
        return self.solver.concurrent

    def _with_tractions(self, rhs: Array) -> Array:
        """Append the columns of Cᵀ to the right-hand sides."""
        if self.mean_strain is None:
            return rhs
        columns = np.repeat(self.mean_strain.T[:, :, None], rhs.shape[2], axis=2)
        return np.concatenate([rhs, columns], axis=1)

    def _constrained(self, solution: Array) -> Array:
        """Project solutions onto C x = 0; their last columns are K⁻¹ Cᵀ."""
        mean = self.mean_strain
        if mean is None:
            return solution
        x, response = solution[:, : -len(mean)], solution[:, -len(mean) :]
        compliance = np.einsum("sf,ftn->nst", mean, response)
        multiplier = np.linalg.solve(compliance, np.einsum("sf,fkn->nsk", mean, x))
        return x - np.einsum("fsn,nsk->fkn", response, multiplier)
