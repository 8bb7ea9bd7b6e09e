"""The network that maps the load of a problem to the free values of its solution, in several passes.

Each pass adds the processor's output for the current residual load to the solution. The residual is assembled exactly,
so that a pass need not be accurate; the passes share their weights. The output is linear in the residual load, with
weights that depend on the coefficients and, for nonlinear problems, on the current gradient: a zero residual gives a
zero update, as in Newton's method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.pde.residual import ResidualLoad
from femops.surrogate.graph import Hierarchy
from femops.surrogate.message_passing import HierarchyMaps, Processor, ProcessorOptions, Shape, SparseMap
from femops_spon.options import SPONOptions


@dataclass(frozen=True)
class Operators:
    """Discrete operators and sizes of a problem that the network is built from.

    Attributes:
        levels: Graphs of the free nodes.
        stiffness: Stiffness at the free values; a reference stiffness if the problem is nonlinear or inputs enter it.
            Rows and columns of fixed values are zero. Shape (n_nodes · n_components, n_nodes · n_components).
        free: Mask of the free values. Shape (n_nodes · n_components,).
        n_components: Components per node.
        n_features: Features per cell.
        linear: Whether the problem is linear, so that the solution is linear in the load.
    """

    levels: Hierarchy
    stiffness: sp.csr_array
    free: npt.NDArray[np.bool_]
    n_components: int
    n_features: int
    linear: bool


class OperatorNetwork(torch.nn.Module):
    """Network from loads and cell features to free values.

    Args:
        operators: See `Operators`.
        scales: Normalisation of the cell features: `features_mean` and `features` (n_features,), mean and standard
            deviation of the given features, and `slope` (1,), standard deviation of the solution gradient.
        options: Sizes of the network.
    """

    free: Tensor
    compliance: Tensor
    features: Tensor
    features_mean: Tensor
    slope: Tensor

    def __init__(self, operators: Operators, scales: Mapping[str, Array], options: SPONOptions) -> None:
        super().__init__()
        self.linear, self.passes, size = operators.linear, options.passes, operators.n_components
        levels = operators.levels[: options.levels]
        self.maps, self.stiffness = HierarchyMaps(levels), SparseMap(operators.stiffness)
        diagonal = operators.stiffness.diagonal()
        compliance = np.divide(1.0, diagonal, out=np.ones_like(diagonal), where=diagonal != 0.0)
        self._constant("free", operators.free.reshape(-1, size))
        self._constant("compliance", compliance.reshape(-1, size))
        for name, scale in scales.items():
            self._constant(name, scale)
        dim = levels[0].graph.dim
        n_features = operators.n_features + (0 if self.linear else dim * size)
        shape = Shape(size, max(n_features, 1), size, dim, len(levels))
        self.processor = Processor(shape, ProcessorOptions(options.widths, options.layers, linear=True))

    def forward(self, load: Tensor, features: Tensor, residual_load: ResidualLoad | None = None) -> Tensor:
        """Return the predicted free values.

        Args:
            load: −F at the lifting. Shape (N, n_nodes, n_components).
            features: Cell features. Shape (N, n_cells, n_features).
            residual_load: Callable for the residual load; by default load − stiffness · solution, which is exact if
                all samples share the stiffness.

        Returns:
            Free values, shape (N, n_nodes, n_components).
        """
        values, residual = torch.zeros_like(load), load
        for number in range(self.passes):
            if number:
                residual = load - self._forces(values) if residual_load is None else residual_load(values)
            cells = self._cells(features, values)
            step = self.processor(self.maps, residual * self.compliance, cells)
            values = values + self.free * step
        return values

    def _forces(self, values: Tensor) -> Tensor:
        flat: Tensor = self.stiffness(values.reshape(len(values), -1, 1))
        return flat.reshape(values.shape)

    def _cells(self, features: Tensor, values: Tensor) -> Tensor:
        """Return the cell features: scaled coefficients and, for nonlinear problems, the current gradient."""
        if self.linear and features.shape[2] == 0:
            return features.new_ones(*features.shape[:2], 1)
        scaled = (features - self.features_mean) / self.features
        if self.linear:
            return scaled
        finest: Any = next(iter(self.maps))
        slopes = finest.to_cells(values)[:, :, values.shape[2] :] / self.slope
        return torch.cat([scaled, slopes], dim=-1)

    def _constant(self, name: str, values: npt.NDArray[Any]) -> None:
        self.register_buffer(name, torch.from_numpy(np.asarray(values, dtype=np.float32)), persistent=False)
