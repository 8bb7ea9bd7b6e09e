"""Adam on a weight vector, with a state that can be saved and resumed to the same weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from femops.surrogate.torch_library import Tensor, torch

_BETAS = (0.9, 0.99)


@dataclass
class TrainingState:
    """State of a training.

    Attributes:
        weights: Weight vector.
        slots: Moments of Adam, mean and mean square of the gradients; other optimisers may store other vectors.
        step: Number of steps done.
        losses: Loss at each step.
        draws: Random number generator.
    """

    weights: Tensor
    slots: tuple[Tensor, Tensor]
    step: int
    losses: list[float]
    draws: torch.Generator

    @classmethod
    def restored(cls, start: Tensor, seed: int, saved: Mapping[str, npt.NDArray[Any]] | None) -> "TrainingState":
        """Return the saved state, or the initial one if nothing was saved.

        Args:
            start: Initial weights; saved tensors get their device and dtype.
            seed: Seed of the random numbers.
            saved: Arrays saved before, see `arrays`, or None.
        """
        draws = torch.Generator().manual_seed(seed)
        if saved is None:
            return cls(start, (torch.zeros_like(start), torch.zeros_like(start)), 0, [], draws)
        draws.set_state(torch.from_numpy(saved["draws"]))
        weights, first, second = (torch.from_numpy(saved[key]).to(start) for key in ("weights", "slot_0", "slot_1"))
        return cls(weights, (first, second), int(saved["step"]), saved["losses"].tolist(), draws)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the state as arrays."""
        return {
            "weights": self.weights.cpu().numpy(),
            "slot_0": self.slots[0].cpu().numpy(),
            "slot_1": self.slots[1].cpu().numpy(),
            "step": np.array(self.step),
            "losses": np.array(self.losses),
            "draws": self.draws.get_state().numpy(),
        }

    def adam_step(self, loss: float, gradient: Tensor, rate: float, epsilon: float) -> None:
        """Take one step of Adam.

        Args:
            loss: Loss at the current weights.
            gradient: Gradient of the loss. Shape of the weights.
            rate: Learning rate.
            epsilon: Added to the root of the mean square of the gradients.
        """
        mean = _BETAS[0] * self.slots[0] + (1.0 - _BETAS[0]) * gradient
        square = _BETAS[1] * self.slots[1] + (1.0 - _BETAS[1]) * gradient * gradient
        self.step += 1
        rate *= np.sqrt(1.0 - _BETAS[1] ** self.step) / (1.0 - _BETAS[0] ** self.step)
        self.weights = self.weights - rate * mean / (square.sqrt() + epsilon)
        self.slots = (mean, square)
        self.losses.append(loss)
