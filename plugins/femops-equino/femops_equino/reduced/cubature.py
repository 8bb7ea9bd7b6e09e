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

from femops.notation import Array, Indices
from femops.surrogate import chunks
from femops.surrogate.sketch import random_signs
from femops_equino.reduced.model import ReducedModel

_ROUND_OFF = 1e-13  # of the total: a smaller residual cannot be fitted
_CHECK_EVERY = 4
_VOLUME_WEIGHT = 1e-2
_SKETCH_PER_POINT = 8
_CANDIDATES = 5000  # points that may be chosen
_DEPENDENT, _ZERO = 1e-13, 1e-12


@dataclass(frozen=True)
class CubatureRows:
    """Linear system for the weight factors of the points: matrix · factor = total.

    Attributes:
        matrix: Contributions of the points that may be chosen, a random part of many. Shape (n_rows, c).
        total: Sums over all points. Shape (n_rows,).
        points: Indices of the points that may be chosen. Shape (c,).
    """

    matrix: Array
    total: Array
    points: Indices


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
    n_points = len(full.projection)
    rng = np.random.default_rng(seed)
    candidates = np.sort(rng.permutation(n_points)[:_CANDIDATES])
    few = np.ascontiguousarray(full.projection[candidates].transpose(1, 2, 0))
    count = _SKETCH_PER_POINT * largest + 64
    matrix, total = np.zeros((count, len(candidates))), np.zeros(count)
    wanted, work, sampled = _functionals(full, metric, z, alpha)
    for part in chunks(len(z), 8.0 * (2 * wanted.shape[2] + (0 if extra is None else len(extra))) * len(candidates)):
        force = _force(full, z[part])
        of_few = force[:, :, candidates]
        shares = wanted[part].transpose(0, 2, 1) @ np.einsum("aig,nag->nig", few, of_few)
        sums = np.einsum("nik,ni->nk", wanted[part], sampled[part])
        if extra is not None:
            size = (alpha / np.sqrt(work[part]))[:, None]
            more = np.einsum("kga,nag->nkg", extra, force, optimize=True) * size[..., None]
            shares, sums = (
                np.concatenate([shares, more[:, :, candidates]], axis=1),
                np.concatenate([sums, more.sum(axis=2)], axis=1),
            )
        signs = random_signs(rng, count, sums.size)
        matrix += signs @ shares.reshape(sums.size, -1)
        total += signs @ sums.ravel()
    weight = full.parameters[:, 0]
    scale = _VOLUME_WEIGHT * np.linalg.norm(total) / max(weight.sum(), np.finfo(float).tiny)
    return CubatureRows(
        np.vstack([matrix, scale * weight[candidates]]), np.append(total, scale * weight.sum()), candidates
    )


def _functionals(full: ReducedModel, metric: Array, z: Array, alpha: float) -> tuple[Array, Array, Array]:
    """Return the combinations (T, m, k) of the gradient to fit, the work (T,) and the sampled gradient (T, m)."""
    gradient, hessian = full.derivatives(z)
    n_e, m = full.n_e, z.shape[1]
    root = np.zeros((n_e, n_e))
    root[: len(metric), : len(metric)] = np.linalg.cholesky(metric)
    root[len(metric) :, len(metric) :] = np.sqrt(metric.diagonal().mean())  # the stress normal to the plane
    stiffness = hessian[:, n_e:, n_e:]
    sensitivity = -np.linalg.solve(stiffness, hessian[:, n_e:, :n_e])
    stress = gradient[:, :n_e] + np.einsum("nri,nr->ni", sensitivity, gradient[:, n_e:])
    work = np.maximum(np.einsum("ni,ni->n", stress, z[:, :n_e]), np.finfo(float).tiny)
    wanted = np.zeros((len(z), m, m))
    wanted[:, :n_e, :n_e] = root
    wanted[:, n_e:, :n_e] = sensitivity @ root
    size = np.sqrt(np.trace(stiffness, axis1=1, axis2=2) / max(m - n_e, 1))
    wanted[:, n_e:, n_e:] = (alpha / size)[:, None, None] * np.eye(m - n_e)
    return wanted / np.sqrt(work)[:, None, None], work, gradient - z @ full.quadratic


def _force(full: ReducedModel, z: Array) -> Array:
    """Return the weighted deviatoric stresses of the points at z (n, m). Shape (n, n_d, n_points)."""
    weight, alpha1, alpha2 = full.parameters.T
    deviator = np.tensordot(z, full.projection, axes=(1, 2)).transpose(0, 2, 1)
    return deviator * (weight * alpha1 / (alpha2 + np.linalg.norm(deviator, axis=1)))[:, None]


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
    scaled = (rows.matrix / norm).astype(np.float32)  # ranks the points only, in half the time of float64
    fit = _Fit(rows)
    refused = np.zeros(len(norm), dtype=bool)
    checked = 0
    size, round_off = np.linalg.norm(rows.total), _ROUND_OFF * np.linalg.norm(rows.total)
    residual = rows.total
    while len(fit.chosen) < min(largest, len(norm)) and size > round_off:
        score = (residual / size).astype(np.float32) @ scaled
        score[refused] = score[fit.chosen] = -np.inf
        best = int(score.argmax())
        if score[best] <= 0.0:
            break
        before = len(fit.chosen)
        fit.add(best)
        residual, last = rows.total - rows.matrix[:, fit.chosen] @ fit.factor, size
        size = np.linalg.norm(residual)
        if best not in fit.chosen or not size < last:  # nothing gained: it must not come again and again
            refused[best] = True
        elif len(fit.chosen) > before:
            refused[:] = False
        if len(fit.chosen) >= checked + _CHECK_EVERY:
            checked = len(fit.chosen)
            if progress is not None:
                progress(checked, largest)
            if good_enough(rows.points[fit.chosen], fit.factor):
                break
    if progress is not None:
        progress(largest, largest)
    return rows.points[fit.chosen], fit.factor


class _Fit:
    """Least-squares fit of the factors of chosen columns, all positive; its QR factors are updated.

    Attributes:
        chosen: Columns of the matrix.
        factor: Their factors.
    """

    def __init__(self, rows: CubatureRows) -> None:
        self._rows = rows
        self.chosen: list[int] = []
        self.factor = np.zeros(0)
        self._q, self._r = np.zeros((len(rows.total), 0)), np.zeros((0, 0))

    def add(self, column: int) -> None:
        """Add a column, and remove those whose factor would become negative."""
        q, r = self._q, self._r
        new = self._rows.matrix[:, column]
        along = q.T @ new
        rest = new - q @ along
        again = q.T @ rest  # once more against round-off
        rest -= q @ again
        size = np.linalg.norm(rest)
        if size <= _DEPENDENT * np.linalg.norm(new):
            return
        self._q = np.column_stack([q, rest / size])
        self._r = np.block([[r, (along + again)[:, None]], [np.zeros((1, len(r))), size]])
        self.chosen, self.factor = [*self.chosen, column], np.append(self.factor, 0.0)
        self._solve()

    def _solve(self) -> None:
        while self.chosen:
            wanted = scipy.linalg.solve_triangular(self._r, self._q.T @ self._rows.total)
            negative = wanted <= 0.0
            if not negative.any():
                self.factor = wanted
                return
            steps = self.factor[negative] / (self.factor[negative] - wanted[negative] + np.finfo(float).tiny)
            self.factor = self.factor + float(steps.min()) * (wanted - self.factor)
            for place in np.flatnonzero(self.factor <= _ZERO * self.factor.max())[::-1]:
                q, r = scipy.linalg.qr_delete(self._q, self._r, place, which="col")
                del self.chosen[place]
                self._q, self._r = q[:, : len(self.chosen)], r[: len(self.chosen)]  # a square q stays square
                self.factor = np.delete(self.factor, place)
