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


@dataclass(frozen=True)
class System:
    """A linear elliptic problem, discretised: K u = f at the free values, u = g at the prescribed ones.

    Values are numbered node by node: component c of node i is value i · n_components + c. The solution is the sum of
    two: with the source and zero boundary data, and with the boundary data and zero source.

    Attributes:
        mesh: Mesh of the domain.
        prescribed: Mask of the prescribed values (Dirichlet). Shape (n_values,).
        stiffness: K without boundary conditions. Shape (n_values, n_values).
        source: Load of the source, ∫ f φ. Shape (n_values,).
        flux: Load of the boundary flux, ∫ h φ over the Neumann boundary. Shape (n_values,).
        lifting: g at the prescribed values, 0 elsewhere. Shape (n_values,).
        features: Properties of the cells, such as a logarithmic coefficient. Shape (n_cells, n_features).
        solution: The finite-element solution, if known. Shape (n_values,).
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
        """The boundary of the domain."""
        return Contours.of(self.mesh)

    @cached_property
    def boundary_load(self) -> Array:
        """Load of the boundary data: flux − K g, zero at the prescribed values. Shape (n_values,)."""
        return np.where(self.prescribed, 0.0, self.flux - self.stiffness @ self.lifting)

    @cached_property
    def source_load(self) -> Array:
        """Load of the source, zero at the prescribed values. Shape (n_values,)."""
        return np.where(self.prescribed, 0.0, self.source)

    def solved(self) -> "System":
        """Return the problem with its finite-element solution, by sparse LU factorisation."""
        free = np.flatnonzero(~self.prescribed)
        load = (self.source_load + self.boundary_load)[free]
        solution = self.lifting.copy()
        solution[free] = spl.spsolve(sp.csc_array(self.stiffness[free][:, free]), load)
        return replace(self, solution=solution)

    def scaled(self, factor: float) -> "System":
        """Return the problem with its data, and so its solution, multiplied by a factor."""
        names = ("source", "flux", "lifting")
        solution = None if self.solution is None else factor * self.solution
        return replace(self, solution=solution, **{name: factor * getattr(self, name) for name in names})
