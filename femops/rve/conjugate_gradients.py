"""Preconditioned conjugate gradients for several right-hand sides at once, of numpy or of torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace, device

_DELAY = 4
_MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class Accuracy:
    """When a column is solved: either value of the column is reached.

    Attributes:
        residual: Largest norm of the residual. Shape (n_columns,).
        energy: Largest energy rᵀ K⁻¹ r of the error, estimated from the last iterations, as Hestenes and Stiefel
            (1952) and Strakoš and Tichý (ETNA 13, 2002) do. Shape (n_columns,).
    """

    residual: Any
    energy: Any

    def of(self, columns: Any) -> "Accuracy":
        """Return the accuracy of some columns."""
        return Accuracy(self.residual[columns], self.energy[columns])


def conjugate_gradients(
    multiply: Callable[[Any, Any], Any], precondition: Callable[[Any], Any], residual: Any, accuracy: Accuracy
) -> tuple[Any, Any, Any, Any]:
    """Solve K x = r for every column r; each is dropped from the iteration once it is solved.

    Args:
        multiply: Returns K p of columns p, shape (n, size), of the given numbers (n,).
        precondition: Returns an approximation of K⁻¹ r, symmetric and positive definite. Shape (n, size).
        residual: The right-hand sides r. Shape (n_columns, size).
        accuracy: When a column is solved.

    Returns:
        Solutions, shape (n_columns, size), a mask of the columns solved, numbers of iterations, and the estimated
        energies of the errors, (n_columns,) each.
    """
    xp = array_namespace(residual)
    solution, solved = xp.zeros_like(residual), _norm(residual) <= accuracy.residual
    iterations = xp.zeros(len(residual), dtype=xp.int64, device=device(residual))
    columns = xp.nonzero(~solved)[0]
    r = residual[columns]
    x, direction = xp.zeros_like(r), xp.zeros_like(r)
    rz = xp.ones_like(r[:, 0])
    gains = [rz * xp.inf] * _DELAY
    energy = xp.full_like(residual[:, 0], xp.inf)
    for count in range(_MOST_ITERATIONS):
        if not len(columns):
            break
        z = precondition(r)
        rz, before = xp.vecdot(r, z), rz
        direction *= (rz / before if count else rz * 0.0)[:, None]
        direction += z
        del z  # large vectors live no longer than they are needed
        product = multiply(direction, columns)
        curvature = xp.vecdot(direction, product)
        usable = curvature > 0.0
        length = xp.where(usable, rz / xp.where(usable, curvature, 1.0), 0.0)
        x += length[:, None] * direction
        product *= length[:, None]
        r -= product
        del product
        gains[count % _DELAY] = length * rz
        iterations[columns] += 1
        energy[columns] = sum(gains)
        reached = (_norm(r) <= accuracy.residual[columns]) | (energy[columns] <= accuracy.energy[columns])
        over = reached | ~usable
        if over.any():
            solution[columns[over]], solved[columns[over]] = x[over], (reached & usable)[over]
            columns, r, x, direction, rz = columns[~over], r[~over], x[~over], direction[~over], rz[~over]
            gains = [one[~over] for one in gains]
    solution[columns] = x
    return solution, solved, iterations, energy


def _norm(columns: Any) -> Any:
    xp = array_namespace(columns)
    return xp.sqrt(xp.vecdot(columns, columns))
