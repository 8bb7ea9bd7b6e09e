"""Compiled matrix-free kernels on a lattice, for the elements of one phase.

`kernels` compiles them for one cell kind, so that the loops over nodes, points and components have constant lengths.
Common arguments:

    site       position in a lattice vector of the first component of each node (n_elements, n_nodes)
    shape      shape of each element (n_elements,)
    gradient   shape function gradients, (n_shapes, n_nodes, dim · n_q), component-major
    divergence gradients times quadrature weights, (n_shapes, dim · n_q, n_nodes)
    stride     distance of the components of a displacement in a lattice vector
    vectors    lattice vectors (n_columns, n)
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np

from femops import notation

_FAST = {"reassoc", "contract", "nsz"}


class Kernels(NamedTuple):
    """Kernels for one cell kind; see the functions in `kernels`."""

    strains: Callable[..., None]
    add_forces: Callable[..., None]
    add_linear: Callable[..., None]
    add_tangent: Callable[..., None]


@cache
def kernels(dim: int, n_nodes: int, n_q: int) -> Kernels:
    """Compile the kernels for elements with `n_nodes` nodes and `n_q` quadrature points."""
    n_s, n_dofs, n_lanes = notation.n_strain(dim), dim * n_nodes, dim * n_q
    row = tuple(pair[0] for pair in notation.PAIRS[dim])
    column = tuple(pair[1] for pair in notation.PAIRS[dim])
    half = float(np.sqrt(0.5))

    @numba.njit(cache=True, fastmath=_FAST, inline="always")
    def gradients(site: Any, vector: Any, stride: int, gradient: Any, found: Any) -> None:
        """Compute the displacement gradients of one element, shape (dim, dim · n_q)."""
        for i in range(dim):
            for lane in range(n_lanes):
                found[i, lane] = 0.0
            for a in range(n_nodes):
                x = vector[site[a] + i * stride]
                for lane in range(n_lanes):
                    found[i, lane] += x * gradient[a, lane]

    @numba.njit(cache=True, fastmath=_FAST, inline="always")
    def mandel(found: Any, macro: Any, strain: Any) -> None:
        """Compute the strains at the points of one element, shape (n_s, n_q), from gradients."""
        for s in range(n_s):
            i, j = row[s], column[s]
            if i == j:
                for q in range(n_q):
                    strain[s, q] = macro[s] + found[i, i * n_q + q]
            else:
                for q in range(n_q):
                    strain[s, q] = macro[s] + half * (found[i, j * n_q + q] + found[j, i * n_q + q])

    @numba.njit(cache=True, fastmath=_FAST, inline="always")
    def add_divergence(stress: Any, site: Any, stride: int, divergence: Any, found: Any, force: Any, out: Any) -> None:
        """Add the nodal forces of one element with stresses (n_s, n_q); `found` and `force` are work space."""
        for s in range(n_s):
            i, j = row[s], column[s]
            if i == j:
                for q in range(n_q):
                    found[i, i * n_q + q] = stress[s, q]
            else:
                for q in range(n_q):
                    found[i, j * n_q + q] = half * stress[s, q]
                    found[j, i * n_q + q] = half * stress[s, q]
        for i in range(dim):
            for a in range(n_nodes):
                force[a] = 0.0
            for lane in range(n_lanes):
                x = found[i, lane]
                for a in range(n_nodes):
                    force[a] += x * divergence[lane, a]
            for a in range(n_nodes):
                out[site[a] + i * stride] += force[a]

    @numba.njit(cache=True, fastmath=_FAST)
    def strains(site: Any, shape: Any, gradient: Any, stride: int, vectors: Any, macro: Any, out: Any) -> None:
        """Compute the strains E + B u of columns of macroscale strains (n_columns, n_s).

        Args:
            out: Strains, overwritten. Shape (n_s, n_elements · n_q, n_columns).
        """
        found, strain = np.empty((dim, n_lanes)), np.empty((n_s, n_q))
        for c in range(len(site)):
            for k in range(len(vectors)):
                gradients(site[c], vectors[k], stride, gradient[shape[c]], found)
                mandel(found, macro[k], strain)
                for s in range(n_s):
                    for q in range(n_q):
                        out[s, c * n_q + q, k] = strain[s, q]

    @numba.njit(cache=True, fastmath=_FAST)
    def add_forces(site: Any, shape: Any, divergence: Any, stride: int, stress: Any, out: Any) -> None:
        """Add the nodal forces Σ w Bᵀ σ of stresses (n_s, n_elements · n_q, n_columns) to vectors."""
        found, force, local = np.empty((dim, n_lanes)), np.empty(n_nodes), np.empty((n_s, n_q))
        for c in range(len(site)):
            for k in range(len(out)):
                for s in range(n_s):
                    for q in range(n_q):
                        local[s, q] = stress[s, c * n_q + q, k]
                add_divergence(local, site[c], stride, divergence[shape[c]], found, force, out[k])

    @numba.njit(cache=True, fastmath=_FAST)
    def add_linear(site: Any, shape: Any, stiffness: Any, stride: int, vectors: Any, out: Any) -> None:
        """Add K u of elements with the stiffness of their shape, (n_shapes, n_dofs, n_dofs), component-major."""
        local, force = np.empty(n_dofs), np.empty(n_dofs)
        for c in range(len(site)):
            matrix = stiffness[shape[c]]
            for k in range(len(vectors)):
                for i in range(dim):
                    for a in range(n_nodes):
                        local[i * n_nodes + a] = vectors[k, site[c, a] + i * stride]
                for i in range(n_dofs):
                    x = 0.0
                    for j in range(n_dofs):
                        x += matrix[j, i] * local[j]
                    force[i] = x
                for i in range(dim):
                    for a in range(n_nodes):
                        out[k, site[c, a] + i * stride] += force[i * n_nodes + a]

    @numba.njit(cache=True, fastmath=_FAST)
    def add_tangent(
        site: Any, shape: Any, gradient: Any, divergence: Any, weight: Any, tangent: Any, owner: Any, stride: int,
        vectors: Any, macro: Any, out: Any, total: Any,
    ) -> None:  # fmt: skip
        """Add the forces Σ w Bᵀ σ and the integrals Σ w σ of the stresses σ = D (E + B u).

        Args:
            weight: Quadrature weights. Shape (n_shapes, n_q).
            tangent: Upper triangles of D, row by row. Shape (N, n_elements, n_s (n_s + 1) / 2, n_q).
            owner: Number of the RVE of each column. Shape (n_columns,).
            macro: E of each column. Shape (n_columns, n_s).
            out: Forces. Shape (n_columns, n).
            total: Integrals. Shape (n_columns, n_s).
        """
        found, force = np.empty((dim, n_lanes)), np.empty(n_nodes)
        strain, stress = np.empty((n_s, n_q)), np.empty((n_s, n_q))
        for c in range(len(site)):
            for k in range(len(vectors)):
                gradients(site[c], vectors[k], stride, gradient[shape[c]], found)
                mandel(found, macro[k], strain)
                stress[:] = 0.0
                entry, of_cell = 0, tangent[owner[k], c]
                for s in range(n_s):
                    for q in range(n_q):
                        stress[s, q] += of_cell[entry, q] * strain[s, q]
                    entry += 1
                    for t in range(s + 1, n_s):
                        for q in range(n_q):
                            stress[s, q] += of_cell[entry, q] * strain[t, q]
                            stress[t, q] += of_cell[entry, q] * strain[s, q]
                        entry += 1
                for s in range(n_s):
                    x = 0.0
                    for q in range(n_q):
                        x += weight[shape[c], q] * stress[s, q]
                    total[k, s] += x
                add_divergence(stress, site[c], stride, divergence[shape[c]], found, force, out[k])

    return Kernels(strains, add_forces, add_linear, add_tangent)
