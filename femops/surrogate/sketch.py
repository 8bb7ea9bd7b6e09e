"""Random combinations of the rows of a large matrix, which keep its least-squares problems."""

import numpy as np
import scipy.sparse as sp


def random_signs(rng: np.random.Generator, count: int, n: int) -> sp.csr_array:
    """Return a matrix that adds n rows with random signs to random ones of `count` rows. Shape (count, n).

    Charikar, Chen and Farach-Colton, Theor. Comput. Sci. 312 (2004), 3–15.
    """
    places = rng.integers(0, count, n), np.arange(n)
    return sp.csr_array((rng.choice([-1.0, 1.0], n), places), shape=(count, n))
