"""Proper orthogonal decomposition in energy norms.

Displacement modes are orthonormal in the norm of the stiffness K₀ of the unstrained RVE, stress modes in that of its
elastic compliance, Σ w σ : D₀⁻¹ : σ / |Ω|. The elastic fields of the unit strains are always the first modes, so that
the reduced model is exact for small strains; the parts of the fields orthogonal to them are decomposed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from femops.notation import Array, Indices
from femops.rve.spec import RVE

Gram = Callable[[Array, Array], Array]

_DEPENDENT = 1e-7  # round-off of the squares is 1e-16


@dataclass(frozen=True)
class Modes:
    """Orthonormal modes.

    Attributes:
        vectors: One column per mode. Shape (n, n_modes).
        lost: Fraction of the fields' squared norm lost by the first k modes, for k = 0, 1, …; the norm includes the
            elastic part. Shape (n_candidates + 1,).
    """

    vectors: Array
    lost: Array


class ElasticRVE:
    """Elastic operators of the unstrained RVE, which define the norms.

    Args:
        rve: The RVE.
        free: Free dof of each displacement component, −1 where it is fixed. Shape (n_nodes · dim,).
        n_free: Number of free dofs.
    """

    def __init__(self, rve: RVE, free: Indices, n_free: int) -> None:
        d = rve.discretisation
        self.n_s, self.volume = d.n_s, d.volume
        self.gradient = d.gradient(free, slice(0, len(d.mesh.cells)), n_free)
        self.weight = d.weight.ravel()
        self.tangent = np.empty((self.n_s, self.n_s, d.n_points))
        for position, phase in enumerate(rve.phases):
            part = d.points_of_phase(position)
            zero = np.zeros((self.n_s, part.stop - part.start))
            self.tangent[:, :, part] = phase.evaluate(zero, np.zeros((0, zero.shape[1]))).tangent
        self.compliance = np.linalg.inv(self.tangent.transpose(2, 0, 1)).transpose(1, 2, 0)
        self.stiffness = (self.gradient.T @ self._weighted(self.tangent) @ self.gradient / self.volume).tocsr()

    def displacement_gram(self, left: Array, right: Array) -> Array:
        """Return leftᵀ K₀ right / |Ω| of displacements (n_free, ·)."""
        return np.asarray(left.T @ (self.stiffness @ right))

    def stress_gram(self, left: Array, right: Array) -> Array:
        """Return ⟨left : D₀⁻¹ : right⟩ of stresses (n_s · n_points, ·)."""
        return np.asarray(left.T @ self.strain_of(right) * (1.0 / self.volume))

    def strain_of(self, stress: Array) -> Array:
        """Return w D₀⁻¹ : σ of stresses (n_s · n_points, ·)."""
        fields = stress.reshape(self.n_s, -1, stress.shape[1])
        weighted = self.compliance * self.weight
        return np.einsum("stg,tgk->sgk", weighted, fields, optimize=True).reshape(stress.shape)

    def stress_of(self, strain: Array) -> Array:
        """Return D₀ : ε of strains (n_s · n_points, ·)."""
        fields = strain.reshape(self.n_s, -1, strain.shape[1])
        return np.einsum("stg,tgk->sgk", self.tangent, fields, optimize=True).reshape(strain.shape)

    def _weighted(self, tensor: Array) -> sp.csr_array:
        blocks = [[sp.diags_array(self.weight * tensor[s, t]) for t in range(self.n_s)] for s in range(self.n_s)]
        return sp.block_array(blocks).tocsr()


def decompose(
    elastic: Array, fields: Array, gram: Gram, largest: int, tolerance: float, before: Array | None = None
) -> Modes:
    """Return the elastic modes, or given first modes, followed by modes of the fields.

    Args:
        elastic: Fields of the unit strains. Shape (n, n_s).
        fields: Fields to represent as columns, scaled by their importance. Shape (n, n_fields).
        gram: The inner product.
        largest: Maximum number of modes, including the first ones.
        tolerance: Relative norm of the fields that may be lost.
        before: Orthonormal first modes in place of the elastic ones. Shape (n, n_before).
    """
    first = _independent(elastic, gram) if before is None else before
    coefficients = gram(first, fields)
    orthogonal = fields - first @ coefficients
    matrix = gram(orthogonal, orthogonal)
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    whole = max(values.sum() + (coefficients**2).sum(), np.finfo(float).tiny)
    truncated = np.maximum(values.sum() - np.concatenate([[0.0], np.cumsum(values)]), 0.0) / whole
    lost = np.concatenate([[1.0] * first.shape[1], truncated])
    wanted = min(int(np.count_nonzero(lost > tolerance**2)), largest) - first.shape[1]
    n_added = min(max(wanted, 0), int(np.count_nonzero(values > _DEPENDENT**2 * whole)))
    if not n_added:
        return Modes(first, lost)
    added = orthogonal @ (vectors[:, :n_added] / np.sqrt(values[:n_added]))
    added -= first @ gram(first, added)
    return Modes(np.concatenate([first, _orthonormal(added, gram)], axis=1), lost)


def _independent(vectors: Array, gram: Gram) -> Array:
    """Return an orthonormal basis of the span; fluctuations of unit strains can be dependent, as in a laminate."""
    values, mixed = np.linalg.eigh(gram(vectors, vectors))
    kept = values > _DEPENDENT**2 * values.max(initial=0.0)
    if kept.all():
        return _orthonormal(vectors, gram)
    return _orthonormal(vectors @ (mixed[:, kept] / np.sqrt(values[kept])), gram)


def _orthonormal(vectors: Array, gram: Gram) -> Array:
    """Orthonormalise vectors, twice to remove round-off."""
    for _ in range(2):
        factor = np.linalg.cholesky(gram(vectors, vectors))
        vectors = np.linalg.solve(factor, vectors.T).T
    return np.ascontiguousarray(vectors)
