"""Mandel notation and conversions to and from second-order tensors and UFL; other codes: `femops.conversions`.

Order [11, 22, 33, √2·23, √2·13, √2·12] in 3D and [11, 22, √2·12] in plane strain. In this notation the double
contraction of two symmetric tensors is the scalar product of their vectors, and a tangent is an ordinary matrix.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

SQRT2 = float(np.sqrt(2.0))

PAIRS: dict[int, tuple[tuple[int, int], ...]] = {
    2: ((0, 0), (1, 1), (0, 1)),
    3: ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)),
}
PAIRS_OF_SIZE = {3: PAIRS[2], 4: ((0, 0), (1, 1), (2, 2), (0, 1)), 6: PAIRS[3]}
"""Tensor indices of the components of vectors; of size 4 in plane strain with the 33 component."""
NAMES: dict[int, tuple[str, ...]] = {dim: tuple(f"{i + 1}{j + 1}" for i, j in pairs) for dim, pairs in PAIRS.items()}


def n_strain(dim: int) -> int:
    """Return the number of Mandel components: 3 in plane strain, 6 in 3D."""
    return len(PAIRS[dim])


def dimension(n_s: int) -> int:
    """Return the dimension for `n_s` Mandel components."""
    return {3: 2, 6: 3}[n_s]


def weights(dim: int) -> Array:
    """Return the factor of each Mandel component: 1 for normal, √2 for shear components. Shape (n_s,)."""
    return np.array([1.0 if i == j else SQRT2 for i, j in PAIRS[dim]])


def identity(dim: int) -> Array:
    """Return the second-order identity in Mandel notation. Shape (n_s,)."""
    return np.array([float(i == j) for i, j in PAIRS[dim]])


def from_tensor(tensor: npt.ArrayLike) -> Array:
    """Convert tensors, shape (..., dim, dim), to Mandel vectors of their symmetric part, shape (..., n_s)."""
    full = np.asarray(tensor, dtype=np.float64)
    dim = full.shape[-1]
    rows, columns = np.array(PAIRS[dim]).T
    return 0.5 * (full[..., rows, columns] + full[..., columns, rows]) * weights(dim)


def basis(size: int) -> Array:
    """Return the orthonormal symmetric tensors whose coefficients are the Mandel components. Shape (size, dim, dim)."""
    dim = 2 if size == 3 else 3
    tensors = np.zeros((size, dim, dim))
    for tensor, (i, j) in zip(tensors, PAIRS_OF_SIZE[size], strict=True):
        tensor[i, j] = tensor[j, i] = 1.0 if i == j else 1.0 / SQRT2
    return tensors


def to_tensor(mandel: npt.ArrayLike) -> Array:
    """Convert Mandel vectors to symmetric tensors.

    Shape (..., 2, 2) for vectors of shape (..., 3), and (..., 3, 3) for (..., 4), plane strain with 33, and (..., 6).
    """
    vector = np.asarray(mandel, dtype=np.float64)
    return np.tensordot(vector, basis(vector.shape[-1]), 1)


def ufl_strain(displacement: Any, dim: int) -> Any:
    """Return the Mandel strain of a UFL displacement: the symmetric gradient. Shape (n_s,)."""
    import ufl  # a program that only evaluates laws does not have it

    gradient = ufl.sym(ufl.grad(displacement))
    return ufl.as_vector([gradient[i, j] * (1.0 if i == j else SQRT2) for i, j in PAIRS[dim]])


def von_mises(stress: npt.ArrayLike, stress_33: npt.ArrayLike | None = None) -> Array:
    """Return the von Mises stress.

    Args:
        stress: Stress, Mandel [stress]. Shape (..., n_s).
        stress_33: In plane strain, the stress normal to the plane, shape (...). Not used in 3D.

    Returns:
        Von Mises stress [stress], shape (...).
    """
    vector = np.asarray(stress, dtype=np.float64)
    dim = dimension(vector.shape[-1])
    normals = vector[..., :dim]
    if dim == 2:
        if stress_33 is None:
            raise ValueError("von_mises needs stress_33 in plane strain")
        normals = np.concatenate([normals, np.asarray(stress_33)[..., None]], axis=-1)
    deviator, shear = normals - (normals @ np.full(3, 1.0 / 3.0))[..., None], vector[..., dim:]
    squared = np.einsum("...i,...i->...", deviator, deviator) + np.einsum("...i,...i->...", shear, shear)
    return np.sqrt(1.5 * squared)
