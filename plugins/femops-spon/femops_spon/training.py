"""Training of SPON on microstructures with known homogenized stiffness, and prediction with a trained network.

The loss needs no reference fields: tr(C̄⁻¹ (C̄(W) − C̄)) / n_s is the mean square error of the predicted fields of the
unit strains in the energy norm, relative to the stored energy. It is zero for the exact solution only.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from femops.notation import Array
from femops.surrogate import CheckedArrays, Checkpoint, Progress, state_dict
from femops.surrogate.fields.linear import LinearFields
from femops.surrogate.torch_library import Tensor, torch
from femops_spon.batches import Batches, BatchOptions, Group, batches, in_precision, tangents
from femops_spon.network import SPON, Architecture, MeshMaps, cell_features, grid_counts, hierarchy
from femops_spon.processor import ProcessorOptions

_FLOOR = 1e-5  # lower limit of the error in the logarithmic loss
_LARGEST_GRADIENT = 1.0
_BETAS = (0.9, 0.98)
_WARM_UP = 30
_NAME = "spon"
_CHUNK = 32

Weights = dict[str, npt.NDArray[Any]]
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

    weights: Weights
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
    learner = _Learner(network, batches(groups, how), options)
    learner.restore(checkpoint.load(_NAME))
    while learner.step < options.steps:
        learner.advance(min(learner.step + options.save_every, options.steps))
        checkpoint.save(_NAME, learner.state())
        seen, unseen = (learner.curves[name][-1] for name in ("training", "held back"))
        progress("network", learner.step, options.steps, f"energy error {seen:.1e}, unseen {unseen:.1e}")
    weights = {name: one.detach().cpu().numpy() for name, one in network.state_dict().items()}
    return Trained(weights, settings, {name: np.array(values) for name, values in learner.curves.items()})


def restored(weights: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any], device: Any = "cpu") -> SPON:
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


class _Learner:
    """The optimiser and its state; the random draws of a step depend on its number only."""

    def __init__(self, network: SPON, data: Batches, options: TrainingOptions) -> None:
        self._network, self._data, self._options = network, data, options
        self._weights = {name: one for name, one in network.named_parameters() if one.numel()}
        self._optimiser = torch.optim.Adam(self._weights.values(), lr=options.rate, betas=_BETAS)
        self.step = 0
        self.curves: dict[str, list[float]] = {"training": [], "held back": []}

    def advance(self, stop: int) -> None:
        """Train up to step `stop` and append the median errors to the curves."""
        errors = []
        while self.step < stop:
            errors.append(self._one())
            self.step += 1
        with torch.no_grad():
            held = torch.cat([part.errors(self._network) for part in self._data.held_back()])
        self.curves["training"].append(float(torch.cat(errors).median().clamp(min=_FLOOR)))
        self.curves["held back"].append(float(held.median().clamp(min=_FLOOR)))

    def _one(self) -> Tensor:
        draw = np.random.default_rng([self._options.seed, self.step])
        parts = list(self._data.drawn(draw))
        count = sum(part.count for part in parts)
        self._optimiser.zero_grad()
        found = []
        for part in parts:
            errors = part.errors(self._network)
            (torch.log(errors.clamp(min=0.0) + _FLOOR).sum() / count).backward()
            found.append(errors.detach())
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), _LARGEST_GRADIENT)
        falling = 0.5 * (1.0 + np.cos(np.pi * self.step / self._options.steps))
        self._optimiser.param_groups[0]["lr"] = self._options.rate * falling * min(1.0, (self.step + 1) / _WARM_UP)
        self._optimiser.step()
        return torch.cat(found)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the state as arrays."""
        kept: dict[str, npt.NDArray[Any]] = {"step": np.array(self.step)}
        kept |= {f"curve/{name}": np.array(values) for name, values in self.curves.items()}
        for name, one in self._weights.items():
            moments = self._optimiser.state[one]
            parts = {"weight": one, "first": moments["exp_avg"], "second": moments["exp_avg_sq"]}
            kept |= {f"{part}/{name}": tensor.detach().cpu().numpy() for part, tensor in parts.items()}
        return kept

    def restore(self, kept: Mapping[str, npt.NDArray[Any]] | None) -> None:
        """Restore a saved state; None keeps the initial one."""
        if kept is None:
            return
        self.step = int(kept["step"])
        self.curves = {name: kept[f"curve/{name}"].tolist() for name in self.curves}
        for name, one in self._weights.items():
            weight, first, second = (torch.tensor(kept[f"{part}/{name}"]) for part in ("weight", "first", "second"))
            with torch.no_grad():
                one.copy_(weight)
            moments = {"exp_avg": first.to(one), "exp_avg_sq": second.to(one)}
            self._optimiser.state[one] = {"step": torch.tensor(float(self.step)), **moments}
