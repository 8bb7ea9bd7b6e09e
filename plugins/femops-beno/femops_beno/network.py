"""The boundary-embedded network: from source and boundary data to the free values of the solution.

u = u_source + u_boundary, one branch each. Both are linear in their data, with weights that depend on the shape: on the
graph, whose functions vanish at prescribed values, and on the vector that a Transformer makes of the boundary's shape.
A second vector, linear in the boundary data, is added in every message-passing layer of the boundary branch. Damped
Jacobi steps with the exact stiffness smooth the output. Further passes apply the source branch to the residual load,
which is a source with zero boundary values.
"""

from dataclasses import dataclass

from femops.surrogate.message_passing import Processor, ProcessorOptions, Shape
from femops.surrogate.torch_library import Tensor, torch
from femops_beno.boundary import BoundaryTransformer, shape_features
from femops_beno.encoding import Batch

_GEOMETRY = 2  # cell features besides those of the system, see `encoding.encode`
_FIRST_DAMPING = 0.6
_FAR = 1e-2  # scale of the loads relative to the size of the domain


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network.

    Attributes:
        dim: Dimension of space.
        n_components: Components of the solution.
        n_features: Features per cell of the systems.
        levels: Levels of the graphs.
        processor: Size of each branch.
        width: Length of the vectors of the boundary.
        boundary_layers: Layers of the Transformer over the boundary.
        passes: How often a branch is applied.
        smoothing: Jacobi steps after each pass.
        seed: Seed of the initial weights.
    """

    dim: int
    n_components: int
    n_features: int
    levels: int
    processor: ProcessorOptions
    width: int
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
        cells = one.n_features + _GEOMETRY + one.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(one.seed)
            self.boundary = BoundaryTransformer(
                shape_features(one.dim, one.n_components), 2 * one.n_components, one.width, one.boundary_layers
            )
            source = Shape(2 * one.n_components, cells, one.n_components, one.dim, one.levels)
            data = Shape(2 * one.n_components, cells, one.n_components, one.dim, one.levels, one.width)
            self.of_source = Processor(source, one.processor)
            self.of_boundary = Processor(data, one.processor)
        self.damping = torch.nn.Parameter(torch.full((one.passes, one.smoothing), _FIRST_DAMPING))

    def forward(self, batch: Batch) -> Tensor:
        """Return the solution minus the lifting at the graph nodes. Shape (n_nodes, n_components)."""
        shape, told = self.boundary(batch.boundary)
        cells = torch.cat([batch.cells, shape[batch.owner][None]], dim=-1)
        load = batch.source + batch.boundary_load
        values = self._branch(self.of_source, batch, batch.source, cells, None)
        values = values + self._branch(self.of_boundary, batch, batch.boundary_load, cells, told[None])
        values = self._smoothed(batch, values, load, self.damping[0])
        for dampings in self.damping[1:]:
            residual = load - _product(batch, values)
            values = values + self._branch(self.of_source, batch, residual, cells, None)
            values = self._smoothed(batch, values, load, dampings)
        return values

    @staticmethod
    def _branch(network: Processor, batch: Batch, load: Tensor, cells: Tensor, latent: Tensor | None) -> Tensor:
        near = load / batch.diagonal
        nodes = torch.cat([near, _FAR * batch.reach * near], dim=-1)
        return batch.free * network(batch.levels, nodes[None], cells, latent)[0]

    @staticmethod
    def _smoothed(batch: Batch, values: Tensor, load: Tensor, dampings: Tensor) -> Tensor:
        for damping in dampings:
            values = values + damping * (load - _product(batch, values)) / batch.diagonal
        return values


def _product(batch: Batch, values: Tensor) -> Tensor:
    """Return K u at the free values."""
    found: Tensor = batch.stiffness(values.reshape(1, -1, 1))
    return found.reshape(values.shape)
