"""Solution of the linear systems of the macroscale by PETSc."""

from collections.abc import Mapping
from itertools import count

import numpy as np
from dolfinx import fem, la
from petsc4py import PETSc

from femops.errors import CaseError, NotConverged
from femops.macro.analysis import PetscOption

# In 3D, multigrid overtakes LU between 25,000 and 30,000 dofs; in the plane LU stays faster.
_LARGEST_DIRECT = 30_000

_DIRECT = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
_ITERATIVE = {
    "ksp_type": "cg",
    "ksp_norm_type": "unpreconditioned",  # so that a system that is not symmetric cannot seem solved
    "ksp_max_it": 500,
    "pc_type": "gamg",
}
_number = count()


class LinearSolver:
    """Linear systems with one matrix whose entries change.

    Small systems, and all in the plane, are factorised by MUMPS. Large ones in 3D are solved by conjugate gradients
    with algebraic multigrid on the rigid body modes, and factorised where that does not converge.

    Args:
        matrix: The matrix.
        space: The displacements.
        rtol: Largest residual relative to the right-hand side, for an iterative method.
        options: Options of PETSc that replace this choice, without prefix.
    """

    def __init__(
        self, matrix: PETSc.Mat, space: fem.FunctionSpace, rtol: float, options: Mapping[str, PetscOption]
    ) -> None:
        self._matrix, self._rtol, self._given = matrix, rtol, dict(options)
        n_dofs = space.dofmap.index_map.size_global * space.dofmap.index_map_bs
        self._iterative = not options and space.mesh.topology.dim == 3 and n_dofs > _LARGEST_DIRECT
        if self._iterative or options:
            matrix.setNearNullSpace(_rigid_modes(space))
        self._make()

    def solve(self, right: PETSc.Vec, solution: PETSc.Vec) -> None:
        """Solve with the matrix.

        Raises:
            NotConverged: The matrix is singular, or the method given by options does not converge.
            CaseError: An option is unknown to PETSc.
        """
        self._attempt(self._solver.solve, right, solution)
        if self._iterative and not self._solved(solution):
            self._iterative = False
            self._make()
            self._attempt(self._solver.solve, right, solution)
        self._check(solution)

    def solve_transposed(self, right: PETSc.Vec, solution: PETSc.Vec) -> None:
        """Solve with the transposed matrix, as `solve`."""
        self._attempt(self._solver.solveTranspose, right, solution)
        self._check(solution)

    @property
    def note(self) -> str | None:
        """What the user of a large body should know; None for systems that are factorised."""
        n_dofs = self._matrix.getSize()[0]
        if not self._iterative:
            return None
        return f"the linear systems of {n_dofs} dofs are solved by conjugate gradients with algebraic multigrid"

    def _make(self) -> None:
        """Create the solver."""
        prefix = f"femops_{next(_number)}_"
        options = PETSc.Options(prefix)
        chosen = self._given or (_ITERATIVE if self._iterative else _DIRECT)
        for name, value in chosen.items():
            options[name] = value
        PETSc.Options().setValue("options_left", False)  # those that are not used are refused by name
        solver = PETSc.KSP().create(self._matrix.comm)
        solver.setOptionsPrefix(prefix)
        solver.setOperators(self._matrix)
        solver.setTolerances(rtol=self._rtol)
        try:
            solver.setFromOptions()
        except PETSc.Error as error:
            problem = f"PETSc refuses the options (error {error.ierr}): {chosen}"
            raise CaseError(problem, key="solver.petsc") from error
        solver.setErrorIfNotConverged(False)
        self._solver, self._options = solver, options

    def _attempt(self, method: object, right: PETSc.Vec, solution: PETSc.Vec) -> None:
        try:
            method(right, solution)  # type: ignore[operator]
        except PETSc.Error as error:
            self._make()  # a failed solve leaves the solver locked
            raise NotConverged(f"the macroscale linear solver failed (PETSc error {error.ierr})") from error
        unknown = [name for name in self._given if not self._options.used(self._options.prefix + name)]
        if unknown:
            raise CaseError(f"PETSc does not know or use the option {unknown[0]}", key="solver.petsc")

    def _solved(self, solution: PETSc.Vec) -> bool:
        return bool(self._solver.getConvergedReason() > 0 and np.isfinite(solution.norm()))

    def _check(self, solution: PETSc.Vec) -> None:
        if self._solved(solution):
            return
        if self._solver.getType() != PETSc.KSP.Type.PREONLY:
            steps, reason = self._solver.getIterationNumber(), self._solver.getConvergedReason()
            raise NotConverged(f"the macroscale linear solver stopped after {steps} iterations (PETSc reason {reason})")
        raise NotConverged("the macroscale stiffness is singular; are there enough supports?")


def _rigid_modes(space: fem.FunctionSpace) -> PETSc.NullSpace:
    """Return the rigid body modes of a body, orthonormal."""
    dim = space.mesh.geometry.dim
    nodes = space.dofmap.index_map.size_local
    x = space.tabulate_dof_coordinates()[:nodes, :dim]
    turns = [(i, j) for i in range(dim) for j in range(i)]
    modes = [la.vector(space.dofmap.index_map, space.dofmap.index_map_bs) for _ in range(dim + len(turns))]
    for axis in range(dim):
        modes[axis].array[: nodes * dim].reshape(nodes, dim)[:, axis] = 1.0
    for mode, (i, j) in zip(modes[dim:], turns, strict=True):
        of_nodes = mode.array[: nodes * dim].reshape(nodes, dim)
        of_nodes[:, i], of_nodes[:, j] = x[:, j], -x[:, i]
    la.orthonormalize(modes)
    vectors = [PETSc.Vec().createWithArray(mode.array[: nodes * dim], comm=space.mesh.comm) for mode in modes]
    for vector in vectors:
        vector.setBlockSize(dim)
    return PETSc.NullSpace().create(vectors=[one.copy() for one in vectors], comm=space.mesh.comm)
