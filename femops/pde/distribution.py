"""Detection of inputs outside the training distribution of an operator.

Principal component analysis of random samples of an input gives the mean μ, components V and standard deviations s.
Two statistics of a sample x are tested: T² = mean ((Vᵀ (x − μ) / s)²) within the components, and the reconstruction
error Q = |x − μ|² − |Vᵀ (x − μ)|² (Hotelling's T² and the squared prediction error, Jackson and Mudholkar,
Technometrics 21, 1979). A field of another amplitude has a large T², one of another correlation a large Q. Half of the
samples determine the components, the other half the limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from femops.notation import Array
from femops.surrogate import CheckedArrays

MIN_SAMPLES = 512
"""Least number of random samples for the statistics; they need no solution."""
_MARGIN = 1.2  # factor of the limits over the largest statistics of the second half of the samples
_VARIANCE = 0.999  # share of the variance in the kept components
_MAX_VALUES = 250_000  # largest number of values in the stored components of an input
_ROUND_OFF = 1e-12


@dataclass(frozen=True)
class Distribution:
    """Statistics of one input with d values.

    Attributes:
        mean: Mean μ. Shape (d,).
        components: Orthonormal principal components Vᵀ. Shape (k, d).
        deviation: Standard deviation s along each component. Shape (k,).
        limits: Upper limits of T² and Q. Shape (2,).
    """

    mean: Array
    components: Array
    deviation: Array
    limits: Array

    @staticmethod
    def of(samples: Array) -> "Distribution":
        """Return the statistics of random samples (n, ...); even rows determine the components, odd rows the limits."""
        rows = samples.reshape(len(samples), -1)
        first, second = rows[::2], rows[1::2]
        mean = first.mean(axis=0)
        _, values, components = np.linalg.svd(first - mean, full_matrices=False)
        share = np.cumsum(values**2) / max(float((values**2).sum()), np.finfo(float).tiny)
        most = max(1, min(len(first) // 2, _MAX_VALUES // rows.shape[1]))
        k = min(int(np.searchsorted(share, _VARIANCE)) + 1, most, int((values > _ROUND_OFF * values[0]).sum()))
        deviation = values[:k] / np.sqrt(len(first))
        found = Distribution(mean, components[:k], deviation, np.zeros(2))
        limits = _MARGIN * found.statistics(second).max(axis=1)
        size = float(mean @ mean + (values**2).sum() / len(first))
        return Distribution(mean, components[:k], deviation, limits + _ROUND_OFF * np.array([1.0, size]))

    def statistics(self, samples: Array) -> Array:
        """Return T² and Q of samples (n, ...). Shape (2, n)."""
        with np.errstate(over="ignore", invalid="ignore"):  # overflow counts as outside
            centred = samples.reshape(len(samples), -1) - self.mean
            scores = centred @ self.components.T
            t_squared = ((scores / self.deviation) ** 2).sum(axis=1) / max(len(self.deviation), 1)
            return np.array([t_squared, ((centred - scores @ self.components) ** 2).sum(axis=1)])

    def contains(self, samples: Array) -> npt.NDArray[np.bool_]:
        """Return a mask of the samples (n, ...) within the limits. Shape (n,)."""
        return np.asarray((self.statistics(samples) <= self.limits[:, None]).all(axis=0))

    def to_arrays(self, name: str) -> dict[str, Array]:
        """Return the statistics as named arrays for a model folder."""
        return {f"{name}.{part}": values for part, values in vars(self).items()}

    @staticmethod
    def from_arrays(name: str, arrays: CheckedArrays, size: int) -> "Distribution":
        """Return the stored statistics of an input with `size` values."""
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
    """Return a mask of the samples with all inputs within the training distribution. Shape (n,)."""
    return np.asarray(np.logical_and.reduce([one.contains(inputs[name]) for name, one in distributions.items()]))
