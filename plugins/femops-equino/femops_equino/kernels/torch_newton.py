"""Newton's method on the reduced energy in batched torch, for an accelerator.

The equations are those of `kernels.newton`: with d = P z, its norm n and the secant modulus h = α₁/(α₂ + n),

    gradient   Q z + Σ_c ω h P_cᵀ d_c
    Hessian    Q + Σ_c Σ_ab ω (h δ_ab + (h'/n) d_a d_b) P_caᵀ P_cb

Each sum is one matrix product over all points of a chunk. The products P_caᵀ P_cb are computed once, for a ≤ b and in
the lower triangle only.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.surrogate import chunks
from femops_equino.networks.evaluation import Precision
from femops_equino.reduced.model import ReducedModel, ReducedSolution

_BUDGET = 1e9  # bytes: fills an accelerator, but leaves memory to other ranks on it
SMALLEST = 1e-30  # as in `kernels.newton`


class Step(NamedTuple):
    """One evaluation: a after the step, stress (n, n_e), tangent (n, n_e, n_e) and relative decrement (n,)."""

    coefficients: Tensor
    stress: Tensor
    tangent: Tensor
    decrement: Tensor


class TorchNewton:
    """A reduced model on a device.

    Args:
        model: The reduced model.
        device: A torch device.
        precision: Precision of the computation.
    """

    def __init__(self, model: ReducedModel, device: torch.device | str, precision: Precision = "float64") -> None:
        kind = torch.float64 if precision == "float64" else torch.float32

        def there(values: npt.NDArray[Any]) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(values)).to(device, kind)

        (n_c, n_d, m), projection = model.projection.shape, model.projection
        row, column = np.tril_indices(m)
        place = np.zeros((m, m), np.int64)
        place[row, column] = place[column, row] = np.arange(len(row))
        self._n_e, self._n_d = model.n_e, n_d
        self._place = torch.as_tensor(place).to(device)
        self._quadratic, self._packed = there(model.quadratic), there(model.quadratic[row, column])
        self._weight, self._alpha1, self._alpha2 = (there(one) for one in model.parameters.T)
        self._projection = there(projection.transpose(1, 0, 2).reshape(n_d * n_c, m))
        self._pairs = [(a, b) for a in range(n_d) for b in range(a, n_d)]
        self._products = there(np.concatenate([_product(projection, a, b) for a, b in self._pairs]))
        numbers = n_c * (2 * n_d + 2 * len(self._pairs) + 6) + 2 * len(row) + 3 * m * m
        self._bytes_of_one = numbers * self._quadratic.element_size()

    def solve(self, strain: Array, start: Array, largest: int, tolerance: float) -> ReducedSolution:
        """Minimise the energy over a by Newton's method; see `ReducedModel.solve`."""
        n, n_s = strain.shape
        like = self._quadratic
        z = np.zeros((n, len(like)))
        z[:, :n_s], z[:, self._n_e :] = strain, start
        shapes = [(n, z.shape[1] - self._n_e), (n, self._n_e), (n, self._n_e, self._n_e), (n,)]
        a, stress, tangent, decrement = answer = tuple(np.empty(shape) for shape in shapes)
        evaluations = 0
        with torch.no_grad():
            for part in chunks(n, self._bytes_of_one, _BUDGET):
                there = torch.as_tensor(z[part]).to(like.device, like.dtype)
                found, used = self._minimise(there, largest, tolerance)
                evaluations += used
                for target, values in zip(answer, found, strict=True):
                    target[part] = values.cpu().numpy()
        return ReducedSolution.of(a, stress, tangent, decrement, n_s, evaluations)

    def _minimise(self, z: Tensor, largest: int, tolerance: float) -> tuple[Step, int]:
        """Return the last evaluation of every point; converged points leave the batch."""
        step = answer = self.step(z)
        evaluations = len(z)
        where = torch.arange(len(z), device=z.device)
        for _ in range(largest - 1):
            still = torch.nonzero(~(step.decrement <= tolerance))[:, 0]
            if len(still) == 0:
                break
            where, z = where[still], torch.cat([z[still, : self._n_e], step.coefficients[still]], 1)
            step = self.step(z)
            evaluations += len(z)
            for kept, values in zip(answer, step, strict=True):
                kept[where] = values
        return answer, evaluations

    def step(self, z: Tensor) -> Step:
        """Evaluate at z (n, m), take one Newton step in a, and condense a out of the stress and the tangent."""
        n_e = self._n_e
        gradient, packed = self._derivatives(z)
        factor, failed = torch.linalg.cholesky_ex(packed[:, self._place[n_e:, n_e:]])
        right = torch.cat([gradient[:, n_e:, None], packed[:, self._place[n_e:, :n_e]]], 2)
        half = torch.linalg.solve_triangular(factor, right, upper=False)
        to_minimum, to_strain = half[:, :, :1], half[:, :, 1:]
        stress = gradient[:, :n_e] - (to_strain.mT @ to_minimum)[:, :, 0]
        tangent = packed[:, self._place[:n_e, :n_e]] - to_strain.mT @ to_strain
        gap = (to_minimum * to_minimum).sum((1, 2))
        decrement = gap / torch.clamp((stress * z[:, :n_e]).sum(1), min=SMALLEST)
        change = torch.linalg.solve_triangular(factor.mT, to_minimum, upper=True)[:, :, 0]
        wrong = failed > 0  # a failed factorisation leaves finite numbers, which must not be returned
        stress = stress.masked_fill(wrong[:, None], torch.nan)
        decrement = decrement.masked_fill(wrong, torch.nan)
        return Step(z[:, n_e:] - change, stress, tangent, decrement)

    def _derivatives(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient (n, m) and the lower triangle (n, m (m + 1) / 2) of the Hessian."""
        d, norm, secant = self._sampled(z)
        scale = -self._weight * secant * secant / (self._alpha1 * norm)
        secant = secant * self._weight
        bend = torch.stack([scale * d[:, a] * d[:, b] for a, b in self._pairs], 1)
        for place, (a, b) in enumerate(self._pairs):
            if a == b:
                bend[:, place] += secant
        return self._gradient(z, d, secant), torch.addmm(self._packed, bend.flatten(1), self._products)

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient (n, m) and the Hessian (n, m, m) of the energy at z (n, m)."""
        gradient, packed = self._derivatives(z)
        return gradient, packed[:, self._place]

    def gradient(self, z: Tensor) -> Tensor:
        """Return the gradient (n, m) of the energy at z (n, m)."""
        d, _, secant = self._sampled(z)
        return self._gradient(z, d, secant * self._weight)

    def _gradient(self, z: Tensor, d: Tensor, secant: Tensor) -> Tensor:
        return z @ self._quadratic + (d * secant[:, None]).flatten(1) @ self._projection

    def _sampled(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return deviators (n, n_d, C) at the cubature points, their norms and secant moduli h (n, C)."""
        d = (z @ self._projection.T).view(z.shape[0], self._n_d, len(self._weight))
        norm = torch.sqrt((d * d).sum(1) + SMALLEST)
        return d, norm, self._alpha1 / (self._alpha2 + norm)


def _product(projection: Array, a: int, b: int) -> Array:
    """Return the lower triangles of P_aᵀ P_b, and of P_bᵀ P_a with it. Shape (C, m (m + 1) / 2)."""
    row, column = np.tril_indices(projection.shape[2])
    one, other = projection[:, a], projection[:, b]
    product = one[:, row] * other[:, column]
    return product if a == b else product + other[:, row] * one[:, column]
