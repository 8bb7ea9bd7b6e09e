"""Gram matrices of the residuals of admissible fields over quadrature points, compiled by numba.

The fields at a block of points and strains result from matrix products; what follows runs along the strains of the
block (lanes) and stays in the cache. `femops_equino.reduced.second_order` explains the quantities. Loops are short,
because the compiler vectorises only those that it can prove to be free of overlaps.
"""

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from femops.notation import Array

_LANES = 64
_VECTOR = 8  # doubles in the widest registers
_POINTS = 16
_FLAGS = {"contract", "reassoc", "nsz", "arcp"}
_TINY = 1e-300
_LEAST = 1e-3  # of p
_R2, _R6 = 2.0**-0.5, 6.0**-0.5
_Q = -2.0 * _R6  # deviator of the normal direction in plane strain


@njit(cache=True, fastmath=_FLAGS, error_model="numpy")
def residuals(
    maps: tuple[Array, Array, Array],
    kinematic: Array,
    static: Array,
    factor: Array,
    grams: Array,
    dressed: Array,
    valid: npt.NDArray[np.bool_],
) -> None:
    """Add the Gram matrices of the residuals of `saturating` phases, in the norm of D̃⁻¹, and their dressed stress.

    With β = α₂ + |dev ε̃|, decay κ = 2/β and curvature ν = 1/√(α₂ β), the deviatoric part of a point counts

        Φ = 4 / ((1 + √(1 − x))² p),    p = 1 − λ ν |dev A|,    x = κ (|r₀| + λ |r|) / (√φ p),    φ = α₁ α₂/β²,

    times, with Frobenius norms over the directions. The normal stress in plane strain is the one without normal strain.

    Args:
        maps: Strain as a map of z, shape (n_s, C, m); stress as a map of b, shape (n_s, C, n_b); weight, K, α₁ and α₂
            of the points, shape (C, 4).
        kinematic: z and the sensitivities of the directions as columns. Shape (n, m, 1 + n_s).
        static: b and the coefficients of the directions. Shape (n, n_b, 1 + n_s).
        factor: λ. Shape (n,).
        grams: Gram matrices of (r₀, r_1, …), lower triangles. Shape (n, 1 + n_s, 1 + n_s).
        dressed: ⟨dev σ(ε̃) : dev A_d⟩. Shape (n, n_s).
        valid: Set to False where p ≤ 0 or x ≥ 1 at a point. Shape (n,).
    """
    strain_map, stress_map, parameters = maps
    n_s, n_c, m = strain_map.shape
    n, _, n_v = kinematic.shape
    n_b = stress_map.shape[2]
    lanes = min(_LANES, -(-n // _VECTOR) * _VECTOR)
    left, right = np.zeros((m, n_v, lanes)), np.zeros((n_b, n_v, lanes))
    strain, stress = np.zeros((n_s, _POINTS, n_v * lanes)), np.zeros((n_s, _POINTS, n_v * lanes))
    strains, stresses = strain.reshape(n_s, _POINTS, n_v, lanes), stress.reshape(n_s, _POINTS, n_v, lanes)
    n_d = 3 if n_s == 3 else 5
    work = np.zeros((n_v, n_d + 2, lanes)), np.zeros((n_d, lanes)), np.zeros((16, lanes))
    sums, total, bad, step = np.zeros((n_v, n_v, lanes)), np.zeros((n_s, lanes)), np.zeros(lanes), np.zeros(lanes)
    for first in range(0, n, lanes):
        here = min(lanes, n - first)
        for lane in range(lanes):
            at = first + min(lane, here - 1)
            step[lane] = factor[at]
            for k in range(n_v):
                for i in range(m):
                    left[i, k, lane] = kinematic[at, i, k]
                for i in range(n_b):
                    right[i, k, lane] = static[at, i, k]
        sums[:] = 0.0
        total[:] = 0.0
        bad[:] = 0.0
        for start in range(0, n_c, _POINTS):
            count = min(_POINTS, n_c - start)
            for s in range(n_s):
                np.dot(strain_map[s, start : start + count], left.reshape(m, n_v * lanes), strain[s, :count])
                np.dot(stress_map[s, start : start + count], right.reshape(n_b, n_v * lanes), stress[s, :count])
            for p in range(count):
                _point(parameters[start + p], strains[:, p], stresses[:, p], step, sums, total, bad, work)
        for lane in range(here):
            valid[first + lane] &= bad[lane] == 0.0
            for k in range(n_v):
                for i in range(k + 1):
                    grams[first + lane, k, i] += sums[k, i, lane]
            for s in range(n_s):
                dressed[first + lane, s] += total[s, lane]


@njit(cache=True, fastmath=_FLAGS, error_model="numpy")
def _point(
    parameters: Array,
    strain: Array,
    stress: Array,
    step: Array,
    sums: Array,
    total: Array,
    bad: Array,
    work: tuple[Array, Array, Array],
) -> None:
    """Add the contributions of one point; `strain` and `stress` have shape (n_s, 1 + n_s, lanes)."""
    weight, alpha1, alpha2 = parameters[0], parameters[2], parameters[3]
    values, along, rows = work
    n_v, n_y, lanes = values.shape
    n_d = n_y - 2
    beta, size, scale, own, others, factor = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]
    for k in range(n_v):
        _split(strain[:, k], values[k])
    for lane in range(lanes):
        beta[lane] = _TINY
        size[lane] = 0.0
    for a in range(n_d):
        one = values[0, a]
        for lane in range(lanes):
            beta[lane] += one[lane] * one[lane]
        for k in range(1, n_v):
            other = values[k, a]
            for lane in range(lanes):
                size[lane] += other[lane] * other[lane]
    for lane in range(lanes):
        scale[lane] = 1.0 / math.sqrt(beta[lane])
    for a in range(n_d):
        one, unit = values[0, a], along[a]
        for lane in range(lanes):
            unit[lane] = one[lane] * scale[lane]
    for lane in range(lanes):
        own[lane] = beta[lane] * scale[lane]  # |dev ε̃|
        beta[lane] = alpha2 + own[lane]
        size[lane] = 1.0 - step[lane] * math.sqrt(size[lane] / (alpha2 * beta[lane]))
    _subtract(parameters, strain, stress, values, along, rows, total)
    for lane in range(lanes):
        own[lane] = 0.0
        others[lane] = 0.0
    for a in range(n_d + 1):
        one = values[0, a]
        for lane in range(lanes):
            own[lane] += one[lane] * one[lane]
        for k in range(1, n_v):
            other = values[k, a]
            for lane in range(lanes):
                others[lane] += other[lane] * other[lane]
    decay = 2.0 / math.sqrt(weight * alpha1 * alpha2)  # κ/√φ, of residuals that hold the root of the weight
    for lane in range(lanes):
        p = max(size[lane], _LEAST)
        x = decay * (math.sqrt(own[lane]) + step[lane] * math.sqrt(others[lane])) / p
        root = 1.0 + math.sqrt(max(1.0 - x, 0.0))
        factor[lane] = 4.0 / (root * root * p)
        scale[lane] = 1.0 if x >= 1.0 or size[lane] <= _LEAST else 0.0
    for lane in range(lanes):
        bad[lane] += scale[lane]
    for k in range(n_v):
        for i in range(k + 1):
            one, other, target = values[k], values[i], sums[k, i]
            for lane in range(lanes):
                scale[lane] = (
                    one[0, lane] * other[0, lane]
                    + one[1, lane] * other[1, lane]
                    + one[2, lane] * other[2, lane]
                    + one[3, lane] * other[3, lane]
                )
            for a in range(4, n_d + 1):
                for lane in range(lanes):
                    scale[lane] += one[a, lane] * other[a, lane]
            for lane in range(lanes):
                target[lane] += one[n_d + 1, lane] * other[n_d + 1, lane] + factor[lane] * scale[lane]


@njit(cache=True, fastmath=_FLAGS, error_model="numpy")
def _split(tensor: Array, values: Array) -> None:
    """Write the deviator in an orthonormal basis and, last, the trace of in-plane or 3D components (n_s, lanes)."""
    lanes, last = tensor.shape[1], len(values) - 1
    first, second, plane = tensor[0], tensor[1], len(tensor) == 3
    for lane in range(lanes):
        values[0, lane] = (first[lane] - second[lane]) * _R2
    for lane in range(lanes):
        values[last, lane] = first[lane] + second[lane]
    if plane:
        for lane in range(lanes):
            values[1, lane] = (first[lane] + second[lane]) * _R6
    else:
        third = tensor[2]
        for lane in range(lanes):
            values[1, lane] = (first[lane] + second[lane] - 2.0 * third[lane]) * _R6
        for lane in range(lanes):
            values[last, lane] += third[lane]
    shear = 2 if plane else 3
    for a in range(shear, len(tensor)):
        for lane in range(lanes):
            values[2 + a - shear, lane] = tensor[a, lane]


@njit(cache=True, fastmath=_FLAGS, error_model="numpy")
def _subtract(
    parameters: Array, strain: Array, stress: Array, values: Array, along: Array, rows: Array, total: Array
) -> None:
    """Replace the deviators and traces of strains by the residuals, whitened: n_d deviatoric, radial, volumetric."""
    weight, bulk, alpha1, alpha2 = parameters[0], parameters[1], parameters[2], parameters[3]
    n_v, n_y, lanes = values.shape
    n_d, plane = n_y - 2, len(strain) == 3
    spherical, top = 1.0 / (9.0 * bulk), n_y - 1
    beta, soft, more, across = rows[0], rows[6], rows[7], rows[8]
    of_trace, of_normal, of_radial, secant = rows[9], rows[10], rows[11], rows[12]
    drop, projected, normal, root, size = rows[13], rows[14], rows[15], rows[2], rows[3]
    for lane in range(lanes):
        secant[lane] = alpha1 / beta[lane]
        soft[lane] = beta[lane] / alpha1
        more[lane] = soft[lane] * (beta[lane] / alpha2 - 1.0)
        drop[lane] = secant[lane] * (alpha2 / beta[lane] - 1.0)  # radial minus tangential stiffness
    if plane:
        unit = along[1]
        for lane in range(lanes):
            across[lane] = unit[lane] * _Q
        for lane in range(lanes):
            stiff = -1.0 / (spherical + soft[lane] * (_Q * _Q) + more[lane] * across[lane] * across[lane])
            of_trace[lane] = spherical * stiff
            of_normal[lane] = soft[lane] * _Q * stiff
            of_radial[lane] = more[lane] * across[lane] * stiff
    for k in range(n_v):
        one = values[k]
        for lane in range(lanes):
            projected[lane] = along[0, lane] * one[0, lane]
        for a in range(1, n_d):
            for lane in range(lanes):
                projected[lane] += along[a, lane] * one[a, lane]
        if k > 0:
            for lane in range(lanes):
                total[k - 1, lane] += weight * secant[lane] * size[lane] * projected[lane]
            for lane in range(lanes):
                projected[lane] *= drop[lane]
        else:
            for lane in range(lanes):
                projected[lane] = 0.0  # σ(ε̃) is the secant stress
        for a in range(n_d):
            for lane in range(lanes):
                one[a, lane] = secant[lane] * one[a, lane] + projected[lane] * along[a, lane]
        for lane in range(lanes):
            one[top, lane] *= 3.0 * bulk
        _less(one, stress[:, k])
        for lane in range(lanes):
            projected[lane] = along[0, lane] * one[0, lane]
        for a in range(1, n_d):
            for lane in range(lanes):
                projected[lane] += along[a, lane] * one[a, lane]
        if plane:
            for lane in range(lanes):
                normal[lane] = of_trace[lane] * one[top, lane] + of_normal[lane] * one[1, lane]
            for lane in range(lanes):
                normal[lane] += of_radial[lane] * projected[lane]
            for lane in range(lanes):
                projected[lane] += across[lane] * normal[lane]
            for lane in range(lanes):
                one[1, lane] += _Q * normal[lane]
                one[top, lane] += normal[lane]
        if k == 0:
            for lane in range(lanes):  # opposite signs of r₀ and r_d
                root[lane] = -math.sqrt(weight * soft[lane])
                more[lane] = math.sqrt(weight * more[lane])
        sign = 1.0 if k > 0 else -1.0
        for lane in range(lanes):
            one[n_d, lane] = sign * more[lane] * projected[lane]
        for a in range(n_d):
            for lane in range(lanes):
                one[a, lane] *= root[lane]
        for lane in range(lanes):
            one[top, lane] *= sign * math.sqrt(weight * spherical)
        if k == 0:
            for lane in range(lanes):
                root[lane] = -root[lane]


@njit(cache=True, fastmath=_FLAGS, error_model="numpy")
def _less(values: Array, stress: Array) -> None:
    """Subtract deviator and trace of a stress (n_s, lanes), without normal stress in plane strain."""
    lanes, last = stress.shape[1], len(values) - 1
    first, second, plane = stress[0], stress[1], len(stress) == 3
    for lane in range(lanes):
        values[0, lane] -= (first[lane] - second[lane]) * _R2
    for lane in range(lanes):
        values[last, lane] -= first[lane] + second[lane]
    if plane:
        for lane in range(lanes):
            values[1, lane] -= (first[lane] + second[lane]) * _R6
    else:
        third = stress[2]
        for lane in range(lanes):
            values[1, lane] -= (first[lane] + second[lane] - 2.0 * third[lane]) * _R6
        for lane in range(lanes):
            values[last, lane] -= third[lane]
    shear = 2 if plane else 3
    for a in range(shear, len(stress)):
        for lane in range(lanes):
            values[2 + a - shear, lane] -= stress[a, lane]
