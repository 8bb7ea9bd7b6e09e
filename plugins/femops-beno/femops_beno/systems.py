"""Discrete elliptic problems on varying domains: what the operator network maps to a solution."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import scipy.sparse.linalg as spl

from femops.meshing import TaggedMesh
from femops.notation import Array
from femops_beno.contour import Contours
from femops_beno.surface import Surfaces


@dataclass(frozen=True)
class System:
    """A linear elliptic problem, discretised: K u = f at the free values, u = g at the prescribed ones.

    Values are numbered node by node: component c of node i is value i · n_components + c. The solution is the sum of
    two: with the source and zero boundary data, and with the boundary data and zero source. Source, flux, lifting and
    solution have the shape (n_values,), or (n_values, k) for k problems that differ in these data only.

    Attributes:
        mesh: Mesh of the domain.
        prescribed: Mask of the prescribed values (Dirichlet). Shape (n_values,).
        stiffness: K without boundary conditions. Shape (n_values, n_values).
        source: Load of the source, ∫ f φ.
        flux: Load of the boundary flux, ∫ h φ over the Neumann boundary.
        lifting: g at the prescribed values, and any continuation at the others.
        features: Properties of the cells, such as a logarithmic coefficient. Shape (n_cells, n_features).
        solution: The finite-element solution, if known.
    """

    mesh: TaggedMesh
    prescribed: npt.NDArray[np.bool_]
    stiffness: sp.csr_array
    source: Array
    flux: Array
    lifting: Array
    features: Array
    solution: Array | None = None

    @property
    def n_components(self) -> int:
        """Components of the solution."""
        return len(self.source) // len(self.mesh.points)

    @cached_property
    def contours(self) -> Contours:
        """The boundary of a plane domain."""
        return Contours.of(self.mesh)

    @cached_property
    def boundary(self) -> Contours | Surfaces:
        """The boundary of the domain."""
        return self.contours if self.mesh.dim == 2 else Surfaces.of(self.mesh)

    @cached_property
    def boundary_load(self) -> Array:
        """Load of the boundary data: flux − K g, zero at the prescribed values."""
        return self._at_free(self.flux - self.stiffness @ self.lifting)

    @cached_property
    def source_load(self) -> Array:
        """Load of the source, zero at the prescribed values."""
        return self._at_free(self.source)

    def solved(self) -> "System":
        """Return the problem with its finite-element solution, by sparse LU factorisation."""
        free = np.flatnonzero(~self.prescribed)
        load = (self.source_load + self.boundary_load)[free]
        solution = self.lifting.copy()
        solution[free] += spl.splu(sp.csc_array(self.stiffness[free][:, free])).solve(load)
        return replace(self, solution=solution)

    def scaled(self, factor: float) -> "System":
        """Return the problem with its data, and so its solution, multiplied by a factor."""
        names = ("source", "flux", "lifting")
        solution = None if self.solution is None else factor * self.solution
        return replace(self, solution=solution, **{name: factor * getattr(self, name) for name in names})

    def _at_free(self, values: Array) -> Array:
        """Return values with zeros at the prescribed ones."""
        return np.asarray((values.T * ~self.prescribed).T)
