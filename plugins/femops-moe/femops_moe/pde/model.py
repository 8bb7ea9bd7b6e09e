"""Fields that satisfy an equation: softly, by one global least-squares constraint, or by a mixture of experts.

After Chalapathi, Du and Krishnapriyan (ICLR 2024, arXiv 2402.13412): a network predicts basis fields, and the grid is
cut into boxes. The expert of each finds the combination of the basis fields that satisfies the equation best in its
box; the field is put together from the boxes. Experts do not see each other. What couples them is the loss, the
residual of the whole field, whose differences reach across the boxes: it is lower for basis fields of which all
experts want the same combination.
"""

from math import prod
from typing import Any, NamedTuple

from femops.devices.torch_library import Tensor, torch
from femops_moe.implicit import solve
from femops_moe.least_squares import LeastSquares
from femops_moe.pde.diffusion_sorption import DiffusionSorption
from femops_moe.pde.equation import Equation
from femops_moe.pde.navier_stokes import NavierStokes
from femops_moe.pde.network import FourierOperator
from femops_moe.pde.options import ConstraintOptions, DiffusionSorptionBlock, NavierStokesBlock

_RIDGE, _TOLERANCE = 1e-5, 1e-8


def equation(block: Any) -> Equation:
    """Return the equation of a `problem` block."""
    if isinstance(block, DiffusionSorptionBlock):
        return DiffusionSorption(block.cells, block.steps)
    assert isinstance(block, NavierStokesBlock)
    return NavierStokes(block.cells, block.steps, block.end, block.degree)


class Prediction(NamedTuple):
    """Fields of a batch of samples.

    Attributes:
        field: Shape (n, *grid).
        residual: Mean square of the residual of each. Shape (n,).
        converged: Whether the least squares of each box have converged. Shape (n · boxes,); empty if there are none.
    """

    field: Tensor
    residual: Tensor
    converged: Tensor


class ConstrainedField(torch.nn.Module):
    """A network with its constraint: from initial values to a field.

    The network computes in single precision, the least squares in double precision.

    Args:
        of: The equation.
        options: Sizes of the network, and the constraint.
    """

    def __init__(self, of: Equation, options: ConstraintOptions) -> None:
        super().__init__()
        self.equation, self.iterations = of, options.iterations
        self.boxes = of.experts if options.constraint == "experts" else (1,) * len(of.grid)
        self.metric, self.metric_of_boxes = (of.metric(boxes) for boxes in ((1,) * len(of.grid), self.boxes))
        n_outputs = of.n_outputs * (1 + (0 if options.constraint == "soft" else options.basis))
        shape = options.width, options.layers, options.frequencies
        self.network = FourierOperator(of.n_inputs, n_outputs, *shape, options.seed)

    def forward(self, initial: Tensor) -> Prediction:
        """Return the fields of initial values (n, ...)."""
        of = self.equation
        fields = of.fields(self.network(of.inputs(initial).float()).double())
        local, offsets = of.local(fields), of.offsets(initial)
        change, converged = self.combined(fields[:, 1:], local[..., 1:], offsets + local[..., 0])
        combined = fields[:, 0] + change
        values = of.local(combined[:, None])[..., 0] + offsets
        wrong = self.metric.apply(of.residual(values.flatten(1, -2)).value[..., None])
        residual = wrong.square().mean((1, 2))
        return Prediction(of.base(initial) + combined, residual, converged)

    def combined(self, fields: Tensor, local: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the combination of basis fields (n, m, *grid) that the experts find, (n, *grid)."""
        if fields.shape[1] == 0:
            return torch.zeros_like(fields.sum(1)), torch.zeros(0, dtype=torch.bool)
        problem = self.least_squares(local, offsets)
        start = local.new_zeros(len(problem.maps), local.shape[-1])
        found = solve(problem, start, self.iterations, _TOLERANCE)
        basis = to_boxes(fields.movedim(1, -1), self.boxes)
        combined = (basis @ found.unknowns[..., None])[..., 0]
        return from_boxes(combined, self.boxes, self.equation.grid), found.converged

    def least_squares(self, local: Tensor, offsets: Tensor) -> LeastSquares:
        """Return the problems of all boxes from local values of basis fields and of the base with the first field."""
        sampled = (slice(None), *(slice(None, None, stride) for stride in self.equation.strides))
        maps = to_boxes(local[sampled], self.boxes)
        ridge, offsets = _RIDGE * maps.shape[1], to_boxes(offsets[sampled], self.boxes)
        return LeastSquares(maps, offsets, self.equation.residual, ridge, self.metric_of_boxes)


def to_boxes(values: Tensor, boxes: tuple[int, ...]) -> Tensor:
    """Return values (n, *grid, ...) by sample and box. Shape (n · boxes, points, ...)."""
    rank = len(boxes)
    sizes = [part for length, count in zip(values.shape[1:], boxes, strict=False) for part in (count, length // count)]
    split = values.reshape(len(values), *sizes, *values.shape[1 + rank :])
    order = [1 + 2 * axis for axis in range(rank)] + [2 + 2 * axis for axis in range(rank)]
    moved = split.permute(0, *order, *range(1 + 2 * rank, split.ndim))
    return moved.reshape(len(values) * prod(boxes), -1, *values.shape[1 + rank :])


def from_boxes(values: Tensor, boxes: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """Return values by sample and box (n · boxes, points) on the grid (n, *grid); the inverse of `to_boxes`."""
    rank = len(boxes)
    sizes = [length // count for length, count in zip(grid, boxes, strict=True)]
    split = values.reshape(-1, *boxes, *sizes)
    order = [1 + axis + part for axis in range(rank) for part in (0, rank)]
    return split.permute(0, *order).reshape(-1, *grid)
