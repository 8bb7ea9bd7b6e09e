"""Empirical cubature: few points with positive weights replace all quadrature points.

The points are chosen by a nonnegative least-squares fit (Lawson and Hanson 1974; as hyper-reduction: Farhat, Avery,
Chapman and Cortial, IJNME 98, 2014; Hernández, Caicedo and Ferrer, CMAME 313, 2017) of the sampled part of the energy
gradient at training states. By the envelope theorem the homogenized stress is the *total* derivative of the minimum,

    S = ∂W/∂E + Xᵀ ∂W/∂a,    X = da/dE,

so that errors of the gradient affect S to first order only through this combination. The fit therefore gives ∂W/∂a
itself a small weight, which reduces the number of points.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from femops.notation import Array
from femops_equino.reduced.model import ReducedModel

_ROUND_OFF = 1e-13  # of the total: a smaller residual cannot be fitted
_CHECK_EVERY = 4
_VOLUME_WEIGHT = 1e-2
_SKETCH_PER_POINT = 4


@dataclass(frozen=True)
class CubatureRows:
    """Linear system for the weight factors of the points: matrix · factor = total.

    Attributes:
        matrix: Contributions of the points. Shape (n_rows, n_points).
        total: Their sums. Shape (n_rows,).
    """

    matrix: Array
    total: Array


def rows(
    full: ReducedModel, metric: Array, z: Array, alpha: float, largest: int, seed: int, extra: Array | None = None
) -> CubatureRows:
    """Return a random sketch of the points' contributions to the energy gradient at training states.

    Stresses are measured in the norm of `metric`, relative to the square root of the work, because soft deformation
    modes, which contribute little to the stress, affect displacements as much as stiff ones.

    Args:
        full: Reduced model with all points.
        metric: The norm of stresses [1/stress]. Shape (n_s, n_s).
        z: Training states, minima of the energy of `full`. Shape (T, m).
        alpha: Weight of ∂W/∂a relative to the total derivative with respect to E.
        largest: Maximum number of points that the rows are for.
        seed: Random seed of the sketch.
        extra: Further linear functionals of the deviatoric stress to fit. Shape (k, n_points, n_d).
    """
    gradient, hessian = full.derivatives(z)
    n_e, n_points = full.n_e, len(full.projection)
    root = np.zeros((n_e, n_e))
    root[: len(metric), : len(metric)] = np.linalg.cholesky(metric)
    root[len(metric) :, len(metric) :] = np.sqrt(metric.diagonal().mean())  # the stress normal to the plane
    rng = np.random.default_rng(seed)
    count = _SKETCH_PER_POINT * largest + 64
    matrix = np.zeros((count, n_points))
    weight, alpha1, alpha2 = full.parameters.T
    for one, slope, curvature in zip(z, gradient, hessian, strict=True):
        k = curvature[n_e:, n_e:]
        sensitivity = -np.linalg.solve(k, curvature[n_e:, :n_e])
        stress = slope[:n_e] + sensitivity.T @ slope[n_e:]
        work = max(float(stress @ one[:n_e]), np.finfo(float).tiny)
        total = np.concatenate([np.eye(n_e), sensitivity]) @ (root / np.sqrt(work))
        alone = np.eye(len(one))[:, n_e:] * (alpha / np.sqrt(work * np.trace(k) / len(k)))
        wanted = np.concatenate([total, alone], axis=1)
        deviator = np.tensordot(full.projection, one, axes=1)
        secant = alpha1 / (alpha2 + np.linalg.norm(deviator, axis=1))
        force = deviator * (weight * secant)[:, None]
        shares = wanted.T @ np.einsum("gai,ga->ig", full.projection, force, optimize=True)
        if extra is not None:
            more = np.einsum("kga,ga->kg", extra, force, optimize=True) * (alpha / np.sqrt(work))
            shares = np.concatenate([shares, more])
        matrix += (rng.standard_normal((count, len(shares))) / np.sqrt(count)) @ shares
    total_sum = matrix.sum(axis=1)
    volume = weight * (_VOLUME_WEIGHT * np.linalg.norm(total_sum) / max(weight.sum(), np.finfo(float).tiny))
    matrix = np.vstack([matrix, volume])
    return CubatureRows(matrix, matrix.sum(axis=1))


def choose(
    rows: CubatureRows,
    largest: int,
    good_enough: Callable[[npt.NDArray[np.int64], Array], bool],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[npt.NDArray[np.int64], Array]:
    """Return points and positive factors of their weights, by nonnegative least squares with early termination.

    Args:
        rows: Linear system to fit.
        largest: Maximum number of points.
        good_enough: Stopping criterion, called with points and factors after every few added points.
        progress: Called with the number of points and its maximum.
    """
    norm = np.linalg.norm(rows.matrix, axis=0)
    norm[norm == 0.0] = 1.0
    chosen: list[int] = []
    factor = np.zeros(0)
    residual = rows.total.copy()
    refused = np.zeros(len(norm), dtype=bool)
    checked = 0
    size, round_off = np.linalg.norm(residual), _ROUND_OFF * np.linalg.norm(rows.total)
    while len(chosen) < min(largest, len(norm)) and size > round_off:
        score = (residual @ rows.matrix) / norm
        score[refused] = score[chosen] = -np.inf
        best = int(score.argmax())
        if score[best] <= 0.0:
            break
        before = len(chosen)
        chosen, factor = _fit(rows, [*chosen, best], np.append(factor, 0.0))
        residual, last = rows.total - rows.matrix[:, chosen] @ factor, size
        size = np.linalg.norm(residual)
        if best not in chosen or not size < last:  # nothing gained: it must not come again and again
            refused[best] = True
        elif len(chosen) > before:
            refused[:] = False
        if len(chosen) >= checked + _CHECK_EVERY:
            checked = len(chosen)
            if progress is not None:
                progress(checked, largest)
            if good_enough(np.array(chosen), factor):
                break
    if progress is not None:
        progress(largest, largest)
    return np.array(chosen, dtype=np.int64), factor


def _fit(rows: CubatureRows, chosen: list[int], factor: Array) -> tuple[list[int], Array]:
    """Fit the factors of chosen points; points whose factor would become negative are removed."""
    while True:
        wanted = scipy.linalg.lstsq(rows.matrix[:, chosen], rows.total, lapack_driver="gelsy", check_finite=False)[0]
        if (wanted > 0.0).all():
            return chosen, wanted
        negative = wanted <= 0.0
        reach = float((factor[negative] / (factor[negative] - wanted[negative] + np.finfo(float).tiny)).min())
        factor = factor + reach * (wanted - factor)
        keep = factor > 1e-12 * factor.max()
        chosen, factor = [one for one, kept in zip(chosen, keep, strict=True) if kept], factor[keep]
        if not chosen:
            return chosen, factor
