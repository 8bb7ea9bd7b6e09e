"""Uniform periodic grids and their coarse grids, and a multigrid preconditioner for RVEs on such a grid."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array, Indices
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.stiffness import NodePairs, StiffnessBatch, repeated

_MIN_CELLS = 4
_MAX_COARSE_DOFS = 1200
_TOLERANCE = 1e-6
_POWER_STEPS = 10
_SAFETY = 1.1


@dataclass(frozen=True)
class PeriodicGrid:
    """A uniform grid of rectangles, cuboids, or their Kuhn simplices.

    Attributes:
        counts: Number of cells, equal to that of nodes, along each axis. Shape (dim,).
        index: Grid index of each node along each axis. Shape (n_nodes, dim).
        simplices: Whether the cells are simplices.
        full: Whether no cell is missing.
    """

    counts: tuple[int, ...]
    index: Indices
    simplices: bool
    full: bool = True

    @property
    def number(self) -> Indices:
        """Lexicographic number of each node, last axis fastest. Shape (n_nodes,)."""
        return np.asarray(np.ravel_multi_index(tuple(self.index.T), self.counts))

    @property
    def coarsenable(self) -> bool:
        """Whether the grid can be coarsened: an even number of cells along each axis, of which at least four remain."""
        return all(count % 2 == 0 and count // 2 >= _MIN_CELLS for count in self.counts)

    def coarsened(self) -> "PeriodicGrid":
        """Return the grid of every other node along each axis, numbered with the last axis fastest."""
        counts = tuple(count // 2 for count in self.counts)
        return PeriodicGrid(counts, np.stack(np.unravel_index(np.arange(np.prod(counts)), counts), 1), self.simplices)

    def prolongation(self) -> sp.csr_array:
        """Return the interpolation from `coarsened`. Shape (n_nodes, n_nodes of the coarse grid)."""
        coarse = tuple(count // 2 for count in self.counts)
        low, odd = self.index // 2, self.index % 2
        size = (len(low), int(np.prod(coarse)))
        total = sp.csr_array(size)
        # A new node is the midpoint of an edge, face or body: average all its corners or, for simplices, a diagonal.
        for corner in np.array(list(np.ndindex(*(2,) * len(coarse)))):
            step = odd * corner
            if self.simplices:
                weight = 0.5 * (odd == corner).all(1) + 0.5 * (not corner.any())
            else:
                weight = np.full(len(low), 0.5 ** len(coarse))
            column = np.ravel_multi_index(tuple(((low + step) % coarse).T), coarse)
            total = total + sp.csr_array((weight, (np.arange(size[0]), column)), shape=size)
        total.eliminate_zeros()
        total.sort_indices()
        return total


def periodic_grid(space: FluctuationSpace) -> PeriodicGrid | None:
    """Return the uniform grid of a periodic space; None for others, or if its mesh is not a uniform grid."""
    mesh = space.discretisation.mesh
    if space.boundary != "periodic" or mesh.kind.degree > 1:
        return None
    lower, upper = mesh.bounds
    steps = [_spacing(mesh.points[:, axis], upper[axis] - lower[axis]) for axis in range(mesh.dim)]
    place = (mesh.points - lower) / steps
    counts = np.rint((upper - lower) / steps).astype(np.int64)
    rounded = np.rint(place).astype(np.int64)
    simplices = mesh.kind.n_nodes == mesh.dim + 1
    if np.abs(place - rounded).max() > _TOLERANCE or np.prod(counts) != space.n_nodes:
        return None
    if not _are_grid_cells(rounded[mesh.cells], simplices):
        return None
    of_node = np.empty((space.n_nodes, mesh.dim), dtype=np.int64)
    of_node[space.node_of] = rounded % counts
    per_place = math.factorial(mesh.dim) if simplices else 1
    full = len(mesh.cells) == space.n_nodes * per_place
    return PeriodicGrid(tuple(int(count) for count in counts), of_node, simplices, full)


def grid_prolongations(space: FluctuationSpace) -> list[sp.csr_array]:
    """Return the prolongations between a space and successively coarsened grids, fine to coarse.

    Each interpolates the coarse finite-element functions exactly and acts on every component alike.

    Args:
        space: The finest space.

    Returns:
        Shapes (n_nodes of a level, n_nodes of the next); empty if the space has no uniform grid that can be coarsened.
    """
    grid, found = periodic_grid(space), []
    while grid is not None and grid.coarsenable:
        found.append(grid.prolongation())
        grid = grid.coarsened()
    return found


class Multigrid:
    """V-cycle for the stiffness of a batch of RVEs: a symmetric, positive semidefinite approximate inverse.

    Galerkin coarse operators; Jacobi-preconditioned Chebyshev smoothers of the fourth kind (J. Lottes, Optimal
    polynomial smoothers for multigrid V-cycles, arXiv 2202.08830), which need the largest eigenvalue only; a dense
    pseudo-inverse on the coarsest level.

    Args:
        stiffness: Stiffness on the finest level.
        prolongations: Prolongations from `grid_prolongations`.
        degree: Degree of the smoother, before and after the coarse-grid correction.
    """

    def __init__(self, stiffness: StiffnessBatch, prolongations: list[sp.csr_array], degree: int = 3) -> None:
        self._degree = degree
        self._levels = []
        for prolongation in prolongations:
            up = repeated(prolongation, len(stiffness), stiffness.values)
            down = repeated(prolongation.T.tocsr(), len(stiffness), stiffness.values)
            self._levels.append(_Level(stiffness, _scaled_jacobi(stiffness), up, down))
            stiffness = galerkin(stiffness, prolongation)
        self._inverse = _pseudo_inverse(stiffness)

    @staticmethod
    def applies(prolongations: list[sp.csr_array], dim: int) -> bool:
        """Return whether there are coarse grids and the coarsest is small enough for a dense inverse."""
        return bool(prolongations) and int(prolongations[-1].shape[1]) * dim <= _MAX_COARSE_DOFS

    def __call__(self, force: Tensor) -> Tensor:
        """Return an approximation of K⁻¹ f for nodal forces (N, n_nodes, dim, k) with zero resultant."""
        return self._cycle(0, force)

    def _cycle(self, number: int, force: Tensor) -> Tensor:
        if number == len(self._levels):
            return (self._inverse @ force.flatten(1, 2)).reshape(force.shape)
        level = self._levels[number]
        found, residual = self._smooth(level, torch.zeros_like(force), force)
        coarse = self._cycle(number + 1, _transfer(level.down, residual))
        step = _transfer(level.up, coarse)
        return self._smooth(level, found + step, residual - level.stiffness @ step, last=True)[0]

    def _smooth(self, level: "_Level", found: Tensor, residual: Tensor, last: bool = False) -> tuple[Tensor, Tensor]:
        """Return smoothed fields and their residual, which is not updated at the end if `last`."""
        step = torch.zeros_like(found)
        for i in range(1, self._degree + 1):
            step = (2 * i - 3) / (2 * i + 1) * step + (8 * i - 4) / (2 * i + 1) * level.jacobi * residual
            found = found + step
            if not last or i < self._degree:
                residual = residual - level.stiffness @ step
        return found, residual


@dataclass(frozen=True)
class _Level:
    """A level of the V-cycle.

    Attributes:
        stiffness: Stiffness of the level.
        jacobi: Inverse diagonal over the largest eigenvalue of the Jacobi-scaled stiffness. Shape (N, n_nodes, dim, 1).
        up: Block-diagonal prolongation from the next level, N blocks.
        down: Transpose of `up`.
    """

    stiffness: StiffnessBatch
    jacobi: Tensor
    up: Tensor
    down: Tensor


def galerkin(stiffness: StiffnessBatch, prolongation: sp.csr_array) -> StiffnessBatch:
    """Return the Galerkin coarse stiffness Pᵀ K P.

    Its entries are fixed linear combinations of the fine entries, the same for all RVEs and pairs of components.
    """
    pairs = stiffness.pairs
    n_coarse = int(prolongation.shape[1])
    pair, left, weight = _row_entries(prolongation, np.arange(len(pairs.second)), pairs.rows)
    position, right, factor = _row_entries(prolongation, np.arange(len(pair)), pairs.second[pair])
    keys, target = np.unique(left[position] * n_coarse + right, return_inverse=True)
    size = (len(keys), len(pairs.second))
    matrix = sp.coo_array((weight[position] * factor, (target, pair[position])), shape=size).tocsr()
    coarse, values = NodePairs.of_keys(keys, n_coarse, pairs.dim), stiffness.values
    entries = torch.as_tensor(pairs.entries, device=values.device)
    blocks = values.index_select(1, entries.ravel()).reshape(-1, *entries.shape).transpose(0, 1)
    found = (repeated(matrix, 1, values) @ blocks.flatten(1)).reshape(-1, *blocks.shape[1:])
    order = torch.as_tensor(np.argsort(coarse.entries, axis=None), device=values.device)
    return StiffnessBatch(coarse, found.transpose(0, 1).flatten(1).index_select(1, order))


def _row_entries(matrix: sp.csr_array, owners: Indices, rows: Indices) -> tuple[Indices, Indices, Array]:
    """Return the entries of given rows: owner of the row, column and value of each entry."""
    count = np.diff(matrix.indptr)[rows]
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    entry = np.repeat(matrix.indptr[rows], count) + offset
    return np.repeat(owners, count), matrix.indices[entry].astype(np.int64), matrix.data[entry]


def _transfer(matrix: Tensor, fields: Tensor) -> Tensor:
    """Apply a transfer between two levels to fields (N, n_nodes, dim, k)."""
    n, n_nodes, dim, k = fields.shape
    return (matrix @ fields.reshape(n * n_nodes, dim * k)).reshape(n, len(matrix) // n, dim, k)


def _scaled_jacobi(stiffness: StiffnessBatch) -> Tensor:
    """Return the inverse diagonal D⁻¹ over the largest eigenvalue of D⁻¹ K, a power-iteration estimate with margin."""
    inverse = 1.0 / stiffness.diagonal[..., None]
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(inverse.shape[1:], generator=generator, dtype=inverse.dtype).to(inverse.device)
    vector = vector.expand_as(inverse)
    for _ in range(_POWER_STEPS):
        vector = vector / vector.flatten(1).norm(dim=1)[:, None, None, None]
        vector = inverse * (stiffness @ vector)
    largest = _SAFETY * vector.flatten(1).norm(dim=1)
    return inverse / largest[:, None, None, None]


def _pseudo_inverse(stiffness: StiffnessBatch) -> Tensor:
    """Return the inverse on the complement of translations. Shape (N, n_dofs, n_dofs)."""
    full, n, dim = stiffness.dense(), stiffness.pairs.n_nodes, stiffness.pairs.dim
    translations = torch.eye(dim, dtype=full.dtype, device=full.device).repeat(n, 1) / n**0.5
    onto = translations @ translations.T
    size = full.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return torch.linalg.inv(full + size * onto) - onto / size


def _spacing(coordinates: Array, length: float) -> float:
    """Return the spacing of equidistant coordinates."""
    lines = 1 + int((np.diff(np.sort(coordinates)) > _TOLERANCE * length).sum())
    return length / max(lines - 1, 1)


def _are_grid_cells(places: Indices, simplices: bool) -> bool:
    """Return whether cells with nodes at these grid indices (n_cells, n_nodes_of_cell, dim) are grid cells."""
    offsets = places - places.min(axis=1, keepdims=True)
    if offsets.max() > 1:
        return False
    # The nodes of a Kuhn simplex form a path along the axes from one corner of the cell to the opposite one.
    return not simplices or bool((np.sort(offsets.sum(2), axis=1) == np.arange(offsets.shape[2] + 1)).all())
