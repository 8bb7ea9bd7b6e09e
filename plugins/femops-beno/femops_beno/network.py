"""The boundary-embedded network: from source and boundary data to the free values of the solution.

u = u_source + u_boundary, one branch each. Both are linear in their data, with weights that depend on the shape: on the
graph, whose functions vanish at prescribed values, and on the vector that a Transformer makes of the boundary's shape.
A second vector, linear in the boundary data, is added in every message-passing layer of the boundary branch. Damped
Jacobi steps with the exact stiffness smooth the output. Further passes apply the source branch to the residual load,
which is a source with zero boundary values.
"""

from dataclasses import dataclass

from femops.devices.torch_library import Tensor, torch
from femops.surrogate.message_passing import CellLayer
from femops_beno.boundary import BoundaryTransformer, shape_features
from femops_beno.encoding import Batch, LevelBatch

_GEOMETRY = 2  # cell features besides those of the system, see `encoding.encode`
_FIRST_DAMPING = 0.6
_SMALL_START = 0.3


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network.

    Attributes:
        dim: Dimension of space.
        n_components: Components of the solution.
        n_features: Features per cell of the systems.
        widths: Features at the nodes and cells of the mesh, and of all coarser levels.
        layers: Layers before and after the coarser levels, of the mesh, and of all coarser levels.
        boundary_width: Length of the vectors of the boundary.
        boundary_layers: Layers of the Transformer over the boundary.
        passes: How often a branch is applied.
        smoothing: Jacobi steps after each pass.
        seed: Seed of the initial weights.
    """

    dim: int
    n_components: int
    n_features: int
    widths: tuple[int, int]
    layers: tuple[int, int]
    boundary_width: int
    boundary_layers: int
    passes: int
    smoothing: int
    seed: int = 0


class BENO(torch.nn.Module):
    """The network; its weights apply to any shape and mesh.

    Args:
        architecture: See `Architecture`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = one = architecture
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(one.seed)
            n_shape = shape_features(one.dim, one.n_components)
            self.boundary = BoundaryTransformer(n_shape, 2 * one.n_components, one.boundary_width, one.boundary_layers)
            self.of_source = Branch(one, 0)
            self.of_boundary = Branch(one, one.boundary_width)
        self.damping = torch.nn.Parameter(torch.full((one.passes, one.smoothing), _FIRST_DAMPING))

    def forward(self, batch: Batch) -> Tensor:
        """Return the solutions minus the liftings at the graph nodes. Shape (k, n_nodes, n_components)."""
        shape, told = self.boundary(batch.boundary)
        cells = torch.cat([batch.cells, shape[batch.owner][None]], dim=-1)
        load = batch.source + batch.boundary_load
        values = self.of_source(batch, batch.source, cells) + self.of_boundary(batch, batch.boundary_load, cells, told)
        values = _smoothed(batch, values, load, self.damping[0])
        for dampings in self.damping[1:]:
            values = values + self.of_source(batch, load - batch.product(values), cells)
            values = _smoothed(batch, values, load, dampings)
        return values


class Branch(torch.nn.Module):
    """A linear map from loads to free values, by message passing along a multigrid cycle.

    All coarse levels share their weights, and each sees the load projected to it over the diagonal of the projected
    stiffness. So the map does not depend on the mesh size, and there may be any number of levels.

    Args:
        sizes: Sizes of the network.
        latents: Length of the vector of each boundary that is added in each layer; 0 for none.
    """

    def __init__(self, sizes: Architecture, latents: int) -> None:
        super().__init__()
        fine, coarse = sizes.widths
        n_cells = sizes.n_features + _GEOMETRY + sizes.boundary_width
        self.fine = _Layers(sizes, 0, latents)
        self.coarse = _Layers(sizes, 1, latents)
        self.cells = torch.nn.Sequential(torch.nn.Linear(n_cells, fine), torch.nn.SiLU(), torch.nn.Linear(fine, fine))
        self.pooled = torch.nn.Linear(fine, coarse, bias=False)
        self.down, self.up = torch.nn.Linear(fine, coarse, bias=False), torch.nn.Linear(coarse, fine, bias=False)
        self.further = torch.nn.Linear(coarse, coarse, bias=False)
        self.back = torch.nn.Linear(coarse, coarse, bias=False)
        self.decoder = torch.nn.Linear(fine, sizes.n_components, bias=False)
        with torch.no_grad():
            self.decoder.weight *= _SMALL_START

    def forward(self, batch: Batch, load: Tensor, cells: Tensor, told: Tensor | None = None) -> Tensor:
        """Return values for k loads, both of shape (k, n_nodes, n_components).

        Args:
            batch: The systems.
            load: The load.
            cells: Cell features with the shape of the boundary. Shape (1, n_cells, n_features).
            told: Vector of the boundary data of each system. Shape (k, n_systems, latents).
        """
        return batch.free * self.decoder(self._cycle(self.fine, batch.levels, load, self.cells(cells), told))

    def _cycle(
        self,
        layers: "_Layers",
        levels: tuple[LevelBatch, ...],
        load: Tensor,
        cells: Tensor,
        latent: Tensor | None,
        arrived: Tensor | None = None,
    ) -> Tensor:
        """Return the features on the first of some levels; `arrived` are those of the finer level, restricted."""
        nodes = layers.seen(load / levels[0].diagonal)
        if arrived is not None:
            nodes = arrived + nodes
        nodes = layers(layers.before, levels[0], nodes, cells, latent)
        if len(levels) > 1:
            coarser, on_mesh = levels[1], layers is self.fine
            down, up = (self.down, self.up) if on_mesh else (self.further, self.back)
            pooled = coarser.pool(self.pooled(cells) if on_mesh else cells)
            restricted = coarser.restrict(down(nodes))
            found = self._cycle(self.coarse, levels[1:], coarser.project(load), pooled, latent, restricted)
            nodes = nodes + coarser.prolong(up(found))
        return layers(layers.after, levels[0], nodes, cells, latent)


class _Layers(torch.nn.Module):
    """The layers of the mesh (0) or of the coarse levels (1)."""

    def __init__(self, sizes: Architecture, level: int, latents: int) -> None:
        super().__init__()
        width, depth = sizes.widths[level], sizes.layers[level]
        self.seen = torch.nn.Linear(sizes.n_components, width, bias=False)
        self.before, self.after = (
            torch.nn.ModuleList(CellLayer(width, sizes.dim, linear=True, latents=latents) for _ in range(depth))
            for _ in range(2)
        )

    def forward(
        self, layers: torch.nn.ModuleList, level: LevelBatch, nodes: Tensor, cells: Tensor, latent: Tensor | None
    ) -> Tensor:
        for layer in layers:
            nodes, _ = layer(level, nodes, cells, latent)
        return nodes


def _smoothed(batch: Batch, values: Tensor, load: Tensor, dampings: Tensor) -> Tensor:
    for damping in dampings:
        values = values + damping * (load - batch.product(values)) / batch.levels[0].diagonal
    return values
