"""The published network in studies: its training, its stored models, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from mpi4py import MPI

from femops.devices.torch_library import torch
from femops.errors import CaseError
from femops.inputs.study import load_study
from femops.offline.train import train
from femops.surrogate import ProblemTask
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops_beno import published_training
from femops_beno.operator import PublishedOperator, load_operator
from femops_beno.options import BENOOptions
from femops_beno.poisson.evaluation import relative_error
from femops_beno.poisson.generate import random_sample, random_samples
from femops_beno.poisson.options import PoissonShapes
from femops_beno.published_training import batch_at, fit_published, rate_at

PROBLEM = {
    "pde": "poisson_shapes",
    "shapes": [{"corners": 1}, {"corners": 3}],
    "resolution": 8,
    "samples": {"train": 4, "test": 2, "seed": 1},
}


def silent(stage, done, total, note=""):
    pass


def study(folder, **surrogate):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"problem": PROBLEM, "surrogate": {"law": "beno", **surrogate}}))
    return path


def trained(folder, **surrogate):
    path = study(folder, **surrogate)
    return train(load_study(path), path, folder / "out", MPI.COMM_SELF).model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return trained(folder, published=True, batch=4, steps=12, learning_rate=3e-4)


def samples(count=2):
    block = PoissonShapes.model_validate(PROBLEM)
    return [random_sample(shape, block, 99, i) for shape in block.shapes for i in range(count)]


def errors(operator, scale=1.0):
    given = [replace(one, system=one.system.scaled(scale)) for one in samples()]
    found = operator.evaluate([one.system for one in given])
    return np.array([relative_error(*pair) for pair in zip(given, found, strict=True)])


def task(checkpoint=None, progress=silent, **options):
    options = BENOOptions(published=True, seed=5, **options)
    return ProblemTask(PoissonShapes.model_validate(PROBLEM), options, checkpoint or MemoryCheckpoint(), progress)


def systems():
    return [one.system for one in random_samples(task().problem, 2, 1, silent, "")]


def test_a_study_trains_a_model_that_keeps_boundary_values_and_its_standardisation(model):
    operator = load_operator(model)
    assert isinstance(operator, PublishedOperator)
    assert operator.network.solution_deviation != 1.0 and operator.network.features_mean[2:6].all()
    for sample, found in zip(samples(), operator.evaluate([one.system for one in samples()]), strict=True):
        system = sample.system
        assert np.array_equal(found[system.prescribed], system.lifting[system.prescribed])


def test_training_reduces_the_loss():
    _, losses = fit_published(task(steps=16, batch=4, learning_rate=3e-4), systems())
    assert losses[-1] < 0.5 * losses[0]


def test_a_stored_model_predicts_the_same_bits():
    operator, _ = fit_published(task(steps=1), systems())
    arrays = {name: one.numpy().copy() for name, one in operator.network.state_dict().items()}
    restored = PublishedOperator.restored(arrays, operator.settings())
    given = [one.system for one in samples()]
    for one, other in zip(operator.evaluate(given), restored.evaluate(given), strict=True):
        np.testing.assert_array_equal(one, other)


def test_data_times_ten_have_another_relative_error_unlike_those_of_the_network_of_femops(model, tmp_path):
    published = load_operator(model)
    ours = load_operator(trained(tmp_path, widths=[4, 4], boundary_width=4, passes=1, steps=2, batch=2))
    np.testing.assert_allclose(errors(ours, 10.0), errors(ours), rtol=1e-4)
    assert np.abs(errors(published, 10.0) / errors(published) - 1.0).mean() > 1e-2


def test_a_resumed_training_gives_the_same_weights_bit_by_bit(monkeypatch):
    class StoppedError(Exception):
        pass

    def stopping(stage, done, total, note=""):
        if done == 3:
            raise StoppedError

    monkeypatch.setattr(published_training, "_SAVE_EVERY", 3)
    whole, losses = fit_published(task(steps=6), systems())
    memory = MemoryCheckpoint()
    with pytest.raises(StoppedError):
        fit_published(task(memory, stopping, steps=6), systems())
    begun = []
    resumed, again = fit_published(task(memory, lambda stage, done, *_: begun.append(done), steps=6), systems())
    assert begun == [6] and again == losses
    for name, one in whole.network.state_dict().items():
        assert torch.equal(one, resumed.network.state_dict()[name]), name


def test_the_rate_restarts_as_that_of_torch_does():
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 2.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, T_0=16, T_mult=2)
    expected = []
    for _ in range(60):
        expected += [optimiser.param_groups[0]["lr"]] * 3
        optimiser.step()
        scheduler.step()
    np.testing.assert_allclose([rate_at(step, 2.0, per_epoch=3) for step in range(180)], expected, rtol=1e-12)


def test_each_epoch_takes_every_problem_once_in_another_order():
    epochs = [[batch_at(4 * epoch + i, 7, 2, seed=3).tolist() for i in range(4)] for epoch in range(2)]
    assert [len(one) for one in epochs[0]] == [2, 2, 2, 1]
    first, second = ([one for batch in epoch for one in batch] for epoch in epochs)
    assert sorted(first) == sorted(second) == list(range(7)) and first != second


def test_defaults_are_those_of_the_paper_and_can_be_overridden():
    assert (BENOOptions().batch, BENOOptions().learning_rate) == (16, 4e-3)
    published = BENOOptions(published=True)
    assert (published.batch, published.learning_rate) == (1, 5e-5)
    assert BENOOptions(published=True, batch=3).batch == 3


@pytest.mark.parametrize("key", ["widths", "layers", "boundary_width", "boundary_layers", "passes", "smoothing"])
def test_options_of_the_other_network_are_refused_even_with_their_default(tmp_path, key):
    default = BENOOptions().model_dump()[key]
    path = study(tmp_path, published=True, **{key: list(default) if isinstance(default, tuple) else default})
    with pytest.raises(CaseError) as refused:
        load_study(path)
    expected = f"{key} given with published: true, expected only seed, steps, batch, learning_rate"
    assert str(refused.value) == f"{path}: surrogate: {expected}"


def test_what_it_cannot_solve_is_refused():
    system = systems()[0]
    with_coefficient = replace(system, features=np.ones((len(system.mesh.cells), 1)))
    with pytest.raises(CaseError, match="a system has 1 components and 1 features per cell in 2D"):
        fit_published(task(steps=1), [with_coefficient])
    operator, _ = fit_published(task(steps=0), systems())
    with pytest.raises(CaseError, match="a system has 2 components"):
        operator.evaluate([replace(system, source=np.repeat(system.source, 2))])
    free = np.flatnonzero(~system.prescribed)
    held = np.ones_like(system.prescribed)
    held[free[:2]] = False
    with pytest.raises(CaseError, match="a system has 2 free nodes, all on one line"):
        operator.evaluate([replace(system, prescribed=held)])
