"""Conversions of Mandel vectors and matrices to and from full tensors and the conventions of other codes.

Other codes keep the components of the direction 33 in plane strain. A vector then has four components, in Mandel
notation [11, 22, 33, √2·12]; `with_33` and `without_33` convert. Conventions and tensors apply to vectors of 3 (in the
plane), 4 and 6 components alike; `femops.notation` converts second-order tensors.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from femops.notation import PAIRS_OF_SIZE, SQRT2, Array, basis

_IN_PLANE = np.array([0, 1, 3])


def with_33(vector: npt.ArrayLike, normal: npt.ArrayLike) -> Array:
    """Insert the 33 component, shape (...), into in-plane vectors, shape (..., 3). Shape (..., 4)."""
    return np.insert(np.asarray(vector, dtype=np.float64), 2, normal, axis=-1)


def without_33(vector: npt.ArrayLike) -> tuple[Array, Array]:
    """Split vectors of four components into in-plane vectors, shape (..., 3), and the 33 component, shape (...)."""
    values = np.asarray(vector, dtype=np.float64)
    return values[..., _IN_PLANE], values[..., 2]


def tangent_with_33(tangent: npt.ArrayLike, row: npt.ArrayLike) -> Array:
    """Insert the row d stress_33 / d strain, shape (..., 3), into in-plane tangents, shape (..., 3, 3).

    The column of the strain 33, which is zero in plane strain, is zero. Shape (..., 4, 4).
    """
    whole = np.insert(np.asarray(tangent, dtype=np.float64), 2, row, axis=-2)
    return np.insert(whole, 2, 0.0, axis=-1)


def tangent_without_33(tangent: npt.ArrayLike) -> tuple[Array, Array]:
    """Split 4×4 tangents into in-plane tangents, shape (..., 3, 3), and the row d stress_33 / d strain, (..., 3)."""
    columns = np.asarray(tangent, dtype=np.float64)[..., _IN_PLANE]
    return columns[..., _IN_PLANE, :], columns[..., 2, :]


def tangent_to_tensor(tangent: npt.ArrayLike) -> Array:
    """Convert Mandel tangents to fourth-order tensors C_ijkl with both minor symmetries.

    Shape (..., 2, 2, 2, 2) for 3 components and (..., 3, 3, 3, 3) for 4 and 6.
    """
    values = np.asarray(tangent, dtype=np.float64)
    tensors = basis(values.shape[-1])
    return np.einsum("aij,...akl->...ijkl", tensors, np.tensordot(values, tensors, 1), optimize=True)


def tangent_from_tensor(tensor: npt.ArrayLike) -> Array:
    """Convert fourth-order tensors C_ijkl, averaged over their minor symmetries, to Mandel tangents.

    Shape (..., 3, 3) for (..., 2, 2, 2, 2) and (..., 6, 6) for (..., 3, 3, 3, 3).
    """
    values = np.asarray(tensor, dtype=np.float64)
    tensors = basis({2: 3, 3: 6}[values.shape[-1]])
    return np.einsum("aij,...ijkl,bkl->...ab", tensors, values, tensors, optimize=True)


@dataclass(frozen=True)
class Convention:
    """How another code writes symmetric tensors as vectors.

    Vectors of stress and strain are energy conjugate; the tangent maps such strains to such stresses.

    Attributes:
        pairs: Indices of the components in 3D; in plane strain those that exist, in the same order.
        strain_shear: Factor of the shear components of a strain: 2 for engineering strains, √2 in Mandel notation.
        stress_shear: Factor of the shear components of a stress.
    """

    pairs: tuple[tuple[int, int], ...]
    strain_shear: float
    stress_shear: float

    def strain_from_mandel(self, strain: npt.ArrayLike) -> Array:
        """Convert strains from Mandel notation. Shape (..., n)."""
        return self._from_mandel(strain, self.strain_shear)

    def strain_to_mandel(self, strain: npt.ArrayLike) -> Array:
        """Convert strains to Mandel notation. Shape (..., n)."""
        return self._to_mandel(strain, self.strain_shear)

    def stress_from_mandel(self, stress: npt.ArrayLike) -> Array:
        """Convert stresses from Mandel notation. Shape (..., n)."""
        return self._from_mandel(stress, self.stress_shear)

    def stress_to_mandel(self, stress: npt.ArrayLike) -> Array:
        """Convert stresses to Mandel notation. Shape (..., n)."""
        return self._to_mandel(stress, self.stress_shear)

    def tangent_from_mandel(self, tangent: npt.ArrayLike) -> Array:
        """Convert tangents from Mandel notation. Shape (..., n, n)."""
        values = np.asarray(tangent, dtype=np.float64)
        order = self._order(values.shape[-1])
        return values[..., order[:, None], order] * self._tangent_scale(len(order))

    def tangent_to_mandel(self, tangent: npt.ArrayLike) -> Array:
        """Convert tangents to Mandel notation. Shape (..., n, n)."""
        values = np.asarray(tangent, dtype=np.float64)
        place = np.argsort(self._order(values.shape[-1]))
        return (values / self._tangent_scale(len(place)))[..., place[:, None], place]

    def _order(self, n: int) -> npt.NDArray[np.intp]:
        """Return the Mandel index of each component. Shape (n,)."""
        return np.array([PAIRS_OF_SIZE[n].index(pair) for pair in self.pairs if pair in PAIRS_OF_SIZE[n]])

    def _scale(self, n: int, shear: float) -> Array:
        """Return the factor of each component with respect to Mandel notation. Shape (n,)."""
        return np.array([1.0 if i == j else shear / SQRT2 for i, j in self.pairs if (i, j) in PAIRS_OF_SIZE[n]])

    def _tangent_scale(self, n: int) -> Array:
        return self._scale(n, self.stress_shear)[:, None] / self._scale(n, self.strain_shear)

    def _from_mandel(self, vector: npt.ArrayLike, shear: float) -> Array:
        values = np.asarray(vector, dtype=np.float64)
        order = self._order(values.shape[-1])
        return values[..., order] * self._scale(len(order), shear)

    def _to_mandel(self, vector: npt.ArrayLike, shear: float) -> Array:
        values = np.asarray(vector, dtype=np.float64)
        place = np.argsort(self._order(values.shape[-1]))
        return (values / self._scale(len(place), shear))[..., place]


_NORMAL = ((0, 0), (1, 1), (2, 2))
ABAQUS = Convention((*_NORMAL, (0, 1), (0, 2), (1, 2)), 2.0, 1.0)
"""11, 22, 33, 12, 13, 23 with engineering shear strains."""
KRATOS = Convention((*_NORMAL, (0, 1), (1, 2), (0, 2)), 2.0, 1.0)
"""11, 22, 33, 12, 23, 13 with engineering shear strains."""
MFRONT = Convention((*_NORMAL, (0, 1), (0, 2), (1, 2)), SQRT2, SQRT2)
"""11, 22, 33, √2·12, √2·13, √2·23, as in MFront and the MGIS generic behaviour."""
