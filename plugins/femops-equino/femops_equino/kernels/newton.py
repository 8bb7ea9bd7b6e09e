"""Fused numba kernels of the reduced model: Newton's method on the reduced energy, over blocks of points.

The reduced energy of a point with z = (E, a) is

    W(z) = ½ zᵀ Q z + Σ_c ω_c g_c(n_c),     n_c = |P_c z|,     g(n) = α₁ (n − α₂ ln(1 + n/α₂)),

with the secant modulus h = g'/n = α₁/(α₂ + n). The innermost loops run over the points of a block (lanes) and
are vectorised by the compiler; cubature points c are processed `GROUP` at a time, so that the Hessian is loaded and
stored less often. The precision is that of the input.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from femops.notation import Array

GROUP = 4
_FLAGS = {"contract", "reassoc", "nsz", "arcp"}


@njit(cache=True, fastmath=_FLAGS)
def newton(
    macro: Array,
    points: npt.NDArray[np.int64],
    model: tuple[Array, Array, Array, Array],
    lanes: int,
    answer: tuple[Array, Array, Array, Array],
) -> None:
    """Take one Newton step in a at selected points; stress, tangent and decrement are those before the step.

    The stress is corrected by the adjoint, so that its error is of second order in the error of a; the tangent is
    condensed. The result of a point does not depend on other points.

    Args:
        macro: E, shape (n, n_e).
        points: Indices of the selected points, in ascending order.
        model: Q, shape (m, m); P, shape (C, n_d, m); lower triangles of PᵀP row by row, shape (C, m (m + 1) / 2);
            ω, α₁, α₂, shape (C, 3). C is a multiple of GROUP and m = n_e + r.
        lanes: Points per block.
        answer: Updated: a, shape (n, r). Written: stress, shape (n, n_e); tangent, shape (n, n_e, n_e); decrement
            gᵀ K⁻¹ g relative to S : E, shape (n,).
    """
    quadratic, projection, squares, parameters = model
    coefficients, stress, tangent, decrement = answer
    n_e, r = macro.shape[1], coefficients.shape[1]
    m, n = n_e + r, len(points)
    dtype = macro.dtype
    z = np.zeros((m, lanes), dtype)
    gradient = np.zeros((m, lanes), dtype)
    hessian = np.zeros((m * (m + 1) // 2, lanes), dtype)
    gap = np.zeros(lanes, dtype)
    work = _workspace(projection.shape[1], m, lanes, dtype)
    for first in range(0, n, lanes):
        here = min(lanes, n - first)
        for lane in range(lanes):
            point = points[first + min(lane, here - 1)]
            for i in range(n_e):
                z[i, lane] = macro[point, i]
            for i in range(r):
                z[n_e + i, lane] = coefficients[point, i]
        _evaluate(z, quadratic, projection, squares, parameters, gradient, hessian, work)
        _condense(z, gradient, hessian, gap, work[4], n_e)
        for lane in range(here):
            point = points[first + lane]
            for i in range(n_e):
                stress[point, i] = gradient[i, lane]
                for j in range(n_e):
                    tangent[point, i, j] = hessian[_at(max(i, j), min(i, j)), lane]
            for i in range(r):
                coefficients[point, i] = z[n_e + i, lane]
            decrement[point] = gap[lane]


@njit(cache=True, fastmath=_FLAGS)
def derivatives(z: Array, model: tuple[Array, Array, Array, Array], gradient: Array, hessian: Array) -> None:
    """Write the gradient (n, m) and the Hessian (n, m, m) of W at z (n, m)."""
    quadratic, projection, squares, parameters = model
    n, m = z.shape
    lanes = 64
    dtype = z.dtype
    block = np.zeros((m, lanes), dtype)
    slope = np.zeros((m, lanes), dtype)
    curvature = np.zeros((m * (m + 1) // 2, lanes), dtype)
    work = _workspace(projection.shape[1], m, lanes, dtype)
    for first in range(0, n, lanes):
        here = min(lanes, n - first)
        for lane in range(lanes):
            for i in range(m):
                block[i, lane] = z[first + min(lane, here - 1), i]
        _evaluate(block, quadratic, projection, squares, parameters, slope, curvature, work)
        for lane in range(here):
            for i in range(m):
                gradient[first + lane, i] = slope[i, lane]
                for j in range(i + 1):
                    hessian[first + lane, i, j] = hessian[first + lane, j, i] = curvature[_at(i, j), lane]


@njit(cache=True, inline="always")
def _at(i: int, j: int) -> int:
    return i * (i + 1) // 2 + j


@njit(cache=True)
def _workspace(n_d: int, m: int, lanes: int, dtype: Any) -> tuple[Array, Array, Array, Array, Array]:
    return (
        np.empty((n_d, lanes), dtype),
        np.empty((GROUP, m, lanes), dtype),
        np.empty((m, GROUP, lanes), dtype),
        np.empty((GROUP, lanes), dtype),
        np.empty(lanes, dtype),
    )


@njit(cache=True, fastmath=_FLAGS)
def _evaluate(
    z: Array,
    quadratic: Array,
    projection: Array,
    squares: Array,
    parameters: Array,
    gradient: Array,
    hessian: Array,
    work: tuple[Array, Array, Array, Array, Array],
) -> None:
    """Write the gradient (m, lanes) and the lower triangle of the Hessian at z (m, lanes)."""
    d, v, scaled, secant_weight, scale = work
    n_c, n_d, m = projection.shape
    lanes = z.shape[1]
    for i in range(m):
        for lane in range(lanes):
            gradient[i, lane] = 0
        for j in range(m):
            q = quadratic[i, j]
            for lane in range(lanes):
                gradient[i, lane] += q * z[j, lane]
        for j in range(i + 1):
            q = quadratic[i, j]
            at = _at(i, j)
            for lane in range(lanes):
                hessian[at, lane] = q
    for c0 in range(0, n_c, GROUP):
        for k in range(GROUP):
            _sample(z, projection[c0 + k], parameters[c0 + k], d, secant_weight[k], scale)
            for i in range(m):
                p0, p1, p2 = projection[c0 + k, 0, i], projection[c0 + k, 1, i], projection[c0 + k, 2, i]
                for lane in range(lanes):
                    v[k, i, lane] = p0 * d[0, lane] + p1 * d[1, lane] + p2 * d[2, lane]
                for a in range(3, n_d):
                    p = projection[c0 + k, a, i]
                    for lane in range(lanes):
                        v[k, i, lane] += p * d[a, lane]
                for lane in range(lanes):
                    gradient[i, lane] += secant_weight[k, lane] * v[k, i, lane]
                    scaled[i, k, lane] = scale[lane] * v[k, i, lane]
        for i in range(m):
            for j in range(i + 1):
                at = _at(i, j)
                s0, s1, s2, s3 = squares[c0, at], squares[c0 + 1, at], squares[c0 + 2, at], squares[c0 + 3, at]
                for lane in range(lanes):
                    hessian[at, lane] += (
                        (secant_weight[0, lane] * s0 + scaled[i, 0, lane] * v[0, j, lane])
                        + (secant_weight[1, lane] * s1 + scaled[i, 1, lane] * v[1, j, lane])
                        + (secant_weight[2, lane] * s2 + scaled[i, 2, lane] * v[2, j, lane])
                        + (secant_weight[3, lane] * s3 + scaled[i, 3, lane] * v[3, j, lane])
                    )


@njit(cache=True, fastmath=_FLAGS)
def _sample(z: Array, projection: Array, parameters: Array, d: Array, secant_weight: Array, scale: Array) -> None:
    """Write d = P z, ω h and ω h'/n at one cubature point."""
    weight, alpha1, alpha2 = parameters[0], parameters[1], parameters[2]
    n_d, m = projection.shape
    lanes = z.shape[1]
    for lane in range(lanes):
        scale[lane] = 1e-30  # keeps the norm away from zero, where h'/n times the dyad vanishes
    for a in range(n_d):
        for lane in range(lanes):
            d[a, lane] = 0
        for i in range(m):
            p = projection[a, i]
            for lane in range(lanes):
                d[a, lane] += p * z[i, lane]
        for lane in range(lanes):
            scale[lane] += d[a, lane] * d[a, lane]
    for lane in range(lanes):
        norm = math.sqrt(scale[lane])
        secant = alpha1 / (alpha2 + norm)
        secant_weight[lane] = weight * secant
        scale[lane] = -weight * secant * secant / (alpha1 * norm)


@njit(cache=True, fastmath=_FLAGS)
def _condense(z: Array, gradient: Array, hessian: Array, gap: Array, factor: Array, n_e: int) -> None:
    """Take one Newton step in a = z[n_e:] and condense a out of gradient and Hessian, in place.

    Elimination from the last row up leaves the corrected stress and the condensed tangent in the first n_e rows.
    """
    m, lanes = z.shape
    one = np.ones(1, z.dtype)[0]
    for lane in range(lanes):
        gap[lane] = 0
    for p in range(m - 1, n_e - 1, -1):
        pivot = _at(p, p)
        for lane in range(lanes):
            hessian[pivot, lane] = one / hessian[pivot, lane]
            gap[lane] += gradient[p, lane] * gradient[p, lane] * hessian[pivot, lane]
        for i in range(p):
            at_i = _at(p, i)
            for lane in range(lanes):
                factor[lane] = hessian[at_i, lane] * hessian[pivot, lane]
                gradient[i, lane] -= factor[lane] * gradient[p, lane]
            for j in range(i + 1):
                at, at_j = _at(i, j), _at(p, j)
                for lane in range(lanes):
                    hessian[at, lane] -= factor[lane] * hessian[at_j, lane]
    for p in range(n_e, m):
        pivot = _at(p, p)
        for i in range(n_e, p):
            at = _at(p, i)
            for lane in range(lanes):
                gradient[p, lane] -= hessian[at, lane] * gradient[i, lane]
        for lane in range(lanes):
            gradient[p, lane] *= hessian[pivot, lane]
    for p in range(n_e, m):
        for lane in range(lanes):
            z[p, lane] -= gradient[p, lane]
    for lane in range(lanes):
        factor[lane] = 0
    for i in range(n_e):
        for lane in range(lanes):
            factor[lane] += gradient[i, lane] * z[i, lane]
    for lane in range(lanes):
        gap[lane] = gap[lane] / max(factor[lane], 1e-30)
