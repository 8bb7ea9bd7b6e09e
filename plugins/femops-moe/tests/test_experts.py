"""Ports and bubbles, and the equilibrium of coupled experts."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from moe_cases import RANGE, RVES, coarse_experts, problem, solve

from femops import load_law
from femops.devices.torch_library import torch
from femops.phases import PhaseResponse
from femops.rve.sampling import sobol
from femops_moe.basis import decompose
from femops_moe.compiled import CompiledExperts, solver
from femops_moe.cubature import choose, shares
from femops_moe.experts import assemble, restricted
from femops_moe.galerkin import BatchedExperts, derivatives, equilibrium, sensitivity
from femops_moe.partition import bisection, grid

DIMS = pytest.mark.parametrize("dim", [2, 3])


def _unseen(dim, n=5, scale=1.0):
    corner = np.full(3 if dim == 2 else 6, scale * RANGE)
    return sobol(-corner, corner, n, 7)


def _relative(values, truth):
    return np.abs(np.asarray(values) - np.asarray(truth)).max() / np.abs(np.asarray(truth)).max()


@DIMS
def test_ports_are_in_elastic_equilibrium_and_bubbles_vanish_on_the_interface(dim):
    one = problem(dim)
    partition = grid(one.space, 2)
    basis = one.basis(partition)
    inside = np.repeat(partition.owner >= 0, dim)
    forces = one.stiffness @ basis.ports
    assert np.abs(forces[inside]).max() < 1e-9 * np.abs(forces).max()
    assert (basis.bubbles[~inside] == 0.0).all()
    owner = np.repeat(partition.owner, dim)
    for k, count in enumerate(basis.counts):
        own = basis.bubbles * (owner == k)[:, None]
        assert (own[:, count:] == 0.0).all()
        modes = np.concatenate([basis.ports, own[:, :count]], axis=1)
        assert np.allclose(modes.T @ one.stiffness @ modes, np.eye(modes.shape[1]), atol=1e-3)


@pytest.mark.parametrize(("dim", "boundary"), [(2, "periodic"), (3, "periodic"), (2, "kinematic")])
def test_all_modes_together_give_the_nested_solution_at_the_snapshots(dim, boundary):
    one = problem(dim, boundary)
    for partition in (grid(one.space, 1), grid(one.space, 2), bisection(one.space, 3)):
        basis = one.basis(partition)
        assert basis.n_unknowns >= len(one.fields[0]) > one.strain.shape[1]
        answer = solve(one.experts(partition), one.strain)
        assert _relative(answer.stress, one.stress) < 1e-9


@DIMS
def test_the_modes_of_most_energy_come_first_whatever_their_group(dim):
    one = problem(dim)
    partition, count = grid(one.space, 2), 12
    basis, lost = decompose(partition, one.stiffness, one.elastic, one.fields, count, 1e-7)
    assert basis.n_unknowns == count
    owner = np.repeat(partition.owner, dim)
    modes = [basis.ports, *(basis.bubbles * (owner == k)[:, None] for k in range(partition.n_experts))]
    whole = np.concatenate(modes, axis=1)
    rest = one.fields - whole @ (whole.T @ (one.stiffness @ one.fields))
    energies = [(part * (one.stiffness @ part)).sum() for part in (rest, one.fields)]
    assert lost[count] == pytest.approx((energies[0] / energies[1]) ** 0.5, rel=1e-6)
    assert (np.diff(lost[:-1] ** 2, n=2) > -1e-12).all()  # each mode takes no more than the one before it


@DIMS
def test_the_tangent_is_the_derivative_of_the_stress(dim):
    experts, strain = coarse_experts(dim), _unseen(dim)
    answer = solve(experts, strain)
    h, n_s = 3e-6, strain.shape[1]
    steps = h * np.eye(n_s)[:, None]
    plus, minus = (solve(experts, (strain + sign * steps).reshape(-1, n_s)).stress for sign in (1.0, -1.0))
    slope = ((plus - minus) / (2 * h)).reshape(n_s, len(strain), n_s).permute(1, 2, 0)
    assert _relative(answer.tangent, slope) < 1e-8
    assert _relative(answer.tangent, answer.tangent.mT) < 1e-14
    columns = sensitivity(experts, torch.as_tensor(strain), answer.unknowns)
    moved = [solve(experts, strain + sign * steps[1]).unknowns for sign in (1.0, -1.0)]
    assert _relative(columns[:, :, 1], (moved[0] - moved[1]) / (2 * h)) < 1e-7


@DIMS
def test_hill_mandel_holds_and_the_residual_vanishes_on_every_mode(dim):
    one = problem(dim)
    partition = grid(one.space, 2)
    basis = one.basis(partition, modes=14)
    experts, strain = assemble(one.rve, one.space, partition.expert, basis), _unseen(dim)
    answer = solve(experts, strain)
    mesh, owner = one.rve.discretisation, np.repeat(partition.owner, dim)
    fields = basis.fluctuation(partition.owner, strain, answer.unknowns.numpy())
    for macro, found, w in zip(strain, answer.stress.numpy(), fields.T, strict=True):
        local = (one.space.gradient @ w).reshape(mesh.n_s, -1) + macro[:, None]
        stress = np.empty_like(local)
        for position, phase in enumerate(one.rve.phases):
            part = mesh.points_of_phase(position)
            stress[:, part] = phase.evaluate(local[:, part], local[:0, part]).stress
        weighted = stress * mesh.weight.ravel() / mesh.volume
        force = one.space.gradient.T @ weighted.ravel()
        for modes in (basis.ports, *(basis.bubbles * (owner == k)[:, None] for k in range(partition.n_experts))):
            assert np.abs(modes.T @ force).max() < 1e-12 * np.abs(found).max()
        assert (weighted * local).sum() == pytest.approx(found @ macro, rel=1e-12)
        assert _relative(found, weighted.sum(axis=1) + basis.elastic.T @ force) < 1e-12


@DIMS
def test_the_linear_limit_is_exact(dim):
    strain = 1e-9 * _unseen(dim) / RANGE
    nested = load_law({"law": "nested", "rve": RVES[dim]}, dim=dim)
    truth = nested.evaluate(strain, np.zeros((len(strain), nested.n_state)), 1.0)
    answer = solve(coarse_experts(dim), strain)
    assert _relative(answer.stress, truth.stress) < 1e-7
    if dim == 2:
        assert _relative(answer.stress_33, truth.stress_33) < 1e-7


@dataclass(frozen=True)
class Whole:
    """A hyperelastic phase that is not known as `saturating`."""

    inside: Any
    linear = False

    def state_fields(self, dim: int) -> dict[str, slice]:
        return {}

    def evaluate(self, strain: Any, state: Any) -> PhaseResponse:
        return self.inside.evaluate(strain, state)


@DIMS
def test_the_split_of_the_energy_changes_nothing(dim):
    one = problem(dim)
    partition = grid(one.space, 2)
    basis, strain = one.basis(partition, modes=14), _unseen(dim)
    split = assemble(one.rve, one.space, partition.expert, basis)
    unknown = replace(one.rve, phases=tuple(phase if phase.linear else Whole(phase) for phase in one.rve.phases))
    whole = assemble(unknown, one.space, partition.expert, basis)
    assert split.quadratic.abs().sum() > whole.quadratic.abs().sum()
    first, second = solve(split, strain), solve(whole, strain)
    for name in ("stress", "tangent", "stress_33", "unknowns"):
        one, other = (getattr(answer, name).numpy() for answer in (first, second))
        assert np.allclose(one, other, rtol=0.0, atol=1e-10 * np.abs(other).max())


@DIMS
def test_a_batch_gives_what_each_point_gives_alone(dim):
    experts = coarse_experts(dim)
    strain = np.concatenate([_unseen(dim), 1e-3 * _unseen(dim)])  # the small ones converge earlier
    together = solve(experts, strain)
    for i in range(len(strain)):
        alone = solve(experts, strain[i : i + 1])
        assert _relative(alone.stress, together.stress[i : i + 1]) < 1e-12


def test_a_converged_point_keeps_its_unknowns():
    experts, strain = coarse_experts(2), torch.as_tensor(_unseen(2))
    first = equilibrium(experts, strain, strain.new_zeros(len(strain), experts.n_unknowns), 12, 1e-10)
    assert first.decrement.max() <= 1e-10
    again = equilibrium(experts, strain, first.unknowns, 12, 1e-10)
    assert (again.unknowns == first.unknowns).all()
    one_step = equilibrium(experts, strain, strain.new_zeros(len(strain), experts.n_unknowns), 1, 1e-10)
    assert (one_step.unknowns == 0.0).all()
    assert one_step.decrement.max() > 1e-10


def test_newton_converges_quadratically():
    experts, strain = coarse_experts(2), torch.as_tensor(_unseen(2))
    start = strain.new_zeros(len(strain), experts.n_unknowns)
    sizes = [float(equilibrium(experts, strain, start, k, 0.0).decrement.max()) ** 0.5 for k in (2, 3, 4)]
    assert sizes[2] < 20.0 * sizes[1] ** 2
    assert sizes[1] < 20.0 * sizes[0] ** 2


@pytest.mark.parametrize("bytes_of_products", [1.0, 1e12])
def test_the_hessian_does_not_depend_on_how_the_points_are_split(bytes_of_products, monkeypatch):
    experts, strain = coarse_experts(2), torch.as_tensor(_unseen(2))
    z = experts.local(strain, torch.full((len(strain), experts.n_unknowns), 1e-3, dtype=torch.float64))
    monkeypatch.setattr("femops_moe.galerkin._BYTES_OF_PRODUCTS", bytes_of_products)
    found = derivatives(experts, z)
    h = 1e-6
    for i in (0, 4, experts.n_shared):
        step = torch.zeros_like(z)
        step[..., i] = h
        slope = (derivatives(experts, z + step).gradient - derivatives(experts, z - step).gradient) / (2 * h)
        assert _relative(found.hessian[..., i], slope) < 1e-7


@DIMS
def test_cubature_points_integrate_the_gradient_and_are_as_accurate_as_wanted(dim):
    experts, strain = coarse_experts(dim), _unseen(dim, 12)
    metric = np.linalg.inv(solve(experts, 1e-9 * strain[:1]).tangent[0].numpy())
    factor, errors = choose(experts, strain, metric, 1e-4, 0)
    assert (factor >= 0.0).all() and list(errors.values())[-1] <= 1e-4 < next(iter(errors.values()))
    few = restricted(experts, factor)
    assert (
        list(errors)[-1]
        == (factor > 0.0).sum()
        == (few.weight > 0.0).sum()
        < {2: 0.1, 3: 0.6}[dim] * (experts.weight > 0.0).sum()
    )
    root = np.linalg.cholesky(metric)
    change, size = (
        np.linalg.norm(one @ root, axis=1)
        for one in (_stress(few, strain) - _stress(experts, strain), _stress(experts, strain))
    )
    assert np.median(change / size) == pytest.approx(list(errors.values())[-1], rel=1e-6)
    assert _relative(_stress(few, _unseen(dim, 9)), _stress(experts, _unseen(dim, 9))) < 1e-2
    assert experts.points.shape == factor.shape and (factor[experts.points < 0] == 0.0).all()


def _stress(experts, strain):
    return solve(experts, strain).stress.numpy()


def test_all_singular_vectors_integrate_the_gradient_exactly():
    experts, strain = coarse_experts(2), _unseen(2, 4)
    found = _shares(experts, strain, 3)
    assert len(found) == 2  # of three experts and of one
    weights = np.split(experts.weight.numpy(), [3])
    for one, weight in zip(found, weights, strict=True):
        factor = one.factors(1e-9)
        kept = np.append(one.sizes > 1e-9, False)
        found, wanted = one.vectors[kept] @ factor[one.candidates], one.wanted[kept]
        assert np.allclose(found, wanted, atol=1e-6 * np.abs(wanted).max())
        assert np.allclose(one.vectors.sum(axis=1), one.wanted, atol=1e-9 * np.abs(wanted).max())
        assert weight.ravel() @ factor == pytest.approx(weight.sum(), rel=1e-5)
        assert (factor > 0.0).sum() <= kept.sum() + 1


def test_the_shares_of_all_training_states_count_however_they_are_split(monkeypatch):
    experts, strain = coarse_experts(2), _unseen(2, 6)
    together = _shares(experts, strain)
    monkeypatch.setattr("femops_moe.cubature.chunks", lambda n, _: (slice(i, i + 1) for i in range(n)))
    for one, other in zip(_shares(experts, strain), together, strict=True):
        assert np.linalg.norm(one.sizes) == pytest.approx(np.linalg.norm(other.sizes), rel=0.1)


def _shares(experts, strain, together=4):
    metric = np.linalg.inv(solve(experts, 1e-9 * strain[:1]).tangent[0].numpy())
    unknowns = solve(experts, strain).unknowns.numpy()[:, experts.used]
    return shares(experts, strain, unknowns, metric, 0, together)


@DIMS
@pytest.mark.parametrize("experts_per_axis", [1, 2])
def test_the_compiled_solver_gives_what_batched_torch_gives(dim, experts_per_axis):
    one = problem(dim)
    experts = one.experts(grid(one.space, experts_per_axis), 14)
    strain = np.concatenate([_unseen(dim), 1e-3 * _unseen(dim), np.zeros((1, len(one.strain[0])))])
    start = np.zeros((len(strain), len(experts.used)))
    compiled, batched = solver(experts), BatchedExperts(experts)
    assert isinstance(compiled, CompiledExperts)
    for evaluations, tolerance in ((1, 1e-12), (2, 1e-12), (12, 1e-6), (12, 1e-12)):
        found, expected = (each.solve(strain, start, evaluations, tolerance) for each in (compiled, batched))
        for name in ("unknowns", "stress", "tangent", "stress_33", "tangent_33", "decrement"):
            a, b = getattr(found, name), getattr(expected, name)
            assert np.allclose(a, b, rtol=1e-6 if name == "decrement" else 0.0, atol=1e-12 * np.abs(b).max()), name
    columns = [each.sensitivity(strain, expected.unknowns) for each in (compiled, batched)]
    assert _relative(*columns) < 1e-11


def test_ports_that_are_zero_in_a_subdomain_are_left_out_there():
    one = problem(2)
    basis, partition = one.basis(grid(one.space, 2), 14), grid(one.space, 2)
    experts = assemble(one.rve, one.space, partition.expert, basis)
    maps, quadratic, normal = experts.maps.clone(), experts.quadratic.clone(), experts.normal.clone()
    for k, port in ((0, 3), (1, 3), (2, 4), (3, 5)):
        maps[k, :, :, port] = 0.0
        quadratic[k, port], quadratic[k, :, port], normal[k, port] = 0.0, 0.0, 0.0
    experts = replace(experts, maps=maps, quadratic=quadratic, normal=normal)
    compiled, strain = CompiledExperts(experts), _unseen(2)
    assert (compiled.tables.sizes[:, 0] == 4 + basis.ports.shape[1] - 1).all()
    start = np.zeros((len(strain), len(experts.used)))
    found, expected = (each.solve(strain, start, 12, 1e-12) for each in (compiled, BatchedExperts(experts)))
    assert _relative(found.stress, expected.stress) < 1e-12
    assert _relative(found.tangent, expected.tangent) < 1e-12


def test_what_is_not_positive_definite_has_no_decrement():
    experts, strain = coarse_experts(2), _unseen(2)
    broken = experts.quadratic.clone()
    broken[0, experts.n_shared, experts.n_shared] = -1e6
    broken = replace(experts, quadratic=broken)
    start = np.zeros((len(strain), len(experts.used)))
    for each in (CompiledExperts(broken), BatchedExperts(broken)):
        assert np.isnan(each.solve(strain, start, 3, 1e-12).decrement).all()


def test_phases_that_the_kernel_does_not_know_are_solved_in_torch():
    one = problem(2)
    unknown = replace(one.rve, phases=tuple(phase if phase.linear else Whole(phase) for phase in one.rve.phases))
    partition = grid(one.space, 2)
    experts = assemble(unknown, one.space, partition.expert, one.basis(partition, 14))
    assert isinstance(solver(experts), BatchedExperts)
