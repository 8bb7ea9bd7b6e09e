"""Equations of a batch of RVEs on meshes of any kind with assembled stiffness, preconditioned by algebraic multigrid.

For `femops.rve.newton_cg`. The multigrid is smoothed aggregation with the rigid body modes (PETSc's GAMG), of the
stiffness of the unloaded RVE and built once. Vectors contain the free dofs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np
import scipy.sparse as sp

from femops.notation import Array, Indices
from femops.phases import Phase
from femops.rve.boundary import FreeDofs
from femops.rve.discretisation import Discretisation
from femops.rve.equations import Equations, Points


@dataclass
class MeshPoints:
    """Internal forces and point quantities of N RVEs; see `femops.rve.iterative.IterativePoints`.

    Attributes:
        of: The point quantities.
        sum_stress: Σ w σ. Shape (n_s, N).
        sum_33: Σ w stress_33 in plane strain. Shape (N,).
        linearised: Stiffness of each RVE and loads Σ w Bᵀ D, shape (n, n_s, N), once they have been assembled.
    """

    of: Points
    sum_stress: Array
    sum_33: Array
    linearised: tuple[list[sp.csr_array], Array] | None = None

    @property
    def force(self) -> Array:
        """Internal forces Σ w Bᵀ σ. Shape (N, n)."""
        return self.of.internal_force.T

    @property
    def state(self) -> list[Array]:
        """Trial state of each phase. Shape (n_state, n_points_of_phase, N) each."""
        return self.of.state

    def put(self, columns: Indices, new: "MeshPoints") -> "MeshPoints":
        """Return the quantities with those of some RVEs replaced; arrays of this object may be overwritten."""
        if len(columns) == len(self.force):
            return new
        self.sum_stress[:, columns], self.sum_33[columns] = new.sum_stress, new.sum_33
        return MeshPoints(self.of.put(columns, new.of), self.sum_stress, self.sum_33)


class MeshEquations:
    """The equations of one RVE for batches of macroscale strains; see `femops.rve.iterative.IterativeEquations`.

    Args:
        discretisation: The RVE; linear phases first.
        phases: Its phases, in the order of the discretisation.
        free: Free dofs of the fluctuation, not with static conditions.
    """

    concurrent = False  # PETSc is not safe to call from several threads

    def __init__(self, discretisation: Discretisation, phases: tuple[Phase, ...], free: FreeDofs) -> None:
        self._discretisation, self.size = discretisation, free.count
        self._equations = Equations(discretisation, phases, free)
        self.nonlinear, self.force_scale = self._equations.nonlinear, self._equations.force_scale
        upper = self._equations.pattern.copy()
        upper.data = np.arange(1.0, upper.nnz + 1.0)
        full = (upper + sp.triu(upper, 1).T).tocsr()
        self._indices, self._indptr, self._entry = full.indices, full.indptr, full.data.astype(np.int64) - 1

    @property
    def knows_row_33(self) -> bool:
        """Whether d stress_33 / dE is known: in plane strain, of phases that know their own."""
        return self._equations.knows_row_33

    @property
    def bytes_of_one(self) -> float:
        """Memory per RVE of a batch [byte]."""
        return self._equations.bytes_of_one + 12.0 * len(self._entry)

    def evaluate(self, strain: Array, fluctuation: Array, state: list[Array]) -> MeshPoints:
        """Evaluate the phases of a batch at strains (n_s, N) and fluctuations (n, N)."""
        points = self._equations.evaluate(strain, fluctuation, state)
        sum_33 = self._equations.sum_33(points, strain, fluctuation)
        of_solid = np.zeros(strain.shape[1]) if sum_33 is None else sum_33
        return MeshPoints(points, self._equations.sum_stress(points, strain, fluctuation), of_solid)

    def residual(self, points: MeshPoints, strain: Array, fluctuation: Array) -> Array:
        """Return the internal forces. Shape (n, N)."""
        return points.of.internal_force

    def force_norm(self, points: MeshPoints, strain: Array, fluctuation: Array) -> Array:
        """Return the norm of the internal forces, the reference of relative residuals. Shape (N,)."""
        return self._equations.force_norm(points.of, strain, fluctuation)

    def tangent(self, points: MeshPoints, vectors: Array, macro: Array, owner: Indices) -> tuple[Array, Array]:
        """Return K u + L E and Σ w D (E + B u); see `femops.rve.iterative.IterativeEquations`."""
        stiffness, load = self._linearised(points)
        mean = self._equations.sum_tangent(points.of)
        force, total = np.empty_like(vectors), np.empty_like(macro)
        for one in np.unique(owner):
            own, of_one = owner == one, load[:, :, one]
            u, e = vectors[own], macro[own]
            force[own] = (stiffness[one] @ u.T).T + e @ of_one.T
            total[own] = e @ mean[:, :, one] + u @ of_one
        return force, total

    def mean_tangent(self, points: MeshPoints) -> Array:
        """Return the volume average of the tangents. Shape (N, n_s, n_s)."""
        return self._equations.sum_tangent(points.of).transpose(2, 0, 1) / self._discretisation.volume

    def row_33(self, points: MeshPoints) -> tuple[Array, Array]:
        """Return Σ w D₃₃, shape (n_s, N), and Σ w Bᵀ D₃₃, (N, n); needs `knows_row_33`."""
        mean, force = self._equations.row_33(points.of)
        return mean, force.T

    def preconditioner(self, points: MeshPoints) -> Callable[[Array], Array]:
        """Return one multigrid cycle of the stiffness of the first RVE."""
        import femops.stack  # noqa: F401

        # isort: split
        from petsc4py import PETSc

        dim, of = self._discretisation.dim, self._equations.free.of
        places = np.zeros((self.size // dim, dim))
        places[of[::dim][of[::dim] >= 0] // dim] = self._discretisation.mesh.points[of[::dim] >= 0]
        matrix = self._linearised(points)[0][0]
        csr = matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType), matrix.data
        operator = PETSc.Mat().createAIJ(matrix.shape, csr=csr, comm=PETSc.COMM_SELF)
        operator.setBlockSize(dim)
        operator.setOption(PETSc.Mat.Option.SPD, True)
        nodes = PETSc.Vec().createWithArray(places, bsize=dim, comm=PETSc.COMM_SELF)
        operator.setNearNullSpace(PETSc.NullSpace().createRigidBody(nodes))
        multigrid = PETSc.PC().create(PETSc.COMM_SELF)
        multigrid.setOperators(operator)
        multigrid.setType("gamg")
        multigrid.setUp()
        right, result = operator.createVecs()
        one_at_a_time = Lock()  # a host may call its law from several threads

        def cycle(vectors: Array) -> Array:
            found = np.empty_like(vectors)
            with one_at_a_time:
                for column, one in zip(found, vectors, strict=True):
                    right.array[:] = one
                    multigrid.apply(right, result)
                    column[:] = result.array
            return found

        return cycle

    def spread(self, free: Array) -> Array:
        """Return a copy of the free dofs, as the result may be overwritten."""
        return free.copy()

    def gather(self, vectors: Array) -> Array:
        """Return the free dofs."""
        return vectors

    def _linearised(self, points: MeshPoints) -> tuple[list[sp.csr_array], Array]:
        """Return the stiffness of each RVE and the loads Σ w Bᵀ D, shape (n, n_s, N)."""
        if points.linearised is None:
            values, load = self._equations.stiffness_and_load(points.of.tangent)
            csr, shape = (self._indices, self._indptr), (self.size, self.size)
            points.linearised = [sp.csr_array((one[self._entry], *csr), shape=shape) for one in values.T], load
        return points.linearised
