"""A small network for the unknowns in equilibrium, where Newton's method starts.

    u(E) = N(z) − N(0) − N'(0) z,    z = (x, ρ_1 − δ, ρ_2 − δ),    ρ_k² = |A_k x|² + δ²

x is E relative to the half widths of the range, and N has two hidden layers of swish units. u and its derivative vanish
at E = 0, as ports and bubbles do, which do not hold the elastic fluctuation. The norms ρ_k, whose metrics are learned,
are there because the energy of a saturating phase has a term of order |ε|³.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.surrogate import CheckedArrays, FitTask
from femops.surrogate.fields.law import TINY
from femops.surrogate.learning.loop import Schedule, Training
from femops_moe.galerkin import Equilibrium
from femops_moe.options import NetworkOptions
from femops_moe.reduced_law import Solver

_FLOOR = 1e-2  # δ: rounds off the cusp of the norms
_NORMS = 2
_SMALL = 0.1  # strain, relative to the range, below which errors do not weigh more
_SAVE_EVERY = 100
_ROUND_OFF = 1e-13  # of guesses, relative to the weights of the last layer
_PREFIX = "first_guess."

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class FirstGuess:
    """A trained network.

    Attributes:
        low: Lower corner of the range of its training, Mandel [-]; strains outside are clipped to it. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
        half_width: Of the range, positive [-]. Shape (n_s,).
        error: Root mean square error of the unknowns in training, relative to √(|x|² + 0.1²).
        weights: Weights by name.
    """

    low: Array
    high: Array
    half_width: Array
    error: float
    weights: Weights

    def at(self, strain: Array) -> tuple[Array, Array]:
        """Return the unknowns (n, n_out) at strains (n, n_s), and their expected error in the Euclidean norm (n,)."""
        x = torch.from_numpy(np.clip(strain, self.low, self.high) / self.half_width)
        found = np.asarray(_network(self.weights, x))
        nothing = _ROUND_OFF * float(self.weights["weight_3"].abs().max())
        found[(np.abs(found) <= nothing).all(axis=1)] = 0.0  # so that a point without strain stays in equilibrium
        return found, self.error * np.sqrt(np.asarray(_scale(x)))

    def arrays(self) -> dict[str, Array]:
        """Return the network as arrays of a model."""
        weights = {name: one.numpy() for name, one in self.weights.items()}
        found = {"low": self.low, "high": self.high, "half_width": self.half_width, "error": np.array(self.error)}
        return {_PREFIX + name: one for name, one in (found | weights).items()}


@dataclass(frozen=True)
class GuessedStart:
    """A solver that starts the unknowns where a network says, and those of enrichments, which come last, as given.

    Attributes:
        inner: The solver.
        guess: The network.
        near: Distance from the guess, relative to its expected error, up to which unknowns start as given: after a
            small step the state is nearer to equilibrium than the guess.
    """

    inner: Solver
    guess: FirstGuess
    near: float

    def solve(self, strain: Array, start: Array, evaluations: int, tolerance: float) -> Equilibrium:
        """Return the response at strains; see `galerkin.BatchedExperts.solve`."""
        (guess, error), start = self.guess.at(strain), start.copy()
        first = start[:, : guess.shape[1]]
        far = np.linalg.norm(first - guess, axis=1) > self.near * error
        first[far] = guess[far]
        return self.inner.solve(strain, start, evaluations, tolerance)

    def sensitivity(self, strain: Array, unknowns: Array) -> Array:
        """Return the derivative of the unknowns by the strain; see the same."""
        return self.inner.sensitivity(strain, unknowns)


def is_stored(arrays: Mapping[str, Array]) -> bool:
    """Return whether a trained model has a network."""
    return any(name.startswith(_PREFIX) for name in arrays)


def stored(arrays: CheckedArrays, n_unknowns: int) -> FirstGuess | None:
    """Return the network of a trained model, None if it has none.

    Raises:
        StoredArrayError: Its arrays do not fit each other, or the model.
    """
    own = arrays.part(_PREFIX)
    if not own.names():
        return None
    low, high = own.take("low", "n_s"), own.take("high", "n_s")
    own.check("high", (low <= high).all(), "no less than low")
    metric = own.take("metric", "n_norms", "n_s", "n_s")
    shapes: dict[str, tuple[int | str, ...]] = {
        "weight_1": (len(low) + len(metric), "width"),
        "bias_1": ("width",),
        "weight_2": ("width", "width"),
        "bias_2": ("width",),
        "weight_3": ("width", "n_out"),
    }
    own.no_others(["low", "high", "half_width", "error", "metric", *shapes])
    weights = {"metric": metric, **{name: own.take(name, *shape) for name, shape in shapes.items()}}
    own.check("weight_3", weights["weight_3"].shape[1] <= n_unknowns, f"at most {n_unknowns} outputs")
    half_width, error = own.take("half_width", "n_s", positive=True), float(own.take("error", positive=True))
    return FirstGuess(low, high, half_width, error, {name: torch.tensor(one) for name, one in weights.items()})


def train(task: FitTask, half_width: Array, strain: Array, unknowns: Array) -> tuple[FirstGuess, Array]:
    """Train a network on solutions of the reduced model by L-BFGS.

    Modes have about unit elastic energy, so that the mean square error of the unknowns measures how far Newton's method
    starts from equilibrium. It is relative to the square of the strain, as the energy is.

    Args:
        task: The training of the model; see `NetworkOptions`.
        half_width: Of the range, positive [-]. Shape (n_s,).
        strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
        unknowns: Unknowns in equilibrium. Shape (n, n_unknowns).

    Returns:
        The network, and its loss before each step.
    """
    options: NetworkOptions = task.options.network
    x = torch.from_numpy(strain / half_width)
    unit = max(float(np.sqrt((unknowns**2).sum(axis=1).mean())), TINY)
    wanted = torch.from_numpy(unknowns / unit)
    relative = 1.0 / _scale(x)
    weights = _initial_weights(x.shape[1], options.width, unknowns.shape[1], task.options.seed)

    def loss() -> Tensor:
        return (relative * ((_network(weights, x) - wanted) ** 2).sum(1)).mean()

    schedule = Schedule(0, 0.0, _SAVE_EVERY, lbfgs_steps=options.steps)
    training = Training(weights, schedule, "network", task.checkpoint, task.progress)
    training.lbfgs(loss)
    found = {name: one.detach() for name, one in weights.items()}
    found["weight_3"] = unit * found["weight_3"]
    error = max(unit * float(loss().detach()) ** 0.5, TINY)
    return FirstGuess(task.low, task.high, half_width, error, found), np.array(training.losses)


def _initial_weights(n_s: int, width: int, n_out: int, seed: int) -> dict[str, Tensor]:
    draw, n_in = np.random.default_rng(seed), n_s + _NORMS
    start: dict[str, Any] = {
        "metric": np.eye(n_s) + 0.3 * draw.standard_normal((_NORMS, n_s, n_s)),
        "weight_1": draw.standard_normal((n_in, width)) / np.sqrt(n_in),
        "bias_1": draw.uniform(-1.0, 1.0, width),
        "weight_2": draw.standard_normal((width, width)) / np.sqrt(width),
        "bias_2": np.zeros(width),
        "weight_3": 0.3 * draw.standard_normal((width, n_out)) / np.sqrt(width),
    }
    return {name: torch.tensor(one).requires_grad_() for name, one in start.items()}


def _network(weights: Weights, x: Tensor) -> Tensor:
    """Return the unknowns (n, n_out) at strains relative to the range (n, n_s)."""
    norms = ((weights["metric"] @ x.T) ** 2).sum(1)
    z = torch.cat([x, (torch.sqrt(norms + _FLOOR**2) - _FLOOR).T], 1)
    first, second, last = weights["weight_1"], weights["weight_2"], weights["weight_3"]
    at_zero, slope_1 = _swish(weights["bias_1"])
    value, slope_2 = _swish(at_zero @ second + weights["bias_2"])
    slope = (first * slope_1) @ (second * slope_2)
    silu = torch.nn.functional.silu
    hidden = silu(torch.addmm(weights["bias_2"], silu(torch.addmm(weights["bias_1"], z, first)), second))
    return (hidden - value - z @ slope) @ last


def _scale(x: Tensor) -> Tensor:
    """Return the squares of strains (n,), which those of errors are relative to, bounded from below."""
    return (x**2).sum(1) + _SMALL**2


def _swish(argument: Tensor) -> tuple[Tensor, Tensor]:
    """Return u/(1 + exp(−u)) and its derivative."""
    gate = torch.sigmoid(argument)
    return argument * gate, gate * (1.0 + argument * (1.0 - gate))
