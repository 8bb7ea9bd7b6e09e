"""Compiled Newton step of coupled experts, over blocks of strains; see `galerkin` for the equations.

Expert k has z_k = (e_k, b_k): e_k holds the macroscale strain E and those ports that are not zero in its subdomain. Its
energy is ½ zᵀ Q z + Σ_c ω g(|P_c z|) with the deviatoric energy g(n) = α₁ (n − α₂ ln(1 + n/α₂)) of `saturating` phases
and the secant modulus h = g'/n = α₁/(α₂ + n). The innermost loops run over the strains of a block (lanes) and are
vectorised; points c are processed `GROUP` at a time, so that the Hessian is loaded and stored less often.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from femops.notation import Array, Indices

GROUP = 4
SMALLEST = 1e-30
_FLAGS = {"contract", "reassoc", "nsz", "arcp"}


class Tables(NamedTuple):
    """Experts as the kernel takes them; arrays are filled up with zeros. Symmetric matrices are packed row by row.

    Attributes:
        quadratic: Q_k [stress]. Shape (K, m, m).
        projection: P_c. Shape (K, C, n_d, m), with C a multiple of `GROUP`.
        parameters: ω [-], α₁ [stress] and α₂ [-]. Shape (K, C, 3).
        places: Places of z_k in (E, unknowns), ascending. Shape (K, m).
        sizes: Length of e_k and of z_k, and number of points, of each expert. Shape (K, 3).
        rows: Of each port, the places before it in (E, ports) with an entry of the condensed Hessian, by `starts`.
        starts: Shape (n_ports + 1,).
    """

    quadratic: Array
    projection: Array
    parameters: Array
    places: Indices
    sizes: Indices
    rows: Indices
    starts: Indices


@njit(cache=True, fastmath=_FLAGS)
def newton(  # type: ignore[no-untyped-def]
    macro: Array, points: Indices, tables: Tables, lanes: int, tolerance: float, answer
) -> None:
    """Evaluate the experts at selected strains, and take a Newton step where they have not converged.

    Stress and tangent are those before the step, the stress with the first-order effect of the step.

    Args:
        macro: E, in plane strain with the component 33, which is zero. Shape (n, n_e).
        points: Indices of the selected strains.
        tables: The experts.
        lanes: Strains per block.
        tolerance: Decrement at convergence [-].
        answer: Updated: unknowns, shape (n, n_unknowns). Written: stress, shape (n, n_e); tangent, shape
            (n, n_e, n_e); decrement, shape (n,), NaN where a pivot is not positive; derivatives of the unknowns in
            equilibrium by E, shape (n, n_unknowns, n_e), or nothing if that array is empty.
    """
    unknowns, stress, tangent, decrement, slopes = answer
    n_e, n_ports = macro.shape[1], len(tables.starts) - 1
    n_shared, n_z = n_e + n_ports, n_e + unknowns.shape[1]
    n_experts, n_d, m = tables.quadratic.shape[0], tables.projection.shape[2], tables.quadratic.shape[1]
    dtype = macro.dtype
    z, change = np.zeros((n_z, lanes), dtype), np.zeros((n_z, lanes), dtype)
    local, slope = np.zeros((m, lanes), dtype), np.zeros((n_z, lanes), dtype)
    gradient = np.zeros((n_experts, m, lanes), dtype)
    hessian = np.zeros((n_experts, m * (m + 1) // 2, lanes), dtype)
    force = np.zeros((n_shared, lanes), dtype)
    shared = np.zeros((n_shared * (n_shared + 1) // 2, lanes), dtype)
    gap, pivots, factor = np.zeros(lanes, dtype), np.zeros(lanes, dtype), np.zeros(lanes, dtype)
    every = np.arange(max(m, n_shared))
    work = (
        np.empty((n_d, lanes), dtype),
        np.empty((GROUP, m, lanes), dtype),
        np.empty((m, GROUP, lanes), dtype),
        np.empty((GROUP, lanes), dtype),
        np.empty((GROUP, m), dtype),
        factor,
    )
    for first in range(0, len(points), lanes):
        here = min(lanes, len(points) - first)
        for lane in range(lanes):
            point = points[first + min(lane, here - 1)]
            for i in range(n_e):
                z[i, lane] = macro[point, i]
            for i in range(n_e, n_z):
                z[i, lane] = unknowns[point, i - n_e]
        force[:], shared[:], gap[:], pivots[:] = 0, 0, 0, 1
        for k in range(n_experts):
            n_k, m_k, _ = tables.sizes[k]
            place = tables.places[k]
            for i in range(m_k):
                local[i] = z[place[i]]
            _evaluate(local, tables, k, gradient[k], hessian[k], work)
            for p in range(m_k - 1, n_k - 1, -1):
                _eliminate(gradient[k], hessian[k], p, every[:p], gap, pivots, factor)
            _add(gradient[k], hessian[k], place[:n_k], force, shared)
        for p in range(n_shared - 1, n_e - 1, -1):
            rows = tables.rows[tables.starts[p - n_e] : tables.starts[p - n_e + 1]]
            _eliminate(force, shared, p, rows, gap, pivots, factor)
        for p in range(n_e, n_shared):
            rows = tables.rows[tables.starts[p - n_e] : tables.starts[p - n_e + 1]]
            _substitute(force, shared, p, rows, change, n_e, every)
            change[p] = force[p]
        for k in range(n_experts):
            n_k, m_k, _ = tables.sizes[k]
            place = tables.places[k]
            for p in range(n_k, m_k):
                _substitute(gradient[k], hessian[k], p, every[:p], change, n_e, place)
                change[place[p]] = gradient[k, p]
        for e in range(n_e if len(slopes) else 0):
            slope[:n_e] = 0
            slope[e] = 1
            for p in range(n_e, n_shared):
                rows = tables.rows[tables.starts[p - n_e] : tables.starts[p - n_e + 1]]
                _slope(shared, p, rows, slope, every)
            for k in range(n_experts):
                for p in range(tables.sizes[k, 0], tables.sizes[k, 1]):
                    _slope(hessian[k], p, every[:p], slope, tables.places[k])
            for lane in range(here):
                for i in range(n_e, n_z):
                    slopes[points[first + lane], i - n_e, e] = slope[i, lane]
        factor[:] = 0
        for i in range(n_e):
            for lane in range(lanes):
                factor[lane] += force[i, lane] * z[i, lane]
        for lane in range(here):
            point = points[first + lane]
            for i in range(n_e):
                stress[point, i] = force[i, lane]
                for j in range(n_e):
                    tangent[point, i, j] = shared[_at(max(i, j), min(i, j)), lane]
            found = gap[lane] / max(factor[lane], SMALLEST)
            decrement[point] = found if pivots[lane] > 0 else np.nan
            if not found <= tolerance:
                for i in range(n_e, n_z):
                    unknowns[point, i - n_e] -= change[i, lane]


@njit(cache=True, inline="always")
def _at(i: int, j: int) -> int:
    return i * (i + 1) // 2 + j


@njit(cache=True, fastmath=_FLAGS)
def _eliminate(
    gradient: Array, hessian: Array, p: int, rows: Indices, gap: Array, pivots: Array, factor: Array
) -> None:
    """Eliminate unknown p from the unknowns before it, and replace its pivot by the inverse; `rows` are ascending."""
    lanes = gradient.shape[1]
    one = np.ones(1, gradient.dtype)[0]
    row, inverse, own = _at(p, 0), hessian[_at(p, p)], gradient[p]
    for lane in range(lanes):
        pivots[lane] = min(pivots[lane], inverse[lane])
        inverse[lane] = one / inverse[lane]
        gap[lane] += own[lane] * own[lane] * inverse[lane]
    for a in range(len(rows)):
        i = rows[a]
        at_i, target = hessian[row + i], gradient[i]
        for lane in range(lanes):
            factor[lane] = at_i[lane] * inverse[lane]
            target[lane] -= factor[lane] * own[lane]
        for b in range(a + 1):
            target, at_j = hessian[_at(i, rows[b])], hessian[row + rows[b]]
            for lane in range(lanes):
                target[lane] -= factor[lane] * at_j[lane]


@njit(cache=True, fastmath=_FLAGS)
def _substitute(
    gradient: Array, hessian: Array, p: int, rows: Indices, change: Array, n_e: int, place: Indices
) -> None:
    """Write the step of unknown p to gradient[p] from those of the unknowns before it, at `place` in `change`."""
    lanes = gradient.shape[1]
    own, inverse, row = gradient[p], hessian[_at(p, p)], _at(p, 0)
    for i in rows:
        if place[i] >= n_e:
            step, at = change[place[i]], hessian[row + i]
            for lane in range(lanes):
                own[lane] -= at[lane] * step[lane]
    for lane in range(lanes):
        own[lane] *= inverse[lane]


@njit(cache=True, fastmath=_FLAGS)
def _slope(hessian: Array, p: int, rows: Indices, slope: Array, place: Indices) -> None:
    """Write the derivative of unknown p by a strain, from those of the strains and unknowns before it."""
    target, inverse, row = slope[place[p]], hessian[_at(p, p)], _at(p, 0)
    target[:] = 0
    for i in rows:
        at, other = hessian[row + i], slope[place[i]]
        for lane in range(len(target)):
            target[lane] -= at[lane] * other[lane]
    for lane in range(len(target)):
        target[lane] *= inverse[lane]


@njit(cache=True, fastmath=_FLAGS)
def _add(gradient: Array, hessian: Array, place: Indices, force: Array, shared: Array) -> None:
    """Add the condensed derivatives of an expert to those of all."""
    lanes = force.shape[1]
    for i in range(len(place)):
        target, own = force[place[i]], gradient[i]
        for lane in range(lanes):
            target[lane] += own[lane]
        for j in range(i + 1):
            target, own = shared[_at(place[i], place[j])], hessian[_at(i, j)]
            for lane in range(lanes):
                target[lane] += own[lane]


@njit(cache=True, fastmath=_FLAGS)
def _evaluate(z: Array, tables: Tables, k: int, gradient: Array, hessian: Array, work) -> None:  # type: ignore[no-untyped-def]
    """Write gradient (m, lanes) and packed Hessian of expert k at z (m, lanes)."""
    d, v, scaled, secant_weight, squares, scale = work
    quadratic, projection = tables.quadratic[k], tables.projection[k]
    m, n_c, lanes = tables.sizes[k, 1], tables.sizes[k, 2], z.shape[1]
    for i in range(m):
        target = gradient[i]
        target[:] = 0
        for j in range(m):
            q, other = quadratic[i, j], z[j]
            for lane in range(lanes):
                target[lane] += q * other[lane]
        for j in range(i + 1):
            hessian[_at(i, j)] = quadratic[i, j]
    for c in range(0, n_c, GROUP):
        for g in range(GROUP):
            _sample(z, m, projection[c + g], tables.parameters[k, c + g], d, secant_weight[g], scale)
            for i in range(m):
                direction, target, along = v[g, i], gradient[i], scaled[i, g]
                direction[:] = 0
                for a in range(len(d)):
                    p, of = projection[c + g, a, i], d[a]
                    for lane in range(lanes):
                        direction[lane] += p * of[lane]
                for lane in range(lanes):
                    target[lane] += secant_weight[g, lane] * direction[lane]
                    along[lane] = scale[lane] * direction[lane]
        h0, h1, h2, h3 = secant_weight[0], secant_weight[1], secant_weight[2], secant_weight[3]
        for i in range(m):
            a0, a1, a2, a3 = scaled[i, 0], scaled[i, 1], scaled[i, 2], scaled[i, 3]
            _squares(projection, c, i, squares)
            for j in range(i + 1):
                target = hessian[_at(i, j)]
                s0, s1, s2, s3 = squares[0, j], squares[1, j], squares[2, j], squares[3, j]
                v0, v1, v2, v3 = v[0, j], v[1, j], v[2, j], v[3, j]
                for lane in range(lanes):
                    target[lane] += (
                        (h0[lane] * s0 + a0[lane] * v0[lane])
                        + (h1[lane] * s1 + a1[lane] * v1[lane])
                        + (h2[lane] * s2 + a2[lane] * v2[lane])
                        + (h3[lane] * s3 + a3[lane] * v3[lane])
                    )


@njit(cache=True, fastmath=_FLAGS)
def _squares(projection: Array, c: int, i: int, squares: Array) -> None:
    """Write row i of the lower triangles of PᵀP of a group of points."""
    for g in range(GROUP):
        target = squares[g]
        target[: i + 1] = 0
        for a in range(projection.shape[1]):
            p, row = projection[c + g, a, i], projection[c + g, a]
            for j in range(i + 1):
                target[j] += p * row[j]


@njit(cache=True, fastmath=_FLAGS)
def _sample(
    z: Array, m: int, projection: Array, parameters: Array, d: Array, secant_weight: Array, scale: Array
) -> None:
    """Write d = P z, ω h and ω h'/n at a point."""
    weight, alpha1, alpha2 = parameters[0], parameters[1], parameters[2]
    lanes = z.shape[1]
    scale[:] = SMALLEST  # keeps the norm away from zero, where h'/n times the dyad vanishes
    for a in range(len(projection)):
        target = d[a]
        target[:] = 0
        for i in range(m):
            p, other = projection[a, i], z[i]
            for lane in range(lanes):
                target[lane] += p * other[lane]
        for lane in range(lanes):
            scale[lane] += target[lane] * target[lane]
    for lane in range(lanes):
        norm = math.sqrt(scale[lane])
        secant = alpha1 / (alpha2 + norm)
        secant_weight[lane] = weight * secant
        scale[lane] = -weight * secant * secant / (alpha1 * norm)
