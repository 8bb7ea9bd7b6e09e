"""Batched Newton solution of RVE problems.

Find the fluctuation q with R(q, E) = Σ w Bᵀ σ(E + B q) = 0 for N macroscale strains at once; S = ⟨σ⟩ and its
consistent tangent follow. One factorisation per iteration solves for the Newton step and the sensitivities X = dq/dE
together. At the end the stress is corrected by the adjoint, S += Xᵀ R / |Ω|, and the tangent is the quadratic form
⟨(1 + B X)ᵀ D (1 + B X)⟩ of the current point tangents, so that the error of a lagged X enters both to second order.
"""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from femops.errors import NotConverged
from femops.notation import Array
from femops.phases import Phase
from femops.rve.assembly import add_stiffness, quadratic_form, upper_pattern
from femops.rve.boundary import Boundary, free_dofs
from femops.rve.discretisation import Discretisation
from femops.rve.linear import LinearSolverName, linear_solver

_BYTES_OF_BATCH = 48e6
_LARGEST_BATCH = 32
_SUFFICIENT_DECREASE = 1e-4
_SHORTEST_STEP = 2.0**-12


@dataclass(frozen=True)
class SolverOptions:
    """Settings of the RVE solver.

    Attributes:
        rtol: Largest residual norm relative to the internal forces [-].
        max_iter: Largest number of Newton iterations.
        linear: Linear solver.
        exact_sensitivities: Solve for X once more at the converged state (for stored snapshots).
    """

    rtol: float = 1e-8
    max_iter: int = 30
    linear: LinearSolverName = "auto"
    exact_sensitivities: bool = False


@dataclass
class Solution:
    """Converged RVEs, batch last.

    Attributes:
        stress: Homogenized stress. Shape (n_s, N).
        tangent: Consistent tangent. Shape (n_s, n_s, N).
        stress_33: In plane strain the mean stress normal to the plane, shape (N,); None in 3D.
        fluctuation: Free dofs of the fluctuation [length]. Shape (n_free, N).
        sensitivity: d fluctuation / d E [length]. Shape (n_free, n_s, N).
        history: Trial state of each phase. Shape (n_state, n_points_of_phase, N) each.
        iterations: Newton iterations of each RVE. Shape (N,).
    """

    stress: Array
    tangent: Array
    stress_33: Array | None
    fluctuation: Array
    sensitivity: Array
    history: list[Array]
    iterations: Array


@dataclass
class _Points:
    """Quantities at the points of the nonlinear phases, and the residual."""

    residual: Array
    stress: Array
    tangent: Array
    history: list[Array]
    sum_33: Array


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
        rve = self.discretisation
        if any(a.linear < b.linear for a, b in zip(self.phases, self.phases[1:], strict=False)):
            raise ValueError("linear phases have to come before nonlinear ones")
        self.free = free_dofs(rve.mesh, self.boundary)
        self.n_linear = sum(phase.linear for phase in self.phases)
        self._cells = slice(rve.cells_of_phase[self.n_linear].start, None) if self._nonlinear else slice(0, 0)
        free_of_cell = self.free.of[rve.dofs]
        pattern, self._entries = upper_pattern(free_of_cell, self.free.count)
        self._free_of_cell = free_of_cell
        self._weight = rve.weight[self._cells].ravel()
        self._gradient = rve.gradient(self.free.of, self._cells, self.free.count)
        self._divergence = (self._gradient.T @ sp.diags_array(np.tile(self._weight, rve.n_s))).tocsr()
        self._linear_solver = linear_solver(self.options.linear, pattern)
        self._assemble_linear(pattern)
        everything = rve.gradient(self.free.of, slice(0, len(rve.mesh.cells)), self.free.count)
        weighted = (everything.T @ sp.diags_array(np.tile(rve.weight.ravel(), rve.n_s))).tocsr()
        self._force_scale = float(np.linalg.norm(abs(weighted).sum(axis=1)))
        component = np.repeat(np.eye(rve.n_s), rve.n_points, axis=0)
        self._mean_strain = np.ascontiguousarray((weighted @ component).T)
        self.elastic_sensitivity = self._elastic_sensitivity()

    @property
    def _nonlinear(self) -> bool:
        return self.n_linear < len(self.phases)

    @property
    def n_state_of_phase(self) -> list[int]:
        """Number of state variables of a point of each phase."""
        fields = [phase.state_fields(self.discretisation.dim) for phase in self.phases]
        return [max((part.stop for part in one.values()), default=0) for one in fields]

    @property
    def batch(self) -> int:
        """How many RVEs are solved together; bounded by memory."""
        rve = self.discretisation
        doubles = len(self._weight) * (rve.n_s**2 + 4 * rve.n_s) + self._stiffness.shape[0]
        doubles += self.free.count * 4 * rve.n_s
        return int(np.clip(_BYTES_OF_BATCH / (8 * doubles), 1, _LARGEST_BATCH))

    def virgin_history(self, n: int) -> list[Array]:
        """Return the state of each phase before any load. Shape (n_state, n_points_of_phase, n) each."""
        rve = self.discretisation
        sizes = [part.stop - part.start for part in map(rve.points_of_phase, range(len(self.phases)))]
        return [np.zeros((n_state, size, n)) for n_state, size in zip(self.n_state_of_phase, sizes, strict=True)]

    def solve(
        self, strain: Array, history: list[Array], start: Array | None = None, sensitivity: Array | None = None
    ) -> Solution:
        """Solve for one batch.

        Args:
            strain: Macroscale strains, Mandel. Shape (n_s, N).
            history: Committed state of each phase, see `virgin_history`.
            start: First guess of the fluctuation, shape (n_free, N); default: its linear elastic value.
            sensitivity: First guess of dq/dE, shape (n_free, n_s, N); default: its elastic value.

        Raises:
            NotConverged: An RVE did not converge.
        """
        n = strain.shape[1]
        if sensitivity is None:
            sensitivity = np.repeat(self.elastic_sensitivity[:, :, None], n, axis=2)
        if start is None:
            start = np.einsum("fsn,sn->fn", sensitivity, strain)
        work = _Work(strain, history, start.copy(), sensitivity.copy())
        points = self._evaluate(strain, work.fluctuation, history)
        norms: list[float] = []
        for _ in range(self.options.max_iter + 1):
            relative = self._relative_residual(points, strain, work.fluctuation)
            norms.append(float(relative.max()))
            if not np.isfinite(norms[-1]):
                break
            active = np.flatnonzero(relative > self.options.rtol)
            if len(active) == 0:
                return self._finish(work, points)
            points = self._newton_step(work, points, active)
        failed = int((~(relative <= self.options.rtol)).sum())
        worst = float(np.abs(strain[:, ~(relative <= self.options.rtol)]).max())
        raise NotConverged(
            f"{failed} of {n} RVEs did not converge in {self.options.max_iter} iterations "
            f"(largest strain component among them {worst:.3g})",
            tuple(norms),
        )

    # -- set-up -------------------------------------------------------------------------------------------------

    def _assemble_linear(self, pattern: object) -> None:
        """Assemble once what the linear phases contribute to stiffness, loads and mean stress."""
        rve = self.discretisation
        n_s, n_free = rve.n_s, self.free.count
        self._pattern = pattern
        values = np.zeros((pattern.nnz, 1))  # type: ignore[attr-defined]
        load = np.zeros((n_free, n_s, 1))
        self._linear_mean = np.zeros((n_s, n_s))
        self._linear_33 = np.zeros(n_s)
        for position in range(self.n_linear):
            cells = rve.cells_of_phase[position]
            tangent, row_33 = self._linear_tangent(position)
            n_points = (cells.stop - cells.start) * rve.n_q
            field = np.ascontiguousarray(np.broadcast_to(tangent[:, :, None, None], (n_s, n_s, n_points, 1)))
            self._add(cells, field, values, load)
            volume = rve.weight[cells].sum()
            self._linear_mean += volume * tangent
            self._linear_33 += volume * row_33
        self._stiffness = values
        self._load = load[:, :, 0]
        upper = pattern.copy()  # type: ignore[attr-defined]
        upper.data = values[:, 0].copy()
        self._linear_matrix = (upper + upper.T - sp.diags_array(upper.diagonal())).tocsr()
        linear_cells = slice(0, self._cells.start if self._nonlinear else len(rve.mesh.cells))
        self._mean_33 = self._mean_33_rows(linear_cells)

    def _linear_tangent(self, position: int) -> tuple[Array, Array]:
        """Return the tangent of a linear phase and, in plane strain, the row that gives its stress_33."""
        n_s = self.discretisation.n_s
        response = self.phases[position].respond(np.eye(n_s), np.zeros((0, n_s)))
        row_33 = np.zeros(n_s) if response.stress_33 is None else np.asarray(response.stress_33)
        return np.asarray(response.tangent[:, :, 0]), row_33

    def _mean_33_rows(self, cells: slice) -> Array | None:
        """Return ∫ stress_33 of the linear phases as a row over the free dofs (plane strain only)."""
        rve = self.discretisation
        if rve.dim == 3:
            return None
        total = np.zeros(self.free.count)
        for position in range(self.n_linear):
            part = rve.cells_of_phase[position]
            gradient = rve.gradient(self.free.of, part, self.free.count)
            row_33 = self._linear_tangent(position)[1]
            total += gradient.T @ np.outer(row_33, rve.weight[part].ravel()).ravel()
        return total

    def _add(self, cells: slice, tangent: Array, values: Array, load: Array) -> None:
        rve = self.discretisation
        add_stiffness(
            rve.strain_operator[cells],
            rve.weight[cells],
            tangent,
            self._entries[cells],
            self._free_of_cell[cells],
            values,
            load,
        )

    def _elastic_sensitivity(self) -> Array:
        """Return dq/dE of the virgin RVE at zero strain. Shape (n_free, n_s)."""
        n_s = self.discretisation.n_s
        zero = np.zeros((n_s, 1))
        points = self._evaluate(zero, np.zeros((self.free.count, 1)), self.virgin_history(1))
        values, load = self._stiffness_and_load(points.tangent)
        solution, success = self._solve_constrained(values, -load)
        if not success.all():
            raise NotConverged(
                "the stiffness of the unloaded RVE is not positive definite "
                "(is a part of the RVE not connected to the rest?)"
            )
        return solution[:, :, 0]

    # -- one state ----------------------------------------------------------------------------------------------

    def _evaluate(self, strain: Array, fluctuation: Array, history: list[Array]) -> _Points:
        """Evaluate the nonlinear phases and the residual of a batch."""
        rve = self.discretisation
        n = strain.shape[1]
        local = (self._gradient @ fluctuation).reshape(rve.n_s, -1, n) + strain[:, None, :]
        stress = np.empty_like(local)
        tangent = np.empty((rve.n_s, *local.shape))
        new_history = list(history)
        sum_33 = np.zeros(n)
        for position in range(self.n_linear, len(self.phases)):
            part = self._local_points(position)
            answer = self.phases[position].respond(local[:, part], history[position])
            stress[:, part], tangent[:, :, part] = answer.stress, answer.tangent
            new_history[position] = answer.state
            if answer.stress_33 is not None:
                sum_33 += self._weight[part] @ answer.stress_33
        residual = self._divergence @ stress.reshape(-1, n) + self._linear_matrix @ fluctuation + self._load @ strain
        return _Points(residual, stress, tangent, new_history, sum_33)

    def _local_points(self, position: int) -> slice:
        """Return the points of a nonlinear phase counted from the first nonlinear point."""
        part = self.discretisation.points_of_phase(position)
        offset = self._cells.start * self.discretisation.n_q
        return slice(part.start - offset, part.stop - offset)

    def _stiffness_and_load(self, tangent: Array) -> tuple[Array, Array]:
        """Return the upper triangles of the stiffness and the loads of the unit strains."""
        n = tangent.shape[3]
        values = np.repeat(self._stiffness, n, axis=1)
        load = np.repeat(self._load[:, :, None], n, axis=2)
        if self._nonlinear:
            self._add(self._cells, np.ascontiguousarray(tangent), values, load)
        return values, load

    def _solve_constrained(self, values: Array, rhs: Array) -> tuple[Array, Array]:
        """Solve K x = rhs; under static conditions with zero mean strain of x."""
        if not self.free.zero_mean_strain:
            return self._linear_solver.solve(values, rhs)
        k = rhs.shape[1]
        mean = self._mean_strain
        columns = np.repeat(mean.T[:, :, None], rhs.shape[2], axis=2)
        both, success = self._linear_solver.solve(values, np.concatenate([rhs, columns], axis=1))
        x, response = both[:, :k], both[:, k:]
        compliance = np.einsum("sf,ftn->nst", mean, response)
        multiplier = np.linalg.solve(compliance, np.einsum("sf,fkn->nsk", mean, x))
        return x - np.einsum("fsn,nsk->fkn", response, multiplier), success

    def _sum_stress(self, points: _Points, strain: Array, fluctuation: Array) -> Array:
        """Return Σ w σ. Shape (n_s, N)."""
        nonlinear = np.einsum("g,sgn->sn", self._weight, points.stress)
        return nonlinear + self._linear_mean @ strain + self._load.T @ fluctuation

    def _effective_residual(self, points: _Points, strain: Array, fluctuation: Array) -> Array:
        """Return the residual less the part that a uniform traction balances (static conditions only)."""
        if not self.free.zero_mean_strain:
            return points.residual
        mean = self._sum_stress(points, strain, fluctuation) / self.discretisation.weight.sum()
        return points.residual - self._mean_strain.T @ mean

    def _relative_residual(self, points: _Points, strain: Array, fluctuation: Array) -> Array:
        """Return residual norms relative to the internal forces of the mean stress. Shape (N,)."""
        mean = np.linalg.norm(self._sum_stress(points, strain, fluctuation), axis=0) / self.discretisation.volume
        local = np.sqrt(np.einsum("g,sgn,sgn->n", self._weight, points.stress, points.stress) / self._weight.sum()) \
            if self._nonlinear else 0.0
        residual = self._effective_residual(points, strain, fluctuation)
        scale = self._force_scale * np.maximum(mean, local)
        floor = np.linalg.norm(self._load) * 1e-12 + np.finfo(float).tiny
        return np.linalg.norm(residual, axis=0) / np.maximum(scale, floor)

    # -- Newton -------------------------------------------------------------------------------------------------

    def _newton_step(self, work: "_Work", points: _Points, active: Array) -> _Points:
        """Advance the active RVEs by one damped Newton step and return the quantities of all."""
        part = _take(points, active)
        strain, history = work.strain[:, active], [one[:, :, active] for one in work.history]
        before = work.fluctuation[:, active]
        values, load = self._stiffness_and_load(part.tangent)
        residual = self._effective_residual(part, strain, before)
        solution, success = self._solve_constrained(values, np.concatenate([-load, -residual[:, None]], axis=1))
        if not success.all():
            raise NotConverged("the stiffness of an RVE is not positive definite at the current strain")
        work.sensitivity[:, :, active] = solution[:, :-1]
        work.iterations[active] += 1
        step = solution[:, -1]
        length = np.ones(len(active))
        new = self._evaluate(strain, before + step, history)
        rejected = self._not_decreasing(strain, before, step, length, history, residual, new)
        while rejected.any():
            length[rejected] *= 0.5
            if length.min() < _SHORTEST_STEP:
                raise NotConverged("the line search of an RVE failed")
            new = self._evaluate(strain, before + length * step, history)
            rejected = self._not_decreasing(strain, before, step, length, history, residual, new)
        work.fluctuation[:, active] = before + length * step
        return _put(points, active, new)

    def _not_decreasing(
        self,
        strain: Array,
        before: Array,
        step: Array,
        length: Array,
        history: list[Array],
        residual: Array,
        new: _Points,
    ) -> Array:
        """Tell which RVEs have neither a smaller residual nor a sufficiently smaller energy (Armijo)."""
        after = self._effective_residual(new, strain, before + length * step)
        doubtful = ~(np.linalg.norm(after, axis=0) < np.linalg.norm(residual, axis=0))
        if not doubtful.any():
            return doubtful
        start = self._energy(strain, before, history)
        end = self._energy(strain, before + length * step, history)
        slope = np.einsum("fn,fn->n", residual, step)
        enough = end <= start + _SUFFICIENT_DECREASE * length * slope + 1e-14 * np.abs(start)
        return doubtful & ~enough

    def _energy(self, strain: Array, fluctuation: Array, history: list[Array]) -> Array:
        """Return Σ w ψ. Shape (N,)."""
        rve = self.discretisation
        local = (self._gradient @ fluctuation).reshape(rve.n_s, -1, strain.shape[1]) + strain[:, None, :]
        total = 0.5 * np.einsum("sn,st,tn->n", strain, self._linear_mean, strain)
        total += np.einsum("fn,fs,sn->n", fluctuation, self._load, strain)
        total += 0.5 * np.einsum("fn,fn->n", fluctuation, self._linear_matrix @ fluctuation)
        for position in range(self.n_linear, len(self.phases)):
            part = self._local_points(position)
            total += self._weight[part] @ self.phases[position].energy(local[:, part], history[position])
        return total

    # -- result -------------------------------------------------------------------------------------------------

    def _finish(self, work: "_Work", points: _Points) -> Solution:
        if self.options.exact_sensitivities:
            values, load = self._stiffness_and_load(points.tangent)
            work.sensitivity, _ = self._solve_constrained(values, -load)
        volume = self.discretisation.volume
        correction = np.einsum("fsn,fn->sn", work.sensitivity, points.residual)
        stress = (self._sum_stress(points, work.strain, work.fluctuation) + correction) / volume
        return Solution(
            stress,
            self._condensed_tangent(points.tangent, work.sensitivity) / volume,
            self._mean_stress_33(points, work),
            work.fluctuation,
            work.sensitivity,
            points.history,
            work.iterations,
        )

    def _condensed_tangent(self, tangent: Array, sensitivity: Array) -> Array:
        """Return Σ w (1 + B X)ᵀ D (1 + B X). Shape (n_s, n_s, N)."""
        n_s, n = self.discretisation.n_s, sensitivity.shape[2]
        flat = sensitivity.reshape(len(sensitivity), -1)
        coupling = (self._load.T @ flat).reshape(n_s, n_s, n)
        stiffness = (self._linear_matrix @ flat).reshape(sensitivity.shape)
        total = self._linear_mean[:, :, None] + coupling + coupling.transpose(1, 0, 2)
        total += np.einsum("fsn,ftn->stn", sensitivity, stiffness)
        if self._nonlinear:
            strain = (self._gradient @ flat).reshape(n_s, -1, n_s, n)
            strain += np.eye(n_s)[:, None, :, None]
            total += quadratic_form(strain, np.ascontiguousarray(tangent), self._weight)
        return total

    def _mean_stress_33(self, points: _Points, work: "_Work") -> Array | None:
        if self._mean_33 is None:
            return None
        linear = self._linear_33 @ work.strain + self._mean_33 @ work.fluctuation
        return (points.sum_33 + linear) / self.discretisation.volume

    def full_fluctuation(self, fluctuation: Array) -> Array:
        """Return the nodal fluctuation with zero mean. Shape (n_nodes, dim, N) from free dofs (n_free, N)."""
        rve = self.discretisation
        padded = np.vstack([fluctuation, np.zeros((1, fluctuation.shape[1]))])
        nodal = padded[self.free.of].reshape(-1, rve.dim, fluctuation.shape[1])
        reference, _ = rve.mesh.kind.quadrature()
        basis, _ = rve.mesh.kind.tabulate(reference)
        mean = np.einsum("cq,qa,cain->in", rve.weight, basis, nodal[rve.mesh.cells]) / rve.weight.sum()
        return nodal - mean


@dataclass
class _Work:
    """The iterates of a batch."""

    strain: Array
    history: list[Array]
    fluctuation: Array
    sensitivity: Array
    iterations: Array = field(init=False)

    def __post_init__(self) -> None:
        self.iterations = np.zeros(self.strain.shape[1], dtype=np.int64)


def _take(points: _Points, columns: Array) -> _Points:
    """Return the quantities of some RVEs of a batch; the batch itself if all are wanted."""
    if len(columns) == points.residual.shape[1]:
        return points
    return _Points(
        points.residual[:, columns],
        points.stress[..., columns],
        points.tangent[..., columns],
        [one[..., columns] for one in points.history],
        points.sum_33[columns],
    )


def _put(points: _Points, columns: Array, new: _Points) -> _Points:
    """Return the quantities of a batch with those of some RVEs replaced."""
    if len(columns) == points.residual.shape[1]:
        return new
    points.residual[:, columns] = new.residual
    points.stress[..., columns] = new.stress
    points.tangent[..., columns] = new.tangent
    points.sum_33[columns] = new.sum_33
    history = []
    for old, fresh in zip(points.history, new.history, strict=True):
        merged = old.copy()
        merged[..., columns] = fresh
        history.append(merged)
    return _Points(points.residual, points.stress, points.tangent, history, points.sum_33)
