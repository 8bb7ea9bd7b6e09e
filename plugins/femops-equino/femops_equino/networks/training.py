"""Training of potential and coefficient networks on labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.surrogate import Checkpoint, Progress
from femops.surrogate.learning.loop import Schedule, Training
from femops_equino.networks import torch_networks
from femops_equino.networks.evaluation import expansion

_SMALL = 0.1

Loss = Callable[[Tensor | slice], Tensor]
"""Returns the loss at the labels with some indices."""


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a network and its training.

    Attributes:
        schedule: See `Schedule`; its seed also draws the initial weights.
        width: Units of both hidden layers.
        n_norms: Number of strain norms among the inputs; their metrics are trained.
        batch: Labels of a step of Adam.
        derivative_weight: Weight of the tangent or of the sensitivities in the loss.
        device: Device of the training.
    """

    schedule: Schedule
    width: int = 32
    n_norms: int = 2
    batch: int = 256
    derivative_weight: float = 0.5
    device: torch.device | str = "cpu"


@dataclass(frozen=True)
class PotentialLabels:
    """Labels of a potential network.

    Attributes:
        strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
        energy: W [stress]. Shape (n,).
        stress: dW/dE [stress]. Shape (n, n_s).
        tangent: d²W/dE² [stress]. Shape (n, n_s, n_s).
    """

    strain: Array
    energy: Array
    stress: Array
    tangent: Array


@dataclass(frozen=True)
class CoefficientLabels:
    """Labels of a coefficient network.

    Attributes:
        strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
        values: Coefficients. Shape (n, n_out).
        sensitivity: Derivatives of the coefficients. Shape (n, n_out, n_s).
        metric: The error of coefficients is √(Δa·metric·Δa). Shape (n_out, n_out).
    """

    strain: Array
    values: Array
    sensitivity: Array
    metric: Array


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network.

    Attributes:
        weights: See `femops_equino.networks.evaluation`.
        losses: Loss before each step: of the batch for Adam, of all labels for L-BFGS.
    """

    weights: dict[str, Array]
    losses: Array


def train_potential(
    linear: Array,
    labels: PotentialLabels,
    options: TrainingOptions,
    name: str,
    checkpoint: Checkpoint,
    progress: Progress,
) -> TrainedNetwork:
    """Train a scalar potential on energy, stress and tangent.

    The loss is the sum of the mean square errors of energy, stress and tangent relative to their mean squares, stress
    and tangent in the metric of the elastic stiffness. Errors of energy and stress weigh more at small strains, see
    `_relative`.

    Args:
        linear: C0, the tangent at zero strain [stress]. Shape (n_s, n_s).
        labels: See `PotentialLabels`.
        options: See `TrainingOptions`.
        name: Name of the checkpoint and of the reported stage.
        checkpoint: Stores the state of the training.
        progress: Progress callback.
    """
    strain = labels.strain
    nonlinear = labels.energy - 0.5 * np.einsum("ni,ij,nj->n", strain, linear, strain)
    unit = max(float(np.abs(nonlinear).mean()), 1e-9 * float(np.abs(labels.energy).mean()))
    start = torch_networks.initial_weights(
        linear,
        torch_networks.strain_scale(strain),
        np.array(unit),
        options.width,
        options.n_norms,
        options.schedule.seed,
    )
    weights = torch_networks.as_tensors(start, options.device)
    trained = {one: weights[one].requires_grad_() for one in torch_networks.TRAINED}
    loss = _potential_loss(weights, _tensors(labels, options.device), options.derivative_weight)
    training = Training(trained, options.schedule, name, checkpoint, progress)
    return minimise(training, loss, len(strain), options.batch, weights)


def train_coefficients(
    linear: Array,
    labels: CoefficientLabels,
    options: TrainingOptions,
    name: str,
    checkpoint: Checkpoint,
    progress: Progress,
) -> TrainedNetwork:
    """Train a coefficient network on values and sensitivities.

    The loss is the sum of the mean square errors of values and sensitivities in the given metric, relative to their
    mean squares.

    Args:
        linear: A0, the sensitivity at zero strain. Shape (n_out, n_s).
        labels: See `CoefficientLabels`.
        options: See `TrainingOptions`.
        name: Name of the checkpoint and of the reported stage.
        checkpoint: Stores the state of the training.
        progress: Progress callback.
    """
    nonlinear = labels.values - labels.strain @ linear.T
    unit = np.sqrt((nonlinear**2).mean(0))
    unit = np.maximum(unit, 1e-6 * max(float(unit.max()), 1e-300))
    scale = torch_networks.strain_scale(labels.strain)
    start = torch_networks.initial_weights(linear, scale, unit, options.width, options.n_norms, options.schedule.seed)
    weights = torch_networks.as_tensors(start, options.device)
    trained = {one: weights[one].requires_grad_() for one in torch_networks.TRAINED}
    loss = _coefficient_loss(weights, _tensors(labels, options.device), options.derivative_weight)
    training = Training(trained, options.schedule, name, checkpoint, progress)
    return minimise(training, loss, len(labels.strain), options.batch, weights)


def minimise(
    training: Training, loss: Loss, n_labels: int, batch: int, weights: Mapping[str, Tensor]
) -> TrainedNetwork:
    """Train by Adam on random batches, then by L-BFGS on all labels.

    Args:
        training: Training of those weights that require gradients.
        loss: See `Loss`.
        n_labels: Number of labels.
        batch: Labels of a step of Adam.
        weights: All weights of the network.
    """
    training.adam(lambda draw: [loss(torch.from_numpy(draw.integers(n_labels, size=batch)))])
    training.lbfgs(lambda: loss(slice(None)))
    found = {name: one.detach().cpu().numpy() for name, one in weights.items()}
    return TrainedNetwork(found, np.array(training.losses))


def _tensors(labels: PotentialLabels | CoefficientLabels, device: torch.device | str) -> dict[str, Tensor]:
    return {name: torch.as_tensor(one, dtype=torch.float64).to(device) for name, one in vars(labels).items()}


def _potential_loss(weights: Mapping[str, Tensor], labels: Mapping[str, Tensor], weight: float) -> Loss:
    whiten = torch.linalg.inv(torch.linalg.cholesky(weights["linear"]))
    energy, stress = labels["energy"], labels["stress"] @ whiten.T
    tangent = whiten @ labels["tangent"] @ whiten.T
    relative = _relative(labels["strain"])
    sizes = (relative**2 * energy**2).mean(), (relative * (stress**2).sum(1)).mean(), (tangent**2).sum((1, 2)).mean()

    def loss(part: Tensor | slice) -> Tensor:
        found = torch_networks.potential(weights, labels["strain"][part], expansion(weights))
        of_energy = (relative[part] ** 2 * (found[0] - energy[part]) ** 2).mean() / sizes[0]
        of_stress = (relative[part] * ((found[1] @ whiten.T - stress[part]) ** 2).sum(1)).mean() / sizes[1]
        of_tangent = ((whiten @ found[2] @ whiten.T - tangent[part]) ** 2).sum((1, 2)).mean() / sizes[2]
        return of_energy + of_stress + weight * of_tangent

    return loss


def _relative(strain: Tensor) -> Tensor:
    """Return weights for errors relative to the strain, limited at a tenth of the range. Shape (n,)."""
    largest = strain.abs().amax(0)
    squared = ((strain / torch.where(largest > 0.0, largest, largest.amax())) ** 2).sum(1)
    return 1.0 / (squared + _SMALL**2)


def _coefficient_loss(weights: Mapping[str, Tensor], labels: Mapping[str, Tensor], weight: float) -> Loss:
    root = torch.linalg.cholesky(labels["metric"])
    values, sensitivity = labels["values"] @ root, root.T @ labels["sensitivity"]
    relative = _relative(labels["strain"])
    sizes = (relative * (values**2).sum(1)).mean(), (sensitivity**2).sum((1, 2)).mean()

    def loss(part: Tensor | slice) -> Tensor:
        found = torch_networks.coefficients(weights, labels["strain"][part], expansion(weights))
        of_values = (relative[part] * ((found[0] @ root - values[part]) ** 2).sum(1)).mean() / sizes[0]
        of_sensitivity = ((root.T @ found[1] - sensitivity[part]) ** 2).sum((1, 2)).mean() / sizes[1]
        return of_values + weight * of_sensitivity

    return loss
