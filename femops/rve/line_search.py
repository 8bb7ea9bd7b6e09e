"""Armijo's line search on the convex energy of a batch of RVEs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from femops.errors import NotConverged
from femops.notation import Array
from femops.rve.equations import Equations, Points

_SUFFICIENT_DECREASE = 1e-4
_SHORTEST_STEP = 2.0**-12


@dataclass(frozen=True)
class Step:
    """Corrections of some RVEs and where they start.

    Attributes:
        strain: Macroscale strains. Shape (n_s, N).
        history: Committed state of each phase. Shape (n_state, n_points_of_phase, N) each.
        before: Fluctuations at the start. Shape (n_free, N).
        residual: Unbalanced residuals there. Shape (n_free, N).
        correction: Corrections of the fluctuations. Shape (n_free, N).
    """

    strain: Array
    history: list[Array]
    before: Array
    residual: Array
    correction: Array


def line_search(equations: Equations, step: Step, rtol: float) -> tuple[Array, Points]:
    """Return the fluctuations after a step, halved until it is good, and the quantities there.

    Raises:
        NotConverged: A step was halved too often.
    """
    length = np.ones(step.before.shape[1])
    while True:
        after = step.before + length * step.correction
        new = equations.evaluate(step.strain, after, step.history)
        rejected = _not_decreasing(equations, step, length, new, rtol)
        if not rejected.any():
            return after, new
        length[rejected] *= 0.5
        if length.min() < _SHORTEST_STEP:
            raise NotConverged("the line search of an RVE failed")


def _not_decreasing(equations: Equations, step: Step, length: Array, new: Points, rtol: float) -> npt.NDArray[np.bool_]:
    """Tell which RVEs have neither a smaller nor a small residual nor a sufficiently smaller energy."""
    after = step.before + length * step.correction
    residual = np.linalg.norm(equations.unbalanced(new, step.strain, after), axis=0)
    doubtful = ~(residual < np.linalg.norm(step.residual, axis=0))
    if doubtful.any():
        doubtful &= ~(residual <= rtol * equations.force(new, step.strain, after))
    if not doubtful.any():
        return doubtful
    start = equations.energy(step.strain, step.before, step.history)
    end = equations.energy(step.strain, after, step.history)
    slope = np.einsum("fn,fn->n", step.residual, step.correction)
    enough = end <= start + _SUFFICIENT_DECREASE * length * slope + 1e-14 * np.abs(start)
    return doubtful & ~enough
