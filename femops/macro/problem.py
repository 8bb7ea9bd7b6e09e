"""The weak form of macroscale equilibrium and its solution by Newton's method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.fem import petsc as fem_petsc
from petsc4py import PETSc

from femops import notation
from femops.errors import NotConverged
from femops.law import MaterialLaw
from femops.macro.analysis import Analysis
from femops.macro.boundary import Loads, Supports, check_analysis, total
from femops.macro.error_bars import ErrorBars
from femops.macro.linear import LinearSolver
from femops.macro.locking import Locking
from femops.macro.material import Material
from femops.macro.mesh import MacroMesh
from femops.macro.probe import value_of
from femops.macro.quadrature import Quadrature, default_degree
from femops.macro.timers import Timers
from femops.notation import Array

# After unloading, the residual can only fall to round-off of the largest earlier forces, not of the current ones.
_SMALLEST_FORCE = 1e-3
_INEXACT = 0.01  # relative residual of iterative linear solvers as a part of that of Newton's method

NewtonWatch = Callable[[int, float], None]


@dataclass
class NewtonReport:
    """Relative residual norms of a Newton solve, one per iteration."""

    residuals: list[float] = field(default_factory=list)

    @property
    def iterations(self) -> int:
        """Number of linear solves."""
        return len(self.residuals)


class MacroProblem:
    """Equilibrium of the macroscale body: find u with ∫ σ(ε(u)) : ε(v) = loads(v).

    Args:
        analysis: Supports, loads, steps and settings.
        mesh: The mesh.
        laws: Law of each region; `everywhere` denotes the whole body.
        timers: Timers of the run.

    Attributes:
        responses: Number of responses of the laws so far.

    Raises:
        CaseError: The analysis does not fit the mesh, or a law violates the contract.
    """

    def __init__(
        self, analysis: Analysis, mesh: MacroMesh, laws: Mapping[str, MaterialLaw], timers: Timers | None = None
    ) -> None:
        check_analysis(analysis, laws, mesh)
        self.analysis, self.mesh, self.timers = analysis, mesh, timers or Timers()
        self.comm, self.dim = mesh.mesh.comm, mesh.mesh.topology.dim
        space = fem.functionspace(mesh.mesh, ("Lagrange", analysis.order, (self.dim,)))
        self.displacement = fem.Function(space, name="displacement")
        self.reaction = fem.Function(space, name="reaction")
        degree = analysis.quadrature_degree
        degree = default_degree(mesh, analysis.order) if degree is None else degree
        self.quadrature = Quadrature(mesh, self.displacement, degree)
        self.material = Material(laws, mesh, self.quadrature, analysis.trust, self.timers, analysis.law_names)
        self.supports = Supports(analysis, mesh, space)
        self.loads = Loads(analysis.loads, mesh, 2 * analysis.order + 1)
        self._make_forms(space)
        self._make_vectors()
        newton = analysis.newton
        self._solver = LinearSolver(self._matrix, space, _INEXACT * newton.rtol, newton.petsc)
        self.responses = 0
        self._largest_force = 0.0
        first = analysis.steps.ends[0]
        self.material.warm_up(first)
        self.evaluate(first)
        self.locking = Locking(self.material, analysis.order)
        self.material.keep()
        self._keep()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the discretisation and its solution, one line each."""
        return (*self.locking.notes(), *([self._solver.note] if self._solver.note else []))

    @property
    def n_dofs(self) -> int:
        """Number of displacement dofs of the whole body."""
        dofmap = self.displacement.function_space.dofmap
        return int(dofmap.index_map.size_global * dofmap.index_map_bs)

    def evaluate(self, dt: float) -> None:
        """Evaluate the laws at the current displacement; collective.

        Raises:
            NotConverged: A law did not converge.
        """
        with self.timers.part("assembly"):
            strain = self.quadrature.strain()
        with self.timers.part("law"):
            self.material.evaluate(strain, dt)
        self.responses += 1

    def residual_norms(self) -> tuple[float, float]:
        """Assemble the residual and return its norm over the free dofs and the norm of the internal forces [force]."""
        with self.timers.part("assembly"):
            internal = self._assembled_internal(self._force).array_r
            residual = internal.copy()
            if self._external is not None:
                residual -= self._assembled_external().array_r
            self.reaction.x.array[: len(residual)] = residual
            self.reaction.x.scatter_forward()
            residual[self._fixed] = 0.0
            squares = total(self.comm, [residual @ residual, internal @ internal])
            return float(np.sqrt(squares[0])), float(np.sqrt(squares[1]))

    def solve(self, t: float, dt: float, watch: NewtonWatch | None = None) -> NewtonReport:
        """Advance the solution to time t by Newton's method; on failure the previous solution is restored.

        Args:
            t: Time at the end of the increment.
            dt: Its length.
            watch: Called with iteration and relative residual.

        Raises:
            NotConverged: The residual stayed above the tolerance, or a law did not converge.
            Refused: Newton's method converged, but the response of a law must not be used.
        """
        self.supports.set_time(t)
        self.loads.set_time(t)
        report = NewtonReport()
        try:
            self._iterate(dt, report, watch)
            while self._is_in_doubt():
                self.evaluate(dt)
                self._iterate(dt, report, watch)
        except NotConverged:
            self._restore()
            raise
        with self.timers.part("law"):
            self.material.commit()
        self._keep()
        return report

    def _is_in_doubt(self) -> bool:
        """Certify the response; return whether points are to be solved exactly from now on; collective."""
        trust = self.analysis.trust
        if trust is None:
            return False
        if self.material.certify(self.quadrature.strain()):
            return True
        if trust.goal is None:
            return False
        with self.timers.part("error bars"):
            return self.error_bars.settle(trust.goal, value_of(self, trust.goal), trust.tolerance) > 0

    @cached_property
    def error_bars(self) -> ErrorBars:
        """Error bars of results at the last response."""
        return ErrorBars(self)

    def enrich(self, step: int) -> None:
        """Enrich the laws with exact solutions at the end of a step; collective."""
        if self.analysis.trust is not None and self.analysis.trust.enrich:
            self.material.enrich(self.quadrature.strain(), step)

    def _iterate(self, dt: float, report: NewtonReport, watch: NewtonWatch | None) -> None:
        """Run Newton's method; the first iteration applies the new loads with the tangent of the committed state."""
        rtol = self.analysis.newton.rtol
        for _ in range(self.analysis.newton.max_iter):
            self._advance()
            self.evaluate(dt)
            norm, force = self.residual_norms()
            scale = max(force, _SMALLEST_FORCE * self._largest_force, self._round_off() / rtol)
            scale = max(scale, self._no_force())
            report.residuals.append(norm / scale if scale != 0.0 else 0.0)
            if watch is not None:
                watch(report.iterations, report.residuals[-1])
            if not np.isfinite(report.residuals[-1]):
                break
            if report.residuals[-1] <= rtol:
                self._largest_force = max(force, self._largest_force)
                self.material.judge()
                return
        problem = f"the macroscale residual stayed above {rtol:g} in {report.iterations} iterations"
        doubt = self.material.violation
        raise NotConverged(f"{problem}; in the last one {doubt}" if doubt else problem, tuple(report.residuals))

    def _advance(self) -> None:
        """Solve the linearised problem with the Dirichlet conditions and update the displacement."""
        conditions, x = self.supports.conditions, self.displacement.x.petsc_vec
        self.assemble_tangent()
        with self.timers.part("assembly"):
            right = self._lifted(x)
            right += self._assembled_internal(self._force)
            if self._external is not None:
                right -= self._assembled_external()
            fem_petsc.set_bc(right, conditions, x0=x, alpha=-1.0)
        with self.timers.part("linear solve"):
            try:
                self._solver.solve(right, self._step)
            except NotConverged:
                self._make_vectors()  # a failed solve may leave them locked
                raise
        x.axpy(-1.0, self._step)
        self.displacement.x.scatter_forward()

    def assemble_tangent(self) -> None:
        """Assemble the tangent of the last response, with the rows and columns of prescribed values eliminated."""
        with self.timers.part("assembly"):
            self._matrix.zeroEntries()
            conditions, tangent = self.supports.conditions, self.quadrature.packed(self.quadrature.tangent)
            fem_petsc.assemble_matrix(self._matrix, self._jacobian, bcs=conditions, coeffs=tangent)
            self._matrix.assemble()

    def solve_transposed(self, right: PETSc.Vec, solution: fem.Function) -> None:
        """Solve with the transposed tangent last assembled; the solution is zero at prescribed values; collective.

        Args:
            right: Right-hand side [force]; its entries at prescribed values are set to zero.
            solution: Where the solution goes.

        Raises:
            NotConverged: The tangent is singular.
        """
        with self.timers.part("linear solve"):
            right.array_w[self._fixed] = 0.0
            self._solver.solve_transposed(right, solution.x.petsc_vec)
        solution.x.scatter_forward()

    def held_dofs(self, boundary: str, axis: int) -> Any:
        """Return the dofs of this rank, ghosts included, of a prescribed component on a named boundary. Shape (n,)."""
        nodes = self._nodes_of(boundary)
        dofs = nodes * self.dim + axis
        return dofs[np.isin(dofs, self._held)]

    def _make_forms(self, space: fem.FunctionSpace) -> None:
        test, trial = ufl.TestFunction(space), ufl.TrialFunction(space)
        dim, dx = self.dim, self.quadrature.measure
        strain = notation.ufl_strain(test, dim)
        internal = ufl.inner(self.quadrature.stress, strain) * dx
        external = self.loads.form(test)
        stiffness = ufl.inner(strain, self.quadrature.tangent * notation.ufl_strain(trial, dim)) * dx
        self._internal = fem.form(internal)
        self._external = None if external is None else fem.form(external)
        self._jacobian = fem.form(stiffness)
        self._force = fem_petsc.create_vector(space)
        self._load_vector = fem_petsc.create_vector(space)
        self._matrix = fem_petsc.create_matrix(self._jacobian)
        owned = space.dofmap.index_map.size_local * space.dofmap.index_map_bs
        fixed = [condition.dof_indices()[0] for condition in self.supports.conditions]
        self._held = np.unique(np.concatenate(fixed)) if fixed else np.empty(0, dtype=np.int32)
        self._fixed = self._held[self._held < owned]

    def _round_off(self) -> float:
        """Return the round-off level of the residual for a rigid body motion [force].

        Zero with external loads, so that a body at its limit load fails to converge.
        """
        if self._external is not None:
            return 0.0
        return float(np.finfo(np.float64).eps * self._matrix.norm() * self.displacement.x.petsc_vec.norm())

    def _no_force(self) -> float:
        """Return a force that no load causes: that of strains of ε² with the machine's ε [force].

        Laws may answer so much to no strain at all.
        """
        size = float(np.sqrt(self.n_dofs) * self.mesh.extent)
        return float(np.finfo(np.float64).eps) ** 2 * float(self._matrix.norm()) * size

    def _make_vectors(self) -> None:
        self._right = fem_petsc.create_vector(self.displacement.function_space)
        self._step = self._right.copy()

    def _assembled_internal(self, vector: PETSc.Vec) -> PETSc.Vec:
        """Return the internal forces, summed over ranks, in a vector."""
        return _assemble(self._internal, vector, self.quadrature.packed(self.quadrature.stress))

    def _assembled_external(self) -> PETSc.Vec:
        """Return the external forces, summed over ranks."""
        return _assemble(self._external, self._load_vector)

    def _lifted(self, x: PETSc.Vec) -> PETSc.Vec:
        """Return the forces of the changes of prescribed displacements, summed over ranks."""
        with self._right.localForm() as local:
            local.set(0.0)
        tangent = self.quadrature.packed(self.quadrature.tangent)
        conditions = [self.supports.conditions]
        fem_petsc.apply_lifting(self._right, [self._jacobian], conditions, x0=[x], alpha=-1.0, coeffs=[tangent])
        self._right.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
        return self._right

    def _keep(self) -> None:
        self._committed = self.displacement.x.array.copy()

    def _restore(self) -> None:
        self.displacement.x.array[:] = self._committed
        self.material.restore()
        self.responses += 1

    def reaction_on(self, boundary: str) -> Array:
        """Return the reaction force of the support on a named boundary [force]. Shape (dim,)."""
        return self._over_boundary(boundary, self.reaction, mean=False)

    def mean_displacement_of(self, boundary: str) -> Array:
        """Return the mean nodal displacement of a named boundary [length]. Shape (dim,)."""
        return self._over_boundary(boundary, self.displacement, mean=True)

    def _over_boundary(self, boundary: str, function: fem.Function, *, mean: bool) -> Array:
        space, nodes = function.function_space, self._nodes_of(boundary)
        owned = nodes[nodes < space.dofmap.index_map.size_local]
        values = function.x.array.reshape(-1, space.dofmap.bs)[owned]
        result = total(self.comm, values.sum(0))
        return result / max(int(total(self.comm, len(owned))), 1) if mean else result

    def _nodes_of(self, boundary: str) -> Any:
        """Return the nodes of this rank, ghosts included, on a named boundary."""
        space, facets = self.displacement.function_space, self.mesh.boundaries[boundary]
        return fem.locate_dofs_topological(space, self.mesh.mesh.topology.dim - 1, facets, remote=True)


def _assemble(form: Any, vector: PETSc.Vec, coefficients: Any = None) -> PETSc.Vec:
    """Assemble a linear form into a vector, summed over ranks."""
    with vector.localForm() as local:
        local.set(0.0)
    fem_petsc.assemble_vector(vector, form, coeffs=coefficients)
    vector.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
    return vector
