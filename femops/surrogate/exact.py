"""The nested solve that a surrogate replaces, with initial guesses supplied by the surrogate."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from femops import notation
from femops.errors import CaseError
from femops.notation import Array
from femops.rve.micro import MicroFields, micro_fields
from femops.rve.solver import RVESolver, SolverOptions
from femops.rve.spec import RVE

Guess = Array | Callable[[slice], Array]
"""Initial guess at all points, or a callable that returns it for a slice of points to save memory."""


@dataclass(frozen=True)
class ExactResponse:
    """Response of the RVE.

    Attributes:
        stress: Stress, Mandel [stress]. Shape (n, n_s).
        tangent: Consistent tangent, Mandel [stress]. Shape (n, n_s, n_s).
        stress_33: In plane strain the stress normal to the plane [stress], shape (n,); None in 3D.
        tangent_33: In plane strain d stress_33 / d strain, Mandel [stress], shape (n, n_s); None in 3D or if a phase
            does not know its own.
    """

    stress: Array
    tangent: Array
    stress_33: Array | None
    tangent_33: Array | None


class ExactRVE:
    """Solves an RVE of elastic phases; the solver is set up on first use.

    Args:
        rve: The RVE.
        options: Solver options.

    Raises:
        CaseError: A phase has internal state.
    """

    def __init__(self, rve: RVE, options: SolverOptions | None = None) -> None:
        check_elastic(rve)
        self.rve = rve
        self.options = options or SolverOptions()

    @cached_property
    def solver(self) -> RVESolver:
        """Solver of the RVE."""
        return RVESolver(self.rve.discretisation, self.rve.phases, self.rve.boundary, self.options)

    def solve(self, strain: Array, start: Guess | None = None, sensitivity: Guess | None = None) -> ExactResponse:
        """Solve the RVE at every point, in chunks that fit into memory and that threads share.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
            start: Initial guess of the fluctuation at the free dofs [length]. Shape (n, n_free).
            sensitivity: Initial guess of its derivative with respect to the strain [length]. Shape (n, n_free, n_s).

        Raises:
            NotConverged: An RVE did not converge.
        """
        n, n_s = strain.shape
        normal = np.empty(n) if notation.dimension(n_s) == 2 else None
        row = np.empty((n, n_s)) if self.solver.knows_tangent_33 else None
        answer = ExactResponse(np.empty((n, n_s)), np.empty((n, n_s, n_s)), normal, row)

        def solve(part: slice) -> None:
            columns = np.ascontiguousarray(strain[part].T)
            state = self.solver.virgin_state(columns.shape[1])
            guesses = _columns(start, part), _columns(sensitivity, part)
            solution = self.solver.solve(columns, state, *guesses, part.start)
            answer.stress[part] = solution.stress.T
            answer.tangent[part] = solution.tangent.transpose(2, 0, 1)
            if answer.stress_33 is not None and solution.stress_33 is not None:
                answer.stress_33[part] = solution.stress_33
            if answer.tangent_33 is not None and solution.tangent_33 is not None:
                answer.tangent_33[part] = solution.tangent_33.T

        self.solver.in_parts(n, solve)
        return answer

    def micro_fields(self, strain: Array, start: Array | None = None) -> MicroFields:
        """Return the microscale fields at one strain (n_s,), from an initial guess of the fluctuation (n_free,)."""
        state, guess = self.solver.virgin_state(1), None if start is None else start[:, None]
        found = self.solver.equilibrium(strain[:, None], state, guess).fluctuation[:, 0]
        return micro_fields(self.rve, self.solver, strain, found, [one[:, :, 0] for one in state])


def check_elastic(rve: RVE) -> None:
    """Refuse an RVE of phases with internal state.

    Raises:
        CaseError: A phase has internal state.
    """
    dim = rve.discretisation.dim
    for name, phase in zip(rve.discretisation.phases, rve.phases, strict=True):
        if phase.state_fields(dim):
            raise CaseError("has a memory, expected elastic phases only", key=f"rve.phases.{name}")


def check_dimension(rve: RVE, trained: int) -> None:
    """Refuse an RVE of another dimension than that of a training.

    Raises:
        CaseError: The dimensions differ.
    """
    dim = rve.discretisation.dim
    if dim != trained:
        raise CaseError(f"the RVE is {dim}D, the model was trained in {trained}D", key="rve")


def _columns(guess: Guess | None, part: slice) -> Array | None:
    """Return the guess at a slice of points in the solver's layout, with the points last."""
    if guess is None:
        return None
    values = guess(part) if callable(guess) else guess[part]
    return np.ascontiguousarray(np.moveaxis(values, 0, -1))
