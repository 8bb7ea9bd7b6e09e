"""Stiffness of a homogeneous reference material on a lattice, inverted by the FFT.

It is block-circulant: at every frequency one Hermitian block couples the components of the nodes of a grid cell. On
the same finite elements it is spectrally equivalent to the stiffness of the RVE, with bounds that depend on the
contrast of the phases but not on the grid (Schneider, Merkert and Kabel, doi 10.1002/nme.5336; Leute et al., doi
10.1016/j.jcp.2021.110931).

In pores the stiffness of the RVE is zero. Forces vanish there, so that conjugate gradients remain among the vectors
that minimise the energy of the reference material in the pores for given displacements of the solid: its smallest
eigenvalue relative to the reference is then not zero, but depends on the shape of the pores.
"""

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from femops.notation import Array
from femops.rve.fft.kernels import multiply
from femops.rve.fft.lattice import Lattice

_ROUND_OFF = 1e-10


class Reference:
    """Inverse of the stiffness of a homogeneous material; translations are in its null space.

    Args:
        lattice: The lattice.
        stiffness: Element stiffness of each shape, component-major. Shape (n_shapes, n_dofs, n_dofs).

    Attributes:
        inverse: Inverse of the block at every frequency, real if all are. Shape (n_frequencies, k, k).
    """

    def __init__(self, lattice: Lattice, stiffness: Array) -> None:
        self._grid = lattice.grid
        self._axes = tuple(range(2, 2 + lattice.dim))
        self.inverse = _inverse(_symbol(lattice, stiffness))

    @cached_property
    def _single(self) -> npt.NDArray[Any]:
        return self.inverse.astype(np.float32 if np.isrealobj(self.inverse) else np.complex64)

    def solve(self, vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return K₀⁻¹ r of lattice vectors with zero sum, in their precision. Shape (n_columns, n)."""
        inverse = self._single if vectors.dtype == np.float32 else self.inverse
        split = vectors.reshape(len(vectors), -1, *self._grid)
        spectrum = np.ascontiguousarray(scipy.fft.rfftn(split, axes=self._axes))  # scipy may pad its rows
        multiply(inverse, spectrum.reshape(*spectrum.shape[:2], -1))
        return np.asarray(scipy.fft.irfftn(spectrum, self._grid, self._axes, overwrite_x=True)).reshape(vectors.shape)


def _symbol(lattice: Lattice, stiffness: Array) -> npt.NDArray[Any]:
    """Return the blocks of the stiffness at every frequency, shape (n_frequencies, k, k); real if they are."""
    dim, grid = lattice.dim, lattice.grid
    n_nodes, k = lattice.kinds.shape[1], lattice.n_kinds * dim
    stencil = np.zeros((k, k, *grid))
    for kinds, offsets, matrix in zip(lattice.kinds, lattice.offsets, stiffness, strict=True):
        component = np.repeat(np.arange(dim), n_nodes)
        rows = np.tile(kinds, dim) * dim + component
        places = np.tile(offsets, (dim, 1))
        apart = (places[:, None] - places[None, :]) % np.array(grid)
        np.add.at(stencil, (rows[:, None], rows[None, :], *np.moveaxis(apart, -1, 0)), matrix)
    spectrum = scipy.fft.rfftn(stencil, axes=tuple(range(2, 2 + dim))).reshape(k, k, -1)
    blocks = np.ascontiguousarray(np.moveaxis(spectrum, -1, 0))
    is_real = np.abs(blocks.imag).max() <= _ROUND_OFF * np.abs(blocks.real).max()
    return np.ascontiguousarray(blocks.real) if is_real else blocks


def _inverse(blocks: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the inverse blocks; at frequency zero the pseudoinverse."""
    inverse = np.empty_like(blocks)
    values, vectors = np.linalg.eigh(blocks[0])
    stiff = values > _ROUND_OFF * np.abs(blocks).max()  # the others are translations
    inverse[0] = (vectors[:, stiff] / values[stiff]) @ vectors[:, stiff].conj().T
    inverse[1:] = np.linalg.inv(blocks[1:])
    return inverse
