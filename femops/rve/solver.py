"""Batched Newton solver of RVE problems.

Solves R(q, E) = Σ w Bᵀ σ(E + B q) = 0 for the fluctuations q of N macroscale strains at once, and returns S = ⟨σ⟩ and
its consistent tangent. One factorisation per Newton step solves for the correction and the sensitivities X = dq/dE.
Once a Newton step comes close to the solution, its factor is reused for the following steps (chord steps). At the end
the kept factor K₀ also improves X by one step, X −= K₀⁻¹ (K X + L). The stress is corrected by the adjoint,
S += Xᵀ R / |Ω|, and the tangent is the quadratic form ⟨(1 + B X)ᵀ D (1 + B X)⟩ of the current point tangents, so that
errors of X enter both to second order only.

The energies are convex, so a factorisation can fail only by round-off: the stiffness of a saturating phase becomes
negligible beside that of the others. A small multiple of the elastic stiffness is then added, which changes the step
but not the solution. If one RVE of a batch fails, `attempt` still returns the others.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from femops.errors import NotConverged
from femops.notation import Array, Indices
from femops.phases import Phase
from femops.rve.boundary import free_dofs
from femops.rve.conditions import Boundary
from femops.rve.constrained import ConstrainedSolver
from femops.rve.discretisation import Discretisation
from femops.rve.equations import Equations, Points
from femops.rve.line_search import Step, line_search
from femops.rve.linear import LinearSolverName, linear_solver
from femops.rve.rigid_motions import check_rigid_motions

Flags = npt.NDArray[np.bool_]
_BYTES_OF_BATCH = 24e6
_LARGEST_BATCH = 32
_NEWTON_TO_CHORD = 1e-3
_CHORD_TO_NEWTON = 0.1
_ELASTIC_PARTS = (1e-9, 1e-6, 1e-3, 1.0)
_MOST_NAMED = 3


@dataclass(frozen=True)
class SolverOptions:
    """Settings of the RVE solver.

    Attributes:
        rtol: Tolerance of the residual norm relative to the internal forces [-].
        max_iter: Maximum number of iterations.
        linear: Linear solver.
        exact_sensitivities: Solve for X again at the converged state (for stored snapshots).
    """

    rtol: float = 1e-8
    max_iter: int = 30
    linear: LinearSolverName = "auto"
    exact_sensitivities: bool = False


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
    iterations: Array
    factorisations: Array
    failures: dict[int, str] = field(default_factory=dict)


@dataclass
class _Batch:
    """Current iterates of a batch.

    Attributes:
        relative: Relative residual. Shape (N,).
        kept: Whether the factor of the last Newton step is kept. Shape (N,).
        close: Whether the last step reduced the residual enough to go on with chord steps. Shape (N,).
        fresh: Whether the last step was a Newton step. Shape (N,).
        failures: Reason of each failure, by the number of the RVE.
    """

    strain: Array
    state: list[Array]
    fluctuation: Array
    sensitivity: Array
    points: Points
    relative: Array
    iterations: Array = field(init=False)
    factorisations: Array = field(init=False)
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


@dataclass
class RVESolver:
    """Solves the RVE for batches of macroscale strains.

    Args:
        discretisation: The RVE; linear phases first.
        phases: Its phases, in the order of the discretisation.
        boundary: Boundary condition of the fluctuation.
        options: Settings.
    """

    discretisation: Discretisation
    phases: tuple[Phase, ...]
    boundary: Boundary = "periodic"
    options: SolverOptions = field(default_factory=SolverOptions)

    def __post_init__(self) -> None:
        self.free = free_dofs(self.discretisation.outline, self.boundary)
        check_rigid_motions(self.discretisation.mesh, self.free)
        self._equations = Equations(self.discretisation, self.phases, self.free)
        mean_strain = self._equations.mean_strain if self.free.zero_mean_strain else None
        solver = linear_solver(self.options.linear, self._equations.pattern)
        self._linear_solver = ConstrainedSolver(solver, mean_strain)
        self.elastic_sensitivity = self._elastic_sensitivity()

    @property
    def knows_tangent_33(self) -> bool:
        """Whether solutions have `tangent_33`."""
        return self._equations.knows_row_33

    @property
    def n_state_of_phase(self) -> list[int]:
        """Number of state variables per point of each phase."""
        fields = [phase.state_fields(self.discretisation.dim) for phase in self.phases]
        return [max((part.stop for part in one.values()), default=0) for one in fields]

    @property
    def batch(self) -> int:
        """Number of RVEs solved together, limited by memory."""
        return int(np.clip(_BYTES_OF_BATCH / self._equations.bytes_of_one, 1, _LARGEST_BATCH))

    def virgin_state(self, n: int) -> list[Array]:
        """Return the initial state of each phase. Shape (n_state, n_points_of_phase, n) each."""
        rve = self.discretisation
        sizes = [part.stop - part.start for part in map(rve.points_of_phase, range(len(self.phases)))]
        return [np.zeros((n_state, size, n)) for n_state, size in zip(self.n_state_of_phase, sizes, strict=True)]

    def solve(
        self,
        strain: Array,
        state: list[Array],
        start: Array | None = None,
        sensitivity: Array | None = None,
        first: int | None = None,
    ) -> Solution:
        """Solve one batch.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n_s, N).
            state: Committed state of each phase, see `virgin_state`.
            start: Initial guess of the fluctuation [length], shape (n_free, N); default: the elastic one.
            sensitivity: Initial guess of dq/dE [length], shape (n_free, n_s, N); default: the elastic one.
            first: Number of the first RVE of the batch, for error messages.

        Raises:
            NotConverged: An RVE did not converge; the message says which, at what strain and why.
        """
        solution, norms = self._attempt(strain, state, start, sensitivity)
        if solution.failures:
            what = f"{len(solution.failures)} of {strain.shape[1]} RVEs did not converge"
            slow = all(why.startswith("relative residual") for why in solution.failures.values())
            iterations = f" in {self.options.max_iter} iterations" if slow else ""
            raise NotConverged(f"{what}{iterations}: {_named(solution.failures, strain, first)}", norms)
        return solution

    def attempt(
        self, strain: Array, state: list[Array], start: Array | None = None, sensitivity: Array | None = None
    ) -> Solution:
        """Solve one batch like `solve`, but report RVEs that fail in `Solution.failures` instead of raising."""
        return self._attempt(strain, state, start, sensitivity)[0]

    def _attempt(
        self, strain: Array, state: list[Array], start: Array | None, sensitivity: Array | None
    ) -> tuple[Solution, tuple[float, ...]]:
        """Return the solution and the largest relative residual at each iteration."""
        n = strain.shape[1]
        if sensitivity is None:
            sensitivity = np.repeat(self.elastic_sensitivity[:, :, None], n, axis=2)
        if start is None:
            start = np.einsum("fsn,sn->fn", sensitivity, strain)
        points = self._equations.evaluate(strain, start, state)
        relative = self._relative_residual(points, strain, start)
        batch = _Batch(strain, state, start.copy(), sensitivity.copy(), points, relative)
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

    def full_fluctuation(self, fluctuation: Array) -> Array:
        """Return the nodal fluctuation with zero mean, shape (n_nodes, dim, N), of free dofs (n_free, N) [length]."""
        rve = self.discretisation
        padded = np.vstack([fluctuation, np.zeros((1, fluctuation.shape[1]))])
        nodal = padded[self.free.of].reshape(-1, rve.dim, fluctuation.shape[1])
        reference, _ = rve.mesh.kind.quadrature()
        basis, _ = rve.mesh.kind.tabulate(reference)
        mean = np.einsum("cq,qa,cain->in", rve.weight, basis, nodal[rve.mesh.cells]) / rve.weight.sum()
        return nodal - mean

    def _elastic_sensitivity(self) -> Array:
        """Return dq/dE at zero strain in the initial state. Shape (n_free, n_s)."""
        zero = np.zeros((self.discretisation.n_s, 1))
        points = self._equations.evaluate(zero, np.zeros((self.free.count, 1)), self.virgin_state(1))
        values, load = self._equations.stiffness_and_load(points.tangent)
        solution, success = self._linear_solver.solve(values, -load)
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
            correction[:, chord] = -self._linear_solver.resolve(chord, residual[:, None, chord])[:, 0]
        correction[:, batch.relative <= self.options.rtol] = 0.0  # converged: only their sensitivities are updated
        batch.iterations[active] += 1
        batch.factorisations[newton] += 1
        if len(newton):
            batch.kept[newton] = (newton < self._linear_solver.n_kept) & whole
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
        solution, whole, failed = self._factorised(values, right, which)
        batch.fail(which[failed], "its stiffness is not positive definite")
        batch.sensitivity[:, :, which] = solution[:, :-1]
        return solution[:, -1], whole

    def _factorised(self, values: Array, right: Array, slots: Indices | None) -> tuple[Array, Flags, Flags]:
        """Return solutions, and masks of unmodified factorisations and of failures with elastic stiffness added."""
        solution, success = self._linear_solver.solve(values, right, slots)
        whole, remaining = success.copy(), np.flatnonzero(~success)
        for part in _ELASTIC_PARTS:
            if not len(remaining):
                break
            stiffness = values[:, remaining] + part * self._elastic_stiffness
            rhs, places = np.ascontiguousarray(right[:, :, remaining]), None if slots is None else slots[remaining]
            solution[:, :, remaining], success = self._linear_solver.solve(stiffness, rhs, places)
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
            batch.sensitivity, _, failed = self._factorised(values, -load, None)
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
        for values in (solution.stress, solution.tangent, solution.fluctuation, solution.sensitivity):
            values[..., list(batch.failures)] = np.nan
        for normal in (solution.stress_33, solution.tangent_33):
            if normal is not None:
                normal[..., list(batch.failures)] = np.nan
        return solution

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
            change = -self._linear_solver.resolve(kept, residual)
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
            adjoint[:, kept] = self._linear_solver.resolve(kept, force[:, None, kept])[:, 0]
            stiff, load = self._equations.linearised(batch.points, adjoint)
            mean, force = mean - load, force - stiff
        return mean + np.einsum("fn,fsn->sn", force, batch.sensitivity)


def _named(failures: dict[int, str], strain: Array, first: int | None) -> str:
    """Return strains and reasons of the failed RVEs, in order of decreasing strain."""
    order = sorted(failures, key=lambda number: -float(np.abs(strain[:, number]).max()))
    names = []
    for one in order[:_MOST_NAMED]:
        which = "the one" if first is None else f"number {first + one}"
        names.append(f"{which} at the strain [{', '.join(f'{x:.4g}' for x in strain[:, one])}] ({failures[one]})")
    return "; ".join(names + ([f"and {len(order) - _MOST_NAMED} more"] if len(order) > _MOST_NAMED else []))
