"""Training of the published network as its authors train it; see `femops_beno.published`."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from femops.devices.torch_library import torch
from femops.notation import Indices
from femops.surrogate import ProblemTask
from femops.surrogate.learning.loop import Schedule, Training
from femops_beno.operator import PublishedOperator
from femops_beno.options import BENOOptions
from femops_beno.published import FIRST_CYCLE, WEIGHT_DECAY, PublishedBENO
from femops_beno.systems import System

_BETAS = (0.9, 0.999)
_SAVE_EVERY = 50  # with the moments of Adam, 8.5 million weights are 100 MB


def fit_published(task: ProblemTask, systems: Sequence[System]) -> tuple[PublishedOperator, list[float]]:
    """Train the published network.

    Args:
        task: Training task with `BENOOptions`.
        systems: Solved systems.

    Returns:
        The operator, and the loss before each step.

    Raises:
        CaseError: A system is none that the network can solve.
    """
    options: BENOOptions = task.options
    problems = [PublishedBENO.encode(system) for system in systems]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = PublishedBENO()
    network.standardise(problems)
    per_epoch = -(-len(problems) // options.batch)
    rate = partial(rate_at, rate=options.learning_rate, per_epoch=per_epoch)
    schedule = Schedule(options.steps, rate, _SAVE_EVERY, betas=_BETAS, weight_decay=WEIGHT_DECAY)
    training = Training(dict(network.named_parameters()), schedule, "training", task.checkpoint, task.progress)
    batches = partial(batch_at, count=len(problems), size=options.batch, seed=options.seed)

    def loss() -> torch.Tensor:
        batch = network.join([problems[i] for i in batches(training.step)])
        return network.loss(batch, network(batch))

    training.adam(lambda _: [loss()])
    return PublishedOperator(network), training.losses


def rate_at(step: int, rate: float, per_epoch: int) -> float:
    """Return the learning rate: a cosine over the first epochs, then one over twice as many, and so on.

    Args:
        step: Number of the step.
        rate: Largest rate.
        per_epoch: Steps per epoch, in which the rate stays the same.
    """
    epoch, length = step // per_epoch, FIRST_CYCLE
    while epoch >= length:
        epoch, length = epoch - length, 2 * length
    return float(0.5 * rate * (1.0 + np.cos(np.pi * epoch / length)))


def batch_at(step: int, count: int, size: int, seed: int) -> Indices:
    """Return the problems of a step; each epoch takes all of them once, in a new order.

    Args:
        step: Number of the step.
        count: Number of problems.
        size: Problems per batch; the last one of an epoch may have fewer.
        seed: Seed of the orders.
    """
    epoch, place = divmod(step, -(-count // size))
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[place * size : (place + 1) * size]
