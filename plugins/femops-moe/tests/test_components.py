"""Components are coupled conformingly, and answer for arrangements that training never saw."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from moe_cases import PHASES, RANGE
from mpi4py import MPI

from femops import CaseError, load_law
from femops.checks import check_arrays, check_law
from femops.devices.torch_library import torch
from femops.inputs.study import load_study
from femops.offline.train import train
from femops.rve.sampling import sobol
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.surrogate import FitTask, TrainedModel
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops.surrogate.store import read_fit, read_manifest
from femops_moe.compiled import CompiledExperts, tiled_solver
from femops_moe.component_law import ComponentLaw
from femops_moe.component_training import fit
from femops_moe.components import arrangement, elastic_fields
from femops_moe.galerkin import Equilibrium, derivatives
from femops_moe.library import elastic_fluctuation
from femops_moe.local_modes import local_modes
from femops_moe.options import MoEOptions, MoEParameters
from femops_moe.sides import numbering
from femops_moe.tiled import TiledSchur, TiledSolver, tiled, with_points


def _component(x, y, radius):
    inclusion = {"center": [x, y], "radius": radius}
    return {"voxels": {"cells": 5, "inclusions": [inclusion], "cell": "quad8"}}


COMPONENTS = {"a": _component(0.0, 0.0, 0.35), "b": _component(0.15, 0.1, 0.25)}
CUBES = {
    name: {"voxels": {"cells": 3, "inclusions": [{"center": center, "radius": 0.4}]}}
    for name, center in (("a", [-0.2, 0.2, 0.2]), ("b", [0.2, -0.2, 0.2]))
}
CORNER = np.full(3, RANGE)
CUBATURE = {"cubature_tolerance": 5e-4}


def _rve(rows, **phases):
    tiles = {"components": COMPONENTS, "rows": rows}
    if np.ndim(rows) == 3:
        tiles = {"components": CUBES, "layers": rows}
    return {"tiles": tiles, "phases": {**PHASES, **phases}}


def _nested(rows):
    return load_law({"law": "nested", "rve": _rve(rows), "solver": {"rtol": 1e-11}}, dim=np.ndim(rows))


TRAINED, UNSEEN = [["a", "b"], ["b", "b"]], [["a", "b", "b"], ["a", "a", "b"]]
LAYERS = [[["a", "b", "b"], ["b", "a", "b"]], [["b", "b", "a"], ["a", "b", "a"]]]
BOTH = pytest.mark.parametrize("rows", [UNSEEN, LAYERS], ids=["plane", "solid"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("components")
    limits = {name: [-RANGE, RANGE] for name in ("11", "22", "12")}
    sampling = {"method": "sobol", "count": 4, "seed": 1, "range": limits}
    block = {"law": "moe", "component": 1.0, "arrangements": 5, "modes": 40, "tolerance": 0.2, **CUBATURE}
    study = {"kinematics": "plane_strain", "rve": _rve(TRAINED), "sampling": sampling, "surrogate": block}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "validation": {**sampling, "count": 2, "seed": 2}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("femops.surrogate.accuracy._TIMED_LAW", 2)  # the time per point is of no interest
        patch.setattr("femops.surrogate.accuracy._MIN_SECONDS", 0.0)
        report = train(load_study(path), path, folder / "out", MPI.COMM_SELF)
    return SimpleNamespace(folder=report.model, metrics=report.metrics)


def _law(model, rows, **phases):
    return load_law({"law": "moe", "model": str(model.folder), "rve": _rve(rows, **phases)}, dim=2)


def _answer(law, strain):
    return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)


def _error(found, true):
    return np.linalg.norm(found - true) / np.linalg.norm(true)


def _coarse(rows, n_modes=3, part=0.2):
    """Return the experts of an arrangement with random modes and a random part of the points."""
    rve = _nested(rows).rve
    found, components = arrangement(rve, np.ones(np.ndim(rows)), [])
    rng = np.random.default_rng(0)
    samples = [1e-2 * rng.standard_normal((one.n_dofs, n_modes)) for one in components]
    modes = local_modes(components, samples, 1e-6, n_modes)
    whole = tiled(found, components, modes.modes, modes.counts, elastic_fluctuation(rve, found, components))
    factors = [(rng.random(one.discretisation.n_points) < part) / part for one in components]
    return with_points(whole, found.kinds, factors), found, modes.modes, rve


@BOTH
def test_the_elastic_fields_are_those_of_the_whole_rve(rows):
    law, dim = _nested(rows), np.ndim(rows)
    found, components = arrangement(law.rve, np.ones(dim), [])
    assert len(components) == 2
    space = FluctuationSpace(law.rve)
    whole = space.from_free(law.solver.elastic_sensitivity).reshape(space.n_nodes, dim, -1)
    fields = [one.reshape(-1, *whole.shape[1:]) for one in elastic_fields(found, components)]
    shift = fields[0][0] - whole[space.node_of[found.nodes[0][0]]]
    for nodes, own in zip(found.nodes, fields, strict=True):
        assert np.allclose(own - shift, whole[space.node_of[nodes]], atol=1e-9)


@BOTH
def test_any_ports_and_bubbles_are_continuous_and_periodic(rows):
    one, found, modes, rve = _coarse(rows)
    space, dim, n_s = FluctuationSpace(rve), np.ndim(rows), one.experts.n_s
    unknowns = torch.as_tensor(np.random.default_rng(1).standard_normal((1, one.n_unknowns)))
    z = one.local(torch.zeros(1, n_s).double(), unknowns)[:, 0].numpy()
    low, high = np.full((space.n_nodes, dim), np.inf), np.full((space.n_nodes, dim), -np.inf)
    for k, nodes in enumerate(found.nodes):
        own = np.concatenate([modes[found.kinds[k]].ports, modes[found.kinds[k]].bubbles], axis=1)
        values = (own @ z[k, n_s : n_s + own.shape[1]]).reshape(-1, dim)
        np.minimum.at(low, space.node_of[nodes], values)
        np.maximum.at(high, space.node_of[nodes], values)
    assert np.abs(high).max() > 0.1
    assert np.allclose(low, high, atol=1e-10)


@BOTH
def test_uniform_displacement_of_the_corners_displaces_the_whole_component(rows):
    _, _, modes, _ = _coarse(rows)
    uniform = np.array([1.0, -2.0, 0.5])[: np.ndim(rows)]
    for one in modes:
        corners = np.tile(uniform, 2 ** len(uniform))
        displaced = one.ports[:, -len(corners) :] @ corners
        assert np.allclose(displaced.reshape(-1, len(uniform)), uniform, atol=1e-9)


def test_complete_modes_in_3d_give_the_nested_solve():
    rows = [[["a", "b"], ["b", "a"]], [["b", "b"], ["a", "b"]]]
    one, *_ = _coarse(rows, 30, part=1.0)  # no side has more than 24 displacements inside
    strain = sobol(*(sign * np.full(6, 0.015) for sign in (-1, 1)), 3, 1)
    truth = _answer(_nested(rows), strain)
    found = tiled_solver(one).solve(strain, np.zeros((3, len(one.used))), 12, 1e-13)
    assert _error(found.stress, truth.stress) < 1e-8
    assert _error(found.tangent, truth.tangent) < 1e-8


ROWS = [["a", "b"], ["b", "a"]], [["a"] * 5, ["b"] * 5, ["a", "b", "a", "b", "a"]]


@pytest.mark.parametrize("rows", [UNSEEN, *ROWS, LAYERS])
def test_nested_dissection_solves_the_system_of_all_unknowns(rows):
    one, *_ = _coarse(rows)
    rng = np.random.default_rng(2)
    n_s = one.experts.n_s
    strain, unknowns = (torch.as_tensor(1e-2 * rng.standard_normal((2, n))) for n in (n_s, one.n_unknowns))
    at = derivatives(one.experts, one.local(strain, unknowns))
    schur = TiledSchur(one, at.hessian)
    change, stress, work = schur.solve(at.gradient[..., None])
    n = n_s + one.n_unknowns
    places = np.concatenate(
        [
            np.tile(np.arange(n_s), (len(one.number), 1)),
            np.where(one.number < 0, -1, one.number + n_s),
            n_s + one.n_ports + np.arange(len(one.number) * one.experts.n_bubbles).reshape(len(one.number), -1),
        ],
        axis=1,
    )
    for i in range(2):
        whole, force = np.zeros((n + 1, n + 1)), np.zeros(n + 1)
        for k, place in enumerate(places):
            whole[np.ix_(place, place)] += at.hessian[k, i].numpy()
            np.add.at(force, place, at.gradient[k, i].numpy())
        stiffness, coupling = whole[n_s:-1, n_s:-1], whole[n_s:-1, :n_s]
        expected = -np.linalg.solve(stiffness, force[n_s:-1])
        assert np.allclose(change[i, :, 0], expected, atol=1e-9 * np.abs(expected).max())
        tangent = whole[:n_s, :n_s] - coupling.T @ np.linalg.solve(stiffness, coupling)
        assert np.allclose(schur.tangent[i], tangent, atol=1e-9 * np.abs(tangent).max())
        assert np.allclose(stress[i, :, 0], force[:n_s] + coupling.T @ expected, atol=1e-9 * np.abs(force).max())
        assert work[i, 0] == pytest.approx(-force[n_s:-1] @ expected, rel=1e-8)


@BOTH
def test_the_compiled_kernel_gives_what_batched_torch_gives(rows):
    one, *_ = _coarse(rows, 1)
    compiled, batched = tiled_solver(one), TiledSolver(one)
    assert isinstance(compiled, CompiledExperts)
    corner = np.full(one.experts.n_s, RANGE)
    strain, start = sobol(-corner, corner, 5, 3), np.zeros((5, len(one.used)))
    found, expected = (each.solve(strain, start, 12, 1e-12) for each in (compiled, batched))
    assert (found.decrement <= 1e-12).all()
    for field in fields(Equilibrium):
        if field.name != "decrement" and np.any(getattr(expected, field.name)):
            assert _error(getattr(found, field.name), getattr(expected, field.name)) < 1e-11, field.name
    slopes = [each.sensitivity(strain, expected.unknowns) for each in (compiled, batched)]
    assert _error(*slopes) < 1e-10


def test_other_phases_take_batched_torch():
    one, *_ = _coarse(UNSEEN)
    other = replace(one.experts, sampled=tuple((object(), part) for _, part in one.experts.sampled))
    assert isinstance(tiled_solver(replace(one, experts=other)), TiledSolver)


def test_unknowns_of_faces_are_shared_by_their_two_components():
    number = numbering((2, 3), (4, 5))
    free = number[number >= 0]
    assert (np.unique(free) == np.arange(6 * 9 + 5 * 2)).all()
    times = np.bincount(free)
    assert (times[: 6 * 9] == 2).all() and (times[6 * 9 :] == 4).all()
    assert (number[0, 4:8] == number[1, :4]).all()  # right face of the first is the left one of the second
    assert (number[2, 4:8] == number[0, :4]).all()  # periodic
    assert (number[0, 13:18] == number[3, 8:13]).all()


def test_unseen_arrangements_are_answered(model):
    strain = sobol(-CORNER, CORNER, 6, 11)
    for rows in (TRAINED, UNSEEN):
        nested = _nested(rows)
        truth, law = _answer(nested, strain), _law(model, rows)
        answer = _answer(law, strain)
        assert answer.valid.all()
        for name, tolerance in (("stress", 3e-3), ("tangent", 3e-3), ("stress_33", 3e-3), ("tangent_33", 1e-2)):
            assert _error(getattr(answer, name), getattr(truth, name)) < tolerance
    points = model.metrics["fit"]["cubature_points_of_component"]
    assert points < 0.5 * law.rve.discretisation.n_points / 6
    assert model.metrics["fit"]["cubature_stress_error"] <= 5e-4
    assert model.metrics["fit"]["arrangements"] == 6


def test_unseen_arrangements_in_3d_are_answered():
    rve, high = _nested([[["a", "b"], ["b", "b"]], [["b", "a"], ["a", "b"]]]).rve, np.full(6, 0.5 * RANGE)
    solver = SnapshotSolver(rve, SolverOptions(1e-10))
    options = MoEOptions(component=1.0, arrangements=1, tolerance=0.4, cubature_tolerance=2e-3)
    snapshots = solver.solve(sobol(-high, high, 4, 1))
    found = fit(FitTask(snapshots, rve, solver, options, -high, high, MemoryCheckpoint(), lambda *_: None))
    nested = _nested(LAYERS)
    law = ComponentLaw(TrainedModel(found.arrays, found.settings, nested.rve, -high, high), MoEParameters(model="none"))
    strain = sobol(-high, high, 3, 7)
    answer, truth = _answer(law, strain), _answer(nested, strain)
    assert answer.valid.all()
    assert _error(answer.stress, truth.stress) < 5e-3
    assert _error(answer.tangent, truth.tangent) < 5e-3
    assert found.metrics["modes_of_edge_x"] > 0
    assert found.metrics["cubature_points_of_component"] < 0.5 * 27 * 8


def test_the_law_keeps_the_contract(model):
    check_law(_law(model, UNSEEN), strain_scale=0.02, n_points=4, rtol_tangent=1e-6)


def test_the_model_brings_its_rve_along(model):
    strain = sobol(-CORNER, CORNER, 3, 5)
    one, other = load_law(model.folder), _law(model, TRAINED)
    assert np.allclose(_answer(one, strain).stress, _answer(other, strain).stress, rtol=1e-10)


def test_small_strains_are_exact_whatever_the_arrangement(model):
    strain = 1e-9 * sobol(-CORNER, CORNER, 3, 5) / RANGE
    truth = _answer(_nested(UNSEEN), strain)
    assert _error(_answer(_law(model, UNSEEN), strain).stress, truth.stress) < 1e-2
    full = _law(model, UNSEEN)
    library = replace(full._library, factors=[np.ones_like(one) for one in full._library.factors])
    solver = TiledSolver(library.experts(full.rve)[0])
    found = solver.solve(strain, np.zeros((3, full.n_state)), 12, 1e-14)
    assert _error(found.stress, truth.stress) < 1e-6


def test_indicator_bound_and_fields_are_those_of_the_whole_rve(model):
    law, strain = _law(model, UNSEEN), sobol(-CORNER, CORNER, 4, 11)
    answer, truth = _answer(law, strain), _answer(_nested(UNSEEN), strain)
    change = answer.stress - truth.stress
    true = np.sqrt(np.einsum("ns,st,nt->n", change, law.metric, change))
    true /= np.sqrt(np.einsum("ns,st,nt->n", answer.stress, law.metric, answer.stress))
    strain.flags.writeable = False  # as in a run
    indicator, bound = (law.certify(strain, answer, kind) for kind in ("indicator", "bound"))
    assert np.allclose(indicator, true, rtol=0.3)
    assert (bound >= true).all()
    exact = law.solve_exactly(strain, np.zeros((4, law.n_state)), 1.0)
    assert _error(exact.stress, truth.stress) < 1e-7
    nested = _nested(UNSEEN)
    mine, theirs = law.micro_fields(strain[0], np.zeros(0)), nested.micro_fields(strain[0], np.zeros(nested.n_state))
    assert _error(mine.stress, theirs.stress) < 3e-2


def test_damaged_models_are_refused(model):
    fit, law = read_fit(model.folder, read_manifest(model.folder)), load_law(model.folder)

    def built(arrays):
        trained = TrainedModel(arrays, fit.settings, law.rve, law.low, law.high)
        return ComponentLaw(trained, MoEParameters(model=model.folder))

    assert built(fit.arrays).n_state == law.n_state
    check_arrays({name: one for name, one in fit.arrays.items() if not name.startswith("rve/")}, built)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([["a", "b"]], "expected at least two components of 1 × 1 in each direction"),
        ([["a", "c"], ["b", "b"]], "rve: 1 of 4 components are none of the 2 trained ones"),
    ],
)
def test_other_rves_are_refused(model, rows, problem):
    rve = _rve(rows)
    rve["tiles"] = {**rve["tiles"], "components": {**COMPONENTS, "c": _component(0.0, 0.0, 0.45)}}
    with pytest.raises(CaseError, match=problem):
        load_law({"law": "moe", "model": str(model.folder), "rve": rve}, dim=2)


def test_other_phases_are_refused(model):
    with pytest.raises(CaseError, match=r"rve.phases.fibre: .* given, expected .* as trained"):
        _law(model, UNSEEN, fibre={**PHASES["fibre"], "G": 3e4})
