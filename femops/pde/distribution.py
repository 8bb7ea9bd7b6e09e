"""Whether inputs are like those that an operator was trained for, by statistics that are stored with it.

The principal components of many random samples of an input, with two numbers for a sample x with the mean μ, components
V and their standard deviations s: how far it is along them, T² = mean ((Vᵀ (x − μ) / s)²), and how much of it they do
not hold, Q = |x − μ|² − |Vᵀ (x − μ)|² (Hotelling's T² and the squared prediction error, Jackson and Mudholkar,
Technometrics 21, 1979). A field of another size is far in T², one of another correlation in Q. The components are those
of one half of the samples; what is usual is measured on the other half.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from femops.notation import Array
from femops.surrogate import CheckedArrays

SAMPLES = 512
"""Random samples that the statistics are made of at least; they need no solution."""
_MARGIN = 1.2  # above the largest of the samples that the components have not seen
_KEPT = 0.999  # of the variance
_MOST_NUMBERS = 250_000  # of the components of an input
_ROUND_OFF = 1e-12


@dataclass(frozen=True)
class Distribution:
    """Statistics of one input with d numbers.

    Attributes:
        mean: Shape (d,).
        components: Orthonormal. Shape (k, d).
        deviation: Standard deviation along each of them. Shape (k,).
        limits: Largest usual T² and Q. Shape (2,).
    """

    mean: Array
    components: Array
    deviation: Array
    limits: Array

    @staticmethod
    def of(samples: Array) -> "Distribution":
        """Return the statistics of random samples (n, ...); even ones give the components, odd ones the limits."""
        rows = samples.reshape(len(samples), -1)
        known, others = rows[::2], rows[1::2]
        mean = known.mean(axis=0)
        _, values, components = np.linalg.svd(known - mean, full_matrices=False)
        share = np.cumsum(values**2) / max(float((values**2).sum()), np.finfo(float).tiny)
        most = max(1, min(len(known) // 2, _MOST_NUMBERS // rows.shape[1]))
        k = min(int(np.searchsorted(share, _KEPT)) + 1, most, int((values > _ROUND_OFF * values[0]).sum()))
        deviation = values[:k] / np.sqrt(len(known))
        found = Distribution(mean, components[:k], deviation, np.zeros(2))
        usual = _MARGIN * found.numbers(others).max(axis=1)
        size = float(mean @ mean + (values**2).sum() / len(known))
        return Distribution(mean, components[:k], deviation, usual + _ROUND_OFF * np.array([1.0, size]))

    def numbers(self, samples: Array) -> Array:
        """Return T² and Q of samples (n, ...). Shape (2, n)."""
        with np.errstate(over="ignore", invalid="ignore"):  # too far for numbers is far
            away = samples.reshape(len(samples), -1) - self.mean
            along = away @ self.components.T
            far = ((along / self.deviation) ** 2).sum(axis=1) / max(len(self.deviation), 1)
            return np.array([far, ((away - along @ self.components) ** 2).sum(axis=1)])

    def usual(self, samples: Array) -> npt.NDArray[np.bool_]:
        """Return which samples (n, ...) are like those of the statistics. Shape (n,)."""
        return np.asarray((self.numbers(samples) <= self.limits[:, None]).all(axis=0))

    def to_arrays(self, name: str) -> dict[str, Array]:
        """Return what the store keeps."""
        return {f"{name}.{part}": values for part, values in vars(self).items()}

    @staticmethod
    def from_arrays(name: str, arrays: CheckedArrays, size: int) -> "Distribution":
        """Return what was stored for an input of so many numbers."""
        own = arrays.part(f"{name}.")
        return Distribution(
            own.take("mean", size),
            own.take("components", "k", size),
            own.take("deviation", "k", positive=True),
            own.take("limits", 2, positive=True),
        )


def in_distribution(
    distributions: Mapping[str, Distribution], inputs: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.bool_]:
    """Return which samples have only inputs that are like those trained for. Shape (n,)."""
    return np.asarray(np.logical_and.reduce([one.usual(inputs[name]) for name, one in distributions.items()]))
