"""Finite-element reference solutions of a problem, for training and testing of operators."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spl
import ufl
from dolfinx import fem

from femops.errors import NotConverged
from femops.notation import Array
from femops.pde.problem import Inputs, PDEProblem

_RTOL, _MAX_ITER = 1e-10, 25


@dataclass(frozen=True)
class Samples:
    """Inputs of a problem, their encoding, and the solutions.

    Attributes:
        inputs: Values of the inputs by name. Shape (n, ...) each.
        lifting: Lifting of the inputs. Shape (n, n_dofs).
        load: −F at the lifting, at the nodes of the finest level. Shape (n, n_nodes · n_components).
        features: Cell features, see `PDEProblem.features`. Shape (n, n_features, n_cells).
        solution: u, shape (n, n_dofs); shape (0, n_dofs) if not solved.
    """

    inputs: Inputs
    lifting: Array
    load: Array
    features: Array
    solution: Array


class PDESolver:
    """Assembles and solves a problem on one process.

    Args:
        problem: The problem.
    """

    def __init__(self, problem: PDEProblem) -> None:
        self.problem = problem
        self._residual = fem.form(problem.residual)
        self._jacobian = fem.form(problem.jacobian)
        diagonal = problem.free.T @ np.ones(problem.n_dofs)
        self._active = np.flatnonzero(diagonal)

    def load(self, u: Array) -> Array:
        """Return the residual load −F(u) at the free values for the current inputs. Shape (n_nodes · n_components,)."""
        self.problem.solution.x.array[:] = u
        return np.asarray(-(self.problem.free.T @ fem.assemble_vector(self._residual).array))

    def stiffness(self, u: Array) -> sp.csr_array:
        """Return dF/du restricted to the free values for the current inputs; rows of fixed values are zero."""
        self.problem.solution.x.array[:] = u
        full = sp.csr_array(fem.assemble_matrix(self._jacobian).to_scipy())
        return sp.csr_array(self.problem.free.T @ full @ self.problem.free)

    def transposed_product(self, u: Array, values: Array) -> Array:
        """Return (dF/du)ᵀ times a vector at the nodes of the finest level. Shape (n_nodes · n_components,)."""
        form, along = self._transposed
        self.problem.solution.x.array[:] = u
        along.x.array[:] = self.problem.free @ values
        return np.asarray(self.problem.free.T @ fem.assemble_vector(form).array)

    @cached_property
    def _transposed(self) -> tuple[Any, Any]:
        along = fem.Function(self.problem.space)
        return fem.form(ufl.action(ufl.adjoint(self.problem.jacobian), along)), along

    def encode(self, inputs: Inputs) -> Samples:
        """Return the lifting, load and features of samples of the inputs, without solutions."""
        rows = [self._encoded({name: one[row] for name, one in inputs.items()}) for row in range(_count(inputs))]
        lifting, load, features = (np.array([row[part] for row in rows]) for part in range(3))
        return Samples(inputs, lifting, load, features, np.empty((0, self.problem.n_dofs)))

    def solve(self, inputs: Inputs, watch: Callable[[int], None] | None = None) -> Samples:
        """Solve the problem for samples of the inputs.

        Args:
            inputs: Values of the inputs by name, with the sample as the leading axis.
            watch: Called with the number of samples solved.

        Raises:
            NotConverged: Newton's method failed for a sample.
        """
        samples = self.encode(inputs)
        solution = np.empty_like(samples.lifting)
        for row, lifting in enumerate(samples.lifting):
            self.problem.set_inputs({name: one[row] for name, one in inputs.items()})
            solution[row] = self._linear(lifting) if self.problem.linear else self._nonlinear(lifting, row)
            if watch is not None:
                watch(row + 1)
        return Samples(inputs, samples.lifting, samples.load, samples.features, solution)

    def _encoded(self, sample: Inputs) -> tuple[Array, Array, Array]:
        lifting = self.problem.lifted(sample)
        features = self.problem.features(sample)
        return lifting, self.load(lifting), features

    @cached_property
    def _fixed_factor(self) -> Any:
        """Factorisation of a stiffness that does not depend on the inputs."""
        return self._factor(np.zeros(self.problem.n_dofs))

    def _factor(self, u: Array) -> Any:
        return spl.splu(sp.csc_array(self.stiffness(u)[self._active][:, self._active]))

    def _step(self, u: Array, load: Array, factor: Any) -> Array:
        step = np.zeros_like(load)
        step[self._active] = factor.solve(load[self._active])
        return np.asarray(u + self.problem.free @ step)

    def _linear(self, lifting: Array) -> Array:
        factor = self._factor(lifting) if self.problem.coefficients else self._fixed_factor
        return self._step(lifting, self.load(lifting), factor)

    def _nonlinear(self, lifting: Array, row: int) -> Array:
        """Return the solution by Newton's method in load steps."""
        u, problem, begin, size = np.zeros_like(lifting), self.problem, 0.0, 0.0
        for end in np.linspace(0.0, 1.0, problem.load_steps + 1)[1:]:
            if problem.load_factor is not None:
                problem.load_factor.value = end
            # Scaling the previous solution gives a better initial guess, which meets the new boundary values.
            start = lifting * end if begin == 0.0 else u * (end / begin)
            start[problem.fixed] = (lifting * end)[problem.fixed]  # to the last digit
            u, size = self._newton(start, f"sample {row + 1}, load factor {end:.3g}", size)
            begin = end
        return u

    def _newton(self, u: Array, where: str, size: float) -> tuple[Array, float]:
        """Return the solution and the largest residual so far, the reference of the relative tolerance.

        Args:
            u: Initial guess with the prescribed values at the fixed dofs.
            where: Sample and load step, for the error message.
            size: Largest residual so far.
        """
        residuals: list[float] = []
        for _ in range(_MAX_ITER):
            load = self.load(u)
            residuals.append(float(np.linalg.norm(load)))
            size = max(size, residuals[-1])
            if residuals[-1] <= _RTOL * size:
                return u, size
            if not np.isfinite(residuals[-1]):
                break
            u = self._step(u, load, self._factor(u))
        raise NotConverged(f"{where}: Newton's method", tuple(residuals))


def draw_inputs(problem: PDEProblem, count: int, seed: int) -> dict[str, Array]:
    """Draw random samples of a problem's inputs; the first samples do not depend on the count.

    Args:
        problem: The problem.
        count: Number of samples.
        seed: Seed of the random numbers.
    """
    children = np.random.SeedSequence(seed).spawn(count)
    rows = [problem.draw(np.random.default_rng(child)) for child in children]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in problem.inputs}


def _count(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))
