"""The methods of the RVE solver, and the choice of the fastest one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from femops.devices import accelerator
from femops.errors import CaseError
from femops.notation import Array
from femops.phases import Phase
from femops.rve.boundary import FreeDofs
from femops.rve.conditions import Boundary
from femops.rve.direct import Direct
from femops.rve.discretisation import Discretisation
from femops.rve.fft.equations import LatticeEquations, LatticePoints
from femops.rve.fft.lattice import Lattice, find_lattice
from femops.rve.fft.single_precision import SinglePrecisionSystems
from femops.rve.iterative import LinearSystems
from femops.rve.multigrid import MeshEquations
from femops.rve.newton_cg import NewtonCG
from femops.rve.solution import Equilibrium, Solution, SolverName, SolverOptions

_ITERATIVE_FROM = {2: 20_000, 3: 2_000}
"""Number of free dofs from which the iterative method is faster on a grid, by dimension.

Pores take several times the iterations: with them it is never faster in the plane, and in 3D the number is that of the
free dofs times the solid part of the grid.
"""
_MULTIGRID_FROM = 20_000
"""Number of free dofs from which multigrid is faster than a factor of another mesh in 3D; it never is in the plane."""
_GPU_FROM = 100_000
"""Number of free dofs from which `auto` takes a GPU, if there is one; not measured."""


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


@dataclass(frozen=True)
class Choice:
    """The choice of the method for an RVE; arguments as in `RVESolver`.

    Args:
        discretisation: The RVE; linear phases first.
        phases: Its phases, in the order of the discretisation.
        free: Free dofs of the fluctuation.
        boundary: Boundary condition of the fluctuation.
        options: Settings.
    """

    discretisation: Discretisation
    phases: tuple[Phase, ...]
    free: FreeDofs
    boundary: Boundary
    options: SolverOptions

    @property
    def linear(self) -> SolverName:
        """The linear solver, on a GPU that of grids.

        Raises:
            CaseError: Another one is requested on a GPU.
        """
        linear = self.options.linear
        if self.options.device == "cuda" and linear not in ("auto", "fft"):
            raise CaseError(f"'cuda' given, but {linear!r} as linear solver; expected cpu, or fft on it", key="device")
        return "fft" if self.options.device == "cuda" else linear

    def direct(self) -> tuple[Method, str]:
        """Return the direct method."""
        linear = self.linear
        assert linear != "fft" and linear != "multigrid"
        return Direct(self.discretisation, self.phases, self.free, linear, self.options), ""

    def iterative(self) -> tuple[Method, str] | None:
        """Return the iterative method and the end of the note on it, if it is requested or pays."""
        rve, phases, free, linear = self.discretisation, self.phases, self.free, self.linear
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

    def _lattice(self) -> Lattice | None:
        """Return the lattice of the mesh if the iterative method is to be used.

        Raises:
            CaseError: It is requested for an RVE that is not a periodic uniform grid.
        """
        wanted, count, dim = self.linear, self.free.count, self.discretisation.dim
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
