"""Settings and result of the RVE solver, whatever its method."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from femops.devices import DeviceName
from femops.notation import Array, Indices

SolverName = Literal["auto", "fft", "multigrid", "pardiso", "mumps"]
"""Conjugate gradients with the FFT or algebraic multigrid, or one of `femops.rve.linear`; auto takes the fastest."""
SOLVER_HELP = (
    "fft and multigrid are iterative, fft on uniform grids; auto takes them for large RVEs, otherwise pardiso or mumps"
)


@dataclass(frozen=True)
class SolverOptions:
    """Settings of the RVE solver.

    Attributes:
        rtol: Tolerance of the residual norm relative to the internal forces [-].
        max_iter: Maximum number of iterations.
        linear: Linear solver.
        exact_sensitivities: Solve for X again at the converged state (for stored snapshots).
        device: Device of the conjugate gradients on grids; cuda refuses other RVEs, auto takes a GPU for large grids.
    """

    rtol: float = 1e-8
    max_iter: int = 30
    linear: SolverName = "auto"
    exact_sensitivities: bool = False
    device: DeviceName = "cpu"


@dataclass
class Equilibrium:
    """Equilibrium of a batch of RVEs without sensitivities; the batch is the last axis.

    Attributes:
        stress: Homogenized stress, Mandel [stress]; its error is of the order of `rtol`. Shape (n_s, N).
        fluctuation: Free dofs of the fluctuation [length]. Shape (n_free, N).
        failures: Reason of each failure, by the number of the RVE in the batch.
    """

    stress: Array
    fluctuation: Array
    failures: dict[int, str]


@dataclass
class Solution:
    """Solution of a batch of RVEs; the batch is the last axis.

    Attributes:
        stress: Homogenized stress, Mandel [stress]. Shape (n_s, N).
        tangent: Consistent tangent, Mandel [stress]. Shape (n_s, n_s, N).
        stress_33: In plane strain the mean out-of-plane stress [stress], shape (N,); None in 3D.
        tangent_33: In plane strain d stress_33 / d E [stress], shape (n_s, N); None in 3D or if a nonlinear phase
            does not know its own.
        fluctuation: Free dofs of the fluctuation [length]. Shape (n_free, N).
        sensitivity: d fluctuation / d E [length]. Shape (n_free, n_s, N).
        state: Trial state of each phase. Shape (n_state, n_points_of_phase, N) each.
        iterations: Number of Newton and chord steps of each RVE. Shape (N,).
        factorisations: Number of Newton steps of each RVE. Shape (N,).
        failures: Reason of each failure, by the number of the RVE in the batch; the values of failed RVEs are NaN.
    """

    stress: Array
    tangent: Array
    stress_33: Array | None
    tangent_33: Array | None
    fluctuation: Array
    sensitivity: Array
    state: list[Array]
    iterations: Indices
    factorisations: Indices
    failures: dict[int, str] = field(default_factory=dict)

    def discard_failures(self) -> "Solution":
        """Set the values of failed RVEs to NaN."""
        failed = list(self.failures)
        for values in (self.stress, self.tangent, self.fluctuation, self.sensitivity, self.stress_33, self.tangent_33):
            if values is not None:
                values[..., failed] = np.nan
        return self
