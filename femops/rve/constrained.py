"""Solutions of the RVE's linear systems, under static conditions with zero mean strain."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from femops.notation import Array
from femops.rve.linear import LinearSolver, Slots


@dataclass(frozen=True)
class ConstrainedSolver:
    """Solves K x = rhs subject to C x = 0 by the responses to the forces Cᵀ of unit tractions.

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

    def _with_tractions(self, rhs: Array) -> Array:
        """Append the forces of unit tractions to the right-hand sides."""
        if self.mean_strain is None:
            return rhs
        columns = np.repeat(self.mean_strain.T[:, :, None], rhs.shape[2], axis=2)
        return np.concatenate([rhs, columns], axis=1)

    def _constrained(self, solution: Array) -> Array:
        """Remove the mean strain of solutions by the responses to unit tractions, which come last."""
        mean = self.mean_strain
        if mean is None:
            return solution
        x, response = solution[:, : -len(mean)], solution[:, -len(mean) :]
        compliance = np.einsum("sf,ftn->nst", mean, response)
        multiplier = np.linalg.solve(compliance, np.einsum("sf,fkn->nsk", mean, x))
        return x - np.einsum("fsn,nsk->fkn", response, multiplier)
