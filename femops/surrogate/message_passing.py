"""Message passing on finite-element graphs, on one level or along a multigrid cycle.

Features are arrays (N, n_nodes, width) at the nodes, which are finite-element functions, and (N, n_cells, width) at the
cells, for N samples on one graph. The weights are independent of the graph and apply to any mesh of their dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.surrogate.fields.stiffness import repeated
from femops.surrogate.graph import FEGraph, Hierarchy, Level

_SMALL_START = 0.3
_NO_VOLUME = 1e-6  # relative to the largest nodal volume


class _Multiplied(torch.autograd.Function):
    """Product of a sparse and a dense matrix, with the transpose stored for the derivative."""

    @staticmethod
    def forward(x: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        """Return matrix · x."""
        return matrix @ x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Store the matrices."""
        ctx.matrices = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Apply the transpose, itself differentiable."""
        matrix, transpose = ctx.matrices
        return _Multiplied.apply(gradients[0].contiguous(), transpose, matrix), None, None


class SparseMap(torch.nn.Module):
    """A sparse linear map of features, the same for all samples.

    A batch is one product with a block-diagonal matrix: several times faster than gathering rows, and deterministic.

    Args:
        matrix: The map; rows of one output, and columns of one input, are consecutive. Shape (n_out · r, n_in · s).
        r: Number of parts of the output features.
        s: Number of parts of the input features.
        transpose: The transposed map, if known.
    """

    def __init__(self, matrix: sp.csr_array, r: int = 1, s: int = 1, transpose: sp.csr_array | None = None) -> None:
        super().__init__()
        self._matrix = matrix.tocsr()
        self._transpose = sp.csr_array(matrix.T) if transpose is None else transpose
        self._r, self._s = r, s
        self._last: tuple[Any, tuple[Tensor, Tensor]] | None = None

    @classmethod
    def joined(cls, maps: Sequence["SparseMap"]) -> "SparseMap":
        """Return the block-diagonal map of several: that of the disjoint union of their graphs."""
        matrix, transpose = (
            _block_diagonal([getattr(one, name) for one in maps]) for name in ("_matrix", "_transpose")
        )
        return cls(matrix, max(one._r for one in maps), max(one._s for one in maps), transpose)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, n_in, s · width) to (N, n_out, r · width)."""
        n, width = len(x), x.shape[2] // self._s
        key = n, x.dtype, x.device
        if self._last is None or self._last[0] != key:
            self._last = key, (repeated(self._matrix, n, x), repeated(self._transpose, n, x))
        y: Tensor = _Multiplied.apply(x.reshape(-1, width), *self._last[1])
        return y.view(n, -1, self._r * width)


def _block_diagonal(blocks: Sequence[sp.csr_array]) -> sp.csr_array:
    """Return a block-diagonal matrix; faster than scipy.sparse.block_diag."""
    rows, columns = (np.cumsum([0, *(one.shape[axis] for one in blocks)]) for axis in (0, 1))
    filled = np.cumsum([0, *(one.nnz for one in blocks)])
    starts = [one.indptr[:-1] + first for one, first in zip(blocks, filled, strict=False)]
    places = [one.indices + first for one, first in zip(blocks, columns, strict=False)]
    values = np.concatenate([one.data for one in blocks])
    parts = (values, np.concatenate(places), np.concatenate([*starts, filled[-1:]]))
    return sp.csr_array(parts, shape=(int(rows[-1]), int(columns[-1])))


class LevelMaps(torch.nn.Module):
    """The dimensionless operators of one level.

    Attributes:
        to_cells: Mean and mean gradients of nodal features: (N, n_nodes, w) to (N, n_cells, (1 + dim) · w).
        to_nodes: Its volume-weighted transpose: (N, n_cells, (1 + dim) · w) to (N, n_nodes, w).
        prolong: Interpolation to the nodes of the finer level. The finest level has no `prolong`, `restrict`, `pool`.
        restrict: Volume-weighted transpose of `prolong`.
        pool: Cell means of values on the finer cells.
        graph: The graph.
    """

    def __init__(self, level: Level, finer: FEGraph | None) -> None:
        super().__init__()
        self.graph = graph = level.graph
        parts = 1 + graph.dim
        seen = cell_operator(graph)
        share = sp.diags_array(np.repeat(graph.volume, parts))
        self.to_cells = SparseMap(seen, r=parts)
        self.to_nodes = SparseMap(sp.diags_array(1.0 / _positive(graph.node_volume)) @ seen.T @ share, s=parts)
        if finer is not None and level.prolongation is not None and level.pooling is not None:
            back = level.prolongation.T @ sp.diags_array(finer.node_volume)
            total: Array = np.asarray(back.sum(axis=1)).ravel()
            self.prolong = SparseMap(level.prolongation)
            self.restrict = SparseMap(sp.diags_array(1.0 / _positive(total)) @ back)
            self.pool = SparseMap(level.pooling)


def _positive(values: Array) -> Array:
    """Return volumes with zeros replaced by 1 for division; corners of quadratic cells may have zero volume."""
    return np.where(values > _NO_VOLUME * values.max(), values, 1.0)


def cell_operator(graph: FEGraph) -> sp.csr_array:
    """Return the map to mean and mean gradient over each cell, cell by cell. Shape ((1 + dim) · n_cells, n_nodes)."""
    seen = np.concatenate([graph.mean[:, None], graph.gradient], axis=1)
    rows = np.broadcast_to(np.arange(seen.shape[0] * seen.shape[1]).reshape(*seen.shape[:2], 1), seen.shape)
    columns = np.broadcast_to(graph.cells[:, None], seen.shape)
    shape = (seen.shape[0] * seen.shape[1], graph.n_nodes)
    return sp.csr_array(sp.coo_array((seen.ravel(), (rows.ravel(), columns.ravel())), shape=shape))


class HierarchyMaps(torch.nn.ModuleList):
    """The operators of all levels, finest first."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        finer = [None, *(level.graph for level in hierarchy[:-1])]
        super().__init__(LevelMaps(level, graph) for level, graph in zip(hierarchy, finer, strict=True))


@dataclass(frozen=True)
class ProcessorOptions:
    """Size of a processor.

    Attributes:
        widths: Features at the nodes and cells of each level, finest first; the last width applies to all coarser
            levels.
        layers: Layers on each level before the coarser levels, and as many after; the coarsest level has both in
            sequence. The last number applies to all coarser levels.
        linear: Whether the output is linear in the node features, with weights that depend on the cell features.
    """

    widths: Sequence[int]
    layers: Sequence[int]
    linear: bool = False

    def width(self, level: int) -> int:
        """Return the number of features on a level."""
        return self.widths[min(level, len(self.widths) - 1)]

    def depth(self, level: int) -> int:
        """Return the number of layers on a level before the coarser ones."""
        return self.layers[min(level, len(self.layers) - 1)]


@dataclass(frozen=True)
class Shape:
    """Numbers of inputs, outputs and levels of a processor.

    Attributes:
        node_features: Input features per node.
        cell_features: Input features per cell.
        outputs: Outputs per node.
        dim: Dimension of space.
        levels: Number of levels of the hierarchies; 1 is message passing on the mesh alone.
    """

    node_features: int
    cell_features: int
    outputs: int
    dim: int
    levels: int


class CellLayer(torch.nn.Module):
    """One message-passing layer between nodes and cells.

    A learned function maps the mean and mean gradient of the nodal features over a cell, and the cell features, to a
    value, a flux and an update of the cell features; value and flux are added at the nodes by the transposed operators.

    Args:
        width: Features of nodes and cells.
        dim: Dimension of space.
        linear: Whether the layer is linear in the nodal features; the cell features then do not change.
        latents: Length of the vector of each mesh that is added to its nodes by a linear map; 0 for none.
    """

    def __init__(self, width: int, dim: int, linear: bool, latents: int = 0) -> None:
        super().__init__()
        hidden = 2 * width
        self.linear = linear
        self.norm = None if linear else torch.nn.LayerNorm(width)
        self.seen = torch.nn.Linear((1 + dim) * width, hidden, bias=False)
        self.own = torch.nn.Linear(width, hidden)
        self.answer = torch.nn.Linear(hidden, (1 + dim) * width, bias=False)
        self.change = None if linear else torch.nn.Linear(hidden, width, bias=False)
        self.told = torch.nn.Linear(latents, width, bias=False) if latents else None
        with torch.no_grad():
            self.answer.weight *= _SMALL_START

    def forward(self, maps: Any, nodes: Tensor, cells: Tensor, latent: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return updated features of nodes and cells.

        Args:
            maps: `LevelMaps`, or the like of several meshes with the mesh of each node, `owner`.
            nodes: Features at the nodes; k consecutive samples share the cell features of one sample. Shape (N · k,
                n_nodes, width).
            cells: Features at the cells. Shape (N, n_cells, width).
            latent: Vector of each mesh. Shape (N · k, n_meshes, latents).
        """
        if self.told is not None and latent is not None:
            nodes = nodes + self.told(latent)[:, maps.owner]
        seen = self.seen(maps.to_cells(nodes if self.norm is None else self.norm(nodes)))
        own, columns = self.own(cells)[:, None], seen.unflatten(0, (len(cells), -1))
        hidden = columns * (1.0 + torch.tanh(own)) if self.linear else torch.nn.functional.silu(columns + own)
        hidden = hidden.flatten(0, 1)
        nodes = nodes + maps.to_nodes(self.answer(hidden))
        return nodes, cells if self.change is None else cells + self.change(hidden)


class _Cycle(torch.nn.Module):
    """V-cycle from `level` to the coarsest level."""

    def __init__(self, level: int, n_levels: int, dim: int, options: ProcessorOptions) -> None:
        super().__init__()
        width, depth, linear = options.width(level), options.depth(level), options.linear
        self.before = torch.nn.ModuleList(CellLayer(width, dim, linear) for _ in range(depth))
        self.after = torch.nn.ModuleList(CellLayer(width, dim, linear) for _ in range(depth))
        self.coarser: torch.nn.Module | None = None
        if level + 1 < n_levels:
            coarse = options.width(level + 1)
            self.down = torch.nn.Linear(width, coarse, bias=False)
            self.pooled = torch.nn.Linear(width, coarse, bias=not linear)
            self.up = torch.nn.Linear(coarse, width, bias=False)
            self.coarser = _Cycle(level + 1, n_levels, dim, options)

    def forward(self, levels: Sequence[LevelMaps], nodes: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return updated features on the first of `levels`."""
        for layer in self.before:
            nodes, cells = layer(levels[0], nodes, cells)
        if self.coarser is not None:
            maps = levels[1]
            found, _ = self.coarser(levels[1:], maps.restrict(self.down(nodes)), maps.pool(self.pooled(cells)))
            nodes = nodes + maps.prolong(self.up(found))
        for layer in self.after:
            nodes, cells = layer(levels[0], nodes, cells)
        return nodes, cells


class Processor(torch.nn.Module):
    """Encoder, V-cycle of `CellLayer`, and linear decoder at the nodes.

    Args:
        shape: See `Shape`.
        options: See `ProcessorOptions`.
    """

    def __init__(self, shape: Shape, options: ProcessorOptions) -> None:
        super().__init__()
        width, linear = options.width(0), options.linear
        self.of_nodes = torch.nn.Linear(shape.node_features, width, bias=not linear)
        self.of_cells = torch.nn.Sequential(
            torch.nn.Linear(shape.cell_features, width), torch.nn.SiLU(), torch.nn.Linear(width, width)
        )
        self.cycle = _Cycle(0, shape.levels, shape.dim, options)
        self.norm = None if linear else torch.nn.LayerNorm(width)
        self.decoder = torch.nn.Linear(width, shape.outputs, bias=not linear)
        with torch.no_grad():
            self.decoder.weight *= _SMALL_START

    def forward(self, levels: Sequence[LevelMaps], nodes: Tensor, cells: Tensor) -> Tensor:
        """Return the outputs at the nodes.

        Args:
            levels: `HierarchyMaps` of the meshes.
            nodes: Features at the nodes; k consecutive samples share the cell features of one sample. Shape (N · k,
                n_nodes, node_features).
            cells: Features at the cells. Shape (N, n_cells, cell_features).

        Returns:
            Outputs, shape (N · k, n_nodes, outputs).
        """
        nodes, cells = self.of_nodes(nodes), self.of_cells(cells)
        nodes, _ = self.cycle(list(levels), nodes, cells)
        return self.decoder(nodes if self.norm is None else self.norm(nodes))
