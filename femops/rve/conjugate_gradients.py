"""Preconditioned conjugate gradients for several right-hand sides at once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from femops.notation import Array, Indices

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

    residual: Array
    energy: Array


def conjugate_gradients(
    multiply: Callable[[Array, Indices], Array],
    precondition: Callable[[Array], Array],
    residual: Array,
    accuracy: Accuracy,
) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Solve K x = r for every column r; each is dropped from the iteration once it is solved.

    Args:
        multiply: Returns K p of columns p, shape (n, size), of the given numbers (n,).
        precondition: Returns an approximation of K⁻¹ r, symmetric and positive definite. Shape (n, size).
        residual: The right-hand sides r. Shape (n_columns, size).
        accuracy: When a column is solved.

    Returns:
        Solutions, shape (n_columns, size), a mask of the columns solved, and numbers of iterations, (n_columns,).
    """
    solution = np.zeros_like(residual)
    iterations, solved = np.zeros(len(residual), dtype=np.int64), _norm(residual) <= accuracy.residual
    columns = np.flatnonzero(~solved)
    r = residual[columns]
    x, direction = np.zeros_like(r), np.zeros_like(r)
    rz, gains = np.ones(len(columns)), np.full((_DELAY, len(columns)), np.inf)
    for count in range(_MOST_ITERATIONS):
        if not len(columns):
            break
        z = precondition(r)
        rz, before = np.einsum("cf,cf->c", r, z), rz
        direction *= (rz / before if count else rz * 0.0)[:, None]
        direction += z
        del z  # large vectors live no longer than they are needed
        product = multiply(direction, columns)
        curvature = np.einsum("cf,cf->c", direction, product)
        usable = curvature > 0.0
        length = np.where(usable, rz / np.where(usable, curvature, 1.0), 0.0)
        x += length[:, None] * direction
        product *= length[:, None]
        r -= product
        del product
        gains[count % _DELAY] = length * rz
        iterations[columns] += 1
        reached = (_norm(r) <= accuracy.residual[columns]) | (gains.sum(axis=0) <= accuracy.energy[columns])
        over = reached | ~usable
        if over.any():
            solution[columns[over]], solved[columns[over]] = x[over], (reached & usable)[over]
            columns, r, x, direction, rz = columns[~over], r[~over], x[~over], direction[~over], rz[~over]
            gains = gains[:, ~over]
    solution[columns] = x
    return solution, solved, iterations


def _norm(columns: Array) -> Array:
    return np.sqrt(np.einsum("cf,cf->c", columns, columns))
