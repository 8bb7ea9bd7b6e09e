"""What an equation in space and time tells the fields that are to satisfy it."""

from typing import Protocol

import numpy as np

from femops.devices.torch_library import Tensor
from femops.notation import Array
from femops_moe.least_squares import Metric, PointResidual


class Equation(Protocol):
    """An initial value problem on a grid of time levels and cells, with random initial values.

    A field is the base of its initial values plus a combination of basis fields, so that initial and boundary values
    hold for any coefficients. At each point of the grid, the residual is a function of s local values, which are linear
    in the basis fields and affine in the coefficients.

    Attributes:
        grid: Number of points along time and each axis of space.
        n_inputs: Channels of the input of a network.
        n_outputs: Channels of its output for each basis field.
        experts: Number of subdomains along time and each axis of space, as in the paper.
        strides: The least squares take every so-many-th point along each axis.
    """

    grid: tuple[int, ...]
    n_inputs: int
    n_outputs: int
    experts: tuple[int, ...]
    strides: tuple[int, ...]

    def draw(self, random: np.random.Generator, n: int) -> Array:
        """Return random initial values of n samples. The sample is the leading axis."""
        ...

    def solve(self, initial: Array) -> Array:
        """Return the reference solution on the grid. Shape (n, *grid)."""
        ...

    def inputs(self, initial: Tensor) -> Tensor:
        """Return the input of a network. Shape (n, n_inputs, a, b)."""
        ...

    def fields(self, outputs: Tensor) -> Tensor:
        """Return basis fields (n, m, *grid) from the output of a network (n, m · n_outputs, a, b)."""
        ...

    def base(self, initial: Tensor) -> Tensor:
        """Return the field of which all coefficients vanish. Shape (n, *grid)."""
        ...

    def local(self, fields: Tensor) -> Tensor:
        """Return the local values of basis fields (n, m, *grid). Shape (n, *grid, s, m)."""
        ...

    def offsets(self, initial: Tensor) -> Tensor:
        """Return the local values of the base. Shape (n, *grid, s)."""
        ...

    def residual(self, values: Tensor) -> PointResidual:
        """Return the residual at points from local values (n, P, s)."""
        ...

    def metric(self, boxes: tuple[int, ...]) -> Metric:
        """Return the map B of the residuals in each of so many boxes, see `LeastSquares.metric`."""
        ...
