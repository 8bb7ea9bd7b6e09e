"""Baselines for the boundary-embedded operator on plane Poisson problems, each with the interface of `Model`.

All know x, y, source and the prescribed values with their places, in single precision; source, prescribed values and
solution are scaled by the deviations of the training data. Their loss is the relative L2 error at the nodes; prescribed
nodes get their values.

`FNO` (arXiv 2010.08895) and `DeepONet` (arXiv 1910.03193) work on a grid of the unit square. A grid point belongs to
the domain if a node is near, and has the data of the nearest; in `FNO` a node reads from the nearest grid point. On
grids with cut corners that is exact, on other meshes it costs up to half a grid spacing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from benchmarks.fourier import FourierOperator
from scipy.spatial import cKDTree

from femops.devices.torch_library import Tensor, torch
from femops.meshing import TaggedMesh
from femops.notation import Array, Indices
from femops_beno.published_inputs import source_density
from femops_beno.systems import System

_CELLS = 32  # of the coarsest grid
_NEAR = 0.75  # a grid point with a node nearer than this, in grid spacings, belongs to the domain
_FINEST = 2.0**20  # positions closer than one over it are the same
_INPUTS = 5  # x, y, source, prescribed value, mark of a prescribed value


class Model(Protocol):
    """A network from problems to their solutions at all nodes; a batch has any number of problems."""

    def encode(self, system: System) -> Any:
        """Return a problem as the network sees it."""

    def join(self, problems: Sequence[Any]) -> Any:
        """Return a batch of encoded problems."""

    def standardise(self, problems: Sequence[Any]) -> None:
        """Store the scales of the training data; called once, before training."""

    def forward(self, batch: Any) -> Tensor:
        """Return the solutions, one problem after the other. Shape (n_nodes,)."""

    def loss(self, batch: Any, values: Tensor) -> Tensor:
        """Return what is minimised, of solutions found by `forward`."""


@dataclass(frozen=True)
class Encoded:
    """A problem: inputs (n_nodes, 5), solution (n_nodes,), and what the network needs besides."""

    inputs: Array
    solution: Array
    edges: Indices | None = None
    raster: "Raster | None" = None


@dataclass(frozen=True)
class Batch:
    """Problems one after the other; see `Encoded`. `owner` (n_nodes,) is the problem of each node."""

    inputs: Tensor
    solution: Tensor
    owner: Tensor

    @classmethod
    def of(cls, problems: Sequence[Encoded]) -> "Batch":
        owner = np.repeat(np.arange(len(problems)), [len(one.inputs) for one in problems])
        parts = ([one.inputs for one in problems], [one.solution for one in problems])
        inputs, solution = (torch.from_numpy(np.concatenate(part).astype(np.float32)) for part in parts)
        return cls(inputs, solution, torch.from_numpy(owner))


def _inputs(system: System) -> Encoded:
    columns = [system.mesh.points, source_density(system), system.lifting, system.prescribed]
    assert system.solution is not None
    return Encoded(np.column_stack(columns), system.solution)


def relative_error(batch: Batch, values: Tensor) -> Tensor:
    """Return the mean over the problems of ‖values − solution‖ / ‖solution‖ at the nodes."""
    zero = torch.zeros(int(batch.owner[-1]) + 1)
    wrong, size = (zero.index_add(0, batch.owner, one.square()) for one in (values - batch.solution, batch.solution))
    return (wrong / size).sqrt().mean()


class Scales(torch.nn.Module):
    """Scales of source, prescribed values and solution."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inputs", torch.ones(_INPUTS))
        self.register_buffer("solution", torch.tensor(1.0))

    def learn(self, problems: Sequence[Encoded]) -> None:
        rows = np.concatenate([one.inputs for one in problems])
        self.inputs[2] = float(rows[:, 2].std())
        self.inputs[3] = float(rows[rows[:, 4] > 0.0, 3].std())
        self.solution.fill_(float(np.concatenate([one.solution for one in problems]).std()))

    def scaled(self, batch: Batch) -> Tensor:
        return batch.inputs / self.inputs

    def values(self, batch: Batch, found: Tensor) -> Tensor:
        return torch.where(batch.inputs[:, 4] > 0.0, batch.inputs[:, 3], found * self.solution)


# --- graph network ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EdgeBatch(Batch):
    """`edges` (2, n_edges), both directions; `degree` (n_nodes, 1)."""

    edges: Tensor
    degree: Tensor


class GraphNetwork(torch.nn.Module):
    """Encoder, message passing along the edges of the mesh, decoder (arXiv 2010.03409): 10 layers, width 96."""

    def __init__(self, width: int = 96, layers: int = 10) -> None:
        super().__init__()
        self.scales = Scales()
        self.of_nodes, self.of_edges = _perceptron(_INPUTS, width), _perceptron(3, width)
        self.layers = torch.nn.ModuleList(_MessageLayer(width) for _ in range(layers))
        self.decoder = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.SiLU(), torch.nn.Linear(width, 1))

    def encode(self, system: System) -> Encoded:
        found = _inputs(system)
        return Encoded(found.inputs, found.solution, edges=_mesh_edges(system.mesh))

    def join(self, problems: Sequence[Encoded]) -> EdgeBatch:
        nodes = Batch.of(problems)
        before = np.cumsum([0, *(len(one.inputs) for one in problems)])
        edges = np.concatenate([one.edges + first for one, first in zip(problems, before, strict=False)], axis=1)
        degree = np.bincount(edges[1], minlength=before[-1]).astype(np.float32)
        tensors = torch.from_numpy(edges), torch.from_numpy(degree)[:, None]
        return EdgeBatch(nodes.inputs, nodes.solution, nodes.owner, *tensors)

    def standardise(self, problems: Sequence[Encoded]) -> None:
        self.scales.learn(problems)

    def forward(self, batch: EdgeBatch) -> Tensor:
        start, stop = batch.edges
        along = batch.inputs[stop, :2] - batch.inputs[start, :2]
        edges = self.of_edges(_CELLS * torch.cat([along, along.norm(dim=1, keepdim=True)], dim=1))
        nodes = self.of_nodes(self.scales.scaled(batch))
        for layer in self.layers:
            nodes, edges = layer(batch, nodes, edges)
        return self.scales.values(batch, self.decoder(nodes)[:, 0])

    def loss(self, batch: EdgeBatch, values: Tensor) -> Tensor:
        return relative_error(batch, values)


class _MessageLayer(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.message, self.update = _perceptron(3 * width, width), _perceptron(2 * width, width)

    def forward(self, batch: EdgeBatch, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        start, stop = batch.edges
        edges = edges + self.message(torch.cat([nodes[start], nodes[stop], edges], dim=1))
        received = torch.zeros_like(nodes).index_add(0, stop, edges) / batch.degree
        return nodes + self.update(torch.cat([nodes, received], dim=1)), edges


def _perceptron(inputs: int, width: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, width), torch.nn.SiLU(), torch.nn.Linear(width, width), torch.nn.LayerNorm(width)
    )


def _mesh_edges(mesh: TaggedMesh) -> Indices:
    """Return the edges of the cells, in both directions."""
    ends = np.stack([mesh.cells.ravel(), np.roll(mesh.cells, -1, axis=1).ravel()])
    return np.unique(np.concatenate([ends, ends[::-1]], axis=1), axis=1)


# --- networks on a grid ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raster:
    """Between a mesh and the points of a grid of the unit square, numbered row by row.

    Attributes:
        points: Points along an axis.
        nearest: Nearest node of each grid point. Shape (points²,).
        inside: Which grid points belong to the domain. Shape (points²,).
        cell: Nearest grid point of each node. Shape (n_nodes,).
    """

    points: int
    nearest: Indices
    inside: Array
    cell: Indices

    @classmethod
    def of(cls, mesh: TaggedMesh, cells: int) -> "Raster":
        axis = np.linspace(0.0, 1.0, cells + 1)
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        away, nearest = cKDTree(mesh.points).query(grid)
        own = np.clip(np.round(mesh.points * cells).astype(np.int64), 0, cells)
        return cls(cells + 1, nearest, away < _NEAR / cells, own @ np.array([cells + 1, 1]))


def _grid_cells(mesh: TaggedMesh) -> int:
    """Return the multiple of the coarsest grid that is nearest to the mesh."""
    size = np.median(np.linalg.norm(np.diff(mesh.points[mesh.cells], axis=1), axis=2))
    return _CELLS * max(1, round(1.0 / (_CELLS * size)))


@dataclass(frozen=True)
class GridBatch(Batch):
    """Problems on grids of one size.

    Attributes:
        grid: Source, prescribed value, its mark, mask of the domain. Shape (n_problems, 4, points, points).
        cell: Grid point of each node, among those of all problems. Shape (n_nodes,).
        places: The different positions of nodes. Shape (n_places, 2).
        place: That of each node. Shape (n_nodes,).
    """

    grid: Tensor
    cell: Tensor
    places: Tensor
    place: Tensor

    @classmethod
    def joined(cls, problems: Sequence[Encoded]) -> "GridBatch":
        nodes, rasters = Batch.of(problems), [one.raster for one in problems]
        n = rasters[0].points
        if any(raster.points != n for raster in rasters):
            raise ValueError(f"grids of {sorted({raster.points for raster in rasters})} points, expected one size")
        grid = np.empty((len(problems), 4, n * n), dtype=np.float32)
        for target, one, raster in zip(grid, problems, rasters, strict=True):
            target[:3] = one.inputs[raster.nearest, 2:].T * raster.inside
            target[3] = raster.inside
        cell = np.concatenate([raster.cell + i * n * n for i, raster in enumerate(rasters)])
        code = np.concatenate([np.round(one.inputs[:, :2] * _FINEST) @ [2 * _FINEST, 1] for one in problems])
        _, first, place = np.unique(code, return_index=True, return_inverse=True)
        tensors = torch.from_numpy(grid).view(-1, 4, n, n), torch.from_numpy(cell)
        places = nodes.inputs[torch.from_numpy(first), :2], torch.from_numpy(place)
        return cls(nodes.inputs, nodes.solution, nodes.owner, *tensors, *places)


def _scaled_grid(batch: GridBatch, scales: Scales) -> Tensor:
    """Return scaled channels; those of the boundary, a line of points, have the same integral on every grid."""
    finer = (batch.grid.shape[-1] - 1) / _CELLS
    factor = torch.tensor([1.0, finer, finer, 1.0]) / torch.cat([scales.inputs[2:], torch.ones(1)])
    return batch.grid * factor[:, None, None]


class FNO(torch.nn.Module):
    """Fourier neural operator on a masked grid: 4 layers, 12 modes along each axis, width 32."""

    def __init__(self) -> None:
        super().__init__()
        self.scales, self.network = Scales(), FourierOperator(6)

    def encode(self, system: System) -> Encoded:
        found = _inputs(system)
        return Encoded(found.inputs, found.solution, raster=Raster.of(system.mesh, _grid_cells(system.mesh)))

    def join(self, problems: Sequence[Encoded]) -> GridBatch:
        return GridBatch.joined(problems)

    def standardise(self, problems: Sequence[Encoded]) -> None:
        self.scales.learn(problems)

    def forward(self, batch: GridBatch) -> Tensor:
        grid = _scaled_grid(batch, self.scales)
        axis = torch.linspace(0.0, 1.0, grid.shape[-1])
        places = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(len(grid), -1, -1, -1)
        return self.scales.values(batch, self.network(torch.cat([grid, places], 1)).reshape(-1)[batch.cell])

    def loss(self, batch: GridBatch, values: Tensor) -> Tensor:
        return relative_error(batch, values)


class DeepONet(torch.nn.Module):
    """Branch network of the masked data on the coarsest grid, trunk network of the coordinates: 4 layers each."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.scales = Scales()
        self.branch = _dense(4 * (_CELLS + 1) ** 2, width)
        self.trunk = _dense(2, width)
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def encode(self, system: System) -> Encoded:
        found = _inputs(system)
        return Encoded(found.inputs, found.solution, raster=Raster.of(system.mesh, _CELLS))

    def join(self, problems: Sequence[Encoded]) -> GridBatch:
        return GridBatch.joined(problems)

    def standardise(self, problems: Sequence[Encoded]) -> None:
        self.scales.learn(problems)

    def forward(self, batch: GridBatch) -> Tensor:
        weights = self.branch(_scaled_grid(batch, self.scales).flatten(1))
        basis = self.trunk(batch.places)
        found = weights @ basis.T / basis.shape[1] ** 0.5 + self.shift
        return self.scales.values(batch, found[batch.owner, batch.place])

    def loss(self, batch: GridBatch, values: Tensor) -> Tensor:
        return relative_error(batch, values)


def _dense(inputs: int, width: int) -> torch.nn.Sequential:
    gelu = torch.nn.GELU
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, width),
        gelu(),
        torch.nn.Linear(width, width),
        gelu(),
        torch.nn.Linear(width, width),
        gelu(),
        torch.nn.Linear(width, width),
    )
