"""An RVE solved with DOLFINx alone, one at a time: what femops' batched solver is checked and timed against.

The unknown is the whole displacement u = E · x + T q; DOLFINx assembles residual and stiffness of all dofs, the sparse
T of periodicity reduces them, and MUMPS factorises TᵀKT. With A the nodal values of the unit-strain fields ε · x,
S = Aᵀ R / |Ω| and dS/dE = (A + T X)ᵀ K (A + T X) / |Ω|, where TᵀKT X = −TᵀK A. Nothing is taken from `femops.rve`
but the mesh.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import femops.stack  # noqa: F401  # loads MPI in the order that DOLFINx needs
from femops import notation
from femops.meshing import TaggedMesh
from femops.notation import Array

# isort: split
import basix
import basix.ufl
import numpy as np
import scipy.sparse as sp
import ufl
from dolfinx import fem, mesh
from dolfinx.fem import petsc
from mpi4py import MPI
from petsc4py import PETSc

PhaseParameters = Mapping[str, Any]


@dataclass(frozen=True)
class ReferenceSolution:
    """A converged RVE.

    Attributes:
        stress: Homogenized stress, Mandel. Shape (n_s,).
        tangent: Consistent tangent at the converged state. Shape (n_s, n_s).
        fluctuation: Free dofs of the fluctuation [length]. Shape (n_free,).
        iterations: Newton iterations; there is one factorisation more, for the tangent.
    """

    stress: Array
    tangent: Array
    fluctuation: Array
    iterations: int


@dataclass
class ReferenceRVE:
    """A periodic RVE of elastic phases, possibly nonlinear, in plane strain or 3D.

    Args:
        tagged: The mesh; its regions are the phases.
        phases: Law and parameters of each phase as in a case file; `elastic` (K, G) or `saturating`.
        rtol: Largest residual norm relative to that of the first iterate of a virgin RVE at the same strain [-].
        max_iter: Largest number of Newton iterations.
    """

    tagged: TaggedMesh
    phases: Mapping[str, PhaseParameters]
    rtol: float = 1e-8
    max_iter: int = 30
    n_free: int = field(init=False)

    def __post_init__(self) -> None:
        kind, dim = self.tagged.kind, self.tagged.dim
        geometry = basix.ufl.element(
            "Lagrange", kind.shape, kind.degree, basix.LagrangeVariant.equispaced, shape=(dim,)
        )
        cells = self.tagged.cells[:, kind.lagrange_permutation]
        domain = mesh.create_mesh(MPI.COMM_SELF, cells, geometry, self.tagged.points)
        space = fem.functionspace(domain, ("Lagrange", kind.degree, (dim,)))
        self._displacement = fem.Function(space)
        self._compile(domain, space)
        points = space.tabulate_dof_coordinates()[:, :dim]
        lower, upper = self.tagged.bounds
        self._volume = float(np.prod(upper - lower))
        self._unit_strains = np.stack(
            [(points @ notation.to_tensor(unit)).ravel() for unit in np.eye(notation.n_strain(dim))], axis=1
        )
        self._reduction = _periodic_reduction(points, lower, upper)
        self.n_free = self._reduction.shape[1]
        self._set_up_solver()

    def solve(self, strain: Array, start: Array | None = None) -> ReferenceSolution:
        """Solve for one macroscale strain.

        Args:
            strain: Mandel. Shape (n_s,).
            start: First guess of the fluctuation, shape (n_free,); default: zero.

        Raises:
            RuntimeError: Newton's method did not converge.
        """
        fluctuation = np.zeros(self.n_free) if start is None else start.copy()
        affine = self._unit_strains @ strain
        scale = np.linalg.norm(self._reduced_residual(affine)) if start is not None else None
        for iteration in range(self.max_iter + 1):
            reduced = self._reduced_residual(affine + self._reduction @ fluctuation)
            size = np.linalg.norm(reduced)
            scale = size if scale is None else scale
            self._factorise()
            if size <= self.rtol * scale:
                return ReferenceSolution(*self._homogenized(), fluctuation, iteration)
            fluctuation -= self._back_substitute(reduced[:, None])[:, 0]
        raise RuntimeError(f"no convergence in {self.max_iter} iterations for strain {strain}: residual {size:.3g}")

    def _compile(self, domain: mesh.Mesh, space: fem.FunctionSpace) -> None:
        """Compile residual and stiffness of the energy once."""
        names = list(self.tagged.regions)
        n_cells = len(self.tagged.cells)
        owner = self.tagged.region_of_cell()[domain.topology.original_cell_index[:n_cells]]
        tags = mesh.meshtags(domain, domain.topology.dim, np.arange(n_cells, dtype=np.int32), owner)
        metadata = {"quadrature_degree": self.tagged.kind.quadrature_degree}
        measure = ufl.Measure("dx", domain, subdomain_data=tags, metadata=metadata)
        strain = ufl.sym(ufl.grad(self._displacement))
        energy = sum(_energy(strain, self.phases[name]) * measure(tag) for tag, name in enumerate(names))
        residual = ufl.derivative(energy, self._displacement, ufl.TestFunction(space))
        stiffness = ufl.derivative(residual, self._displacement, ufl.TrialFunction(space))
        self._residual_form, self._stiffness_form = fem.form(residual), fem.form(stiffness)

    def _set_up_solver(self) -> None:
        """Create the matrices and the Cholesky factorisation that all solves share."""
        self._residual = fem.create_vector(self._displacement.function_space)
        self._stiffness = petsc.create_matrix(self._stiffness_form)
        shape, t = self._reduction.shape, self._reduction
        csr = (t.indptr.astype(PETSc.IntType), t.indices.astype(PETSc.IntType), t.data)
        self._petsc_reduction = PETSc.Mat().createAIJ(shape, csr=csr, comm=PETSc.COMM_SELF)
        self._displacement.x.array[:] = self._unit_strains.sum(axis=1) * 1e-3
        self._assemble_stiffness()
        self._reduced = self._stiffness.ptap(self._petsc_reduction)
        self._reduced.setOption(PETSc.Mat.Option.SPD, True)
        self._solver = PETSc.KSP().create(PETSc.COMM_SELF)
        self._solver.setType("preonly")
        self._solver.setOperators(self._reduced)
        self._solver.getPC().setType("cholesky")
        self._solver.getPC().setFactorSolverType("mumps")

    def _assemble_stiffness(self) -> None:
        self._stiffness.zeroEntries()
        petsc.assemble_matrix(self._stiffness, self._stiffness_form)
        self._stiffness.assemble()

    def _reduced_residual(self, displacement: Array) -> Array:
        self._displacement.x.array[:] = displacement
        self._residual.array[:] = 0.0
        fem.assemble_vector(self._residual.array, self._residual_form)
        return self._reduction.T @ self._residual.array

    def _factorise(self) -> None:
        """Factorise TᵀKT at the current displacement."""
        self._assemble_stiffness()
        self._stiffness.ptap(self._petsc_reduction, self._reduced)
        self._solver.setOperators(self._reduced)  # without it setUp keeps the factor of the matrix before
        self._solver.setUp()

    def _back_substitute(self, rhs: Array) -> Array:
        """Solve with the present factor for every column of (n_free, k)."""
        factor = self._solver.getPC().getFactorMatrix()
        right = PETSc.Mat().createDense(rhs.shape, array=np.asfortranarray(rhs), comm=PETSc.COMM_SELF)
        answer = PETSc.Mat().createDense(rhs.shape, comm=PETSc.COMM_SELF)
        answer.setUp()
        factor.matSolve(right, answer)
        return answer.getDenseArray().copy()

    def _homogenized(self) -> tuple[Array, Array]:
        """Return stress and tangent at the converged displacement, whose stiffness has just been factorised."""
        stress = self._unit_strains.T @ self._residual.array / self._volume
        indptr, indices, values = self._stiffness.getValuesCSR()
        stiffness = sp.csr_array((values, indices, indptr), shape=self._stiffness.getSize())
        load = stiffness @ self._unit_strains
        sensitivity = -self._back_substitute(self._reduction.T @ load)
        tangent = load.T @ (self._unit_strains + self._reduction @ sensitivity) / self._volume
        return stress, tangent


def _energy(strain: Any, phase: PhaseParameters) -> Any:
    """Return the energy density of a phase in UFL; the deviator is the three-dimensional one."""
    trace = ufl.tr(strain)
    squared = ufl.inner(strain, strain) - trace**2 / 3.0
    volumetric = 0.5 * phase["K"] * trace**2
    if phase["law"] == "elastic":
        return volumetric + phase["G"] * squared
    if phase["law"] != "saturating":
        raise ValueError(f"{phase['law']!r} given, expected elastic or saturating")
    norm = ufl.sqrt(squared + 1e-30)  # the derivative of the root at zero strain
    return volumetric + phase["alpha1"] * (norm - phase["alpha2"] * ufl.ln(1.0 + norm / phase["alpha2"]))


def _periodic_reduction(points: Array, lower: Array, upper: Array) -> sp.csr_array:
    """Return T: all displacement components from the free ones; images share theirs, one corner's are zero.

    Nodes whose coordinates agree modulo the edges of the box are images of each other.
    """
    dim = points.shape[1]
    resolution = 10**6
    lattice = np.floor((points - lower) / (upper - lower) * resolution + 0.2347).astype(np.int64) % resolution
    _, group = np.unique(lattice, axis=0, return_inverse=True)
    pinned = group[np.linalg.norm(points - lower, axis=1).argmin()]
    free = np.where(group > pinned, group - 1, group)
    n_groups = int(group.max())
    nodes = np.flatnonzero(group != pinned)
    rows = (nodes[:, None] * dim + np.arange(dim)).ravel()
    columns = (free[nodes][:, None] * dim + np.arange(dim)).ravel()
    shape = (len(points) * dim, n_groups * dim)
    return sp.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()
