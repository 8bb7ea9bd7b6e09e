"""Derivatives of coefficients that solve nonlinear least-squares problems, and their iteration."""

import pytest

from femops.devices.torch_library import torch
from femops_moe.implicit import solve, solve_twice_differentiable
from femops_moe.least_squares import Identity, LeastSquares, PointResidual

N, POINTS, VALUES, COEFFICIENTS = 2, 6, 2, 2
STEPS = 40, 1e-26


def residual(values):
    """f = a + a b²: neither linear nor zero at the solution."""
    a, b = values.unbind(-1)
    one = torch.ones_like(a)
    second = torch.stack([torch.stack([0 * one, 2 * b], -1), torch.stack([2 * b, 2 * a], -1)], -2)
    return PointResidual(a + a * b**2, torch.stack([one + b**2, 2 * a * b], -1), second)


class Mixing:
    """A map that is not symmetric."""

    matrix = torch.eye(POINTS, dtype=torch.float64) + torch.ones(POINTS, POINTS, dtype=torch.float64).tril(-1) / POINTS

    def apply(self, values):
        return self.matrix @ values

    def transposed(self, values):
        return self.matrix.mT @ values


def problem(requires_grad=False, n=N, metric=Identity()):  # noqa: B008 - it has no state
    draw = torch.Generator().manual_seed(3)
    shapes = (n, POINTS, VALUES, COEFFICIENTS), (n, POINTS, VALUES)
    maps, offsets = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    offsets *= 0.1
    return LeastSquares(
        maps.requires_grad_(requires_grad), offsets.requires_grad_(requires_grad), residual, 1e-3, metric
    )


def start(of):
    return torch.zeros(len(of.maps), COEFFICIENTS, dtype=torch.float64)


def test_derivatives_of_the_residual_are_those_of_its_value():
    values = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64).reshape(1, 6, 2).requires_grad_()
    at = residual(values)
    (first,) = torch.autograd.grad(at.value.sum(), values, create_graph=True)
    assert torch.allclose(first, at.first)
    second = torch.stack([torch.autograd.grad(one.sum(), values, retain_graph=True)[0] for one in first.unbind(-1)], -2)
    assert torch.allclose(second, at.second)


def test_the_solution_is_stationary_and_no_worse_than_the_start():
    given = problem()
    found = solve(given, start(given), *STEPS)
    c = found.unknowns.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(given.objective(c).sum(), c)
    assert found.converged.all() and gradient.abs().max() < 1e-10
    assert (given.objective(found.unknowns) < given.objective(start(given))).all()


def test_items_that_have_not_converged_are_marked():
    given = problem()
    assert not solve(given, start(given), 1, 1e-12).converged.any()


def test_a_converged_item_keeps_its_coefficients_whatever_the_others_need():
    given = problem()
    first = solve(given, start(given), *STEPS).unknowns
    begin = torch.where(torch.arange(N)[:, None] == 0, first, start(given))
    again = solve(given, begin, 3, 1e-20).unknowns
    assert torch.equal(again[0], first[0]) and not torch.equal(again[1], begin[1])


METRICS = pytest.mark.parametrize("metric", [Identity(), Mixing()])


@METRICS
def test_first_derivatives_are_exact(metric):
    given = problem(requires_grad=True, metric=metric)
    assert torch.autograd.gradcheck(
        lambda *p: solve(given.at(p), start(given), *STEPS).unknowns, given.parameters, fast_mode=True
    )


@METRICS
def test_second_derivatives_are_exact(metric):
    given = problem(requires_grad=True, n=1, metric=metric)

    def functional(*parameters):
        return solve_twice_differentiable(given.at(parameters), start(given), *STEPS).unknowns.sum()

    assert torch.autograd.gradgradcheck(functional, given.parameters, fast_mode=True)
