"""Batched solver of RVE problems.

Solves R(q, E) = Σ w Bᵀ σ(E + B q) = 0 for the fluctuations q of N macroscale strains at once, and returns S = ⟨σ⟩ and
its consistent tangent. The method is direct (`femops.rve.direct`), or iterative for large RVEs
(`femops.rve.newton_cg`). If one RVE of a batch fails, `attempt` still returns the others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from typing import Protocol

import numpy as np

from femops.devices import accelerator
from femops.errors import CaseError, NotConverged
from femops.notation import Array
from femops.phases import Phase
from femops.rve.boundary import free_dofs
from femops.rve.conditions import Boundary
from femops.rve.direct import Direct
from femops.rve.discretisation import Discretisation
from femops.rve.fft.equations import LatticeEquations, LatticePoints
from femops.rve.fft.lattice import Lattice, find_lattice
from femops.rve.fft.single_precision import SinglePrecisionSystems
from femops.rve.multigrid import MeshEquations
from femops.rve.newton_cg import LinearSystems, NewtonCG
from femops.rve.rigid_motions import check_rigid_motions
from femops.rve.solution import Equilibrium, Solution, SolverName, SolverOptions
from femops.rve.states import state_sizes, virgin_state
from femops.threads import in_threads, thread_count

__all__ = ["Method", "RVESolver", "Solution", "SolverOptions"]

_BYTES_OF_BATCH = 24e6
_LARGEST_BATCH = 32
_ITERATIVE_FROM = {2: 20_000, 3: 2_000}
"""Number of free dofs from which the iterative method is faster on a grid, by dimension.

Pores take several times the iterations: with them it is never faster in the plane, and in 3D the number is that of the
free dofs times the solid part of the grid.
"""
_MULTIGRID_FROM = 20_000
"""Number of free dofs from which multigrid is faster than a factor of another mesh in 3D; it never is in the plane."""
_GPU_FROM = 100_000
"""Number of free dofs from which `auto` takes a GPU, if there is one; not measured."""
_UNKNOWNS_OF_THREAD = {2: 10_000, 3: 2_000}
"""Number of unknowns, all RVEs of a thread together, from which it pays, by dimension."""
_MOST_NAMED = 3


class Method(Protocol):
    """A method to solve batches of RVEs; arguments and shapes as in `RVESolver`.

    Attributes:
        elastic_sensitivity: dq/dE at zero strain in the initial state [length], shape (n_free, n_s); if it cannot be
            solved for, NotConverged is raised.
        knows_row_33: Whether solutions have `tangent_33`.
        bytes_of_one: Memory per RVE of a batch [byte].
        concurrent: Whether several batches may be solved at the same time, in threads.
    """

    knows_row_33: bool
    bytes_of_one: float
    concurrent: bool

    @property
    def elastic_sensitivity(self) -> Array: ...  # noqa: D102

    def attempt(
        self, strain: Array, state: list[Array], start: Array | None, sensitivity: Array | None
    ) -> tuple[Solution, tuple[float, ...]]:
        """Solve one batch; return the solution and the largest relative residual at each iteration."""
        ...

    def equilibrium(
        self, strain: Array, state: list[Array], start: Array | None
    ) -> tuple[Equilibrium, tuple[float, ...]]:
        """Solve one batch without sensitivities where that is cheaper; otherwise as `attempt`.

        Raises:
            NotConverged: The method does not suit the RVE.
        """
        ...


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
        self._candidate = self._iterative() or self._direct()

    @cached_property
    def _chosen(self) -> tuple[Method, str, Array]:
        """The method, the end of the note on it and its elastic sensitivity; direct where `auto` cannot iterate."""
        method, how = self._candidate
        try:
            return method, how, method.elastic_sensitivity
        except NotConverged:
            if not how or self._linear != "auto":
                raise
        method, how = self._candidate = self._direct()
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

    @property
    def _linear(self) -> SolverName:
        """The linear solver, on a GPU that of grids.

        Raises:
            CaseError: Another one is requested on a GPU.
        """
        linear = self.options.linear
        if self.options.device == "cuda" and linear not in ("auto", "fft"):
            raise CaseError(f"'cuda' given, but {linear!r} as linear solver; expected cpu, or fft on it", key="device")
        return "fft" if self.options.device == "cuda" else linear

    def _lattice(self) -> Lattice | None:
        """Return the lattice of the mesh if the iterative method is to be used.

        Raises:
            CaseError: It is requested for an RVE that is not a periodic uniform grid.
        """
        wanted, count, dim = self._linear, self.free.count, self.discretisation.dim
        large = wanted == "auto" and count >= _ITERATIVE_FROM[dim]
        if wanted != "fft" and not (large and self.boundary == "periodic"):
            return None
        cell = self.discretisation.outline.cell if self.boundary == "periodic" else None
        lattice = find_lattice(self.discretisation.mesh) if cell is not None and cell.aligned else None
        if lattice is None and self.options.device == "cuda":
            problem = "'cuda' given, but the RVE is not a periodic box of equal grid cells"
            raise CaseError(f"{problem}; expected auto or cpu", key="device")
        if lattice is None and wanted == "fft":
            problem = "'fft' given as linear solver, but the RVE is not a periodic box of equal grid cells"
            raise CaseError(f"{problem}; expected auto, pardiso or mumps")
        if lattice is not None and wanted == "auto" and lattice.solid_part < 1.0:
            return lattice if dim == 3 and lattice.solid_part * count >= _ITERATIVE_FROM[dim] else None
        return lattice

    def _direct(self) -> tuple[Method, str]:
        """Return the direct method."""
        linear = self._linear
        assert linear != "fft" and linear != "multigrid"
        return Direct(self.discretisation, self.phases, self.free, linear, self.options), ""

    def _iterative(self) -> tuple[Method, str] | None:
        """Return the iterative method and the end of the note on it, if it is requested or pays."""
        rve, phases, free, linear = self.discretisation, self.phases, self.free, self._linear
        if (lattice := self._lattice()) is not None:
            on_grid = LatticeEquations(rve, phases, lattice, free)
            systems, where = self._systems(on_grid)
            how = f" on a uniform grid; solved by conjugate gradients with the FFT{where}"
            return NewtonCG(rve, phases, on_grid, self.options, systems), how
        if linear == "multigrid" and free.zero_mean_strain:
            problem = "'multigrid' given as linear solver, but the boundary conditions are static"
            raise CaseError(f"{problem}; expected auto, pardiso or mumps")
        large = linear == "auto" and rve.dim == 3 and free.count >= _MULTIGRID_FROM and not free.zero_mean_strain
        if linear == "multigrid" or large:
            how = "; solved by conjugate gradients with algebraic multigrid"
            return NewtonCG(rve, phases, MeshEquations(rve, phases, free), self.options), how
        return None

    def _systems(
        self, equations: LatticeEquations
    ) -> tuple[Callable[[LatticePoints], LinearSystems[LatticePoints]], str]:
        """Return the linear systems and the end of the note on them, on a GPU or on the CPU in single precision.

        Raises:
            CaseError: A GPU is requested but not available.
        """
        chosen = self.options.device == "auto"
        device = None if chosen and self.free.count < _GPU_FROM else accelerator(self.options.device)
        if device is None:
            return partial(SinglePrecisionSystems, equations), ""
        from femops.rve.fft.torch_systems import TorchSystems  # torch takes seconds to import

        why = f" (device: auto takes a GPU from {_GPU_FROM} unknowns on, a number not measured)" if chosen else ""
        return partial(TorchSystems, equations, device=device), f" on {device}{why}"


def _named(failures: dict[int, str], strain: Array, first: int | None) -> str:
    """Return strains and reasons of the failed RVEs, in order of decreasing strain."""
    order = sorted(failures, key=lambda number: -float(np.abs(strain[:, number]).max()))
    names = []
    for one in order[:_MOST_NAMED]:
        which = "the one" if first is None else f"number {first + one}"
        names.append(f"{which} at the strain [{', '.join(f'{x:.4g}' for x in strain[:, one])}] ({failures[one]})")
    return "; ".join(names + ([f"and {len(order) - _MOST_NAMED} more"] if len(order) > _MOST_NAMED else []))
