"""Smooth Gaussian random fields, independent of a mesh."""

from collections.abc import Callable

import numpy as np

from femops.notation import Array

_TERMS = 64


def gaussian_field(draws: np.random.Generator, dim: int, length: float) -> Callable[[Array], Array]:
    """Draw a random field of zero mean, unit variance and covariance exp(−|x − y|² / (2 length²)).

    f(x) = Σ_m (a_m cos k_m·x + b_m sin k_m·x) / √M with M = 64, standard normal a, b and k of standard deviation
    1 / length: random Fourier features (Rahimi and Recht, 2007), which have this covariance in expectation over k.

    Args:
        draws: Random number generator; the number of draws does not depend on the mesh.
        dim: Number of coordinates that the field depends on.
        length: Correlation length [length].

    Returns:
        Function from points (n, dim or more) to values (n,).
    """
    waves = draws.standard_normal((_TERMS, dim)) / length
    cosine, sine = draws.standard_normal((2, _TERMS)) / np.sqrt(_TERMS)

    def field(points: Array) -> Array:
        phase = points[:, :dim] @ waves.T
        return np.asarray(np.cos(phase) @ cosine + np.sin(phase) @ sine)

    return field
