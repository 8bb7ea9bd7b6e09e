"""Global modes, modes of the rest, and the choice between them by snapshots held out."""

import numpy as np
import pytest
import scipy.sparse as sp
from moe_cases import RANGE, RVES, problem, solve

from femops import load_law
from femops.rve.sampling import sobol
from femops_moe.basis import decompose, split
from femops_moe.enrichment import _modes_of_rest
from femops_moe.experts import assemble
from femops_moe.modes import choose, independent, ordered
from femops_moe.partition import grid

N_SNAPSHOTS, N_S = 8, 3
N_FIELDS = N_SNAPSHOTS * (1 + N_S)


def _inner(*parts):
    """Return the inner products of parts of fields (n_dofs, n_fields) in the unit matrix."""
    return np.array([part.T @ part for part in parts])


def _random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def _split(dim=2, per_axis=2):
    one = problem(dim)
    return one, grid(one.space, per_axis), split(grid(one.space, per_axis), one.stiffness, one.fields)


@pytest.mark.parametrize("n_global", [0, 3, 24])
def test_energies_add_up_and_all_modes_give_the_fields(n_global):
    one, partition, parts = _split()
    modes = ordered(parts.inner, n_global)
    assert modes.energy.sum() == pytest.approx(1.0, rel=1e-9)
    assert (np.diff(modes.energy) <= 0.0).all()
    assert (modes.part[: min(n_global, 24)] == -1).all() and (modes.part[n_global:] != -1).all()
    assert np.allclose(np.diag(modes.products(parts.inner)[0]), 1.0, atol=1e-3)
    basis = parts.basis(one.elastic, modes)
    owner = np.repeat(partition.owner, 2)
    every = [basis.ports, *(basis.bubbles * (owner == k)[:, None] for k in range(partition.n_experts))]
    assert all((bubbles[owner < 0] == 0.0).all() for bubbles in every[1:])
    coefficients = np.linalg.lstsq(np.concatenate(every, axis=1), one.fields, rcond=None)[0]
    assert np.abs(np.concatenate(every, axis=1) @ coefficients - one.fields).max() < 1e-6 * np.abs(one.fields).max()


def test_inner_products_are_those_of_the_displacements():
    one, partition, parts = _split()
    modes = ordered(parts.inner, 3)[:14]
    basis, owner = parts.basis(one.elastic, modes), np.repeat(partition.owner, 2)
    columns = [basis.ports[:, : (modes.part == -1).sum()], basis.ports[:, (modes.part == -1).sum() :]]
    columns += [basis.bubbles[:, :count] * (owner == k)[:, None] for k, count in enumerate(basis.counts)]
    vectors = np.concatenate(columns, axis=1)
    own, others = modes.products(parts.inner)
    order = np.argsort(modes.part, kind="stable")
    assert np.allclose(vectors.T @ (one.stiffness @ vectors), own[order][:, order], atol=1e-9)
    scale = np.abs(others).max()
    assert np.allclose(vectors.T @ (one.stiffness @ one.fields), others[order], atol=1e-9 * scale)


def test_parts_that_change_together_are_represented_by_global_modes():
    common = _random(4, N_FIELDS)
    inner = _inner(*(_random(9 + k, 4) @ common for k in range(5)))
    chosen = choose(inner, N_S, 20, 1e-4)
    assert chosen.n_modes == 4 and (chosen.modes.part[:4] == -1).all()
    assert chosen.lost[4] < 1e-4 < chosen.lost[3]


def test_parts_that_change_independently_are_represented_by_modes_of_their_own():
    inner = _inner(*(_random(9 + k, 5) @ _random(5, N_FIELDS + k)[:, :N_FIELDS] for k in range(8)))
    chosen = choose(inner, N_S, 48, 1e-4)  # 32 global modes represent all fields, but none that is held out
    assert chosen.n_modes == 40 and (chosen.modes.part[:40] >= 0).all()
    assert chosen.lost[40] < 1e-4 < chosen.lost[39]


def test_modes_that_others_represent_are_left_out():
    inner = _inner(_random(3, 2) @ _random(2, N_FIELDS), _random(4, 2) @ _random(2, N_FIELDS + 1)[:, :N_FIELDS])
    modes = ordered(inner, 1)
    assert len(modes.energy) == 5  # of a space of four dimensions
    assert (independent(modes, inner) == [0, 1, 2, 3]).all()


def test_without_ports_only_bubbles_are_chosen_and_what_ports_would_represent_is_lost():
    _, partition, parts = _split()
    chosen = choose(parts.inner, N_S, 12, 0.01, with_ports=False)
    assert chosen.modes.counts(partition.n_experts)[0] == 0
    traces = np.trace(parts.inner[0]) / np.trace(parts.inner.sum(axis=0))
    assert (chosen.lost >= traces**0.5).all()


def test_learned_interiors_lower_the_error_of_many_experts_to_that_of_one():
    one, partition, parts = _split(2, 3)
    strain = sobol(np.full(3, -RANGE), np.full(3, RANGE), 5, 7)
    nested = load_law({"law": "nested", "rve": RVES[2]}, dim=2)
    truth = nested.evaluate(strain, np.zeros((5, nested.n_state)), 1.0).stress

    def error(partition, basis):
        answer = solve(assemble(one.rve, one.space, partition.expert, basis), strain).stress.numpy()
        return np.linalg.norm(answer - truth) / np.linalg.norm(truth)

    chosen = choose(parts.inner, N_S, 16, 1e-6)
    learned = error(partition, parts.basis(one.elastic, chosen.modes[: chosen.n_modes]))
    elastic = error(partition, one.basis(partition, 16))
    whole = grid(one.space, 1)
    alone = error(whole, decompose(whole, one.stiffness, one.elastic, one.fields, 16, 1e-12)[0])
    assert learned < 0.1 * elastic
    assert learned < 1.5 * alone


@pytest.mark.parametrize("fields", [np.zeros((4, 2)), np.eye(4)[:, :2]])
def test_fields_that_are_known_give_no_further_modes(fields):
    assert _modes_of_rest(sp.csr_array(np.eye(4)), np.eye(4)[:, :3], fields, 0.1).shape == (4, 0)
