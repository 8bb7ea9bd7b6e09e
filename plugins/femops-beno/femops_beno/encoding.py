"""Systems as the input of the network: graphs, loads and boundaries, joined for a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array, Indices
from femops.surrogate.message_passing import HierarchyMaps, SparseMap
from femops_beno.boundary import BoundaryBatch, BoundaryPoints, cell_distance
from femops_beno.levels import shape_hierarchy
from femops_beno.systems import System

_MAPS = ("to_cells", "to_nodes", "prolong", "restrict", "pool", "project")


@dataclass(frozen=True)
class EncodedLevel:
    """A level of the graph of a system; a node is one with at least one free component.

    Attributes:
        maps: Its operators by name, see `femops.surrogate.message_passing.LevelMaps`; `project` is the transpose of
            `prolong`, which maps loads of the finer level to loads. The finest level has the first two only.
        n_nodes: Number of nodes.
        n_cells: Number of cells.
        diagonal: Diagonal of K, projected to the level; 1 at prescribed values. Shape (n_nodes, n_components).
    """

    maps: dict[str, SparseMap]
    n_nodes: int
    n_cells: int
    diagonal: Array


@dataclass(frozen=True)
class Encoded:
    """A system, encoded.

    Attributes:
        levels: Levels of its graph, finest first.
        stiffness: K at the nodes, zero in rows and columns of prescribed values. Shape (n_values, n_values).
        free: 1 for free values of the nodes, else 0. Shape (n_nodes, n_components).
        source: Load of the source, for each of k problems. Shape (k, n_nodes, n_components).
        boundary_load: Load of the boundary data. Shape (k, n_nodes, n_components).
        cells: Cell features [-]. Shape (n_cells, n_features).
        boundary: Boundary points.
        nodes: The nodes, as nodes of the mesh. Shape (n_nodes,).
    """

    levels: tuple[EncodedLevel, ...]
    stiffness: SparseMap
    free: Array
    source: Array
    boundary_load: Array
    cells: Array
    boundary: BoundaryPoints
    nodes: Indices


def encode(system: System) -> Encoded:
    """Encode a system."""
    size = system.n_components
    free = ~system.prescribed.reshape(-1, size)
    nodes = np.flatnonzero(free.any(axis=1))
    values = (nodes[:, None] * size + np.arange(size)).ravel()
    kept = free[nodes].ravel().astype(np.float64)
    stiffness = sp.csr_array(sp.diags_array(kept) @ system.stiffness[values][:, values] @ sp.diags_array(kept))
    corners = system.prescribed.reshape(-1, size).mean(axis=1)[system.mesh.cells].mean(axis=1)
    return Encoded(
        _levels(system, free.any(axis=1), stiffness),
        SparseMap(stiffness, transpose=stiffness),
        free[nodes].astype(np.float64),
        at_nodes(system.source_load, system)[:, nodes],
        at_nodes(system.boundary_load, system)[:, nodes],
        np.column_stack([system.features, corners, cell_distance(system)]),
        BoundaryPoints.of(system),
        nodes,
    )


def at_nodes(values: Array, system: System) -> Array:
    """Return data of a system, shape (n_values,) or (n_values, k), as (k, n_nodes, n_components)."""
    columns = values.reshape(len(system.prescribed), -1)
    return np.ascontiguousarray(columns.T).reshape(columns.shape[1], -1, system.n_components)


def _levels(system: System, free: npt.NDArray[np.bool_], stiffness: sp.csr_array) -> tuple[EncodedLevel, ...]:
    """Return the levels of a system; `stiffness` is that of its graph nodes."""
    size = system.n_components
    hierarchy = shape_hierarchy(system.mesh, free, scalar(system.stiffness, size))
    found, projected = [], stiffness
    for level, maps in zip(hierarchy, HierarchyMaps(hierarchy), strict=True):
        named = {name: getattr(maps, name) for name in _MAPS if hasattr(maps, name)}
        if level.prolongation is not None:
            named["project"] = SparseMap(sp.csr_array(level.prolongation.T), transpose=level.prolongation)
            blocks = sp.csr_array(sp.kron(level.prolongation, sp.eye_array(size)))
            projected = sp.csr_array(blocks.T @ projected @ blocks)
        diagonal = projected.diagonal()
        positive = np.where(diagonal > 0.0, diagonal, 1.0).reshape(-1, size)
        found.append(EncodedLevel(named, level.graph.n_nodes, level.graph.n_cells, positive))
    return tuple(found)


def scalar(stiffness: sp.csr_array, size: int) -> sp.csr_array:
    """Return the sum of the diagonal blocks over the components. Shape (n_nodes, n_nodes)."""
    parts = [stiffness[c::size][:, c::size] for c in range(size)]
    return sp.csr_array(sum(parts[1:], start=parts[0]))


class LevelBatch(torch.nn.Module):
    """One level of several systems as one graph; systems with fewer levels have no part in it.

    Args:
        given: The level of each system, None for systems that do not have it.
        finer: The next finer level of each system.
        to: Type and device of the numbers.

    Attributes:
        to_cells, to_nodes, prolong, restrict, pool, project: See `EncodedLevel`.
        diagonal: Shape (n_nodes, n_components).
        owner: System of each node. Shape (n_nodes,).
    """

    to_cells: SparseMap
    to_nodes: SparseMap
    prolong: SparseMap
    restrict: SparseMap
    pool: SparseMap
    project: SparseMap

    def __init__(self, given: Sequence[EncodedLevel | None], finer: Sequence[EncodedLevel | None], to: Any) -> None:
        super().__init__()
        present = [one for one in given if one is not None]
        for name in present[0].maps:
            setattr(self, name, SparseMap.joined([_map_of(name, *pair) for pair in zip(given, finer, strict=True)]))
        self.diagonal = torch.from_numpy(np.concatenate([one.diagonal for one in present])).to(**to)
        counts = [0 if one is None else one.n_nodes for one in given]
        self.owner = torch.from_numpy(np.repeat(np.arange(len(given)), counts)).to(to["device"])


@dataclass(frozen=True)
class Batch:
    """Several encoded systems as one graph.

    Attributes:
        levels: The levels, finest first.
        stiffness: K, block by block.
        sizes: Nodes of each system.
        free: See `Encoded`. Shape (n_nodes, n_components).
        source, boundary_load: See `Encoded`; all systems have the same k. Shape (k, n_nodes, n_components).
        cells: Cell features. Shape (1, n_cells, n_features).
        owner: System of each cell. Shape (n_cells,).
        boundary: Boundaries.
    """

    levels: tuple[LevelBatch, ...]
    stiffness: SparseMap
    sizes: tuple[int, ...]
    free: Tensor
    source: Tensor
    boundary_load: Tensor
    cells: Tensor
    owner: Tensor
    boundary: BoundaryBatch

    @classmethod
    def of(
        cls, systems: Sequence[Encoded], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> "Batch":
        """Join encoded systems, with the given type and device of all numbers."""
        to: dict[str, Any] = {"dtype": dtype, "device": device}

        def joined(name: str, axis: int = 0) -> Tensor:
            return torch.from_numpy(np.concatenate([getattr(one, name) for one in systems], axis)).to(**to)

        owner = np.repeat(np.arange(len(systems)), [len(one.cells) for one in systems])
        return cls(
            _joined_levels(systems, to),
            SparseMap.joined([one.stiffness for one in systems]),
            tuple(len(one.nodes) for one in systems),
            joined("free"),
            joined("source", 1),
            joined("boundary_load", 1),
            joined("cells")[None],
            torch.from_numpy(owner).to(device),
            BoundaryBatch.of([one.boundary for one in systems], to),
        )

    def product(self, values: Tensor) -> Tensor:
        """Return K u at the free values, of values (k, n_nodes, n_components)."""
        columns = values.flatten(1).T.contiguous()[None]
        found: Tensor = self.stiffness(columns)
        return found[0].T.reshape(values.shape)


def _joined_levels(systems: Sequence[Encoded], to: Any) -> tuple[LevelBatch, ...]:
    depth = max(len(one.levels) for one in systems)
    table = [[one.levels[i] if i < len(one.levels) else None for one in systems] for i in range(depth)]
    return tuple(LevelBatch(given, table[max(i - 1, 0)], to) for i, given in enumerate(table))


def _map_of(name: str, level: EncodedLevel | None, finer: EncodedLevel | None) -> SparseMap:
    """Return an operator of a level; an empty one for a system without that level."""
    if level is not None:
        return level.maps[name]
    nodes = 0 if finer is None else finer.n_nodes
    cells = 0 if finer is None else finer.n_cells
    shape = {"prolong": (nodes, 0), "restrict": (0, nodes), "project": (0, nodes), "pool": (0, cells)}.get(name, (0, 0))
    return SparseMap(sp.csr_array(shape))
