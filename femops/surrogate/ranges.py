"""The range of strains that a surrogate was trained for."""

from typing import Any

import numpy as np

from femops.notation import Array

_ROUND_OFF = 1e-9


def within(strain: Array, low: Array, high: Array) -> Any:
    """Return where strains are in a range, up to round-off of its largest strain. Shape (n,).

    A component that was not varied is a range without width, which the round-off of a macroscale solution would leave.

    Args:
        strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
        low: Lower corner. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
    """
    slack = _ROUND_OFF * np.maximum(np.abs(low), np.abs(high)).max()
    return ((strain >= low - slack) & (strain <= high + slack)).all(axis=1)
