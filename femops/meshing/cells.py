"""Supported cell kinds: reference nodes in VTK order, nodal bases in the same order and quadrature, from basix.

Reference cells are those of basix: the unit triangle and tetrahedron, the unit square and cube.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import basix
import numpy as np
from pydantic import AfterValidator

from femops.notation import Array

_TRIANGLE = [(0, 0), (1, 0), (0, 1)]
_SQUARE = [(0, 0), (1, 0), (1, 1), (0, 1)]
_TETRAHEDRON = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
_CUBE = [(x, y, z) for z in (0, 1) for x, y in _SQUARE]

_TRIANGLE_EDGES = [(0, 1), (1, 2), (2, 0)]
_SQUARE_EDGES = [(0, 1), (1, 2), (2, 3), (3, 0)]
_TETRAHEDRON_EDGES = [(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)]
_CUBE_EDGES = [*_SQUARE_EDGES, (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]
_CUBE_FACES = [(0, 3, 7, 4), (1, 2, 6, 5), (0, 1, 5, 4), (3, 2, 6, 7), (0, 1, 2, 3), (4, 5, 6, 7)]


@dataclass(frozen=True)
class CellKind:
    """A cell shape with its nodes and polynomial degree.

    Attributes:
        name: The name in meshio, for example `triangle6`.
        shape: The name in basix, for example `triangle`.
        degree: Polynomial degree of the geometry.
        nodes: Reference coordinates in VTK order. Shape (n_nodes, dim).
        vtk: VTK cell type number.
        facet: Name of the cell kind of its facets.
        quadrature_degree: Polynomial degree of the default quadrature, chosen for an energy density.
        serendipity: True for cells without interior nodes that are not full tensor products.
    """

    name: str
    shape: str
    degree: int
    nodes: Array
    vtk: int
    facet: str
    quadrature_degree: int
    serendipity: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name, as basix elements cannot be pickled."""
        return cell_kind, (self.name,)

    @property
    def dim(self) -> int:
        """Dimension of the cell."""
        return int(self.nodes.shape[1])

    @property
    def n_nodes(self) -> int:
        """Number of nodes of the cell."""
        return len(self.nodes)

    @property
    def basix_cell(self) -> basix.CellType:
        """The reference cell in basix."""
        return basix.CellType[self.shape]

    @cached_property
    def _element(self) -> basix.finite_element.FiniteElement:
        family = basix.ElementFamily.serendipity if self.serendipity else basix.ElementFamily.P
        if self.serendipity:
            return basix.create_element(
                family, self.basix_cell, self.degree, basix.LagrangeVariant.legendre, basix.DPCVariant.legendre
            )
        return basix.create_element(family, self.basix_cell, self.degree, basix.LagrangeVariant.equispaced)

    def tabulate(self, points: Array) -> tuple[Array, Array]:
        """Return the nodal basis and its reference gradients at reference points.

        The basis of the polynomial space is made nodal by inverting its Vandermonde matrix at `nodes`. This puts
        Lagrange bases in the order of the nodes and gives serendipity spaces a nodal basis.

        Args:
            points: Reference coordinates. Shape (n_points, dim).

        Returns:
            Values, shape (n_points, n_nodes), and gradients, shape (n_points, n_nodes, dim).
        """
        vandermonde = self._element.tabulate(0, self.nodes)[0, :, :, 0]
        table = self._element.tabulate(1, points)[..., 0] @ np.linalg.inv(vandermonde)
        return table[0], np.moveaxis(table[1:], 0, -1)

    def quadrature(self, degree: int | None = None) -> tuple[Array, Array]:
        """Return reference points (n_points, dim) and weights (n_points,) exact to `degree` (default: the cell's)."""
        return basix.make_quadrature(self.basix_cell, self.quadrature_degree if degree is None else degree)

    @property
    def lagrange_permutation(self) -> list[int]:
        """VTK position of each node of the equispaced basix Lagrange element."""
        distance = np.abs(self._element.points[:, None, :] - self.nodes[None, :, :]).max(-1)
        return [int(i) for i in distance.argmin(1)]


def _with_middles(corners: Sequence[tuple[int, ...]], *groups: Sequence[tuple[int, ...]]) -> Array:
    """Return the corners followed by the centre of each group of corners."""
    points = np.array(corners, dtype=np.float64)
    centres = [points[list(group)].mean(0) for several in groups for group in several]
    return np.vstack([points, *centres]) if centres else points


_CENTRE2 = [(0, 1, 2, 3)]
_CENTRE3 = [tuple(range(8))]

CELLS: dict[str, CellKind] = {
    kind.name: kind
    for kind in (
        CellKind("line", "interval", 1, np.array([[0.0], [1.0]]), 3, "vertex", 1),
        CellKind("line3", "interval", 2, np.array([[0.0], [1.0], [0.5]]), 21, "vertex", 3),
        CellKind("triangle", "triangle", 1, _with_middles(_TRIANGLE), 5, "line", 1),
        CellKind("triangle6", "triangle", 2, _with_middles(_TRIANGLE, _TRIANGLE_EDGES), 22, "line3", 2),
        CellKind("quad", "quadrilateral", 1, _with_middles(_SQUARE), 9, "line", 2),
        CellKind("quad8", "quadrilateral", 2, _with_middles(_SQUARE, _SQUARE_EDGES), 23, "line3", 4, True),
        CellKind("quad9", "quadrilateral", 2, _with_middles(_SQUARE, _SQUARE_EDGES, _CENTRE2), 28, "line3", 4),
        CellKind("tetra", "tetrahedron", 1, _with_middles(_TETRAHEDRON), 10, "triangle", 1),
        CellKind("tetra10", "tetrahedron", 2, _with_middles(_TETRAHEDRON, _TETRAHEDRON_EDGES), 24, "triangle6", 2),
        CellKind("hexahedron", "hexahedron", 1, _with_middles(_CUBE), 12, "quad", 2),
        CellKind("hexahedron20", "hexahedron", 2, _with_middles(_CUBE, _CUBE_EDGES), 25, "quad8", 4, True),
        CellKind(
            "hexahedron27", "hexahedron", 2, _with_middles(_CUBE, _CUBE_EDGES, _CUBE_FACES, _CENTRE3), 29, "quad9", 4
        ),
    )
}


def cell_kind(name: str) -> CellKind:
    """Return a cell kind by its name in meshio."""
    return CELLS[name]


_LONG_NAMES = {"quadrilateral": "quad", "tetrahedron": "tetra"}


def _short(name: str) -> str:
    return _LONG_NAMES.get(name, name)


_Planar = Literal["triangle", "triangle6", "quad", "quadrilateral", "quad8", "quad9"]
_Simplex = Literal["tetra", "tetrahedron", "tetra10"]
_Brick = Literal["hexahedron", "hexahedron20", "hexahedron27"]
_SHORT = AfterValidator(_short)

PlanarCell = Annotated[_Planar, _SHORT]
"""Kind of a 2D cell in a case file, by its name in meshio or its long name."""
SimplexCell = Annotated[_Simplex, _SHORT]
"""Kind of a tetrahedron in a case file."""
AnyCell = Annotated[Literal[_Planar, _Simplex, _Brick], _SHORT]
"""Kind of a 2D or 3D cell in a case file."""
