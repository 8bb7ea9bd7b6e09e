"""The load that an answer leaves, assembled exactly by DOLFINx, as a function that torch can differentiate."""

from collections.abc import Callable
from typing import Any

import numpy as np

from femops.notation import Array
from femops.pde.truth import Samples, Solver
from femops.surrogate.torch_library import Tensor, torch

Remainder = Callable[[Tensor], Tensor]
"""From free values (N, n_nodes, n_components) to the load that they leave, of the same shape."""


def remainder(solver: Solver, samples: Samples, rows: Array) -> Remainder:
    """Return the remainder of some samples.

    Args:
        solver: Of the problem.
        samples: Encoded samples.
        rows: Which of them, in the order of the free values that will be given. Shape (N,).
    """
    return lambda answer: _Remainder.apply(answer, _Assembler(solver, samples, rows))


class _Assembler:
    """−F at several samples' answers, and the products of its derivative's transpose."""

    def __init__(self, solver: Solver, samples: Samples, rows: Array) -> None:
        self._solver, self._samples, self._rows = solver, samples, rows

    def loads(self, answer: Array) -> Array:
        """Return −F. Shape (N, n_free)."""
        return np.array([self._solver.load(u) for u in self._each(answer)])

    def pulled_back(self, answer: Array, gradient: Array) -> Array:
        """Return gradients along the answers from those along the loads. Shape (N, n_free)."""
        pairs = zip(self._each(answer), gradient, strict=True)
        return np.array([-self._solver.transposed_product(u, one) for u, one in pairs])

    def _each(self, answer: Array) -> Any:
        """Yield one sample's solution after the other, its inputs being set."""
        problem = self._solver.problem
        for row, one in zip(self._rows, answer, strict=True):
            problem.set_inputs({name: values[row] for name, values in self._samples.inputs.items()})
            yield self._samples.lifting[row] + problem.free @ one


class _Remainder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, answer: Tensor, assembler: _Assembler) -> Tensor:
        flat = answer.detach().reshape(len(answer), -1).double().numpy()
        ctx.assembler, ctx.flat = assembler, flat
        found = assembler.loads(flat)
        # An answer that turns cells inside out has no load; a pass then sees none left, and the loss sees the answer.
        ctx.sound = np.isfinite(found).all(axis=1)
        found[~ctx.sound] = 0.0
        return torch.from_numpy(found).to(answer).reshape(answer.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        given = gradient.reshape(len(gradient), -1).double().numpy() * ctx.sound[:, None]
        with np.errstate(invalid="ignore"):
            found = ctx.assembler.pulled_back(ctx.flat, given)
        found[~ctx.sound] = 0.0
        return torch.from_numpy(found).to(gradient).reshape(gradient.shape), None
