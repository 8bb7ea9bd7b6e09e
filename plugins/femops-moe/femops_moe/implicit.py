"""Equilibrium as a layer of a network: derivatives by strain and basis from the implicit function theorem.

The unknowns q of given strains and modes solve R(q, E, M, Q) = 0 with the residual R of the experts' energies. For a
loss with derivative g by q, the adjoint μ = −K⁻¹ g gives all others: they are those of μ · R at fixed q and μ.
"""

from dataclasses import replace
from typing import Any

from femops.surrogate.torch_library import Tensor, torch
from femops_moe.experts import Experts
from femops_moe.galerkin import SchurComplement, derivatives, equilibrium, local_strain, point_values


def unknowns_in_equilibrium(
    experts: Experts, strain: Tensor, start: Tensor, evaluations: int, tolerance: float
) -> Tensor:
    """Return the unknowns in equilibrium, differentiable once by strain, `experts.maps` and `experts.quadratic`.

    The derivative costs one evaluation and one solve, however many Newton steps there were. Arguments as in
    `galerkin.equilibrium`. Shape (n, n_unknowns).
    """
    settings = (experts, start.detach(), evaluations, tolerance)
    found: Tensor = _Equilibrium.apply(strain, experts.maps, experts.quadratic, settings)
    return found


def twice_differentiable(experts: Experts, strain: Tensor, start: Tensor, evaluations: int, tolerance: float) -> Tensor:
    """Return the unknowns in equilibrium, differentiable twice; arguments as in `unknowns_in_equilibrium`.

    Two more Newton steps are recorded: each makes one more order of derivatives exact.
    """
    unknowns = equilibrium(experts, strain, start, evaluations, tolerance).unknowns
    for _ in range(2):
        at = derivatives(experts, experts.local(strain, unknowns))
        unknowns = unknowns + SchurComplement(experts, at.hessian).solve(at.gradient[..., None])[0][..., 0]
    return unknowns


class _Equilibrium(torch.autograd.Function):
    """The unknowns as a function of strain, maps and quadratic forms."""

    @staticmethod
    def forward(ctx: Any, strain: Tensor, maps: Tensor, quadratic: Tensor, settings: Any) -> Tensor:
        experts, *others = settings
        experts = replace(experts, maps=maps, quadratic=quadratic)
        unknowns = equilibrium(experts, strain, *others).unknowns
        ctx.experts = replace(experts, maps=maps.detach(), quadratic=quadratic.detach())
        ctx.save_for_backward(strain, unknowns)
        return unknowns

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        experts, (strain, unknowns) = ctx.experts, ctx.saved_tensors
        z = experts.local(strain, unknowns)
        hessian = derivatives(experts, z).hessian
        adjoint = SchurComplement(experts, hessian).solve(_as_force(experts, grad))[0][..., 0]
        mu = experts.local(torch.zeros_like(strain), adjoint)
        at = point_values(experts, z)
        along_mu = torch.einsum("stknp,tknp->sknp", at.tangent, local_strain(experts, mu))
        of_maps = torch.einsum("sknp,kni->kpsi", at.stress, mu) + torch.einsum("sknp,kni->kpsi", along_mu, z)
        of_quadratic = torch.einsum("kni,knj->kij", mu, z)
        of_strain = torch.einsum("knsi,kni->ns", hessian[:, :, : experts.n_s], mu)
        return of_strain, of_maps, 0.5 * (of_quadratic + of_quadratic.mT), None


def _as_force(experts: Experts, grad: Tensor) -> Tensor:
    """Return derivatives by the unknowns (n, n_unknowns) as those by z, of ports in the first expert. (K, n, m, 1)."""
    force = experts.local(grad.new_zeros(len(grad), experts.n_s), grad).clone()
    force[1:, :, : experts.n_shared] = 0.0
    return force[..., None]
