"""Minimisation of a network's loss by Adam on random batches, then L-BFGS on all labels, with checkpoints.

L-BFGS in double precision reaches lower losses than Adam: with a few thousand weights and smooth, exact labels,
curvature information matters more than cheap steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from femops.surrogate import Checkpoint, Progress
from femops.surrogate.learning.adam import TrainingState
from femops.surrogate.torch_library import Tensor, torch

Loss = Callable[[Mapping[str, Tensor], Tensor | None], Tensor]
"""The loss as a function of the weights and the indices of labels; None selects all labels."""

_EPSILON = 1e-12
_ARMIJO, _CURVATURE, _MAX_TRIALS = 1e-4, 0.9, 25


@dataclass(frozen=True)
class Schedule:
    """Schedule of a minimisation.

    Attributes:
        adam_steps: Steps of Adam; its learning rate decays to zero along a cosine.
        lbfgs_steps: Steps of L-BFGS.
        batch: Batch size of Adam.
        rate: Initial learning rate of Adam.
        memory: Number of steps stored by L-BFGS.
        save_every: Steps between checkpoints.
    """

    adam_steps: int = 400
    lbfgs_steps: int = 800
    batch: int = 256
    rate: float = 3e-3
    memory: int = 60
    save_every: int = 100


@dataclass(frozen=True)
class Watch:
    """Checkpoint and progress of a minimisation.

    Attributes:
        name: Name of the checkpoint and of the reported stage.
        checkpoint: Stores the state.
        progress: Called with stage, step, number of steps and the loss.
    """

    name: str
    checkpoint: Checkpoint
    progress: Progress


class _Flat:
    """A loss as a function of one flat vector."""

    def __init__(self, start: Mapping[str, Tensor], loss: Loss) -> None:
        self.shapes = {name: one.shape for name, one in start.items()}
        self._loss = loss

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def value_and_gradient(self, vector: Tensor, rows: Tensor | None = None) -> tuple[float, Tensor]:
        variable = vector.detach().clone().requires_grad_(True)
        value = self._loss(self.split(variable), rows)
        (gradient,) = torch.autograd.grad(value, variable)
        return float(value.detach()), gradient


def minimise(
    start: Mapping[str, Tensor], loss: Loss, n_labels: int, schedule: Schedule, seed: int, watch: Watch
) -> tuple[dict[str, Tensor], np.ndarray]:
    """Minimise a loss over weights; a resumed run gives the same weights as an uninterrupted one.

    Args:
        start: Initial weights.
        loss: See `Loss`.
        n_labels: Number of labels.
        schedule: See `Schedule`.
        seed: Random seed of the batches.
        watch: Checkpoint and progress.

    Returns:
        The weights, and the loss at every step: of the batch for Adam, of all labels for L-BFGS.
    """
    flat = _Flat(start, loss)
    vector = torch.cat([one.detach().reshape(-1) for one in start.values()])
    state = TrainingState.restored(vector, seed, watch.checkpoint.load(watch.name))
    total = schedule.adam_steps + schedule.lbfgs_steps
    while state.step < total:
        stop = min(state.step + schedule.save_every, total)
        if state.step < schedule.adam_steps:
            _adam(flat, state, min(stop, schedule.adam_steps), n_labels, schedule)
        else:
            _lbfgs(flat, state, stop, schedule)
        watch.checkpoint.save(watch.name, state.arrays())
        watch.progress(watch.name, state.step, total, f"loss {state.losses[-1]:.2e}" if state.losses else "")
    return {name: one.clone() for name, one in flat.split(state.weights).items()}, np.array(state.losses)


def _adam(flat: _Flat, state: TrainingState, stop: int, n_labels: int, schedule: Schedule) -> None:
    while state.step < stop:
        rows = torch.randint(n_labels, (schedule.batch,), generator=state.draws).to(state.weights.device)
        value, gradient = flat.value_and_gradient(state.weights, rows)
        rate = 0.5 * schedule.rate * (1.0 + np.cos(np.pi * state.step / schedule.adam_steps))
        state.adam_step(value, gradient, rate, _EPSILON)


def _lbfgs(flat: _Flat, state: TrainingState, stop: int, schedule: Schedule) -> None:
    steps, changes = state.slots
    if steps.ndim == 1:
        steps, changes = steps.new_zeros(0, len(steps)), steps.new_zeros(0, len(steps))
    weights = state.weights
    value, gradient = flat.value_and_gradient(weights)
    while state.step < stop:
        direction = _two_loops(gradient, steps, changes)
        found = _line_search(flat, weights, value, gradient, direction, 1.0 if len(steps) else _first(gradient))
        if found is None:  # limited by round-off
            state.losses += [value] * (stop - state.step)
            state.step = stop
            break
        step, value, new_gradient = found
        steps = torch.cat([steps[-schedule.memory + 1 :], step[None]])
        changes = torch.cat([changes[-schedule.memory + 1 :], (new_gradient - gradient)[None]])
        weights, gradient = weights + step, new_gradient
        state.losses.append(value)
        state.step += 1
    state.weights, state.slots = weights, (steps, changes)


def _first(gradient: Tensor) -> float:
    return min(1.0, 1.0 / float(gradient.abs().sum()))


def _two_loops(gradient: Tensor, steps: Tensor, changes: Tensor) -> Tensor:
    """Return minus the L-BFGS inverse Hessian times the gradient."""
    direction = -gradient
    if not len(steps):
        return direction
    inverse = 1.0 / (steps * changes).sum(1)
    factors = torch.empty_like(inverse)
    for i in range(len(steps) - 1, -1, -1):
        factors[i] = inverse[i] * (steps[i] @ direction)
        direction = direction - factors[i] * changes[i]
    direction = direction / (inverse[-1] * (changes[-1] @ changes[-1]))
    for i in range(len(steps)):
        direction = direction + (factors[i] - inverse[i] * (changes[i] @ direction)) * steps[i]
    return direction


def _line_search(
    flat: _Flat, weights: Tensor, value: float, gradient: Tensor, direction: Tensor, first: float
) -> tuple[Tensor, float, Tensor] | None:
    """Bisect for the weak Wolfe conditions, which keep the Hessian positive definite; None if none is found."""
    slope = float(gradient @ direction)
    low, high, length = 0.0, np.inf, first
    if not slope < 0.0:
        return None
    for _ in range(_MAX_TRIALS):
        new_value, new_gradient = flat.value_and_gradient(weights + length * direction)
        if not new_value <= value + _ARMIJO * length * slope:
            high = length
        elif float(new_gradient @ direction) < _CURVATURE * slope:
            low = length
        else:
            return length * direction, new_value, new_gradient
        length = 2.0 * low if np.isinf(high) else 0.5 * (low + high)
    return None
