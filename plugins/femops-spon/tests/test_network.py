"""Predicted fields of RVEs with linear phases, whatever the weights are, and their training."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from femops import CaseError
from femops.devices.torch_library import torch
from femops.law import LawContext
from femops.rve.family import Family, microstructure
from femops.rve.spec import RVEParameters, build_rve
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.linear import LinearFields, cell_features
from femops.surrogate.fields.stiffness import StiffnessBatch
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops.surrogate.message_passing import ProcessorOptions
from femops_spon.batches import BatchOptions, Group, batches, symmetries
from femops_spon.network import SPON, Architecture, MeshMaps, hierarchy, rotation_of_strain
from femops_spon.training import TrainingOptions, predict, restored, train

PHASES = {"matrix": {"law": "elastic", "K": 4.0, "G": 2.0}, "fibre": {"law": "elastic", "K": 90.0, "G": 60.0}}
SMALL = Architecture(ProcessorOptions(widths=(6, 8), layers=(1, 1), linear=True), passes=2, smoothing=2)
TURN = np.array([[0.0, -1.0], [1.0, 0.0]])


def _rve(source, dim=2, phases=PHASES):
    given = {**source, "phases": phases}
    parameters = RVEParameters.model_validate(given)
    return build_rve(parameters, LawContext(dim))


def _voxels(*centres, cells=8, **more):
    inclusions = [{"center": list(centre), "radius": 0.24} for centre in centres]
    return _rve({"voxels": {"cells": cells, "inclusions": inclusions, **more}}, dim=len(centres[0]))


@lru_cache
def _family(count=10):
    inclusions = {"shape": "circles", "number": [1, 2], "volume_fraction": [0.2, 0.4]}
    block = {"count": count, "seed": 3, "mesh": {"cells": 8}, "inclusions": inclusions, "phases": PHASES}
    family = Family.model_validate(block)
    rves = [build_rve(microstructure(family, i).parameters, LawContext(2)) for i in range(count)]
    problem = LinearFields.of(rves)
    return Group(problem, _exact(problem).numpy())


def _exact(problem):
    """Homogenized stiffness by a dense solve."""
    fields = -torch.linalg.pinv(problem.stiffness.dense(), hermitian=True) @ problem.load.flatten(1, 2)
    return problem.homogenized(fields.view(problem.load.shape))


def _network(dim, levels, options=SMALL):
    return SPON(dim, levels, options).double()


def _check_untrained(problem, levels, options=SMALL):
    """Check what holds for any weights."""
    fields = predict(_network(problem.space.discretisation.dim, levels, options), problem, "float64")
    found, exact = problem.homogenized(fields), _exact(problem)
    mean = torch.einsum("a,nads->nds", torch.as_tensor(problem.space.mean), fields)
    size = exact.diagonal(dim1=1, dim2=2).mean()
    assert mean.abs().max() < 1e-12 * fields.abs().max()
    assert torch.allclose(found, found.transpose(1, 2), atol=float(1e-12 * size))
    assert torch.linalg.eigvalsh(found).min() > 0.0
    assert torch.linalg.eigvalsh(found - exact).min() > -1e-10 * size
    assert torch.linalg.eigvalsh(problem.mean - found).min() > -1e-10 * size  # and below Voigt's: energy was gained
    assert (torch.linalg.matrix_norm(found - exact) < 0.95 * torch.linalg.matrix_norm(problem.mean - exact)).all()


def test_untrained_fields_give_an_upper_bound():
    _check_untrained(_family().problem, 2)


@pytest.mark.parametrize("levels", [1, 3])
def test_any_number_of_levels_serves(levels):
    _check_untrained(LinearFields.of([_voxels((0.5, 0.5))]), levels)


NONLINEAR = replace(SMALL, processor=ProcessorOptions((6,), (1,)))


@pytest.mark.parametrize("options", [replace(SMALL, plain=True), NONLINEAR])
def test_other_kinds_of_networks_give_an_upper_bound(options):
    _check_untrained(LinearFields.of([_voxels((0.5, 0.5))]), 2, options)


@pytest.mark.parametrize("cell", ["triangle", "quad"])
def test_meshes_that_follow_the_inclusions_serve(cell):
    _check_untrained(LinearFields.of([_rve(_circle(cell))]), 2)


def _circle(cell):
    return {"circles": {"circles": [{"center": [0.5, 0.4], "radius": 0.3}], "mesh_size": 0.2, "cell": cell}}


def test_quadratic_cells_are_refused():
    problem = LinearFields.of([_rve(_circle("quad8"))])
    with pytest.raises(CaseError, match="rve: has quadratic cells, expected linear ones"):
        predict(_network(2, 2), problem, "float64")


def test_three_dimensions():
    _check_untrained(LinearFields.of([_voxels((0.5, 0.5, 0.4), cells=4)]), 2)


def test_size_and_unit_do_not_matter():
    scaled = {name: {**one, "K": 1e3 * one["K"], "G": 1e3 * one["G"]} for name, one in PHASES.items()}
    small = _voxels((0.5, 0.4))
    inclusions = [{"center": [1.0, 0.8], "radius": 0.48}]
    large = _rve({"voxels": {"cells": 8, "size": 2.0, "inclusions": inclusions}}, phases=scaled)
    network = _network(2, 2)
    answers = []
    for rve in (small, large):
        problem = LinearFields.of([rve])
        answers.append(problem.homogenized(predict(network, problem, "float64")))
    assert torch.allclose(1e3 * answers[0], answers[1], rtol=1e-9)


def test_the_answer_follows_a_shift_of_the_microstructure_by_coarse_cells():
    problem = LinearFields.of([_voxels((0.3, 0.4)), _voxels((0.8, 0.65))])
    found = problem.homogenized(predict(_network(2, 2), problem, "float64"))
    assert torch.allclose(found[0], found[1], rtol=1e-9)


def test_the_order_of_the_cells_does_not_matter():
    rve, network = _voxels((0.3, 0.4)), _network(2, 2)
    shared = LinearFields.of([rve])
    own = LinearFields.on(FluctuationSpace(rve), type(shared.cells).of([rve], FluctuationSpace(rve)))
    assert not np.array_equal(own.space.cells, shared.space.cells)
    assert torch.allclose(predict(network, own, "float64"), predict(network, shared, "float64"), atol=1e-10)


def test_a_turned_look_at_an_rve_is_a_look_at_a_turned_rve():
    inclusion = {"semi_axes": [0.35, 0.15]}
    first = _rve({"voxels": {"cells": 8, "inclusions": [{**inclusion, "center": [0.5, 0.375], "angle": 0.0}]}})
    turned = _rve({"voxels": {"cells": 8, "inclusions": [{**inclusion, "center": [0.625, 0.5], "angle": 90.0}]}})
    network, answers = _network(2, 2), []
    for rve, rotation in ((first, TURN), (turned, None)):
        problem = LinearFields.of([rve])
        maps = MeshMaps(hierarchy(problem.space, 2), rotation)
        features = cell_features(maps.tangent(torch.as_tensor(problem.cells.tangent)))
        answers.append(problem.homogenized(network(maps, problem, features))[0].detach().numpy())
    strain = rotation_of_strain(TURN)
    assert np.allclose(strain @ answers[0] @ strain.T, answers[1], rtol=1e-9, atol=1e-9)
    assert not np.allclose(answers[0], answers[1], rtol=1e-3)


def test_meshes_side_by_side_are_answered_as_each_alone():
    problems = [LinearFields.of([_voxels((0.5, 0.4))]), LinearFields.of([_voxels((0.3, 0.4), cells=12)])]
    network, levels = _network(2, 2), [hierarchy(problem.space, 2) for problem in problems]
    features = [cell_features(torch.as_tensor(problem.cells.tangent)) for problem in problems]
    together, stiffness = (
        MeshMaps.disjoint_union(levels),
        StiffnessBatch.block_diagonal([one.stiffness for one in problems]),
    )
    forces = -torch.cat([problem.load for problem in problems], dim=1)
    fields = network.solve(together, stiffness, forces, torch.cat(features, dim=1)).split(together.sizes, dim=1)
    for one, problem, own, feature in zip(fields, problems, levels, features, strict=True):
        alone = network(MeshMaps(own), problem, feature)
        assert torch.allclose(one, alone, rtol=0, atol=1e-10 * float(alone.detach().abs().max()))


def test_a_square_has_eight_symmetries_and_a_cube_48():
    assert len(symmetries(np.ones(2))) == 8
    assert len(symmetries(np.array([1.0, 2.0]))) == 4
    assert len(symmetries(np.ones(3))) == 48


def test_single_precision_is_enough():
    problem, network = _family().problem, _network(2, 2)
    double = problem.homogenized(predict(network, problem, "float64"))
    single = problem.homogenized(predict(network, problem, "float32"))
    assert torch.linalg.matrix_norm(single - double).max() < 1e-5 * torch.linalg.matrix_norm(double).min()


OPTIONS = TrainingOptions(SMALL, levels=2, steps=30, batch=4, rate=2e-2, save_every=10)


def _silent(*_):
    pass


def test_training_lowers_the_error_of_microstructures_held_back():
    found = train([_family()], OPTIONS, MemoryCheckpoint(), _silent)
    start = train([_family()], replace(OPTIONS, steps=1), MemoryCheckpoint(), _silent)
    assert len(found.curves["held back"]) == 3
    assert found.curves["held back"][-1] < 0.5 * start.curves["held back"][0]


def test_an_interrupted_training_ends_with_the_same_weights():
    class StopError(Exception):
        pass

    def interrupt(*_):
        raise StopError

    whole, memory = train([_family()], replace(OPTIONS, steps=20), MemoryCheckpoint(), _silent), MemoryCheckpoint()
    with pytest.raises(StopError):
        train([_family()], replace(OPTIONS, steps=20), memory, interrupt)
    resumed = train([_family()], replace(OPTIONS, steps=20), memory, _silent)
    assert all(np.array_equal(one, resumed.weights[name]) for name, one in whole.weights.items())
    assert np.array_equal(whole.curves["training"], resumed.curves["training"])


def test_a_network_without_smoothing_is_trained():
    options = replace(OPTIONS, network=replace(SMALL, smoothing=0), steps=20)
    whole, memory = train([_family()], options, MemoryCheckpoint(), _silent), MemoryCheckpoint()
    train([_family()], options, memory, _silent)
    assert whole.curves["training"][-1] < whole.curves["training"][0]
    assert np.array_equal(train([_family()], options, memory, _silent).curves["training"], whole.curves["training"])


def test_siblings_are_held_back_together():
    problem, reference = _family(8).problem, _family(8).reference
    made = batches([Group(problem, reference, siblings=2)], BatchOptions(2, 4, False, 0, "cpu"))
    assert sum(part.count for part in made.held_back()) == 2
    drawn = made.drawn(np.random.default_rng(0))
    assert sum(part.count for part in drawn) == 4


def test_a_stored_network_predicts_the_same_and_meshes_of_their_own_can_be_trained_on():
    problems = [LinearFields.of([_voxels(centre)]) for centre in ((0.5, 0.5), (0.4, 0.5))]
    groups = [Group(one, _exact(one).numpy()) for one in problems]
    found = train(groups, replace(OPTIONS, steps=2, save_every=1), MemoryCheckpoint(), _silent)
    once, again = (restored(found.weights, found.settings) for _ in range(2))
    problem = groups[0].problem
    assert torch.equal(predict(once, problem, "float32"), predict(again, problem, "float32"))


def test_a_mesh_too_coarse_for_the_levels_is_refused():
    problem = LinearFields.of([_voxels((0.5, 0.5))])
    with pytest.raises(CaseError, match="rve: the mesh is too coarse for the 6 levels of the network"):
        predict(_network(2, 6), problem, "float64")
