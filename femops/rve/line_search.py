"""Line search on the convex energy of a batch of RVEs, by its slope along the corrections.

The slope φ'(t) = R(q + t d) · d of the energy along a correction d grows with t and is negative at t = 0. A step is
good where |φ'(t)| ≤ c |φ'(0)|, which bounds it from both sides. Neither the residual nor a decrease of the energy
alone would do: the stress of a phase that saturates hardly changes far away, so that both accept steps that lead
nowhere.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from femops.notation import Array
from femops.rve.equations import Equations, Points

Flags = npt.NDArray[np.bool_]
_LARGEST_SLOPE = 0.5
_MOST_EVALUATIONS = 30
_LEAST_CUT = 0.1


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

    def of(self, which: npt.NDArray[np.int64]) -> "Step":
        """Return the corrections of some of the RVEs."""
        history = [one[:, :, which] for one in self.history]
        return Step(self.strain[:, which], history, *(
            one[:, which] for one in (self.before, self.residual, self.correction)
        ))  # fmt: skip


def line_search(equations: Equations, step: Step, rtol: float) -> tuple[Array, Points, Flags]:
    """Move each RVE along its correction until the step is good or the residual small.

    Returns:
        The fluctuations after the step, the quantities there, and which RVEs found no good step, shape (N,).
    """
    length = np.ones(step.before.shape[1])
    points = equations.evaluate(step.strain, step.before + step.correction, step.history)
    start = np.einsum("fn,fn->n", step.residual, step.correction)
    here, bad = _judged(equations, step, length, points, start, rtol)
    bracket, left, here = _Bracket.of(start), np.flatnonzero(bad), here[bad]
    for _ in range(_MOST_EVALUATIONS):
        if not len(left):
            break
        length[left] = bracket.next(left, length[left], here)
        part = step.of(left)
        new = equations.evaluate(part.strain, part.before + length[left] * part.correction, part.history)
        here, bad = _judged(equations, part, length[left], new, start[left], rtol)
        points = points.put(left, new)
        left, here = left[bad], here[bad]
    stuck = np.zeros(len(length), dtype=bool)
    stuck[left] = True
    return step.before + length * step.correction, points, stuck


@dataclass
class _Bracket:
    """Where the slopes of the RVEs are negative, and where positive. Shapes (N,)."""

    low: Array
    low_slope: Array
    high: Array
    high_slope: Array

    @staticmethod
    def of(start: Array) -> "_Bracket":
        """Return the brackets that are known from the slopes at t = 0."""
        return _Bracket(np.zeros(len(start)), start.copy(), np.full(len(start), np.inf), np.full(len(start), np.nan))

    def next(self, which: npt.NDArray[np.int64], length: Array, slope: Array) -> Array:
        """Return the lengths to try next, by the secant within a bracket, twice as long without one."""
        beyond = ~(slope < 0.0)  # no number is beyond, too
        past, before = which[beyond], which[~beyond]
        self.high[past], self.high_slope[past] = length[beyond], slope[beyond]
        self.low[before], self.low_slope[before] = length[~beyond], slope[~beyond]
        found, two = 2.0 * length, np.isfinite(self.high[which])
        of = which[two]
        low, width, rise = self.low[of], self.high[of] - self.low[of], self.high_slope[of] - self.low_slope[of]
        numbers = np.isfinite(rise) & (rise > 0.0)
        fraction = np.where(numbers, -self.low_slope[of] / np.where(numbers, rise, 1.0), 0.5)
        found[two] = low + np.clip(fraction, _LEAST_CUT, 1.0 - _LEAST_CUT) * width
        return found


def _judged(
    equations: Equations, step: Step, length: Array, points: Points, start: Array, rtol: float
) -> tuple[Array, Flags]:
    """Return the slopes at the points, and which steps are bad: neither flat enough nor at a small residual."""
    after = step.before + length * step.correction
    unbalanced = equations.unbalanced(points, step.strain, after)
    here = np.einsum("fn,fn->n", unbalanced, step.correction)
    bad = ~(np.abs(here) <= _LARGEST_SLOPE * np.abs(start))
    if bad.any():
        bad &= ~(np.linalg.norm(unbalanced, axis=0) <= rtol * equations.force(points, step.strain, after))
    return here, bad
