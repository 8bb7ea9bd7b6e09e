"""The residual load, assembled exactly by DOLFINx, as a differentiable torch function."""

from collections.abc import Callable
from typing import Any

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.pde.solver import PDESolver, Samples

ResidualLoad = Callable[[Tensor], Tensor]
"""Map from free values (N, n_nodes, n_components) to their residual load −F, of the same shape."""


def residual_load(solver: PDESolver, samples: Samples, rows: Array) -> ResidualLoad:
    """Return a callable for the residual load of some samples.

    Args:
        solver: Solver of the problem.
        samples: Encoded samples.
        rows: Indices of the samples, in the order of the free values passed to the callable. Shape (N,).
    """
    return lambda values: _ResidualLoad.apply(values, _Assembler(solver, samples, rows))


class _Assembler:
    """Assembles −F for several samples, and products with the transpose of its Jacobian."""

    def __init__(self, solver: PDESolver, samples: Samples, rows: Array) -> None:
        self._solver, self._samples, self._rows = solver, samples, rows

    def loads(self, values: Array) -> Array:
        """Return −F at free values (N, n_free). Shape (N, n_free)."""
        return np.array([self._solver.load(u) for u in self._solutions(values)])

    def vector_jacobian_products(self, values: Array, gradient: Array) -> Array:
        """Return the gradient with respect to the free values from that with respect to −F. Shape (N, n_free)."""
        pairs = zip(self._solutions(values), gradient, strict=True)
        return np.array([-self._solver.transposed_product(u, one) for u, one in pairs])

    def _solutions(self, values: Array) -> Any:
        """Set the inputs of each sample in turn and yield its solution."""
        problem = self._solver.problem
        for row, one in zip(self._rows, values, strict=True):
            problem.set_inputs({name: given[row] for name, given in self._samples.inputs.items()})
            yield self._samples.lifting[row] + problem.free @ one


class _ResidualLoad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, assembler: _Assembler) -> Tensor:
        flat = values.detach().reshape(len(values), -1).double().numpy()
        ctx.assembler, ctx.flat = assembler, flat
        found = assembler.loads(flat)
        # With inverted cells the load is not finite: set it to zero, so that further passes change nothing.
        ctx.finite = np.isfinite(found).all(axis=1)
        found[~ctx.finite] = 0.0
        return torch.from_numpy(found).to(values).reshape(values.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        given = gradient.reshape(len(gradient), -1).double().numpy() * ctx.finite[:, None]
        with np.errstate(invalid="ignore"):
            found = ctx.assembler.vector_jacobian_products(ctx.flat, given)
        found[~ctx.finite] = 0.0
        return torch.from_numpy(found).to(gradient).reshape(gradient.shape), None
