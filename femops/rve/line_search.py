"""Line search on the convex energy of a batch of RVEs, based on its slope along the corrections.

The slope φ'(t) = R(q + t d) · d of the energy along a correction d increases with t and is negative at t = 0. A step
is accepted if |φ'(t)| ≤ c |φ'(0)| (curvature condition), which excludes steps that are too short or too long. A
decrease of the residual or the energy alone is not sufficient: the stress of a saturating phase hardly changes at
large strains, so that both accept steps far from the solution.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from femops.notation import Array

Flags = npt.NDArray[np.bool_]
_LARGEST_SLOPE = 0.5
_MOST_EVALUATIONS = 30
_LEAST_CUT = 0.1


class PointQuantities(Protocol):
    """Quantities of a batch of RVEs, such as `femops.rve.equations.Points`."""

    def put(self, columns: npt.NDArray[np.int64], new: Self) -> Self:
        """Return the quantities with those of some RVEs replaced."""
        ...


class BatchEquations[P: PointQuantities](Protocol):
    """Equations of a batch of RVEs, such as `femops.rve.equations.Equations`."""

    def evaluate(self, strain: Array, fluctuation: Array, state: list[Array]) -> P:
        """Return the quantities at strains (n_s, N) and fluctuations (n_free, N)."""
        ...

    def residual(self, points: P, strain: Array, fluctuation: Array) -> Array:
        """Return the residuals. Shape (n_free, N)."""
        ...

    def force_norm(self, points: P, strain: Array, fluctuation: Array) -> Array:
        """Return the norms to which residuals are relative. Shape (N,)."""
        ...


@dataclass(frozen=True)
class Step:
    """Corrections of some RVEs and the state from which they start.

    Attributes:
        strain: Macroscale strains, Mandel [-]. Shape (n_s, N).
        state: Committed state of each phase. Shape (n_state, n_points_of_phase, N) each.
        before: Fluctuations before the step [length]. Shape (n_free, N).
        residual: Residuals before the step, see `Equations.residual`. Shape (n_free, N).
        correction: Corrections of the fluctuations [length]. Shape (n_free, N).
    """

    strain: Array
    state: list[Array]
    before: Array
    residual: Array
    correction: Array

    def of(self, which: npt.NDArray[np.int64]) -> "Step":
        """Return the corrections of some of the RVEs."""
        state = [one[:, :, which] for one in self.state]
        return Step(self.strain[:, which], state, *(
            one[:, which] for one in (self.before, self.residual, self.correction)
        ))  # fmt: skip


def line_search[P: PointQuantities](equations: BatchEquations[P], step: Step, rtol: float) -> tuple[Array, P, Flags]:
    """Find for each RVE a step length with a sufficiently small slope or a residual below `rtol`.

    Returns:
        The fluctuations after the step, shape (n_free, N), the point quantities there, and a mask of the RVEs without
        an acceptable step, shape (N,).
    """
    length = np.ones(step.before.shape[1])
    points = equations.evaluate(step.strain, step.before + step.correction, step.state)
    start = np.einsum("fn,fn->n", step.residual, step.correction)
    here, bad = _judged(equations, step, length, points, start, rtol)
    bracket, remaining, here = _Bracket.of(start), np.flatnonzero(bad), here[bad]
    for _ in range(_MOST_EVALUATIONS):
        if not len(remaining):
            break
        length[remaining] = bracket.next(remaining, length[remaining], here)
        part = step.of(remaining)
        new = equations.evaluate(part.strain, part.before + length[remaining] * part.correction, part.state)
        here, bad = _judged(equations, part, length[remaining], new, start[remaining], rtol)
        points = points.put(remaining, new)
        remaining, here = remaining[bad], here[bad]
    stuck = np.zeros(len(length), dtype=bool)
    stuck[remaining] = True
    return step.before + length * step.correction, points, stuck


@dataclass
class _Bracket:
    """Step lengths with negative and positive slopes that bracket the zero, and these slopes. Shape (N,) each."""

    low: Array
    low_slope: Array
    high: Array
    high_slope: Array

    @staticmethod
    def of(start: Array) -> "_Bracket":
        """Return the initial brackets from the slopes at t = 0, without upper ends."""
        return _Bracket(np.zeros(len(start)), start.copy(), np.full(len(start), np.inf), np.full(len(start), np.nan))

    def next(self, which: npt.NDArray[np.int64], length: Array, slope: Array) -> Array:
        """Return the next trial lengths: safeguarded secant within a bracket, doubled without an upper end."""
        beyond = ~(slope < 0.0)  # NaN counts as beyond
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


def _judged[P: PointQuantities](
    equations: BatchEquations[P], step: Step, length: Array, points: P, start: Array, rtol: float
) -> tuple[Array, Flags]:
    """Return the slopes, and a mask of the rejected steps: neither slope nor residual small enough."""
    after = step.before + length * step.correction
    residual = equations.residual(points, step.strain, after)
    here = np.einsum("fn,fn->n", residual, step.correction)
    bad = ~(np.abs(here) <= _LARGEST_SLOPE * np.abs(start))
    if bad.any():
        bad &= ~(np.linalg.norm(residual, axis=0) <= rtol * equations.force_norm(points, step.strain, after))
    return here, bad
