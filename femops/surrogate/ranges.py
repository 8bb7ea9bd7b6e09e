"""Membership in the strain range that a surrogate was trained for."""

from typing import Any

_ROUND_OFF = 1e-9


def within(strain: Any, low: Any, high: Any) -> Any:
    """Return a mask of the strains inside a range, up to round-off relative to its largest strain. Shape (n,).

    The tolerance is needed for components with low = high, which round-off of a macroscale solution would leave.

    Args:
        strain: Macroscale strains, Mandel [-]; like the corners a numpy array or a torch tensor. Shape (n, n_s).
        low: Lower corner. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
    """
    slack = _ROUND_OFF * abs(low).clip(min=abs(high)).max()
    return ((strain >= low - slack) & (strain <= high + slack)).all(axis=1)
