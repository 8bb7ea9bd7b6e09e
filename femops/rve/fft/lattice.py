"""Periodic meshes that repeat one grid cell, and the numbering of their displacement dofs on the grid.

Every grid cell contains the same nodes (one of first-order meshes, several kinds of second-order ones) and the same
finite elements (one quadrilateral or hexahedron, 2 triangles, 6 tetrahedra), apart from those missing in pores.
Equations of a homogeneous material that fills the grid are then block-circulant.

A lattice vector contains the displacement at all nodes of the grid, images excluded and pores included: shape
(n_kinds, dim, *grid), where grid has the axes in reverse order, so that x runs fastest, flattened to (n,).
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from femops.meshing import TaggedMesh
from femops.meshing.building import measures
from femops.notation import Array, Indices
from femops.rve.boundary import FreeDofs

_TOLERANCE = 1e-6
_MOST_SHAPES = 8
_LARGEST_NUMBER = 2**31


@dataclass(frozen=True)
class Lattice:
    """A mesh that repeats one grid cell.

    Attributes:
        grid: Number of grid cells along the axes in reverse order, (n_y, n_x) or (n_z, n_y, n_x).
        n_kinds: Number of nodes per grid cell.
        site: Position in a lattice vector of the first component of each mesh node, the next one being `n_cells`
            further. Shape (n_nodes,).
        shape_of_cell: Which of the elements of a grid cell each element of the mesh is. Shape (n_elements,).
        examples: An element of each shape. Shape (n_shapes,).
        kinds: Kind of each node of each shape. Shape (n_shapes, n_nodes_of_element).
        offsets: Grid cell of each node relative to that of its element, axes as in `grid`. Shape (n_shapes,
            n_nodes_of_element, dim).
    """

    grid: tuple[int, ...]
    n_kinds: int
    site: npt.NDArray[np.int32]
    shape_of_cell: npt.NDArray[np.int32]
    examples: Indices
    kinds: Indices
    offsets: Indices

    @property
    def dim(self) -> int:
        """Dimension of space."""
        return len(self.grid)

    @property
    def n_cells(self) -> int:
        """Number of grid cells."""
        return int(np.prod(self.grid))

    @property
    def solid_part(self) -> float:
        """Number of elements relative to that of a grid without pores [-]."""
        return len(self.shape_of_cell) / (self.n_cells * len(self.examples))

    @property
    def size(self) -> int:
        """Length n of a lattice vector."""
        return self.n_kinds * self.dim * self.n_cells


def find_lattice(mesh: TaggedMesh) -> Lattice | None:
    """Return the lattice of a mesh of copies of one grid cell in its bounding box; None for another mesh.

    Elements may be missing, as in pores, if those of one grid cell together fill it.
    """
    lower, upper = mesh.bounds
    extent, degree = upper - lower, mesh.kind.degree
    lines = np.array([_n_intervals(mesh.points[:, axis], extent[axis]) for axis in range(mesh.dim)])
    if (lines % degree).any() or mesh.dim * np.prod(lines) >= _LARGEST_NUMBER:
        return None
    spacing = extent / lines
    place = (mesh.points - lower) / spacing
    fine = np.rint(place).astype(np.int32)
    if np.abs(place - fine).max() > _TOLERANCE or not _all_different(fine, lines + 1):
        return None
    elements = _elements(mesh.cells, fine, lines // degree, degree)
    if elements is None:
        return None
    shape_of_cell, examples = elements
    filled = measures(replace(mesh, cells=mesh.cells[examples])).sum()
    if abs(filled / np.prod(spacing * degree) - 1.0) > _TOLERANCE:
        return None
    site, kind, n_kinds = _sites(fine % lines, lines, degree)
    grid = tuple((lines // degree)[::-1].tolist())
    of = mesh.cells[examples]
    relative = fine[of] - fine[of].min(axis=1, keepdims=True)
    offsets = (relative // degree)[..., ::-1].astype(np.int64)
    return Lattice(grid, n_kinds, site, shape_of_cell, examples, kind[of], offsets)


class FreeOnLattice:
    """Translation between the free dofs of the RVE solver and lattice vectors, which differ by a rigid translation.

    Args:
        lattice: The lattice.
        free: Free dofs under periodic boundary conditions; those of one node are fixed.
    """

    def __init__(self, lattice: Lattice, free: FreeDofs) -> None:
        dim, n = lattice.dim, lattice.n_cells
        place = (lattice.site[:, None] + n * np.arange(dim)).ravel()
        self._lattice, self._place = lattice, np.empty(free.count, dtype=np.int64)
        self._place[free.of[free.of >= 0]] = place[free.of >= 0]
        self._fixed = np.unique(place[free.of < 0])

    def spread(self, free: Array) -> Array:
        """Return the lattice vectors, shape (..., n), of free dofs (..., n_free)."""
        vector = np.zeros((*free.shape[:-1], self._lattice.size))
        vector[..., self._place] = free
        return vector

    def gather(self, vector: Array) -> Array:
        """Return the free dofs, shape (..., n_free), of lattice vectors (..., n)."""
        lattice = self._lattice
        split = vector.reshape(*vector.shape[:-1], lattice.n_kinds, lattice.dim, lattice.n_cells)
        moved = split - vector[..., self._fixed][..., None, :, None]
        return np.asarray(moved.reshape(vector.shape)[..., self._place])


def _n_intervals(coordinates: Array, extent: float) -> int:
    """Return the number of intervals between different coordinates."""
    return int((np.diff(np.unique(coordinates)) > _TOLERANCE * extent).sum())


def _all_different(numbers: Indices, shape: Array) -> bool:
    """Return whether no two nodes have the same place on the grid."""
    taken = np.zeros(shape, dtype=bool)
    taken[tuple(numbers.T)] = True
    return int(taken.sum()) == len(numbers)


def _sites(place: Indices, lines: Indices, degree: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], int]:
    """Return site and kind of each node and the number of kinds."""
    dim, counts = len(lines), lines // degree
    code = np.ravel_multi_index(tuple((place % degree).T), (degree,) * dim)
    codes, kind = np.unique(code, return_inverse=True)
    cell = np.ravel_multi_index(tuple((place // degree).T), tuple(counts), order="F")
    n = int(np.prod(counts))
    return (kind * (dim * n) + cell).astype(np.int32), kind.astype(np.int64), len(codes)


def _elements(
    cells: Indices, fine: Indices, counts: Indices, degree: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]] | None:
    """Return the shape of each element and an example of each, if no grid cell has two elements of one shape."""
    dim, code = len(counts), np.zeros(len(cells), dtype=np.int64)
    weight = np.random.default_rng(0).integers(1, 2**40, (cells.shape[1], dim))  # a hash of the nodes' places
    origin, first = np.empty((len(cells), dim), dtype=np.int32), []
    for axis in range(dim):
        of_nodes = fine[:, axis][cells]
        origin[:, axis] = of_nodes.min(axis=1)
        of_nodes -= origin[:, axis, None]
        code += of_nodes @ weight[:, axis]
        first.append(of_nodes)
    _, examples, shape = np.unique(code, return_index=True, return_inverse=True)
    if len(examples) > _MOST_SHAPES or (origin % degree).any():
        return None
    if any(not np.array_equal(of_nodes, of_nodes[examples[shape]]) for of_nodes in first):
        return None
    n, cell = int(np.prod(counts)), np.ravel_multi_index(tuple((origin // degree).T), tuple(counts))
    if np.bincount(shape * n + cell).max() > 1:
        return None
    return shape.astype(np.int32), examples
