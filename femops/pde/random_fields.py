"""Smooth random fields that do not depend on a mesh."""

from collections.abc import Callable

import numpy as np

from femops.notation import Array

_TERMS = 64


def gaussian_field(draws: np.random.Generator, dim: int, length: float) -> Callable[[Array], Array]:
    """Draw a random field of zero mean, unit variance and covariance exp(−|x − y|² / (2 length²)).

    f(x) = Σ_m (a_m cos k_m·x + b_m sin k_m·x) / √M with M = 64, standard normal a, b and k of standard deviation
    1 / length: random Fourier features (Rahimi and Recht, 2007), whose covariance is that of the Gaussian field in the
    mean over k.

    Args:
        draws: Source of random numbers; as many are drawn for every mesh.
        dim: Number of coordinates that the field depends on.
        length: Correlation length [length].

    Returns:
        From points (n, dim or more) to values (n,).
    """
    waves = draws.standard_normal((_TERMS, dim)) / length
    cosine, sine = draws.standard_normal((2, _TERMS)) / np.sqrt(_TERMS)

    def field(points: Array) -> Array:
        phase = points[:, :dim] @ waves.T
        return np.asarray(np.cos(phase) @ cosine + np.sin(phase) @ sine)

    return field
