"""The published boundary-embedded operator (arXiv 2401.09323), with the choices of its paper and code, to compare with.

| choice | published | here, where it differs |
|---|---|---|
| graph | 10 nearest neighbours and a Delaunay triangulation of the nodes, which bridge notches | cells of the mesh |
| nodes | x, y, source, its blur, the blur's differences in x and y, distances to the boundary along ±x, ±y | loads |
| edges | x, y and source of both ends, distance; the same in both branches, so the source leaks | no edges |
| message passing | 10 layers of width 128, mean of the messages; edge features only double in each layer | on levels |
| networks | three hidden layers of 128, SiLU, layer norm at the end except in the decoder | linear in the loads |
| boundary | points by side; a Transformer in each layer of each branch; largest values over the points | contours |
| Transformer | convolution over 3 points, sines of the position, 3 layers, 2 heads, 16 hidden | sees the shape only |
| source branch | boundary values are 0 after standardisation, which is their mean | no boundary values |
| boundary branch | source features of the nodes are 0 after standardisation | no source |
| scales | mean and deviation over the training data, so that scaled data are other data | linear: none |
| boundary values | not imposed | met exactly |
| loss | mean square of the standardised error | |
| training | Adam, rate 5e-5, decay 5e-4, batch 1, 1000 epochs, cosine that restarts after 16, 32, 64, ... epochs | |

Numbers are those that the published code runs with. Not kept: batches there share one boundary among all samples. Other
by necessity: the data are nodes of meshes, not cell centres of a grid, so that the blur (5 × 5 nodes, Gaussian) sees no
source outside the domain, differences average over neighbouring rows, and prescribed nodes, which the published arrays
do not contain, get their values.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops_beno.published_inputs import PublishedBatch, PublishedInputs
from femops_beno.systems import System

WIDTH, LAYERS, HIDDEN_LAYERS = 128, 10, 3
HEADS, TRANSFORMER_LAYERS, TRANSFORMER_HIDDEN = 2, 3, 16
WEIGHT_DECAY, FIRST_CYCLE = 5e-4, 16  # epochs of the first cosine
_FEATURES, _EDGE_FEATURES = 10, 7
_SOURCES = slice(2, 6)  # the columns of the features that depend on the source
_FLOOR = 1e-5  # added to deviations


class PublishedBENO(torch.nn.Module):
    """The published network. Call `standardise` before anything else."""

    features_mean: Tensor
    features_deviation: Tensor
    boundary_mean: Tensor
    boundary_deviation: Tensor
    solution_mean: Tensor
    solution_deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, size in (("features", (_FEATURES,)), ("boundary", ()), ("solution", ())):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_deviation", torch.ones(size))
        self.of_source, self.of_boundary = _Branch(), _Branch()

    @classmethod
    def encode(cls, system: System) -> PublishedInputs:
        """Return the inputs of a problem."""
        return PublishedInputs.of(system)

    @classmethod
    def join(cls, problems: Sequence[PublishedInputs]) -> PublishedBatch:
        """Return a batch of problems."""
        return PublishedBatch.of(problems)

    def standardise(self, problems: Sequence[PublishedInputs]) -> None:
        """Store mean and standard deviation of the training data."""
        sources = np.concatenate([one.features[:, _SOURCES] for one in problems])
        self.features_mean[_SOURCES] = torch.from_numpy(sources.mean(axis=0))
        self.features_deviation[_SOURCES] = torch.from_numpy(sources.std(axis=0) + _FLOOR)
        solutions = [one.solution[one.nodes] for one in problems if one.solution is not None]
        values = {"boundary": [one.boundary[:, 2] for one in problems], "solution": solutions}
        for name, parts in values.items():
            everything = np.concatenate(parts)
            getattr(self, f"{name}_mean").fill_(everything.mean())
            getattr(self, f"{name}_deviation").fill_(everything.std() + _FLOOR)

    def forward(self, batch: PublishedBatch) -> Tensor:
        """Return the solution at all nodes; prescribed ones have their values. Shape (n_nodes,)."""
        features = (batch.features - self.features_mean) / self.features_deviation
        values = (batch.boundary[..., 2:] - self.boundary_mean) / self.boundary_deviation
        places = batch.boundary[..., :2]
        start, stop = (features[end, :3] for end in batch.edges)  # x, y, source
        distance = (start - stop)[:, :2].norm(dim=1, keepdim=True)
        edges = torch.cat([start, stop, distance], dim=1)
        no_values = replace(batch, boundary=torch.cat([places, torch.zeros_like(values)], dim=-1))
        with_values = replace(batch, boundary=torch.cat([places, values], dim=-1))
        no_source = features.clone()
        no_source[:, _SOURCES] = 0.0
        found = self.of_source(no_values, features, edges) + self.of_boundary(with_values, no_source, edges)
        return batch.lifting.index_copy(0, batch.nodes, found * self.solution_deviation + self.solution_mean)

    def loss(self, batch: PublishedBatch, values: Tensor) -> Tensor:
        """Return the mean square error of the standardised solution at the free nodes."""
        wrong = (values - batch.solution)[batch.nodes] / self.solution_deviation
        return wrong.square().mean()


class _Branch(torch.nn.Module):
    """Encoder, message passing and decoder of one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.of_nodes = _perceptron(_FEATURES)
        self.of_edges = _perceptron(_EDGE_FEATURES)
        self.layers = torch.nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.decoder = _perceptron(WIDTH, 1)

    def forward(self, batch: PublishedBatch, features: Tensor, edges: Tensor) -> Tensor:
        """Return values at the free nodes. Shape (n_free,)."""
        nodes, edges = self.of_nodes(features), self.of_edges(edges)
        degree = torch.zeros(len(nodes), 1).to(nodes).index_add(0, batch.edges[1], torch.ones_like(edges[:, :1]))
        for layer in self.layers:
            nodes = layer(batch, nodes, edges, degree)
            edges = 2.0 * edges  # the published layer returns its input edges, and adds them once more
        found: Tensor = self.decoder(nodes)
        return found[:, 0]


class _Layer(torch.nn.Module):
    """One message-passing layer, with its own Transformer over the boundary."""

    def __init__(self) -> None:
        super().__init__()
        self.boundary = _BoundaryTransformer()
        self.message = _perceptron(3 * WIDTH)
        self.update = _perceptron(3 * WIDTH)

    def forward(self, batch: PublishedBatch, nodes: Tensor, edges: Tensor, degree: Tensor) -> Tensor:
        """Return updated nodes. Shape (n_free, WIDTH)."""
        start, stop = batch.edges
        first, rest = self.message[0], self.message[1:]
        assert isinstance(first, torch.nn.Linear)
        of_stop, of_start, of_edge = first.weight.chunk(3, dim=1)
        # The first map acts on the nodes before they are gathered along the edges: the same for a third of the work.
        hidden = (nodes @ of_stop.T)[stop] + (nodes @ of_start.T)[start] + edges @ of_edge.T + first.bias
        messages = torch.zeros_like(nodes).index_add(0, stop, rest(hidden)) / degree
        latent = self.boundary(batch.boundary, batch.padding)[batch.owner]
        updated: Tensor = nodes + self.update(torch.cat([messages, nodes, latent], dim=1))
        return updated


class _BoundaryTransformer(torch.nn.Module):
    """Embeds the list of boundary points of each problem in one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(9, WIDTH, bias=False)  # a circular convolution over three points
        torch.nn.init.kaiming_normal_(self.embed.weight, nonlinearity="leaky_relu")
        layer = torch.nn.TransformerEncoderLayer(
            WIDTH, HEADS, TRANSFORMER_HIDDEN, dropout=0.0, activation="gelu", batch_first=True
        )
        norm = torch.nn.LayerNorm(WIDTH)
        self.encoder = torch.nn.TransformerEncoder(layer, TRANSFORMER_LAYERS, norm, enable_nested_tensor=False)

    def forward(self, boundary: Tensor, padding: Tensor) -> Tensor:
        """Return the vectors. Shape (n_problems, WIDTH)."""
        tokens = self.embed(boundary.flatten(2))
        tokens = self.encoder(tokens + _positions(tokens), src_key_padding_mask=padding)
        return tokens.masked_fill(padding[..., None], -torch.inf).amax(dim=1)


def _positions(tokens: Tensor) -> Tensor:
    """Return sines and cosines of the place in the list, in turns. Shape (n_b, WIDTH)."""
    rate = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH)).to(tokens)
    angle = torch.arange(tokens.shape[1]).to(tokens)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def _perceptron(inputs: int, outputs: int = WIDTH) -> torch.nn.Sequential:
    """Return a network with a norm at its end, or, with another number of outputs, without."""
    sizes = [inputs, *[WIDTH] * HIDDEN_LAYERS]
    parts: list[torch.nn.Module] = []
    for before, after in pairwise(sizes):
        parts += [torch.nn.Linear(before, after), torch.nn.SiLU()]
    parts.append(torch.nn.Linear(WIDTH, outputs))
    return torch.nn.Sequential(*parts, *([torch.nn.LayerNorm(outputs)] if outputs == WIDTH else []))
