"""Linear systems of RVEs on grids in single precision, refined in double; see `femops.rve.iterative.LinearSystems`.

Conjugate gradients in single precision take about two thirds of the time. They reduce the residual as far as they can;
it is then computed in double precision, and the rest solved for again, so that the solution is as accurate as in double
precision (iterative refinement; Carson and Higham, doi 10.1137/17M1140819). What is not reduced so, and the last
iterations of columns that are solved to an energy, are left to double precision.
"""

import numpy as np
import numpy.typing as npt

from femops.notation import Array, Indices
from femops.rve.conjugate_gradients import Accuracy, conjugate_gradients
from femops.rve.fft.equations import LatticeEquations, LatticePoints
from femops.rve.iterative import HostSystems

_SMALLEST = 1e-5
"""Smallest relative residual asked of single precision, which loses about that much to round-off."""
_LEAST_REDUCTION = 0.1
"""Relative residual above which single precision is given up."""

Flags = npt.NDArray[np.bool_]


class SinglePrecisionSystems:
    """Linear systems of an RVE on a grid; see `LinearSystems`.

    Args:
        equations: Equations of the RVE.
        unloaded: Point quantities of the unloaded RVE.
    """

    concurrent = True

    def __init__(self, equations: LatticeEquations, unloaded: LatticePoints) -> None:
        self._equations, self._double = equations, HostSystems(equations, unloaded)
        self.tangent = equations.tangent

    def solve(
        self, points: LatticePoints, right: Array, owner: Indices, accuracy: Accuracy
    ) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Solve K x = r by conjugate gradients."""
        solution, solved = np.zeros_like(right), np.linalg.norm(right, axis=1) <= accuracy.residual
        columns = np.flatnonzero(~solved)
        rest = right[columns]
        while len(columns):
            change, rest, done, reduced = self._reduced(points, rest, owner[columns], accuracy.of(columns))
            solution[columns] += change
            solved[columns] = done
            if (stuck := ~done & ~reduced).any():
                which = columns[stuck]
                change, solved[which] = self._double.solve(points, rest[stuck], owner[which], accuracy.of(which))
                solution[which] += change
            left = ~done & reduced
            columns, rest = columns[left], rest[left]
        return solution, solved

    def _reduced(
        self, points: LatticePoints, residual: Array, owner: Indices, accuracy: Accuracy
    ) -> tuple[Array, Array, Flags, Flags]:
        """Return corrections, the residuals they leave, and masks of columns: solved, and worth to go on with.

        Round-off feeds soft parts of the RVE with errors that the estimated energy does not contain.
        """
        before = np.linalg.norm(residual, axis=1)
        least = Accuracy(np.maximum(accuracy.residual / before, _SMALLEST), accuracy.energy / before**2)

        def multiply(vectors: npt.NDArray[np.float32], columns: Indices) -> npt.NDArray[np.float32]:
            return self._equations.product(points, vectors, owner[columns])

        scaled = (residual / before[:, None]).astype(np.float32)
        found, good, _, energy = conjugate_gradients(multiply, self._double.precondition, scaled, least)
        change = found * before[:, None]
        product, _ = self.tangent(points, change, np.zeros((len(change), len(points.sum_stress))), owner)
        left = residual - product
        after = np.linalg.norm(left, axis=1)
        reduced = good & (energy > least.energy) & (after <= _LEAST_REDUCTION * before)
        return change, left, after <= accuracy.residual, reduced
