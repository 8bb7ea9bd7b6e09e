"""Training of SPON on microstructures with known homogenized stiffness, and prediction with a trained network.

The loss needs no reference fields: tr(C̄⁻¹ (C̄(W) − C̄)) / n_s is the mean square error of the predicted fields of the
unit strains in the energy norm, relative to the stored energy. It is zero for the exact solution only.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.surrogate import CheckedArrays, Checkpoint, Progress, state_dict
from femops.surrogate.fields.linear import LinearFields, cell_features
from femops.surrogate.learning.loop import Schedule, Training
from femops.surrogate.message_passing import ProcessorOptions
from femops.surrogate.spec import Arrays
from femops_spon.batches import Batches, BatchOptions, Group, batches, in_precision, tangents
from femops_spon.network import SPON, Architecture, MeshMaps, grid_counts, hierarchy

_FLOOR = 1e-5  # lower limit of the error in the logarithmic loss
_LARGEST_GRADIENT, _WARM_UP = 1.0, 30
_CHUNK = 32

Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training.

    Attributes:
        network: Options of the network.
        levels: Levels of the hierarchies; None for as many as the meshes allow.
        steps: Optimiser steps; the learning rate decays to zero along a cosine.
        batch: Microstructures per step.
        rate: Largest learning rate.
        augment: Augment the data by rotated and mirrored coordinates and shifted coarse grids.
        seed: Seed of all random numbers except the initial weights.
        device: A torch device.
        save_every: Steps between checkpoints, which are also the points of the curves.
    """

    network: Architecture
    levels: int | None
    steps: int
    batch: int
    rate: float
    augment: bool = True
    seed: int = 0
    device: str = "cpu"
    save_every: int = 50


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Attributes:
        weights: Weights by name.
        settings: Definition of the network, serialisable as JSON; see `restored`.
        curves: Median energy error of the training and the validation set, at each checkpoint.
    """

    weights: Arrays
    settings: Mapping[str, Any]
    curves: Mapping[str, Array]


def train(groups: Sequence[Group], options: TrainingOptions, checkpoint: Checkpoint, progress: Progress) -> Trained:
    """Train on microstructures; a resumed training gives the same weights as an uninterrupted one.

    Some of the microstructures are held back for validation.

    Args:
        groups: Microstructures, grouped by mesh.
        options: See `TrainingOptions`.
        checkpoint: Storage of the training state.
        progress: Progress callback, called with the median errors.
    """
    dim = groups[0].problem.space.discretisation.dim
    levels = options.levels or 1 + min(len(grid_counts(group.problem.space)) for group in groups)
    settings = {"dim": dim, "levels": levels, "network": asdict(options.network)}
    network = SPON(dim, levels, options.network).to(options.device)
    how = BatchOptions(levels, options.batch, options.augment, options.seed, options.device)
    schedule = Schedule(options.steps, options.rate, options.save_every, _WARM_UP, _LARGEST_GRADIENT, seed=options.seed)
    training = Training(dict(network.named_parameters()), schedule, "network", checkpoint, progress)
    errors = _Errors(network, batches(groups, how))
    training.adam(errors.loss, errors.medians)
    weights = {name: one.detach().cpu().numpy() for name, one in network.state_dict().items()}
    legend = {"training": "energy error", "held back": "unseen"}
    curves = {entry: np.array(training.curves.get(name, [])) for entry, name in legend.items()}
    return Trained(weights, settings, curves)


def restored(weights: Arrays, settings: Mapping[str, Any], device: Any = "cpu") -> SPON:
    """Return a trained network.

    Args:
        weights: See `Trained`.
        settings: See `Trained`.
        device: A torch device.
    """
    block = dict(settings["network"])
    options = Architecture(**{**block, "processor": ProcessorOptions(**block["processor"])})
    network = SPON(int(settings["dim"]), int(settings["levels"]), options)
    found = state_dict(CheckedArrays(weights), network.state_dict())
    network.load_state_dict({name: torch.tensor(one) for name, one in found.items()})
    return network.to(device).eval()


def predict(network: SPON, problem: LinearFields, precision: Precision) -> Tensor:
    """Return the fluctuations of the unit strains [length], with zero mean. Shape (N, n_nodes, dim, n_s).

    Args:
        network: The network, on the device of the problem; not modified.
        problem: The RVEs, in double precision.
        precision: Precision of the network; the returned fields are in double precision.

    Raises:
        CaseError: The mesh is too coarse for the levels of the network.
    """
    dtype = getattr(torch, precision)
    maps = MeshMaps(hierarchy(problem.space, network.n_levels))
    network = deepcopy(network).to(dtype)
    found = []
    with torch.no_grad():
        for start in range(0, len(problem), _CHUNK):
            part = in_precision(problem[slice(start, start + _CHUNK)], dtype)
            found.append(network(maps, part, cell_features(tangents(part))).to(problem.load.dtype))
    return problem.centred(torch.cat(found))


class _Errors:
    """Errors of a network on batches; their loss is logarithmic."""

    def __init__(self, network: SPON, data: Batches) -> None:
        self._network, self._data = network, data
        self._seen: list[Tensor] = []

    def loss(self, draw: np.random.Generator) -> Iterator[Tensor]:
        """Yield the terms of the loss of a batch."""
        parts = list(self._data.drawn(draw))
        count = sum(part.count for part in parts)
        for part in parts:
            errors = part.errors(self._network)
            self._seen.append(errors.detach())
            yield torch.log(errors.clamp(min=0.0) + _FLOOR).sum() / count

    def medians(self) -> dict[str, float]:
        """Return the median errors of the batches since the last call and of the validation set."""
        held_back = [part.errors(self._network) for part in self._data.held_back()]
        found = {"energy error": self._seen, "unseen": held_back}
        self._seen = []
        return {name: float(torch.cat(errors).median().clamp(min=_FLOOR)) for name, errors in found.items()}
