"""Inexact Newton method for batches of RVEs, with conjugate gradients and a preconditioner of the unloaded RVE.

Every correction solves K d = −R by conjugate gradients only as accurately as it can be used (forcing terms of
Eisenstat and Walker, doi 10.1137/0917003). At the solution the sensitivities X = dq/dE are solved for all load cases
at once. As in the direct method, the stress is corrected by the adjoint, S += Xᵀ R / |Ω|, and the tangent is a
quadratic form of X, so that an error δX changes the stress by δXᵀ R and the tangent by δXᵀ K δX only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from femops.errors import NotConverged
from femops.notation import Array, Indices
from femops.phases import Phase
from femops.rve.conjugate_gradients import Accuracy
from femops.rve.discretisation import Discretisation
from femops.rve.iterative import HostSystems, IterativeEquations, IterativePoints, LinearSystems
from femops.rve.line_search import Step, line_search
from femops.rve.solution import Equilibrium, Solution, SolverOptions
from femops.rve.states import virgin_state

_LOOSEST, _FACTOR = 0.1, 0.9
"""Largest forcing term, and γ of γ (|R| / |R before|)²."""
_SHARE = 0.1
"""Part of the tolerance left to a linear solution."""
_NOT_SOLVED = "the conjugate gradients did not converge"


@dataclass
class _Batch[P: IterativePoints]:
    """Current iterates of a batch.

    Attributes:
        vectors: Fluctuations. Shape (N, n).
        relative: Relative residuals. Shape (N,).
        before: Relative residuals before the last step. Shape (N,).
    """

    strain: Array
    state: list[Array]
    vectors: Array
    points: P
    relative: Array
    before: Array = field(init=False)
    iterations: Indices = field(init=False)
    failures: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.relative)
        self.before, self.iterations = np.full(n, np.inf), np.zeros(n, dtype=np.int64)

    def alive(self) -> npt.NDArray[np.bool_]:
        """Return a mask of the RVEs that have not failed. Shape (N,)."""
        alive = np.ones(len(self.relative), dtype=bool)
        alive[list(self.failures)] = False
        return alive

    def fail(self, which: Indices, why: str) -> None:
        """Mark RVEs as failed, unless they are already."""
        self.failures = dict.fromkeys(which.tolist(), why) | self.failures


class NewtonCG[P: IterativePoints]:
    """Newton method with conjugate gradients; see `femops.rve.methods.Method`.

    Args:
        discretisation: The RVE; linear phases first.
        phases: Its phases, in the order of the discretisation.
        equations: Its equations.
        options: Settings.
        systems: Returns the linear systems of an RVE from the point quantities when it is not loaded; default: those
            of the equations.
    """

    def __init__(
        self, discretisation: Discretisation, phases: tuple[Phase, ...], equations: IterativeEquations[P],
        options: SolverOptions, systems: Callable[[P], LinearSystems[P]] | None = None,
    ) -> None:  # fmt: skip
        self.discretisation, self.options, self._equations = discretisation, options, equations
        self.knows_row_33, self.bytes_of_one = equations.knows_row_33, equations.bytes_of_one
        self._phases = phases
        self._systems = systems(self._unloaded) if systems else HostSystems(equations, self._unloaded)
        self.concurrent = self._systems.concurrent

    @cached_property
    def _unloaded(self) -> P:
        """Point quantities of the unloaded RVE; large, so that they are deleted at the first solve."""
        zero = np.zeros((self.discretisation.n_s, 1)), np.zeros((self._equations.size, 1))
        return self._equations.evaluate(*zero, virgin_state(self.discretisation, self._phases, 1))

    @cached_property
    def elastic_sensitivity(self) -> Array:
        """See `femops.rve.methods.Method`."""
        return np.ascontiguousarray(self._equations.gather(self._elastic).T)

    @cached_property
    def _elastic(self) -> Array:
        """Elastic sensitivities. Shape (n_s, n)."""
        n_s, points = self.discretisation.n_s, self._unloaded
        mean = self._equations.mean_tangent(points)[0]
        largest = _SHARE * self.options.rtol * self._equations.force_scale * np.linalg.norm(mean, axis=0)
        start, owner = np.zeros((n_s, self._equations.size)), np.zeros(n_s, dtype=np.int64)
        found, solved = self._solved(points, start, owner, Accuracy(largest, np.zeros(n_s)))
        if not solved.all():
            remedy = "expected a direct solver (linear: pardiso or mumps), as for nearly incompressible phases"
            raise NotConverged(f"the unloaded RVE cannot be solved: {_NOT_SOLVED}; {remedy}")
        vars(self).pop("_unloaded", None)  # another thread of the caller may have deleted them
        return found

    def attempt(
        self, strain: Array, state: list[Array], start: Array | None, sensitivity: Array | None
    ) -> tuple[Solution, tuple[float, ...]]:
        """See `femops.rve.methods.Method`."""
        if start is not None:
            vectors = self._equations.spread(start.T)
        elif sensitivity is not None:
            vectors = self._equations.spread(np.einsum("fsn,sn->nf", sensitivity, strain))
        else:
            vectors = strain.T @ self._elastic
        batch, norms = self._balanced(strain, state, vectors)
        return self._finish(batch, sensitivity), norms

    def equilibrium(
        self, strain: Array, state: list[Array], start: Array | None
    ) -> tuple[Equilibrium, tuple[float, ...]]:
        """See `femops.rve.methods.Method`; starts from zero by default, so that sensitivities are never needed."""
        vars(self).pop("_unloaded", None)
        first = np.zeros((strain.shape[1], self._equations.size)) if start is None else self._equations.spread(start.T)
        batch, norms = self._balanced(strain, state, first)
        fluctuation = np.ascontiguousarray(self._equations.gather(batch.vectors).T)
        return Equilibrium(batch.points.sum_stress / self.discretisation.volume, fluctuation, batch.failures), norms

    def _balanced(self, strain: Array, state: list[Array], vectors: Array) -> tuple[_Batch[P], tuple[float, ...]]:
        """Return the last iterates and the largest relative residual at each iteration, from vectors (N, n)."""
        points = self._equations.evaluate(strain, vectors.T, state)
        batch = _Batch(strain, state, vectors, points, self._relative_residual(points, strain, vectors))
        norms: list[float] = []
        while True:
            norms.append(float(batch.relative.max()))
            batch.fail(np.flatnonzero(~np.isfinite(batch.relative)), "its residual is not finite")
            active = np.flatnonzero((batch.relative > self.options.rtol) & batch.alive())
            if len(norms) > self.options.max_iter:
                batch.failures.update({int(i): f"relative residual {batch.relative[i]:.1e}" for i in active})
            elif len(active):
                self._advance(batch, active)
                continue
            return batch, tuple(norms)

    def _relative_residual(self, points: P, strain: Array, vectors: Array) -> Array:
        """Return residual norms relative to the internal forces. Shape (N,)."""
        return np.linalg.norm(points.force, axis=1) / self._equations.force_norm(points, strain, vectors.T)

    def _advance(self, batch: _Batch[P], active: Indices) -> None:
        """Advance the active RVEs by one damped inexact Newton step.

        Raises:
            NotConverged: Not even the unloaded RVE can be solved.
        """
        residual = batch.points.force[active]
        accuracy = Accuracy(self._forcing(batch, active) * np.linalg.norm(residual, axis=1), np.zeros(len(active)))
        correction, solved = self._systems.solve(batch.points, -residual, active, accuracy)
        if not solved.all():
            _ = self._elastic
        step = Step(
            batch.strain[:, active],
            [one[:, :, active] for one in batch.state],
            batch.vectors[active].T,
            residual.T,
            correction.T,
        )
        vectors, new, stuck = line_search(self._equations, step, self.options.rtol)
        batch.vectors[active] = vectors.T
        batch.fail(active[stuck], "the line search found no step")
        batch.points = batch.points.put(active, new)
        batch.iterations[active] += 1
        batch.before = batch.relative
        batch.relative = self._relative_residual(batch.points, batch.strain, batch.vectors)

    def _forcing(self, batch: _Batch[P], active: Indices) -> Array:
        """Return the largest residual of the linear systems, relative to their right-hand sides. Shape (n_active,)."""
        enough = _SHARE * self.options.rtol / batch.relative[active]
        if not self._equations.nonlinear:
            return enough
        decrease = np.where(np.isfinite(batch.before), batch.relative / batch.before, np.inf)[active]
        return np.maximum(enough, np.minimum(_FACTOR * decrease**2, _LOOSEST))

    def _finish(self, batch: _Batch[P], sensitivity: Array | None) -> Solution:
        if batch.failures:
            self._reset(batch)
        n, n_s = len(batch.relative), self.discretisation.n_s
        start = np.tile(self._elastic, (n, 1))
        if sensitivity is not None:
            start = self._equations.spread(sensitivity.transpose(2, 1, 0)).reshape(n * n_s, -1)
        owner, points = np.repeat(np.arange(n), n_s), batch.points
        sensitivities = start
        if self._equations.nonlinear:
            sensitivities, solved = self._solved(points, start, owner, self._accuracy_of_sensitivities(points))
            batch.fail(np.unique(owner[~solved]), f"{_NOT_SOLVED} at the solution; linear: pardiso does without")
        load, total = self._systems.tangent(points, sensitivities, np.tile(np.eye(n_s), (n, 1)), owner)
        x, load = sensitivities.reshape(n, n_s, -1), load.reshape(n, n_s, -1)
        tangent = total.reshape(n, n_s, n_s) + np.einsum("nsf,ntf->nts", x, load)
        correction = np.einsum("nsf,nf->sn", x, points.force)
        volume, plane = self.discretisation.volume, self.discretisation.dim == 2
        return Solution(
            (points.sum_stress + correction) / volume,
            np.ascontiguousarray(0.5 * (tangent + tangent.transpose(0, 2, 1)).transpose(1, 2, 0)) / volume,
            points.sum_33 / volume if plane else None,
            self._row_33(points, x, load) / volume if self.knows_row_33 else None,
            np.ascontiguousarray(self._equations.gather(batch.vectors).T),
            np.ascontiguousarray(self._equations.gather(x).transpose(2, 1, 0)),
            points.state,
            batch.iterations,
            batch.iterations.copy(),
            batch.failures,
        ).discard_failures()

    def _accuracy_of_sensitivities(self, points: P) -> Accuracy:
        """Return the accuracy that makes errors of the tangent smaller than the tolerance; of X itself if exact."""
        mean = self._equations.mean_tangent(points)
        stiffness = np.einsum("nss->ns", mean).ravel() * self.discretisation.volume
        rtol = self.options.rtol
        largest = rtol**2 if self.options.exact_sensitivities else rtol
        return Accuracy(np.zeros(len(stiffness)), largest * stiffness)

    def _solved(
        self, points: P, start: Array, owner: Indices, accuracy: Accuracy
    ) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Return solutions of K X + L = 0 for all load cases of some RVEs, shape (n_columns, n), and which are solved.

        Args:
            points: Point quantities with the tangents.
            start: Initial guess. Shape (n_columns, n).
            owner: Number of the RVE of each column; its load cases follow each other. Shape (n_columns,).
            accuracy: Accuracy of each column.
        """
        n_s = self.discretisation.n_s
        load, _ = self._systems.tangent(points, start, np.tile(np.eye(n_s), (len(start) // n_s, 1)), owner)
        change, solved = self._systems.solve(points, np.negative(load, out=load), owner, accuracy)
        change += start
        return change, solved

    def _row_33(self, points: P, sensitivity: Array, load: Array) -> Array:
        """Return d Σ w stress_33 / dE, shape (n_s, N).

        Its part fᵀ X is corrected by the adjoint y = K⁻¹ f, fᵀ X − yᵀ (K X + L), as it is linear in X.
        """
        mean, force = self._equations.row_33(points)
        n = len(force)
        accuracy = self._accuracy_of_sensitivities(points)
        energy = accuracy.energy.reshape(n, -1).max(axis=1)
        adjoint, _ = self._systems.solve(points, force, np.arange(n), Accuracy(np.zeros(n), energy))
        return mean + np.einsum("nf,nsf->sn", force, sensitivity) - np.einsum("nf,nsf->sn", adjoint, load)

    def _reset(self, batch: _Batch[P]) -> None:
        """Reset failed RVEs to zero strain, so that array operations do not meet their invalid values."""
        failed = np.array(sorted(batch.failures))
        batch.vectors[failed] = 0.0
        zero, state = np.zeros((len(batch.strain), len(failed))), [one[:, :, failed] for one in batch.state]
        batch.points = batch.points.put(failed, self._equations.evaluate(zero, batch.vectors[failed].T, state))
