"""Adam on a vector of weights, with a state that an interrupted training goes on from to the same weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from femops.surrogate.torch_library import Tensor, torch

_BETAS = (0.9, 0.99)


@dataclass
class TrainingState:
    """What an interrupted training needs to go on.

    Attributes:
        weights: All weights in one vector.
        slots: The moments of Adam, mean and mean square of the gradients; other methods keep what they need in them.
        step: Steps done.
        losses: The loss at each of them.
        draws: Source of random numbers.
    """

    weights: Tensor
    slots: tuple[Tensor, Tensor]
    step: int
    losses: list[float]
    draws: torch.Generator

    @classmethod
    def restored(cls, start: Tensor, seed: int, saved: Mapping[str, npt.NDArray[Any]] | None) -> "TrainingState":
        """Return a state that was saved, see `arrays`, or the first one.

        Args:
            start: The first weights; what was saved goes where they are.
            seed: Of the random numbers.
            saved: The arrays; None if there are none.
        """
        draws = torch.Generator().manual_seed(seed)
        if saved is None:
            return cls(start, (torch.zeros_like(start), torch.zeros_like(start)), 0, [], draws)
        draws.set_state(torch.from_numpy(saved["draws"]))
        weights, first, second = (torch.from_numpy(saved[key]).to(start) for key in ("weights", "slot_0", "slot_1"))
        return cls(weights, (first, second), int(saved["step"]), saved["losses"].tolist(), draws)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all of it, to be saved."""
        return {
            "weights": self.weights.cpu().numpy(),
            "slot_0": self.slots[0].cpu().numpy(),
            "slot_1": self.slots[1].cpu().numpy(),
            "step": np.array(self.step),
            "losses": np.array(self.losses),
            "draws": self.draws.get_state().numpy(),
        }

    def adam_step(self, loss: float, gradient: Tensor, rate: float, epsilon: float) -> None:
        """Go one step of Adam.

        Args:
            loss: The loss at the weights.
            gradient: Its gradient. Shape of the weights.
            rate: Length of a step for each weight.
            epsilon: Added to the root of the mean square of the gradients.
        """
        mean = _BETAS[0] * self.slots[0] + (1.0 - _BETAS[0]) * gradient
        square = _BETAS[1] * self.slots[1] + (1.0 - _BETAS[1]) * gradient * gradient
        self.step += 1
        rate *= np.sqrt(1.0 - _BETAS[1] ** self.step) / (1.0 - _BETAS[0] ** self.step)
        self.weights = self.weights - rate * mean / (square.sqrt() + epsilon)
        self.slots = (mean, square)
        self.losses.append(loss)
