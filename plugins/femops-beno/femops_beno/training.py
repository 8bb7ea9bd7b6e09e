"""Training of BENO on finite-element solutions of many shapes."""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.notation import Array
from femops.surrogate import Fit, ProblemTask
from femops.surrogate.learning.loop import Schedule, Training
from femops_beno.encoding import Batch, Encoded, at_nodes, encode
from femops_beno.network import BENO, Architecture
from femops_beno.operator import Operator
from femops_beno.options import BENOOptions
from femops_beno.poisson.data import training_samples
from femops_beno.published_training import fit_published
from femops_beno.systems import System

_SHOW_EVERY, WARM_UP, LARGEST_GRADIENT, _TINY = 20, 50, 1.0, 1e-12


def fit_problem(task: ProblemTask) -> Fit:
    """Train on solutions of Poisson's equation on varying shapes.

    Args:
        task: Training task with `PoissonShapes` and `BENOOptions`.

    Returns:
        Arrays and settings of a `TrainedOperator`; the metrics are of test samples that are not trained on.

    Raises:
        CaseError: Given arrays cannot be read.
    """
    from femops_beno.poisson.evaluation import evaluated  # loads matplotlib

    options: BENOOptions = task.options
    begin = time.perf_counter()
    train, test = training_samples(task)
    if not train:
        raise CaseError("the data hold no sample to train on", key="problem")
    systems = [sample.system for sample in train]
    solved = time.perf_counter()
    operator, losses = (fit_published if options.published else _fitted)(task, systems)
    arrays = {name: one.detach().numpy().copy() for name, one in operator.network.state_dict().items()}
    rows = evaluated(operator.evaluate, test, task.progress).rows if test else {}
    metrics = {
        **{f"error_{shape}_{name}": value for shape, row in rows.items() for name, value in row.items()},
        "seconds_solving": solved - begin,
        "seconds_training": time.perf_counter() - solved,
        "weights": float(sum(one.numel() for one in operator.network.parameters())),
    }
    return Fit(arrays, operator.settings(), metrics, {"loss": {"training": losses}})


def _fitted(task: ProblemTask, systems: Sequence[System]) -> tuple[Operator, list[float]]:
    """Train the network of femops; return the operator and the loss before each step."""
    options: BENOOptions = task.options
    network = BENO(architecture(options, systems[0]))
    schedule = Schedule(options.steps, options.learning_rate, _SHOW_EVERY, WARM_UP, LARGEST_GRADIENT, seed=options.seed)
    training = Training(dict(network.named_parameters()), schedule, "training", task.checkpoint, task.progress)
    training.adam(RelativeError(network, systems, options.batch))
    return Operator(network), training.losses


def architecture(options: BENOOptions, system: System) -> Architecture:
    """Return the architecture for systems like the given one."""
    return Architecture(
        system.mesh.dim,
        system.n_components,
        system.features.shape[1],
        options.widths,
        options.layers,
        options.boundary_width,
        options.boundary_layers,
        options.passes,
        options.smoothing,
        options.seed,
    )


class RelativeError:
    """Mean over a batch of the relative error of the nodal values in the Euclidean norm.

    Args:
        network: The network.
        systems: Solved systems.
        batch: Systems per batch.
    """

    def __init__(self, network: BENO, systems: Sequence[System], batch: int) -> None:
        self._network, self._batch = network, batch
        self._encoded = [encode(system) for system in systems]
        self._targets = [_target(*pair) for pair in zip(systems, self._encoded, strict=True)]
        self._sizes = np.array([_size(system) for system in systems])

    def __call__(self, draw: np.random.Generator) -> Iterator[Tensor]:
        """Yield the loss of a random batch."""
        rows = draw.integers(len(self._encoded), size=self._batch)
        yield self.of(rows.tolist())

    def of(self, rows: Sequence[int]) -> Tensor:
        """Return the loss of some of the systems."""
        batch = Batch.of([self._encoded[i] for i in rows])
        target = torch.from_numpy(np.concatenate([self._targets[i] for i in rows], axis=1).astype(np.float32))
        difference = (self._network(batch) - target).square().sum(dim=(0, 2))
        squared = torch.stack([one.sum() for one in difference.split(list(batch.sizes))])
        size = torch.from_numpy(self._sizes[list(rows)].astype(np.float32))
        return (squared / size + _TINY).sqrt().mean()


def _target(system: System, encoded: Encoded) -> Array:
    assert system.solution is not None
    return at_nodes(system.solution - system.lifting, system)[:, encoded.nodes]


def _size(system: System) -> float:
    assert system.solution is not None
    return max(float(np.square(system.solution).sum()), float(np.finfo(np.float32).tiny))
