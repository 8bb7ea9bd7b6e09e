"""The problems of the paper: residuals, reference solutions, constraints and studies."""

from itertools import pairwise

import numpy as np
import pytest
import yaml
from mpi4py import MPI

from femops.devices.torch_library import torch
from femops.errors import CaseError
from femops.inputs.study import load_study
from femops.offline.train import train
from femops.surrogate.store import read_manifest
from femops_moe.implicit import solve
from femops_moe.pde import diffusion_sorption, navier_stokes
from femops_moe.pde.diffusion_sorption import DiffusionSorption
from femops_moe.pde.model import ConstrainedField, from_boxes, to_boxes
from femops_moe.pde.navier_stokes import NavierStokes
from femops_moe.pde.options import ConstraintOptions
from femops_moe.pde.training import load_field, predicted, relative_errors

EQUATIONS = {"diffusion_sorption": DiffusionSorption(16, 8), "navier_stokes": NavierStokes(16, 4, 1.0, 3)}
EACH = pytest.mark.parametrize("name", EQUATIONS)
SMALL = {"basis": 4, "width": 6, "layers": 2, "frequencies": 3}


def draw(of, n=2, seed=4):
    return of.draw(np.random.default_rng(seed), n)


def residual(of, initial, change):
    """Return the residual (n, points) of fields that differ from the base by a change (n, *grid)."""
    values = of.local(change[:, None])[..., 0] + of.offsets(torch.from_numpy(initial))
    return of.residual(values.flatten(1, -2))


def model(of, constraint, **options):
    return ConstrainedField(of, ConstraintOptions(law="moe", constraint=constraint, **{**SMALL, **options}))


def slope(errors):
    """Return the order of convergence of errors on grids twice as fine each time."""
    return float(-np.polyfit(np.arange(len(errors)), np.log2(errors), 1)[0])


def test_the_residual_vanishes_for_the_solution_on_the_same_grid():
    of, initial = EQUATIONS["diffusion_sorption"], np.array([0.02, 0.2])
    solution = torch.from_numpy(diffusion_sorption.finite_volumes(initial, *reversed(of.grid)))
    change = solution - of.base(torch.from_numpy(initial))
    assert residual(of, initial, change).value.abs().max() < 1e-9
    assert residual(of, initial, 0.9 * change).value.abs().max() > 1e-2


def test_the_residual_of_a_decaying_vortex_vanishes():
    """The Taylor–Green vortex is an exact solution: its advection vanishes, and it decays like exp(−8 π² ν t)."""
    of = NavierStokes(32, 4, 1.0, 3)
    x = (np.arange(32) / 32)[:, None]
    initial = (np.sin(2 * np.pi * x) * np.sin(2 * np.pi * x.T))[None]
    decay = np.exp(-8 * np.pi**2 * navier_stokes.VISCOSITY * np.linspace(0.0, 1.0, 5)) - 1.0
    exact = torch.from_numpy(decay[:, None, None] * initial)[None]
    rate = 8 * np.pi**2 * navier_stokes.VISCOSITY
    assert residual(of, initial, exact).value.abs().max() < 1e-3 * rate
    assert residual(of, initial, torch.zeros_like(exact)).value.abs().max() > 0.9 * rate


def test_advection_moves_a_vortex_with_the_flow():
    """ω = f(x) + g(y) is carried along by v = (−∫g, ∫f): the residual of the resting field is v · ∇ω."""
    of = NavierStokes(32, 4, 1.0, 3)
    x = np.arange(32) / 32
    wave = 2 * np.pi
    initial = (np.cos(wave * x)[:, None] + np.cos(2 * wave * x))[None]
    # ψ = cos(2πx)/(2π)² + cos(4πy)/(4π)², v = (∂_y ψ, −∂_x ψ)
    advection = -(-np.sin(2 * wave * x) / (2 * wave)) * wave * np.sin(wave * x)[:, None]
    advection += -np.sin(wave * x)[:, None] / wave * 2 * wave * np.sin(2 * wave * x)
    found = residual(of, initial, torch.zeros(1, *of.grid, dtype=torch.float64)).value.reshape(of.grid)[0]
    assert np.abs(found.numpy() - advection).max() < 0.02 * np.abs(advection).max()


@EACH
def test_derivatives_of_the_residual_are_those_of_its_value(name):
    of = EQUATIONS[name]
    values = torch.rand(1, 3, of.offsets(torch.from_numpy(draw(of, 1))).shape[-1], dtype=torch.float64).requires_grad_()
    at = of.residual(values)
    (first,) = torch.autograd.grad(at.value.sum(), values, create_graph=True)
    assert torch.allclose(first, at.first)
    for i in range(values.shape[-1]):
        (second,) = torch.autograd.grad(first[..., i].sum(), values, retain_graph=True, allow_unused=True)
        assert torch.allclose(second, at.second[..., i, :])


def test_diffusion_and_sorption_converges_at_second_order():
    initial = np.array([0.1])
    found = [
        diffusion_sorption.finite_volumes(initial, 16 * k, 16 * k)[:, k - 1 :: k].reshape(1, 16, 16, k).mean(3)
        for k in (1, 2, 4, 8, 32)
    ]
    order = slope([relative_errors(one, found[-1])[0] for one in found[1:-1]])
    assert order == pytest.approx(2.0, abs=0.3)


def test_the_flow_converges_at_second_order():
    x = 2 * np.pi * np.arange(16) / 16
    initial = (np.sin(x)[:, None] + np.cos(x) + np.sin(x[:, None] + 2 * x))[None]
    found = [
        navier_stokes.sampled(navier_stokes.finite_volumes(navier_stokes.refined(initial, k), 0.5, 1), 16)
        for k in (1, 2, 4, 8)
    ]
    differences = [np.linalg.norm(b - a) for a, b in pairwise(found)]
    assert slope(differences) == pytest.approx(2.0, abs=0.2)


def test_the_metric_turns_the_residual_into_the_error():
    of, initial = DiffusionSorption(32, 16), np.array([0.1])
    solution = torch.from_numpy(diffusion_sorption.finite_volumes(initial, *reversed(of.grid)))
    x = (torch.arange(32) + 0.5) / 32
    wrong = 1e-2 * torch.sin(3 * torch.pi * x).expand(of.grid).double()
    change = solution - of.base(torch.from_numpy(initial)) + wrong
    estimate = of.metric((1, 1)).apply(residual(of, initial, change).value[..., None])
    assert 0.8 < float(estimate.norm() / wrong.norm()) < 1.25
    adjoint = torch.rand(1, 32 * 16, 2, dtype=torch.float64), torch.rand(1, 32 * 16, 2, dtype=torch.float64)
    metric = of.metric((1, 1))
    assert float((metric.apply(adjoint[0]) * adjoint[1]).sum()) == pytest.approx(
        float((adjoint[0] * metric.transposed(adjoint[1])).sum())
    )


@EACH
def test_boxes_are_put_together_as_they_were_cut(name):
    of = EQUATIONS[name]
    values = torch.arange(2 * np.prod(of.grid)).reshape(2, *of.grid)
    cut = to_boxes(values, of.experts)
    assert cut.shape == (2 * np.prod(of.experts), np.prod(of.grid) // np.prod(of.experts))
    assert torch.equal(from_boxes(cut, of.experts, of.grid), values)
    half = of.grid[-1] // of.experts[-1]
    assert torch.equal(cut[0].reshape(*of.grid[:1], -1, half)[0, 0], values[0][(0,) * (len(of.grid) - 1)][:half])


@EACH
@pytest.mark.parametrize("constraint", ["global", "experts"])
def test_the_constraint_reduces_the_residual_in_every_box(name, constraint):
    of = EQUATIONS[name]
    hard, given = model(of, constraint, basis=8), torch.from_numpy(draw(of))
    with torch.no_grad():
        fields = of.fields(hard.network(of.inputs(given).float()).double())
        local = of.local(fields)
        problem = hard.least_squares(local[..., 1:], of.offsets(given) + local[..., 0])
        zero = torch.zeros(len(problem.maps), 8, dtype=torch.float64)
        found = solve(problem, zero, hard.iterations, 1e-8).unknowns
    assert len(found) == 2 * (4 if constraint == "experts" else 1)
    assert (problem.objective(found) < 0.9 * problem.objective(zero)).all()


@EACH
def test_all_models_meet_initial_values(name):
    of = EQUATIONS[name]
    given = torch.from_numpy(draw(of))
    for constraint in ("soft", "global", "experts"):
        field = model(of, constraint)(given).field
        assert field.shape == (2, *of.grid) and torch.isfinite(field).all()
        if name == "navier_stokes":
            assert torch.equal(field[:, 0], given)


@EACH
def test_the_loss_has_exact_derivatives_through_the_experts(name):
    of = EQUATIONS[name]
    hard = model(of, "experts", basis=2, iterations=30).double()
    weight, given = hard.network.project[-1].weight, torch.from_numpy(draw(of, 1))

    def loss(step):
        weight.data.add_(step)
        fields = of.fields(hard.network(of.inputs(given)))
        weight.data.sub_(step)
        local, offsets = of.local(fields), of.offsets(given)
        change, converged = hard.combined(fields[:, 1:], local[..., 1:], offsets + local[..., 0])
        assert converged.all()
        values = of.local((fields[:, 0] + change)[:, None])[..., 0] + offsets
        return of.residual(values.flatten(1, -2)).value.square().mean()

    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = 1e-5
    difference = float((loss(size * direction) - loss(-size * direction)).detach()) / (2.0 * size)
    (gradient,) = torch.autograd.grad(loss(0.0 * direction), weight)
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-4)


def study(folder, name, **options):
    sizes = {"cells": 16, "steps": 8 if name == "diffusion_sorption" else 4}
    extra = {} if name == "diffusion_sorption" else {"end": 1.0, "degree": 2}
    problem = {"pde": name, **sizes, **extra, "samples": {"test": 2}}
    path = folder / "study.yaml"
    surrogate = {"law": "moe", **SMALL, "steps": 3, "batch": 2, **options}
    path.write_text(yaml.safe_dump({"problem": problem, "surrogate": surrogate}))
    return path


@EACH
def test_a_study_trains_a_model_that_can_be_loaded(tmp_path, name):
    path = study(tmp_path, name)
    folder = train(load_study(path), path, tmp_path / "out", MPI.COMM_SELF).model
    metrics = read_manifest(folder).metrics
    restored = load_field(folder)
    of = restored.equation
    initial = of.draw(np.random.default_rng([1, 1]), 2)
    found = relative_errors(predicted(restored, initial)[0], of.solve(initial))
    assert metrics["fit"]["error_mean"] == pytest.approx(found.mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frequencies": 9}, "surrogate.frequencies: 9 given, expected at most"),
        ({"constraint": "hard"}, "constraint"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, options, message):
    path = study(tmp_path, "diffusion_sorption", **options)
    with pytest.raises(CaseError, match=message):
        train(load_study(path), path, tmp_path / "out", MPI.COMM_SELF)
