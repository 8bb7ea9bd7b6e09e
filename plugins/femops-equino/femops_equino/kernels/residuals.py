"""Gram matrices of the residuals of admissible fields over quadrature points, compiled by numba.

The fields at a block of points and strains result from matrix products; what follows runs along the strains of the
block (lanes) and stays in the cache. `femops_equino.reduced.second_order` explains the quantities.
"""

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from femops.notation import Array

_LANES = 16
_POINTS = 32
_FLAGS = {"contract", "reassoc", "nsz", "arcp"}
_TINY = 1e-300
_R2, _R6 = 2.0**-0.5, 6.0**-0.5


@njit(cache=True, fastmath=_FLAGS)
def residuals(
    maps: tuple[Array, Array, Array],
    kinematic: Array,
    static: Array,
    lambdas: Array,
    grams: Array,
    dressed: Array,
    valid: npt.NDArray[np.bool_],
) -> None:
    """Add the Gram matrices of the residuals of `saturating` phases, in the norm of D̃⁻¹, and their dressed stress.

    With β = α₂ + |dev ε̃|, decay κ = 2/β and curvature ν = 1/√(α₂ β), the deviatoric part of a point counts

        4 / ((1 + √(1 − x))² p),    p = 1 − λ ν |dev A|,    x = κ (|r₀| + λ |r|) / (√φ p),    φ = α₁ α₂/β²,

    times, with Frobenius norms over the directions. The normal stress in plane strain is the one without normal strain.

    Args:
        maps: Strain as a map of z, shape (n_s, C, m); stress as a map of b, shape (n_s, C, n_b); weight, K, α₁ and α₂
            of the points, shape (C, 4).
        kinematic: z and the sensitivities of the directions as columns. Shape (n, m, 1 + n_s).
        static: b and the coefficients of the directions. Shape (n, n_b, 1 + n_s).
        lambdas: Values of λ. Shape (n, n_l).
        grams: Gram matrices of (r₀, r_1, …), lower triangles. Shape (n, n_l, 1 + n_s, 1 + n_s).
        dressed: ⟨dev σ(ε̃) : dev A_d⟩. Shape (n, n_s).
        valid: Set to False where p ≤ 0 or x ≥ 1 at a point. Shape (n, n_l).
    """
    strain_map, stress_map, parameters = maps
    n_s, n_c, m = strain_map.shape
    n, _, n_v = kinematic.shape
    n_b, n_l, lanes = stress_map.shape[2], lambdas.shape[1], _LANES
    left, right = np.zeros((m, n_v * lanes)), np.zeros((n_b, n_v * lanes))
    strain, stress = np.zeros((n_s, _POINTS, n_v * lanes)), np.zeros((n_s, _POINTS, n_v * lanes))
    factor, sums = np.zeros((n_l, lanes)), np.zeros((n_l, n_v, n_v, lanes))
    total, bad = np.zeros((n_s, lanes)), np.zeros((n_l, lanes))
    n_d = n_s if n_s == 3 else 5
    work = np.zeros((n_d, lanes)), np.zeros((n_v, n_d, lanes)), np.zeros((n_v, lanes)), np.zeros((n_v, lanes))
    rows = np.zeros((11 + n_l, lanes))
    for first in range(0, n, lanes):
        here = min(lanes, n - first)
        for lane in range(lanes):
            at = first + min(lane, here - 1)
            for k in range(n_v):
                for i in range(m):
                    left[i, k * lanes + lane] = kinematic[at, i, k]
                for i in range(n_b):
                    right[i, k * lanes + lane] = static[at, i, k]
            for j in range(n_l):
                factor[j, lane] = lambdas[at, j]
        sums[:] = 0.0
        total[:] = 0.0
        bad[:] = 0.0
        for start in range(0, n_c, _POINTS):
            stop = min(start + _POINTS, n_c)
            for s in range(n_s):
                np.dot(strain_map[s, start:stop], left, strain[s, : stop - start])
                np.dot(stress_map[s, start:stop], right, stress[s, : stop - start])
            for p in range(stop - start):
                _point(parameters[start + p], strain[:, p], stress[:, p], factor, sums, total, bad, work, rows)
        for lane in range(here):
            for j in range(n_l):
                valid[first + lane, j] &= bad[j, lane] == 0.0
                for k in range(n_v):
                    for i in range(k + 1):
                        grams[first + lane, j, k, i] += sums[j, k, i, lane]
            for s in range(n_s):
                dressed[first + lane, s] += total[s, lane]


@njit(cache=True, fastmath=_FLAGS)
def _point(
    parameters: Array,
    strain: Array,
    stress: Array,
    factor: Array,
    sums: Array,
    total: Array,
    bad: Array,
    work: tuple[Array, Array, Array, Array],
    rows: Array,
) -> None:
    """Add the contributions of one point; `strain` and `stress` have shape (n_s, (1 + n_s) · lanes)."""
    weight, bulk, alpha1, alpha2 = parameters[0], parameters[1], parameters[2], parameters[3]
    along, dev, trace, radial = work
    n_v, n_d, lanes = dev.shape
    n_s, n_l = len(strain), len(factor)
    plane = n_s == 3
    shear = 2 if plane else 3  # first shear component
    n, secant, tangent, soft, more, size, lever = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6]
    own, others, share, across = rows[7], rows[8], rows[9], rows[10]
    spherical = 1.0 / (9.0 * bulk)
    for k in range(n_v):  # deviators of the strains
        off = k * lanes
        for lane in range(lanes):
            third = 0.0 if plane else strain[2, off + lane]
            both = strain[0, off + lane] + strain[1, off + lane]
            trace[k, lane] = both + third
            dev[k, 0, lane] = (strain[0, off + lane] - strain[1, off + lane]) * _R2
            dev[k, 1, lane] = (both - 2.0 * third) * _R6
        for a in range(2, n_d):
            for lane in range(lanes):
                dev[k, a, lane] = strain[shear + a - 2, off + lane]
    for lane in range(lanes):
        n[lane] = _TINY
        size[lane] = 0.0
    for a in range(n_d):
        for lane in range(lanes):
            n[lane] += dev[0, a, lane] * dev[0, a, lane]
    for lane in range(lanes):
        n[lane] = math.sqrt(n[lane])
        beta = alpha2 + n[lane]
        secant[lane] = alpha1 / beta
        tangent[lane] = secant[lane] * alpha2 / beta  # along the deviator
        soft[lane] = 1.0 / secant[lane]
        more[lane] = 1.0 / tangent[lane] - soft[lane]
    for a in range(n_d):
        for lane in range(lanes):
            along[a, lane] = dev[0, a, lane] / n[lane]
    for k in range(n_v):  # residuals: prescribed stress minus that of the strain
        off = k * lanes
        for lane in range(lanes):
            radial[k, lane] = 0.0
        for a in range(n_d):
            for lane in range(lanes):
                radial[k, lane] += along[a, lane] * dev[k, a, lane]
        if k > 0:
            for lane in range(lanes):
                total[k - 1, lane] += weight * secant[lane] * n[lane] * radial[k, lane]
            for a in range(n_d):
                for lane in range(lanes):
                    size[lane] += dev[k, a, lane] * dev[k, a, lane]
        for lane in range(lanes):
            lever[lane] = 0.0 if k == 0 else (tangent[lane] - secant[lane]) * radial[k, lane]
            third = 0.0 if plane else stress[2, off + lane]
            both = stress[0, off + lane] + stress[1, off + lane]
            trace[k, lane] = both + third - 3.0 * bulk * trace[k, lane]
            dev[k, 0, lane] = (
                (stress[0, off + lane] - stress[1, off + lane]) * _R2
                - secant[lane] * dev[k, 0, lane]
                - lever[lane] * along[0, lane]
            )
            dev[k, 1, lane] = (both - 2.0 * third) * _R6 - secant[lane] * dev[k, 1, lane] - lever[lane] * along[1, lane]
        for a in range(2, n_d):
            for lane in range(lanes):
                dev[k, a, lane] = (
                    stress[shear + a - 2, off + lane] - secant[lane] * dev[k, a, lane] - lever[lane] * along[a, lane]
                )
        for lane in range(lanes):
            radial[k, lane] = 0.0
        for a in range(n_d):
            for lane in range(lanes):
                radial[k, lane] += along[a, lane] * dev[k, a, lane]
        if plane:
            for lane in range(lanes):
                q = -2.0 * _R6
                across[lane] = along[1, lane] * q
                normal = spherical * trace[k, lane] + soft[lane] * q * dev[k, 1, lane]
                normal += more[lane] * across[lane] * radial[k, lane]
                stiff = spherical + soft[lane] * q * q + more[lane] * across[lane] * across[lane]
                normal = -normal / stiff
                trace[k, lane] += normal
                dev[k, 1, lane] += normal * q
                radial[k, lane] += normal * across[lane]
        if k > 0:
            for lane in range(lanes):
                trace[k, lane] = -trace[k, lane]
                radial[k, lane] = -radial[k, lane]
            for a in range(n_d):
                for lane in range(lanes):
                    dev[k, a, lane] = -dev[k, a, lane]
    for lane in range(lanes):
        own[lane] = more[lane] * radial[0, lane] * radial[0, lane]
        others[lane] = 0.0
        size[lane] = math.sqrt(size[lane] / (alpha2 * (alpha2 + n[lane])))
    for a in range(n_d):
        for lane in range(lanes):
            own[lane] += soft[lane] * dev[0, a, lane] * dev[0, a, lane]
    for k in range(1, n_v):
        for lane in range(lanes):
            others[lane] += more[lane] * radial[k, lane] * radial[k, lane]
        for a in range(n_d):
            for lane in range(lanes):
                others[lane] += soft[lane] * dev[k, a, lane] * dev[k, a, lane]
    for lane in range(lanes):
        decay = 2.0 / ((alpha2 + n[lane]) * math.sqrt(tangent[lane]))
        own[lane] = math.sqrt(own[lane]) * decay
        others[lane] = math.sqrt(others[lane]) * decay
    for j in range(n_l):
        for lane in range(lanes):
            left = max(1.0 - factor[j, lane] * size[lane], 1e-3)
            x = (own[lane] + factor[j, lane] * others[lane]) / left
            bad[j, lane] += 1.0 if x >= 1.0 or left <= 1e-3 else 0.0
            root = 1.0 + math.sqrt(max(1.0 - x, 0.0))
            rows[n_rows(j), lane] = 4.0 * weight / (root * root * left)
    for k in range(n_v):
        for i in range(k + 1):
            for lane in range(lanes):
                share[lane] = more[lane] * radial[k, lane] * radial[i, lane]
            for a in range(n_d):
                for lane in range(lanes):
                    share[lane] += soft[lane] * dev[k, a, lane] * dev[i, a, lane]
            for lane in range(lanes):
                across[lane] = weight * spherical * trace[k, lane] * trace[i, lane]
            for j in range(n_l):
                for lane in range(lanes):
                    sums[j, k, i, lane] += across[lane] + rows[n_rows(j), lane] * share[lane]


@njit(inline="always")
def n_rows(j: int) -> int:
    """Return the row of the scratch array that holds the factors of the j-th λ."""
    return 11 + j
