"""Laws as materials of torch-fem (tested with torch-fem 0.14)."""

from typing import Self

import numpy as np

from femops.devices.torch_library import Tensor, torch  # isort: skip - before torch-fem imports torch
from torchfem.materials.base import MechanicsMaterial

from femops.conversions import tangent_to_tensor
from femops.hosts.host_law import Failure, HostLaw, OutOfRange
from femops.law import MaterialLaw
from femops.notation import basis, n_strain


class Material(MechanicsMaterial):
    """Small-strain material of `torchfem.Planar` (plane strain) and `torchfem.Solid`; arguments as of `HostLaw`.

    The state of torch-fem holds the state of the law, followed by the external strain so far. First derivatives with
    respect to whatever the strain depends on are those of the consistent tangent; the state has none.

    Attributes:
        law: The law with the decisions of its user; `law.response` is that of the last integration point.
    """

    # A tangent need not be symmetric.
    symmetric_tangent = False

    def __init__(
        self, law: MaterialLaw, *, out_of_range: OutOfRange = "raise", not_converged: Failure = "raise"
    ) -> None:
        super().__init__()
        self.law = HostLaw(law, out_of_range, not_converged)
        self.dim = law.dim
        self.n_state = law.n_state + n_strain(law.dim)
        self._basis = torch.from_numpy(basis(n_strain(law.dim)))

    def vectorize(self, n_elem: int) -> Self:
        """Return the material itself, which is the same in all elements."""
        return self

    def rotate(self, R: Tensor) -> Self:  # noqa: N803 - the name that torch-fem gives it
        """Refuse to rotate: the law may be anisotropic.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a law of femops is not rotated; rotate the RVE that it belongs to")

    def step(
        self,
        H_inc: Tensor,  # noqa: N803 - the names that torch-fem gives them
        F: Tensor,  # noqa: N803
        stress: Tensor,
        state: Tensor,
        de0: Tensor,
        cl: Tensor,
        iter: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return stress, state and tangent; see `MechanicsMaterial.step`.

        Raises:
            TypeError: The tensors are not double precision.
            NotImplementedError: Derivatives of a history-dependent law are asked for.
        """
        if H_inc.dtype != torch.float64:
            raise TypeError(f"torch-fem computes in {H_inc.dtype}, expected torch.set_default_dtype(torch.float64)")
        n_state = self.law.law.n_state
        external = state[..., n_state:] + self._mandel(de0)
        strain = self._mandel(F - torch.eye(self.dim) + H_inc) - external
        if n_state and (strain.requires_grad or state.requires_grad):
            raise NotImplementedError("the law has a state, whose derivatives are not known; expected a law without")
        committed = state[..., :n_state].detach().flatten(end_dim=-2)
        n_s = strain.shape[-1]
        response = self.law.evaluate(strain.detach().flatten(end_dim=-2).numpy(), committed.numpy())
        tangent = torch.from_numpy(response.tangent).reshape(*strain.shape, n_s)
        # The last term is zero; its derivative is the tangent.
        linear = torch.einsum("...ij,...j->...i", tangent, strain - strain.detach())
        new_stress = torch.from_numpy(response.stress).reshape(strain.shape) + linear
        new_state = torch.from_numpy(response.state).reshape(*strain.shape[:-1], n_state)
        fourth = torch.from_numpy(np.ascontiguousarray(tangent_to_tensor(response.tangent)))
        return (
            torch.tensordot(new_stress, self._basis, 1),
            torch.cat([new_state, external], dim=-1),
            fourth.reshape(*strain.shape[:-1], *[self.dim] * 4),
        )

    def _mandel(self, tensor: Tensor) -> Tensor:
        """Return the Mandel vectors, shape (..., n_s), of the symmetric parts of tensors, shape (..., d, d)."""
        return torch.einsum("...ij,aij->...a", tensor, self._basis)
