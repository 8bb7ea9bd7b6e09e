"""Systems as the input of the network: graphs, loads and boundaries, joined for a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from femops.notation import Array, Indices
from femops.surrogate.message_passing import HierarchyMaps, JoinedMaps, SparseMap
from femops.surrogate.torch_library import Tensor, torch
from femops_beno.boundary import BoundaryBatch, BoundaryPoints, cell_distance
from femops_beno.levels import shape_hierarchy
from femops_beno.systems import System


@dataclass(frozen=True)
class Encoded:
    """A system, encoded; a graph node is a node of the mesh with at least one free component.

    Attributes:
        maps: Operators of the levels.
        stiffness: K at the graph nodes, zero in rows and columns of prescribed values. Shape (n_values, n_values).
        free: 1 for free values of the graph nodes, else 0. Shape (n_nodes, n_components).
        diagonal: Diagonal of K; 1 at prescribed values. Shape (n_nodes, n_components).
        reach: (size of the domain / size of the node)² [-]. Shape (n_nodes, 1).
        source: Load of the source. Shape (n_nodes, n_components).
        boundary_load: Load of the boundary data. Shape (n_nodes, n_components).
        cells: Cell features [-]. Shape (n_cells, n_features).
        boundary: Boundary points.
        nodes: Graph nodes, as nodes of the mesh. Shape (n_nodes,).
    """

    maps: HierarchyMaps
    stiffness: SparseMap
    free: Array
    diagonal: Array
    reach: Array
    source: Array
    boundary_load: Array
    cells: Array
    boundary: BoundaryPoints
    nodes: Indices


def encode(system: System, n_levels: int) -> Encoded:
    """Encode a system for a network with a number of levels."""
    size, mesh = system.n_components, system.mesh
    free = ~system.prescribed.reshape(-1, size)
    nodes = np.flatnonzero(free.any(axis=1))
    values = (nodes[:, None] * size + np.arange(size)).ravel()
    kept = free[nodes].ravel().astype(np.float64)
    stiffness = sp.csr_array(sp.diags_array(kept) @ system.stiffness[values][:, values] @ sp.diags_array(kept))
    scalar = _scalar(system.stiffness, size)
    levels = shape_hierarchy(mesh, free.any(axis=1), scalar, n_levels)
    diagonal = stiffness.diagonal()
    graph = levels[0].graph
    share = graph.node_volume / graph.volume.sum()
    reach = np.maximum(share, 0.1 * share.mean()) ** (-2.0 / mesh.dim)
    corners = system.prescribed.reshape(-1, size).mean(axis=1)[mesh.cells].mean(axis=1)
    cells = np.column_stack([system.features, corners, cell_distance(mesh)])
    return Encoded(
        HierarchyMaps(levels),
        SparseMap(stiffness, transpose=stiffness),
        free[nodes].astype(np.float64),
        np.where(kept > 0.0, diagonal, 1.0).reshape(-1, size),
        reach[:, None],
        system.source_load.reshape(-1, size)[nodes],
        system.boundary_load.reshape(-1, size)[nodes],
        cells,
        BoundaryPoints.of(system),
        nodes,
    )


def _scalar(stiffness: sp.csr_array, size: int) -> sp.csr_array:
    """Return the sum of the diagonal blocks over the components. Shape (n_nodes, n_nodes)."""
    if size == 1:
        return stiffness
    parts = [stiffness[c::size][:, c::size] for c in range(size)]
    return sp.csr_array(sum(parts[1:], start=parts[0]))


@dataclass(frozen=True)
class Batch:
    """Several encoded systems as one graph; see `Encoded`. All arrays are in single precision.

    Attributes:
        levels: Operators of each level.
        stiffness: K, block by block.
        sizes: Graph nodes of each system.
        free, diagonal, reach, source, boundary_load: Shape (n_nodes, ...).
        cells: Shape (1, n_cells, n_features).
        owner: System of each cell. Shape (n_cells,).
        boundary: Boundaries.
    """

    levels: list[JoinedMaps]
    stiffness: SparseMap
    sizes: tuple[int, ...]
    free: Tensor
    diagonal: Tensor
    reach: Tensor
    source: Tensor
    boundary_load: Tensor
    cells: Tensor
    owner: Tensor
    boundary: BoundaryBatch

    @classmethod
    def of(cls, systems: Sequence[Encoded]) -> "Batch":
        """Join encoded systems with equal numbers of levels."""

        def joined(name: str) -> Tensor:
            return torch.from_numpy(np.concatenate([getattr(one, name) for one in systems]).astype(np.float32))

        owner = np.repeat(np.arange(len(systems)), [len(one.cells) for one in systems])
        return cls(
            [JoinedMaps(parts) for parts in zip(*(one.maps for one in systems), strict=True)],
            SparseMap.joined([one.stiffness for one in systems]),
            tuple(len(one.nodes) for one in systems),
            joined("free"),
            joined("diagonal"),
            joined("reach"),
            joined("source"),
            joined("boundary_load"),
            joined("cells")[None],
            torch.from_numpy(owner),
            BoundaryBatch.of([one.boundary for one in systems]),
        )
