"""Derivatives of the unknowns in equilibrium by strain and basis."""

from dataclasses import replace

import numpy as np
import pytest
from moe_cases import RANGE, coarse_experts, solve

from femops.devices.torch_library import torch
from femops.rve.sampling import sobol
from femops_moe.galerkin import SchurComplement, derivatives
from femops_moe.implicit import twice_differentiable, unknowns_in_equilibrium

_SETTINGS = (12, 1e-22)
DIMS = pytest.mark.parametrize("dim", [2, 3])


def _strain(dim, n=2):
    corner = np.full(3 if dim == 2 else 6, RANGE)
    return torch.tensor(sobol(-corner, corner, n, 5), requires_grad=True)


def _small(experts):
    """Return the experts with few points, whose Jacobians are small."""
    most = experts.maps.shape[1]
    points = slice(0, 8)
    ((phase, _),) = experts.sampled
    scale = most / 8.0
    return replace(
        experts, maps=experts.maps[:, points], weight=experts.weight[:, points] * scale, sampled=((phase, points),)
    )


def _start(experts, strain):
    return strain.new_zeros(len(strain), experts.n_unknowns)


@DIMS
def test_first_derivatives_by_strain_maps_and_quadratic_forms_are_exact(dim):
    experts, strain = _small(coarse_experts(dim, 8)), _strain(dim)
    rng = torch.Generator().manual_seed(0)
    directions = [torch.randn(one.shape, generator=rng, dtype=one.dtype) for one in (experts.maps, experts.quadratic)]
    scales = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def unknowns(strain, scales):
        maps = experts.maps * (1.0 + scales[0] * directions[0])
        own = directions[1] + directions[1].mT
        padding = experts.quadratic.abs() > 0.0
        quadratic = experts.quadratic * (1.0 + 1e-2 * scales[1] * own * padding)
        changed = replace(experts, maps=maps, quadratic=quadratic)
        return unknowns_in_equilibrium(changed, strain, _start(experts, strain), *_SETTINGS)

    assert torch.autograd.gradcheck(unknowns, (strain, scales), eps=1e-6, atol=1e-6, rtol=1e-5)


@DIMS
def test_second_derivatives_by_the_strain_are_exact(dim):
    experts, strain = _small(coarse_experts(dim, 8)), _strain(dim, 1)
    weights = torch.linspace(0.5, 1.5, experts.n_unknowns, dtype=torch.float64)

    def functional(strain):
        return twice_differentiable(experts, strain, _start(experts, strain), *_SETTINGS) @ weights

    assert torch.autograd.gradgradcheck(functional, (strain,), eps=1e-6, atol=1e-4, rtol=1e-5)


@DIMS
def test_the_derivative_of_the_stress_is_the_condensed_tangent(dim):
    experts, strain = coarse_experts(dim), _strain(dim, 1)

    def stress(strain):
        unknowns = unknowns_in_equilibrium(experts, strain, _start(experts, strain), *_SETTINGS)
        return derivatives(experts, experts.local(strain, unknowns)).gradient[..., : experts.n_s].sum(0)

    found = torch.autograd.functional.jacobian(stress, strain)[0, :, 0]
    truth = solve(experts, strain.detach().numpy()).tangent[0]
    assert torch.allclose(found, truth, rtol=0.0, atol=1e-9 * float(truth.abs().max()))


@DIMS
def test_the_layer_differentiates_like_the_unrolled_iteration(dim):
    experts, strain = coarse_experts(dim, 10), _strain(dim)
    maps = experts.maps.clone().requires_grad_()
    changed = replace(experts, maps=maps)
    weights = torch.linspace(-1.0, 1.0, experts.n_unknowns, dtype=torch.float64)
    unrolled = _start(experts, strain)
    for _ in range(9):
        at = derivatives(changed, changed.local(strain, unrolled))
        unrolled = unrolled + SchurComplement(changed, at.hessian).solve(at.gradient[..., None])[0][..., 0]
    implicit = unknowns_in_equilibrium(changed, strain, _start(experts, strain), *_SETTINGS)
    assert torch.allclose(implicit, unrolled, rtol=0.0, atol=1e-10 * float(unrolled.detach().abs().max()))
    expected = torch.autograd.grad((unrolled @ weights).sum(), (strain, maps))
    found = torch.autograd.grad((implicit @ weights).sum(), (strain, maps))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=0.0, atol=1e-8 * float(other.abs().max()))
