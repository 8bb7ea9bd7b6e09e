"""Quadrature points of the body, and transfer of strain, stress and tangent between forms and arrays."""

from collections.abc import Callable
from typing import Any

import basix.ufl
import numpy as np
import ufl
from dolfinx import fem

from femops import notation
from femops.macro.mesh import MacroMesh
from femops.notation import Array


def default_degree(mesh: MacroMesh, order: int) -> int:
    """Return the quadrature degree that integrates the stiffness of an affine cell exactly.

    Simplices of order p need 2(p − 1) but at least one point; tensor-product cells 2p.
    """
    simplex = mesh.kind.shape in ("triangle", "tetrahedron")
    return max(2 * (order - 1), 1) if simplex else 2 * order


class Quadrature:
    """Quadrature points of the owned cells of a rank; point = cell · n_points_of_cell + local point.

    Args:
        mesh: The macroscale mesh.
        displacement: The displacement field.
        degree: Quadrature degree.

    Attributes:
        stress: Stress in the weak form.
        tangent: Tangent in the weak form.
        strain: Returns the strain of the displacement at all points, see `strain_of`.
    """

    def __init__(self, mesh: MacroMesh, displacement: fem.Function, degree: int) -> None:
        self.mesh = mesh.mesh
        self.dim = mesh.mesh.geometry.dim
        self.degree = degree
        self.cells = np.arange(mesh.n_cells, dtype=np.int32)
        n_s = notation.n_strain(self.dim)
        cell = mesh.mesh.basix_cell()
        stress_element = basix.ufl.quadrature_element(cell, value_shape=(n_s,), degree=degree)
        tangent_element = basix.ufl.quadrature_element(cell, value_shape=(n_s, n_s), degree=degree)
        self.stress = fem.Function(fem.functionspace(mesh.mesh, stress_element), name="stress")
        self.tangent = fem.Function(fem.functionspace(mesh.mesh, tangent_element), name="tangent")
        self._reference = stress_element.custom_quadrature()[0]
        self._reference_weights = stress_element.custom_quadrature()[1]
        self.per_cell = len(self._reference)
        for function in (self.stress, self.tangent):
            if not np.array_equal(function.function_space.dofmap.list[self.cells].ravel(), np.arange(self.n_points)):
                raise ValueError("the quadrature element does not hold one value per point, in the order of the points")
        self.strain = self.strain_of(displacement)
        self.measure = ufl.Measure(
            "dx", domain=mesh.mesh, metadata={"quadrature_degree": degree, "quadrature_scheme": "default"}
        )

    @property
    def n_points(self) -> int:
        """Number of quadrature points of this rank."""
        return len(self.cells) * self.per_cell

    def points_of(self, cells: Any) -> Any:
        """Return the quadrature points of the given cells. Shape (n_cells · n_points_of_cell,)."""
        return (np.asarray(cells)[:, None] * self.per_cell + np.arange(self.per_cell)).ravel()

    def stress_values(self) -> Array:
        """Return the stress of the weak form at all points, to be written into, Mandel [stress]. Shape (n_qp, n_s)."""
        return self.stress.x.array.reshape(-1, self.stress.function_space.dofmap.bs)[: self.n_points]

    def tangent_values(self) -> Array:
        """Return the tangent of the weak form, as `stress_values` [stress]. Shape (n_qp, n_s, n_s)."""
        n_s = notation.n_strain(self.dim)
        return self.tangent.x.array.reshape(-1, n_s, n_s)[: self.n_points]

    def packed(self, function: fem.Function) -> dict[tuple[fem.IntegralType, int], Array]:
        """Return stress or tangent as the coefficients of a form without others, which DOLFINx would copy instead."""
        values = function.x.array.reshape(-1, self.per_cell * function.function_space.dofmap.bs)
        return {(fem.IntegralType.cell, 0): values[: len(self.cells)]}

    def strain_of(self, function: fem.Function) -> Callable[[], Array]:
        """Return a function that gives the strain of a displacement at all points, Mandel [-]. Shape (n_qp, n_s)."""
        expression = fem.Expression(notation.ufl_strain(function, self.dim), self._reference)
        shape = self.n_points, notation.n_strain(self.dim)
        return lambda: np.asarray(expression.eval(self.mesh, self.cells).reshape(shape))

    def coordinates(self) -> Array:
        """Return the coordinates of all points [length]. Shape (n_qp, dim)."""
        expression = fem.Expression(ufl.SpatialCoordinate(self.mesh), self._reference)
        return expression.eval(self.mesh, self.cells).reshape(self.n_points, self.dim)

    def weights(self) -> Array:
        """Return the quadrature weights of all points [volume]. Shape (n_qp,)."""
        determinant = fem.Expression(abs(ufl.JacobianDeterminant(self.mesh)), self._reference)
        values = determinant.eval(self.mesh, self.cells).reshape(len(self.cells), self.per_cell)
        return (values * self._reference_weights).ravel()
