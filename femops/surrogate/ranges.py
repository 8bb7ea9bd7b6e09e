"""Membership in the strain range that a surrogate was trained for."""

from typing import Any

import numpy as np

from femops.notation import Array

_ROUND_OFF = 1e-9


def within(strain: Array, low: Array, high: Array) -> Any:
    """Return a mask of the strains inside a range, up to round-off relative to its largest strain. Shape (n,).

    The tolerance is needed for components with low = high, which round-off of a macroscale solution would leave.

    Args:
        strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
        low: Lower corner. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
    """
    slack = _ROUND_OFF * np.maximum(np.abs(low), np.abs(high)).max()
    return ((strain >= low - slack) & (strain <= high + slack)).all(axis=1)
