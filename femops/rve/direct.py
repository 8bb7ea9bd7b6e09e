"""Direct method of the RVE solver: factorised stiffness, for meshes of any kind.

One factorisation per Newton step solves for the correction and the sensitivities X = dq/dE.
Once a Newton step comes close to the solution, its factor is reused for the following steps (chord steps). At the end
the kept factor K₀ also improves X by one step, X −= K₀⁻¹ (K X + L). The stress is corrected by the adjoint,
S += Xᵀ R / |Ω|, and the tangent is the quadratic form ⟨(1 + B X)ᵀ D (1 + B X)⟩ of the current point tangents, so that
errors of X enter both to second order only.

The energies are convex, so a factorisation can fail only by round-off: the stiffness of a saturating phase becomes
negligible beside that of the others. A small multiple of the elastic stiffness is then added, which changes the step
but not the solution. If one RVE of a batch fails, `attempt` still returns the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from femops.errors import NotConverged
from femops.notation import Array, Indices
from femops.phases import Phase
from femops.rve.boundary import FreeDofs
from femops.rve.constrained import ConstrainedSolver
from femops.rve.discretisation import Discretisation
from femops.rve.equations import Equations, Points
from femops.rve.line_search import Step, line_search
from femops.rve.linear import LinearSolverName, linear_solver
from femops.rve.solution import Equilibrium, Solution, SolverOptions
from femops.rve.states import virgin_state

Flags = npt.NDArray[np.bool_]
_NEWTON_TO_CHORD = 1e-3
_CHORD_TO_NEWTON = 0.1
_ELASTIC_PARTS = (1e-9, 1e-6, 1e-3, 1.0)


@dataclass
class _Batch:
    """Current iterates of a batch.

    Attributes:
        linear: Linear solver that keeps the factors of the batch, which no other batch uses meanwhile.
        relative: Relative residual. Shape (N,).
        kept: Whether the factor of the last Newton step is kept. Shape (N,).
        close: Whether the last step reduced the residual enough to go on with chord steps. Shape (N,).
        fresh: Whether the last step was a Newton step. Shape (N,).
        failures: Reason of each failure, by the number of the RVE.
    """

    linear: ConstrainedSolver
    strain: Array
    state: list[Array]
    fluctuation: Array
    sensitivity: Array
    points: Points
    relative: Array
    iterations: Indices = field(init=False)
    factorisations: Indices = field(init=False)
    kept: Flags = field(init=False)
    close: Flags = field(init=False)
    fresh: Flags = field(init=False)
    failures: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        n = self.strain.shape[1]
        self.iterations, self.factorisations = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self.kept, self.close, self.fresh = np.zeros((3, n), dtype=bool)

    @property
    def alive(self) -> Flags:
        """Mask of the RVEs that have not failed. Shape (N,)."""
        alive = np.ones(len(self.kept), dtype=bool)
        alive[list(self.failures)] = False
        return alive

    def fail(self, which: Indices, why: str) -> None:
        """Mark RVEs as failed."""
        self.failures.update(dict.fromkeys(which.tolist(), why))


class Direct:
    """Newton and chord steps with kept factors; see `femops.rve.methods.Method`.

    Args:
        discretisation: The RVE; linear phases first.
        phases: Its phases, in the order of the discretisation.
        free: Free dofs of the fluctuation.
        linear: Linear solver.
        options: Settings.

    Raises:
        CaseError: The linear solver is not installed.
        NotConverged: The stiffness of the unloaded RVE is not positive definite.
    """

    def __init__(
        self, discretisation: Discretisation, phases: tuple[Phase, ...], free: FreeDofs, linear: LinearSolverName,
        options: SolverOptions,
    ) -> None:  # fmt: skip
        self.discretisation, self.options, self.free = discretisation, options, free
        self._linear, self._equations = linear, Equations(discretisation, phases, free)
        self._idle = [self._linear_solver()]
        self.concurrent = self._idle[0].concurrent
        self._virgin = virgin_state(discretisation, phases, 1)
        self.elastic_sensitivity = self._elastic_sensitivity()
        self.knows_row_33, self.bytes_of_one = self._equations.knows_row_33, self._equations.bytes_of_one

    def attempt(
        self, strain: Array, state: list[Array], start: Array | None, sensitivity: Array | None
    ) -> tuple[Solution, tuple[float, ...]]:
        """See `femops.rve.methods.Method`."""
        with self._borrowed() as linear:
            return self._attempt(linear, strain, state, start, sensitivity)

    def _linear_solver(self) -> ConstrainedSolver:
        mean_strain = self._equations.mean_strain if self.free.zero_mean_strain else None
        return ConstrainedSolver(linear_solver(self._linear, self._equations.pattern), mean_strain)

    @contextmanager
    def _borrowed(self) -> Iterator[ConstrainedSolver]:
        """Lend an idle linear solver; there are as many of them as threads that solve at the same time."""
        try:
            linear = self._idle.pop()
        except IndexError:
            linear = self._linear_solver()
        try:
            yield linear
        finally:
            self._idle.append(linear)

    def _attempt(
        self, linear: ConstrainedSolver, strain: Array, state: list[Array], start: Array | None,
        sensitivity: Array | None,
    ) -> tuple[Solution, tuple[float, ...]]:  # fmt: skip
        n = strain.shape[1]
        if sensitivity is None:
            sensitivity = np.repeat(self.elastic_sensitivity[:, :, None], n, axis=2)
        if start is None:
            start = np.einsum("fsn,sn->fn", sensitivity, strain)
        points = self._equations.evaluate(strain, start, state)
        relative = self._relative_residual(points, strain, start)
        batch = _Batch(linear, strain, state, start.copy(), sensitivity.copy(), points, relative)
        norms: list[float] = []
        while True:
            norms.append(float(batch.relative.max()))
            batch.fail(np.flatnonzero(~np.isfinite(batch.relative)), "its residual is not finite")
            outdated = (batch.factorisations == 0) & self._equations.nonlinear  # X belongs to another strain
            active = np.flatnonzero(((batch.relative > self.options.rtol) | outdated) & batch.alive)
            if len(norms) > self.options.max_iter:
                batch.failures.update({int(i): f"relative residual {batch.relative[i]:.1e}" for i in active})
            elif len(active):
                self._advance(batch, active)
                continue
            return self._finish(batch), tuple(norms)

    def equilibrium(
        self, strain: Array, state: list[Array], start: Array | None
    ) -> tuple[Equilibrium, tuple[float, ...]]:
        """See `femops.rve.methods.Method`; the factors yield the sensitivities almost for nothing."""
        found, norms = self.attempt(strain, state, start, None)
        return Equilibrium(found.stress, found.fluctuation, found.failures), norms

    def _elastic_sensitivity(self) -> Array:
        """Return dq/dE at zero strain in the initial state. Shape (n_free, n_s)."""
        zero = np.zeros((self.discretisation.n_s, 1))
        points = self._equations.evaluate(zero, np.zeros((self.free.count, 1)), self._virgin)
        values, load = self._equations.stiffness_and_load(points.tangent)
        with self._borrowed() as linear:
            solution, success = linear.solve(values, -load)
        self._elastic_stiffness = values
        if not success.all():
            raise NotConverged(
                "the stiffness of the unloaded RVE is not positive definite "
                "(is a part of the RVE not connected to the rest?)"
            )
        return solution[:, :, 0]

    def _relative_residual(self, points: Points, strain: Array, fluctuation: Array) -> Array:
        """Return residual norms relative to the internal forces. Shape (N,)."""
        at = (points, strain, fluctuation)
        return np.linalg.norm(self._equations.residual(*at), axis=0) / self._equations.force_norm(*at)

    def _advance(self, batch: _Batch, active: Indices) -> None:
        """Advance the active RVEs by one damped Newton or chord step."""
        residual = self._equations.residual(batch.points, batch.strain, batch.fluctuation)
        correction = np.empty_like(residual)
        good = (batch.kept & batch.close)[active]
        newton, chord = active[~good], active[good]
        if len(newton):
            correction[:, newton], whole = self._newton(batch, newton, residual[:, newton])
        if len(chord):
            correction[:, chord] = -batch.linear.resolve(chord, residual[:, None, chord])[:, 0]
        correction[:, batch.relative <= self.options.rtol] = 0.0  # converged: only their sensitivities are updated
        batch.iterations[active] += 1
        batch.factorisations[newton] += 1
        if len(newton):
            batch.kept[newton] = (newton < batch.linear.n_kept) & whole
        batch.fresh[chord], batch.fresh[newton] = False, True
        state = [one[:, :, active] for one in batch.state]
        before = batch.fluctuation[:, active]
        step = Step(batch.strain[:, active], state, before, residual[:, active], correction[:, active])
        batch.fluctuation[:, active], new, stuck = line_search(self._equations, step, self.options.rtol)
        batch.fail(active[stuck], "the line search found no step")
        batch.points = batch.points.put(active, new)
        goal = np.where(batch.fresh, _NEWTON_TO_CHORD, _CHORD_TO_NEWTON) * batch.relative
        batch.relative = self._relative_residual(batch.points, batch.strain, batch.fluctuation)
        batch.close[active] = (batch.relative < goal)[active]

    def _newton(self, batch: _Batch, which: Indices, residual: Array) -> tuple[Array, Flags]:
        """Return Newton corrections, and a mask of unmodified factorisations; update sensitivities."""
        all_of_them = len(which) == batch.strain.shape[1]
        tangent = batch.points.tangent if all_of_them else batch.points.tangent[..., which]
        values, load = self._equations.stiffness_and_load(tangent)
        right = np.concatenate([-load, -residual[:, None]], axis=1)
        solution, whole, failed = self._factorised(batch.linear, values, right, which)
        batch.fail(which[failed], "its stiffness is not positive definite")
        batch.sensitivity[:, :, which] = solution[:, :-1]
        return solution[:, -1], whole

    def _factorised(
        self, linear: ConstrainedSolver, values: Array, right: Array, slots: Indices | None
    ) -> tuple[Array, Flags, Flags]:
        """Return solutions, and masks of unmodified factorisations and of failures with elastic stiffness added."""
        solution, success = linear.solve(values, right, slots)
        whole, remaining = success.copy(), np.flatnonzero(~success)
        for part in _ELASTIC_PARTS:
            if not len(remaining):
                break
            stiffness = values[:, remaining] + part * self._elastic_stiffness
            rhs, places = np.ascontiguousarray(right[:, :, remaining]), None if slots is None else slots[remaining]
            solution[:, :, remaining], success = linear.solve(stiffness, rhs, places)
            remaining = remaining[~success]
        failed = np.zeros(len(whole), dtype=bool)
        failed[remaining] = True
        solution[:, :, remaining] = 0.0
        return solution, whole, failed

    def _finish(self, batch: _Batch) -> Solution:
        if batch.failures:
            self._reset(batch)
        at = (batch.points, batch.strain, batch.fluctuation)
        if self.options.exact_sensitivities:
            values, load = self._equations.stiffness_and_load(batch.points.tangent)
            batch.sensitivity, _, failed = self._factorised(batch.linear, values, -load, None)
            batch.fail(np.flatnonzero(failed), "its stiffness is not positive definite at the solution")
        total = self._tangent(batch)
        volume = self.discretisation.volume
        correction = np.einsum("fsn,fn->sn", batch.sensitivity, batch.points.internal_force)
        sum_33 = self._equations.sum_33(*at)
        row_33 = self._row_33(batch)
        solution = Solution(
            (self._equations.sum_stress(*at) + correction) / volume,
            total / volume,
            None if sum_33 is None else sum_33 / volume,
            None if row_33 is None else row_33 / volume,
            batch.fluctuation,
            batch.sensitivity,
            batch.points.state,
            batch.iterations,
            batch.factorisations,
            batch.failures,
        )
        return solution.discard_failures()

    def _reset(self, batch: _Batch) -> None:
        """Reset failed RVEs to zero strain, so that array operations do not meet their invalid values."""
        failed = np.array(sorted(batch.failures))
        batch.fluctuation[:, failed], batch.sensitivity[:, :, failed], batch.kept[failed] = 0.0, 0.0, False
        zero, state = np.zeros((len(batch.strain), len(failed))), [one[:, :, failed] for one in batch.state]
        batch.points = batch.points.put(failed, self._equations.evaluate(zero, batch.fluctuation[:, failed], state))

    def _tangent(self, batch: _Batch) -> Array:
        """Return Σ w (1 + B X)ᵀ D (1 + B X), with X improved by the kept factors.

        With ρ = K X + L and the kept factor K₀: X −= K₀⁻¹ ρ, which reduces the quadratic form by ρᵀ K₀⁻¹ ρ.
        """
        total, residual = self._equations.condensed_tangent(batch.points.tangent, batch.sensitivity)
        kept = np.flatnonzero(batch.kept)
        if len(kept) and not self.options.exact_sensitivities:
            residual = residual[:, :, kept]
            change = -batch.linear.resolve(kept, residual)
            batch.sensitivity[:, :, kept] += change
            total[:, :, kept] += np.einsum("fsn,ftn->stn", residual, change)
        return total

    def _row_33(self, batch: _Batch) -> Array | None:
        """Return d Σ w stress_33 / dE, shape (n_s, N), if it is known.

        It is linear in X, unlike the tangent, so that the adjoint y = K₀⁻¹ f of its part fᵀ X corrects X once more:
        fᵀ X − yᵀ (K X + L).
        """
        if not self._equations.knows_row_33:
            return None
        mean, force = self._equations.row_33(batch.points)
        kept = np.flatnonzero(batch.kept)
        if len(kept):
            adjoint = np.zeros_like(force)
            adjoint[:, kept] = batch.linear.resolve(kept, force[:, None, kept])[:, 0]
            stiff, load = self._equations.linearised(batch.points, adjoint)
            mean, force = mean - load, force - stiff
        return mean + np.einsum("fn,fsn->sn", force, batch.sensitivity)
