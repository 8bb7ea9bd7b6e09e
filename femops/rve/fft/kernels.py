"""Compiled matrix-free kernels on a lattice, for the elements of one phase.

`kernels` compiles them for one cell kind, so that the loops over nodes, points and components have constant lengths.
Numba keeps this module and all that it imports until the end of the process: it must not import meshes. Kernels that
apply the stiffness, where almost all time is spent, run along `LANES` elements at once, in the precision of their
arguments. Common arguments:

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
import numpy.typing as npt

from femops import notation

_FAST = {"reassoc", "contract", "nsz"}


LANES = 64
"""Number of elements in a group."""


class Groups(NamedTuple):
    """Elements of one phase in groups of one shape, the last one of each shape filled up.

    Attributes:
        site: Position in a lattice vector of the first component of each node. Shape (n_groups, n_nodes, LANES).
        shape: Shape of the elements. Shape (n_groups,).
        used: Number of elements. Shape (n_groups,).
        place: Group and lane of each element. Shape (2, n_elements).
    """

    site: npt.NDArray[np.int32]
    shape: npt.NDArray[np.int64]
    used: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]

    @staticmethod
    def of(site: npt.NDArray[np.int32], shape: npt.NDArray[np.int32]) -> "Groups":
        """Group elements by their shape (n_elements,); sites (n_elements, n_nodes)."""
        counts = np.bincount(shape)
        n_groups = -(-counts // LANES)
        first = np.concatenate([[0], np.cumsum(n_groups)])
        order = np.argsort(shape, kind="stable")
        rank = np.empty(len(shape), dtype=np.int64)  # among the elements of the same shape
        rank[order] = np.arange(len(shape)) - np.repeat(np.cumsum(counts) - counts, counts)
        group, lane = first[shape] + rank // LANES, rank % LANES
        sites = np.zeros((first[-1], site.shape[1], LANES), dtype=np.int32)
        sites[group, :, lane] = site
        of_group = np.repeat(np.arange(len(counts)), n_groups)
        return Groups(sites, of_group, np.bincount(group, minlength=first[-1]), np.stack([group, lane]))


class Kernels(NamedTuple):
    """Kernels for one cell kind; see the functions in `kernels`."""

    strains: Callable[..., None]
    add_forces: Callable[..., None]
    add_uniform: Callable[..., None]
    add_linear: Callable[..., None]
    add_tangent: Callable[..., None]


@cache
def kernels(dim: int, n_nodes: int, n_q: int) -> Kernels:
    """Compile the kernels for elements with `n_nodes` nodes and `n_q` quadrature points."""
    n_s, n_dofs, n_lanes = notation.n_strain(dim), dim * n_nodes, dim * n_q
    row = tuple(pair[0] for pair in notation.PAIRS[dim])
    column = tuple(pair[1] for pair in notation.PAIRS[dim])
    half = float(np.sqrt(0.5))

    @numba.njit(cache=True, nogil=True, fastmath=_FAST, inline="always")
    def gradients(site: Any, vector: Any, stride: int, gradient: Any, found: Any) -> None:
        """Compute the displacement gradients of one element, shape (dim, dim · n_q)."""
        for i in range(dim):
            for lane in range(n_lanes):
                found[i, lane] = 0.0
            for a in range(n_nodes):
                x = vector[site[a] + i * stride]
                for lane in range(n_lanes):
                    found[i, lane] += x * gradient[a, lane]

    @numba.njit(cache=True, nogil=True, fastmath=_FAST, inline="always")
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

    @numba.njit(cache=True, nogil=True, fastmath=_FAST, inline="always")
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

    @numba.njit(cache=True, nogil=True, fastmath=_FAST)
    def strains(site: Any, shape: Any, gradient: Any, stride: int, vectors: Any, macro: Any, out: Any) -> None:
        """Compute the strains E + B u, shape (n_s, n_elements · n_q, n_columns), with E (n_columns, n_s)."""
        found, strain = np.empty((dim, n_lanes)), np.empty((n_s, n_q))
        for c in range(len(site)):
            for k in range(len(vectors)):
                gradients(site[c], vectors[k], stride, gradient[shape[c]], found)
                mandel(found, macro[k], strain)
                for s in range(n_s):
                    for q in range(n_q):
                        out[s, c * n_q + q, k] = strain[s, q]

    @numba.njit(cache=True, nogil=True, fastmath=_FAST)
    def add_forces(site: Any, shape: Any, divergence: Any, stride: int, stress: Any, out: Any) -> None:
        """Add the nodal forces Σ w Bᵀ σ of stresses (n_s, n_elements · n_q, n_columns) to vectors."""
        found, force, local = np.empty((dim, n_lanes)), np.empty(n_nodes), np.empty((n_s, n_q))
        for c in range(len(site)):
            for k in range(len(out)):
                for s in range(n_s):
                    for q in range(n_q):
                        local[s, q] = stress[s, c * n_q + q, k]
                add_divergence(local, site[c], stride, divergence[shape[c]], found, force, out[k])

    @numba.njit(cache=True, nogil=True, fastmath=_FAST)
    def add_uniform(groups: Any, forces: Any, stride: int, out: Any) -> None:
        """Add to vectors the same forces of all elements of a shape, (n_shapes, n_columns, n_dofs), component-major."""
        for c in range(len(groups.site)):
            site, of_shape = groups.site[c], forces[groups.shape[c]]
            for k in range(len(out)):
                for i in range(dim):
                    for a in range(n_nodes):
                        for w in range(groups.used[c]):
                            out[k, site[a, w] + i * stride] += of_shape[k, i * n_nodes + a]

    @numba.njit(cache=True, nogil=True, fastmath=_FAST)
    def add_linear(groups: Any, stiffness: Any, stride: int, vectors: Any, out: Any) -> None:
        """Add K u of elements with the stiffness of their shape, (n_shapes, n_dofs, n_dofs), component-major."""
        precision = vectors.dtype
        local, force, zero = np.empty((n_dofs, LANES), precision), np.empty(LANES, precision), precision.type(0.0)
        for c in range(len(groups.site)):
            site, matrix, used = groups.site[c], stiffness[groups.shape[c]], groups.used[c]
            for k in range(len(vectors)):
                for i in range(dim):
                    for a in range(n_nodes):
                        for w in range(LANES):
                            local[i * n_nodes + a, w] = vectors[k, site[a, w] + i * stride]
                for i in range(dim):
                    for a in range(n_nodes):
                        for w in range(LANES):
                            x = zero
                            for j in range(n_dofs):
                                x += matrix[i * n_nodes + a, j] * local[j, w]
                            force[w] = x
                        for w in range(used):
                            out[k, site[a, w] + i * stride] += force[w]

    @numba.njit(cache=True, nogil=True, fastmath=_FAST)
    def add_tangent(
        groups: Any, gradient: Any, weight: Any, tangent: Any, owner: Any, stride: int, vectors: Any, macro: Any,
        out: Any, total: Any,
    ) -> None:  # fmt: skip
        """Add the forces Σ w Bᵀ σ and the integrals Σ w σ of the stresses σ = D (E + B u).

        Args:
            groups: The elements.
            gradient: Shape function gradients. Shape (n_shapes, n_nodes, dim · n_q).
            weight: Quadrature weights. Shape (n_shapes, n_q).
            tangent: Upper triangles of D, row by row. Shape (N, n_groups, n_q, n_s (n_s + 1) / 2, LANES).
            owner: Number of the RVE of each column. Shape (n_columns,).
            stride: See above.
            vectors: Vectors u. Shape (n_columns, n).
            macro: E of each column. Shape (n_columns, n_s).
            out: Forces. Shape (n_columns, n).
            total: Integrals. Shape (n_columns, n_s).
        """
        precision = vectors.dtype
        zero, one, of_shear = precision.type(0.0), precision.type(1.0), precision.type(half)
        of_normal = precision.type(0.5)
        local, force = np.empty((2, dim, n_nodes, LANES), precision)
        found = np.empty((dim, dim, LANES), precision)
        strain, stress = np.empty((2, n_s, LANES), precision)
        for c in range(len(groups.site)):
            site, shape, used = groups.site[c], groups.shape[c], groups.used[c]
            for k in range(len(vectors)):
                for i in range(dim):
                    for a in range(n_nodes):
                        for w in range(LANES):
                            local[i, a, w] = vectors[k, site[a, w] + i * stride]
                force[:] = 0.0
                for q in range(n_q):
                    slope, of_point = gradient[shape, :, q::n_q], tangent[owner[k], c, q]
                    for i in range(dim):
                        for j in range(dim):
                            for w in range(LANES):
                                x = zero
                                for a in range(n_nodes):
                                    x += local[i, a, w] * slope[a, j]
                                found[i, j, w] = x
                    for s in range(n_s):
                        i, j = row[s], column[s]
                        factor = of_normal if i == j else of_shear
                        for w in range(LANES):
                            strain[s, w] = macro[k, s] + factor * (found[i, j, w] + found[j, i, w])
                    for s in range(n_s):
                        x = zero
                        for w in range(LANES):
                            y = zero
                            for t in range(n_s):
                                low, high = min(s, t), max(s, t)
                                y += of_point[low * n_s - (low * (low - 1)) // 2 + high - low, w] * strain[t, w]
                            y *= weight[shape, q]
                            stress[s, w] = y
                            x += y
                        total[k, s] += x
                    for s in range(n_s):
                        i, j = row[s], column[s]
                        factor = one if i == j else of_shear
                        for w in range(LANES):
                            found[i, j, w] = factor * stress[s, w]
                            found[j, i, w] = factor * stress[s, w]
                    for i in range(dim):
                        for a in range(n_nodes):
                            for w in range(LANES):
                                x = force[i, a, w]
                                for j in range(dim):
                                    x += found[i, j, w] * slope[a, j]
                                force[i, a, w] = x
                for i in range(dim):
                    for a in range(n_nodes):
                        for w in range(used):
                            out[k, site[a, w] + i * stride] += force[i, a, w]

    return Kernels(strains, add_forces, add_uniform, add_linear, add_tangent)


@numba.njit(cache=True, nogil=True)
def multiply(blocks: Any, vectors: Any) -> None:
    """Multiply vectors (n_columns, k, n_frequencies) by the blocks (n_frequencies, k, k), in place."""
    n_columns, k, n = vectors.shape
    old = np.empty(k, dtype=vectors.dtype)
    for c in range(n_columns):
        for f in range(n):
            for i in range(k):
                old[i] = vectors[c, i, f]
            for i in range(k):
                x = blocks[f, i, 0] * old[0]
                for j in range(1, k):
                    x += blocks[f, i, j] * old[j]
                vectors[c, i, f] = x
