"""Batched solver of RVE problems.

Solves R(q, E) = Σ w Bᵀ σ(E + B q) = 0 for the fluctuations q of N macroscale strains at once, and returns S = ⟨σ⟩ and
its consistent tangent. The method is direct (`femops.rve.direct`), or iterative for large RVEs
(`femops.rve.newton_cg`). If one RVE of a batch fails, `attempt` still returns the others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from femops.errors import NotConverged
from femops.notation import Array
from femops.phases import Phase
from femops.rve.boundary import free_dofs
from femops.rve.conditions import Boundary
from femops.rve.discretisation import Discretisation
from femops.rve.methods import Choice, Method
from femops.rve.rigid_motions import check_rigid_motions
from femops.rve.solution import Equilibrium, Solution, SolverOptions
from femops.rve.states import state_sizes, virgin_state
from femops.threads import in_threads, thread_count

__all__ = ["RVESolver", "Solution", "SolverOptions"]

_BYTES_OF_BATCH = 24e6
_LARGEST_BATCH = 32
_UNKNOWNS_OF_THREAD = {2: 10_000, 3: 2_000}
"""Number of unknowns, all RVEs of a thread together, from which it pays, by dimension."""
_MOST_NAMED = 3


@dataclass
class RVESolver:
    """Solves the RVE for batches of macroscale strains.

    Args:
        discretisation: The RVE; linear phases first.
        phases: Its phases, in the order of the discretisation.
        boundary: Boundary condition of the fluctuation.
        options: Settings.

    Attributes:
        free: Free dofs of the fluctuation.

    Raises:
        CaseError: The RVE does not fit its boundary condition or the linear solver.
        NotConverged: The unloaded RVE cannot be solved; an iterative method finds that out when it is first used.
    """

    discretisation: Discretisation
    phases: tuple[Phase, ...]
    boundary: Boundary = "periodic"
    options: SolverOptions = field(default_factory=SolverOptions)

    def __post_init__(self) -> None:
        self.free = free_dofs(self.discretisation.outline, self.boundary)
        check_rigid_motions(self.discretisation.mesh, self.free)
        self._choice = Choice(self.discretisation, self.phases, self.free, self.boundary, self.options)
        self._candidate = self._choice.iterative() or self._choice.direct()

    @cached_property
    def _chosen(self) -> tuple[Method, str, Array]:
        """The method, the end of the note on it and its elastic sensitivity; direct where `auto` cannot iterate."""
        method, how = self._candidate
        try:
            return method, how, method.elastic_sensitivity
        except NotConverged:
            if not how or self._choice.linear != "auto":
                raise
        method, how = self._candidate = self._choice.direct()
        return method, how, method.elastic_sensitivity

    @property
    def _method(self) -> Method:
        return self._chosen[0]

    @property
    def elastic_sensitivity(self) -> Array:
        """dq/dE at zero strain in the initial state [length]. Shape (n_free, n_s)."""
        return self._chosen[2]

    @property
    def iterative(self) -> bool:
        """Whether the method is iterative; it then needs no sensitivities of the last step."""
        return bool(self._chosen[1])

    @property
    def knows_tangent_33(self) -> bool:
        """Whether solutions have `tangent_33`."""
        return self._method.knows_row_33

    @property
    def n_state_of_phase(self) -> list[int]:
        """Number of state variables per point of each phase."""
        return state_sizes(self.phases, self.discretisation.dim)

    @property
    def batch(self) -> int:
        """Number of RVEs solved together, limited by memory."""
        return int(np.clip(_BYTES_OF_BATCH / self._method.bytes_of_one, 1, _LARGEST_BATCH))

    def in_parts[T](self, count: int, work: Callable[[slice], T]) -> list[T]:
        """Call `work` for the slices of `count` RVEs that are solved together, in threads; return its results in order.

        Raises:
            Exception: The exception of the first slice for which `work` raises one.
        """
        pays = max(1, count * self.free.count // _UNKNOWNS_OF_THREAD[self.discretisation.dim])
        threads = min(thread_count(), pays) if self._method.concurrent else 1
        whole_rounds = -(-count // (self.batch * threads))
        stops = np.linspace(0, count, min(count, whole_rounds * threads) + 1).astype(int).tolist()
        return in_threads(work, [slice(*part) for part in pairwise(stops)], threads)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes to the user about the method, one line each."""
        how = self._chosen[1]
        return (f"{self.free.count} unknowns{how}",) if how else ()

    def virgin_state(self, n: int) -> list[Array]:
        """Return the initial state of each phase. Shape (n_state, n_points_of_phase, n) each."""
        return virgin_state(self.discretisation, self.phases, n)

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
        solution, norms = self._method.attempt(strain, state, start, sensitivity)
        self._check(solution.failures, norms, strain, first)
        return solution

    def equilibrium(self, strain: Array, state: list[Array], start: Array | None = None) -> Equilibrium:
        """Solve one batch without its tangent, for which iterative methods need a fraction of the time and memory.

        Args:
            strain: See `solve`.
            state: See `solve`.
            start: See `solve`.

        Raises:
            NotConverged: An RVE did not converge.
        """
        try:
            found, norms = self._candidate[0].equilibrium(strain, state, start)
        except NotConverged:
            found, norms = self._method.equilibrium(strain, state, start)
        self._check(found.failures, norms, strain, None)
        return found

    def attempt(
        self, strain: Array, state: list[Array], start: Array | None = None, sensitivity: Array | None = None
    ) -> Solution:
        """Solve one batch like `solve`, but report RVEs that fail in `Solution.failures` instead of raising."""
        return self._method.attempt(strain, state, start, sensitivity)[0]

    def _check(self, failures: dict[int, str], norms: tuple[float, ...], strain: Array, first: int | None) -> None:
        """Raise NotConverged if RVEs have failed."""
        if failures:
            what = f"{len(failures)} of {strain.shape[1]} RVEs did not converge"
            slow = all(why.startswith("relative residual") for why in failures.values())
            iterations = f" in {self.options.max_iter} iterations" if slow else ""
            raise NotConverged(f"{what}{iterations}: {_named(failures, strain, first)}", norms)

    def full_fluctuation(self, fluctuation: Array) -> Array:
        """Return the nodal fluctuation with zero mean, shape (n_nodes, dim, N), of free dofs (n_free, N) [length]."""
        rve = self.discretisation
        padded = np.vstack([fluctuation, np.zeros((1, fluctuation.shape[1]))])
        nodal = padded[self.free.of].reshape(-1, rve.dim, fluctuation.shape[1])
        reference, _ = rve.mesh.kind.quadrature()
        basis, _ = rve.mesh.kind.tabulate(reference)
        mean = np.einsum("cq,qa,cain->in", rve.weight, basis, nodal[rve.mesh.cells]) / rve.weight.sum()
        return nodal - mean


def _named(failures: dict[int, str], strain: Array, first: int | None) -> str:
    """Return strains and reasons of the failed RVEs, in order of decreasing strain."""
    order = sorted(failures, key=lambda number: -float(np.abs(strain[:, number]).max()))
    names = []
    for one in order[:_MOST_NAMED]:
        which = "the one" if first is None else f"number {first + one}"
        names.append(f"{which} at the strain [{', '.join(f'{x:.4g}' for x in strain[:, one])}] ({failures[one]})")
    return "; ".join(names + ([f"and {len(order) - _MOST_NAMED} more"] if len(order) > _MOST_NAMED else []))
