"""The adjoint path of `reduced.adjoint` in batched torch, for an accelerator."""

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops_equino.kernels.torch_newton import TorchNewton
from femops_equino.networks import torch_networks
from femops_equino.networks.evaluation import Precision, Weights
from femops_equino.reduced.adjoint import AdjointResponse, elasticity, response_of
from femops_equino.reduced.model import ReducedModel

_CHUNK = 16384


class TorchAdjoint:
    """Adjoint path on a device; see `reduced.adjoint.Adjoint`.

    Args:
        weights: Weights of the coefficient network, see `networks.evaluation`.
        model: Reduced model of these coefficients.
        device: A torch device.
        precision: Precision of the computation.
    """

    def __init__(
        self, weights: Weights, model: ReducedModel, device: torch.device | str, precision: Precision = "float64"
    ) -> None:
        self._weights, self._at_zero = torch_networks.on_device(weights, device, precision)
        self._model, self._n_e = TorchNewton(model, device, precision), model.n_e
        like = self._weights["linear"]
        elastic = elasticity(model, weights)
        self._smallest = float(elastic.smallest)
        self._sensitivity, self._factor = (
            torch.as_tensor(one).to(like.device, like.dtype) for one in (elastic.sensitivity, elastic.factor)
        )

    def evaluate(self, strain: Array, inside: Array) -> AdjointResponse:
        """Evaluate at strains (n, n_s); see `Adjoint.evaluate`."""
        like = self._weights["linear"]
        both = (torch.as_tensor(one).to(like.device, like.dtype).split(_CHUNK) for one in (strain, inside))
        with torch.no_grad():
            parts = [self.response(*part) for part in zip(*both, strict=True)]
        stress, decrement = (torch.cat(one).cpu().numpy().astype(np.float64) for one in zip(*parts, strict=True))
        return response_of(stress, decrement, strain.shape[1])

    def response(self, strain: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Return stresses (n, n_e) and relative decrements (n,)."""
        n_s, n_e, linear = strain.shape[1], self._n_e, self._weights["linear"]
        a, sensitivity = torch_networks.coefficients(self._weights, inside, self._at_zero)
        z = torch.cat([strain, strain.new_zeros(strain.shape[0], n_e - n_s), a + (strain - inside) @ linear.T], 1)
        gradient = self._model.gradient(z)
        residual = gradient[:, n_e:]
        stress = gradient[:, :n_e] + residual @ self._sensitivity
        learned = torch.einsum("nrs,nr->ns", sensitivity - linear, residual)
        stress[:, :n_s] += torch.where(strain == inside, learned, torch.zeros_like(learned))
        gap = ((residual @ self._factor.T) ** 2).sum(1)
        return stress, gap / torch.clamp((stress * z[:, :n_e]).sum(1), min=self._smallest)
