"""Interfaces of iterative RVE solvers: equations of a batch in vectors, and linear systems with their stiffness."""

from collections.abc import Callable
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from femops.notation import Array, Indices
from femops.rve.conjugate_gradients import Accuracy, conjugate_gradients


class IterativePoints(Protocol):
    """Internal forces and point quantities of N RVEs.

    Attributes:
        force: Internal forces Σ w Bᵀ σ. Shape (N, n).
        state: Trial state of each phase. Shape (n_state, n_points_of_phase, N) each.
        sum_stress: Σ w σ. Shape (n_s, N).
        sum_33: Σ w stress_33 in plane strain. Shape (N,).
    """

    sum_stress: Array
    sum_33: Array

    @property
    def force(self) -> Array: ...  # noqa: D102
    @property
    def state(self) -> list[Array]: ...  # noqa: D102

    def put(self, columns: Indices, new: Self) -> Self:
        """Return the quantities with those of some RVEs replaced."""
        ...


class IterativeEquations[P: IterativePoints](Protocol):
    """Equations of a batch of RVEs in vectors of length n, such as `femops.rve.fft.equations.LatticeEquations`.

    Attributes:
        nonlinear: Whether any phase is nonlinear.
        size: Length n of a vector.
        force_scale: Forces per stress [length^dim / length].
        knows_row_33: See `femops.rve.methods.Method`.
        bytes_of_one: See `femops.rve.methods.Method`.
        concurrent: See `femops.rve.methods.Method`.
    """

    nonlinear: bool
    concurrent: bool

    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def force_scale(self) -> float: ...  # noqa: D102
    @property
    def knows_row_33(self) -> bool: ...  # noqa: D102
    @property
    def bytes_of_one(self) -> float: ...  # noqa: D102

    def evaluate(self, strain: Array, fluctuation: Array, state: list[Array]) -> P:
        """Evaluate the phases of a batch at strains (n_s, N) and fluctuations (n, N)."""
        ...

    def residual(self, points: P, strain: Array, fluctuation: Array) -> Array:
        """Return the residuals. Shape (n, N)."""
        ...

    def force_norm(self, points: P, strain: Array, fluctuation: Array) -> Array:
        """Return the norms to which residuals are relative. Shape (N,)."""
        ...

    def tangent(self, points: P, vectors: Array, macro: Array, owner: Indices) -> tuple[Array, Array]:
        """Return K u + L E, shape (n_columns, n), and Σ w D (E + B u), (n_columns, n_s), of RVEs `owner`."""
        ...

    def mean_tangent(self, points: P) -> Array:
        """Return the volume average of the tangents. Shape (N, n_s, n_s)."""
        ...

    def row_33(self, points: P) -> tuple[Array, Array]:
        """Return Σ w D₃₃, shape (n_s, N), and Σ w Bᵀ D₃₃, (N, n)."""
        ...

    def preconditioner(self, points: P) -> Callable[[Array], Array]:
        """Return an approximate inverse of the stiffness of the first RVE, for vectors (n_columns, n)."""
        ...

    def spread(self, free: Array) -> Array:
        """Return the vectors, shape (..., n), of free dofs (..., n_free)."""
        ...

    def gather(self, vectors: Array) -> Array:
        """Return the free dofs, shape (..., n_free), of vectors (..., n)."""
        ...


class LinearSystems[P: IterativePoints](Protocol):
    """Linear systems with the stiffness K of some RVEs of a batch, where almost all time is spent.

    Attributes:
        concurrent: See `femops.rve.methods.Method`.
    """

    concurrent: bool

    def tangent(self, points: P, vectors: Array, macro: Array, owner: Indices) -> tuple[Array, Array]:
        """Return K u + L E and Σ w D (E + B u), see `IterativeEquations`."""
        ...

    def solve(self, points: P, right: Array, owner: Indices, accuracy: Accuracy) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Solve K x = r.

        Args:
            points: Point quantities with the tangents.
            right: The right-hand sides r. Shape (n_columns, n).
            owner: Number of the RVE of each column. Shape (n_columns,).
            accuracy: Accuracy of each column.

        Returns:
            Solutions, shape (n_columns, n), and a mask of the columns solved, shape (n_columns,).
        """
        ...


class HostSystems[P: IterativePoints]:
    """Linear systems of the equations themselves; see `LinearSystems`.

    Args:
        equations: Equations of the RVE.
        unloaded: Point quantities of the unloaded RVE.

    Attributes:
        precondition: Approximate inverse of the stiffness, see `IterativeEquations.preconditioner`.
    """

    def __init__(self, equations: IterativeEquations[P], unloaded: P) -> None:
        self.tangent, self.precondition = equations.tangent, equations.preconditioner(unloaded)
        self.concurrent = equations.concurrent

    def solve(self, points: P, right: Array, owner: Indices, accuracy: Accuracy) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Solve K x = r by conjugate gradients."""
        macro = np.zeros((len(right), len(points.sum_stress)))

        def multiply(vectors: Array, columns: Indices) -> Array:
            return self.tangent(points, vectors, macro[: len(columns)], owner[columns])[0]

        solution, solved, *_ = conjugate_gradients(multiply, self.precondition, right, accuracy)
        return solution, solved
