"""A standard message-passing graph network, as a baseline for finite-element message passing.

Edges join the nodes of a cell; edge features are the vector between the nodes and the mean features of their common
cells. There are no coarser levels.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from femops.devices.torch_library import Tensor, torch
from femops.surrogate.graph import FEGraph
from femops.surrogate.message_passing import LevelMaps, ProcessorOptions, Shape, SparseMap


class EdgeMaps(torch.nn.Module):
    """Gather and scatter maps between nodes, edges and cells.

    Args:
        graph: A graph with known node positions.
    """

    def __init__(self, graph: FEGraph) -> None:
        super().__init__()
        if graph.offset is None:
            raise ValueError("the node positions of the graph are unknown, expected the graph of a mesh")
        n_corners = graph.cells.shape[1]
        first, second = np.nonzero(~np.eye(n_corners, dtype=bool))
        pairs = np.stack([graph.cells[:, first], graph.cells[:, second]], axis=-1).reshape(-1, 2)
        ends, one, edge = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        vectors = (graph.offset[:, second] - graph.offset[:, first]).reshape(-1, graph.offset.shape[2])[one]
        n, number = len(ends), np.arange(len(ends))
        cell = np.repeat(np.arange(graph.n_cells), len(first))
        shared = sp.coo_array((np.ones(len(cell)), (edge.ravel(), cell)), shape=(n, graph.n_cells)).tocsr()
        ones = np.ones(n)
        start, stop = (sp.csr_array((ones, (number, end)), shape=(n, graph.n_nodes)) for end in ends.T)
        self.start, self.stop = SparseMap(start), SparseMap(stop)
        self.to_nodes = SparseMap(sp.csr_array(stop.T))
        self.of_cells = SparseMap(sp.csr_array(sp.diags_array(1.0 / shared.sum(axis=1)) @ shared))
        self._vectors = torch.as_tensor(vectors)

    def vectors(self, like: Tensor) -> Tensor:
        """Return the edge vectors, expanded to a batch. Shape (N, n_edges, dim)."""
        return self._vectors.to(like).expand(len(like), -1, -1)


class _EdgeLayer(torch.nn.Module):
    """One message-passing layer along edges."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.message = torch.nn.Sequential(
            torch.nn.Linear(3 * width, hidden), torch.nn.SiLU(), torch.nn.Linear(hidden, width)
        )
        self.update = torch.nn.Sequential(
            torch.nn.Linear(2 * width, hidden), torch.nn.SiLU(), torch.nn.Linear(hidden, width)
        )

    def forward(self, maps: EdgeMaps, nodes: Tensor, edges: Tensor) -> Tensor:
        """Return updated node features."""
        normalised = self.norm(nodes)
        messages = self.message(torch.cat([maps.start(normalised), maps.stop(normalised), edges], dim=2))
        return nodes + self.update(torch.cat([normalised, maps.to_nodes(messages)], dim=2))


class PlainGraphNetwork(torch.nn.Module):
    """Encoder, message-passing layers along edges, decoder; replaces `femops.surrogate.message_passing.Processor`.

    Args:
        shape: See `Shape`; only the finest level is used.
        options: The first width and the total number of layers are used.
    """

    def __init__(self, shape: Shape, options: ProcessorOptions) -> None:
        super().__init__()
        width = options.width(0)
        self.of_nodes = torch.nn.Linear(shape.node_features, width)
        self.of_edges = torch.nn.Sequential(
            torch.nn.Linear(shape.cell_features + shape.dim, width), torch.nn.SiLU(), torch.nn.Linear(width, width)
        )
        self.layers = torch.nn.ModuleList(_EdgeLayer(width, 2 * width) for _ in range(sum(options.layers)))
        self.norm = torch.nn.LayerNorm(width)
        self.decoder = torch.nn.Linear(width, shape.outputs)
        self._last: tuple[LevelMaps, EdgeMaps] | None = None

    def forward(self, levels: Sequence[LevelMaps], nodes: Tensor, cells: Tensor) -> Tensor:
        """Return outputs at the nodes; see `Processor.forward`."""
        if self._last is None or self._last[0] is not levels[0]:
            self._last = levels[0], EdgeMaps(levels[0].graph)
        maps = self._last[1]
        edges = self.of_edges(torch.cat([maps.of_cells(cells), maps.vectors(cells)], dim=2))
        edges = edges.repeat_interleave(len(nodes) // len(cells), dim=0)
        nodes = self.of_nodes(nodes)
        for layer in self.layers:
            nodes = layer(maps, nodes, edges)
        answer: Tensor = self.decoder(self.norm(nodes))
        return answer
