"""Empirical cubature: few points with positive weights replace the quadrature points of the experts.

The points' shares in the gradient of the sampled energy at training states are decomposed by singular values.
Nonnegative least squares (Lawson and Hanson 1974) find at most one point for each singular vector kept (Hernández,
Caicedo and Ferrer, CMAME 313, 2017); all vectors above one size are kept. Positive weights keep the energy convex.
Experts are taken in small groups, because errors of their shares in ports and stress may cancel; the cost is linear in
the number of groups.

By the envelope theorem, an error of the gradient changes the homogenized stress to first order only through its total
derivative by the strain, with the sensitivities of the unknowns; the derivatives by the unknowns have a smaller weight.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array, Indices
from femops.surrogate import chunks
from femops.surrogate.sketch import random_signs
from femops_moe.compiled import solver
from femops_moe.experts import Experts, restricted
from femops_moe.galerkin import local_strain, point_values
from femops_moe.tiled import TiledExperts

_WEIGHT_OF_UNKNOWNS = 0.05
_SKETCH = 400  # random combinations of the functionals per expert, far more than singular vectors are kept
_CANDIDATES = 5000  # points of a group that may be chosen
_EVALUATIONS, _CONVERGED = 12, 1e-14
_LARGEST, _SMALLER, _TRIALS = 3e-5, (0.3, 0.7), 16  # sizes of the singular vectors to keep: first, relative to the last
_ORDER = 2.0  # of the error in that size, about


@dataclass(frozen=True)
class Shares:
    """The points' shares of a group of k experts in the functionals to integrate, by singular values.

    Attributes:
        sizes: Singular values, descending. Shape (r,).
        vectors: Singular vectors over the candidates, and their volumes. Shape (r + 1, c).
        wanted: Sums of the same over all points. Shape (r + 1,).
        candidates: Points that may be chosen, a random part of many. Shape (c,).
        n_points: k · P.
    """

    sizes: Array
    vectors: Array
    wanted: Array
    candidates: Indices
    n_points: int

    def factors(self, smallest: float) -> Array:
        """Return factors (k · P,) of the weights, mostly zero, that keep the functionals above a size."""
        kept, factor = np.append(self.sizes > smallest, True), np.zeros(self.n_points)
        rows = self.vectors[kept]
        factor[self.candidates] = nnls(rows, self.wanted[kept], maxiter=10 * rows.shape[1])[0]
        return factor


def choose(
    experts: Experts, strain: Array, metric: Array, tolerance: float, seed: int, together: int = 2
) -> tuple[Array, dict[int, float]]:
    """Choose cubature points until the stress of the experts at training states is as accurate as wanted.

    Args:
        experts: The experts with all points.
        strain: Strains of the training states, Mandel [-]. Shape (T, n_s).
        metric: Metric of stresses [1/stress]. Shape (n_s, n_s).
        tolerance: Median relative error of the stress, in the norm of `metric`.
        seed: Seed of the random combinations of functionals.
        together: Experts in a group; more find fewer points, in a time that grows with the cube of the points.

    Returns:
        Factors of the weights, shape (K, P), and the error by number of points.
    """
    full = solver(experts).solve(strain, np.zeros((len(strain), len(experts.used))), _EVALUATIONS, _CONVERGED)
    found, smallest = shares(experts, strain, full.unknowns, metric, seed, together), _LARGEST
    root, errors = np.linalg.cholesky(metric), dict[int, float]()
    for _ in range(_TRIALS):
        factor = np.concatenate([one.factors(smallest) for one in found]).reshape(experts.points.shape)
        few = solver(restricted(experts, factor)).solve(strain, full.unknowns, _EVALUATIONS, _CONVERGED)
        change, size = (np.linalg.norm(one @ root, axis=1) for one in (few.stress - full.stress, full.stress))
        errors[int((factor > 0.0).sum())] = error = float(np.median(change / size))
        if error <= tolerance:
            break
        smallest *= float(np.clip((tolerance / error) ** (1.0 / _ORDER), *_SMALLER))
    return factor, errors


def shares(experts: Experts, strain: Array, unknowns: Array, metric: Array, seed: int, together: int) -> list[Shares]:
    """Return the shares of the points of every group of experts.

    Stresses are measured relative to the square root of the work, because soft deformations, which contribute little to
    the stress, affect the fluctuation as much as stiff ones.

    Args:
        experts: The experts with all points.
        strain: Strains of the training states. Shape (T, n_s).
        unknowns: Unknowns in equilibrium there. Shape (T, n_unknowns).
        metric: Metric of stresses. Shape (n_s, n_s).
        seed: Seed of the random combinations of functionals.
        together: Experts in a group.
    """
    n_experts, n_points = experts.points.shape
    count = _SKETCH * together
    rng, sums = np.random.default_rng(seed), np.zeros((n_experts, count, n_points))
    groups = [slice(k, min(k + together, n_experts)) for k in range(0, n_experts, together)]
    totals, n_shared = solver(experts).sensitivity(strain, unknowns) @ np.linalg.cholesky(metric), experts.n_shared
    for part in chunks(len(strain), 8.0 * n_points * (n_experts * 6 * experts.n_s + 3 * experts.maps.shape[3])):
        z = experts.local(torch.as_tensor(strain[part]), torch.as_tensor(experts.padded(unknowns[part])))
        force, wanted = forces(experts, z), changes(experts, totals[part], np.linalg.cholesky(metric))
        for group in groups:
            common = random_signs(rng, count, len(wanted[0]) * n_shared)
            for k in range(group.start, group.stop):
                local = torch.einsum("ngs,gsi->nig", force[k], experts.maps[k])
                local[:, : experts.n_s], local[:, experts.n_s :] = (
                    wanted[k].mT @ local,
                    local[:, experts.n_s :] * (_WEIGHT_OF_UNKNOWNS / len(experts.used) ** 0.5),
                )
                shared, own = (one.flatten(0, 1).numpy() for one in (local[:, :n_shared], local[:, n_shared:]))
                sums[k] += common @ shared + random_signs(rng, count, len(own)) @ own
    return [_decomposed(sums[group], experts.weight[group].numpy(), len(strain), rng) for group in groups]


def _decomposed(sums: Array, weight: Array, n: int, rng: np.random.Generator) -> Shares:
    """Return the singular values of a group's sums (k, n_sums, P) of functionals at n states; weights are (k, P)."""
    matrix, volume = sums.transpose(1, 0, 2).reshape(len(sums[0]), -1), weight.ravel()
    candidates = np.sort(rng.permutation(np.flatnonzero(volume > 0.0))[:_CANDIDATES])
    some = matrix[:, candidates]
    squares, left = np.linalg.eigh(some @ some.T)
    kept = np.flatnonzero(squares > 1e-14 * squares[-1])[::-1]
    sizes = np.sqrt(squares[kept])
    to_vectors = (left[:, kept] / sizes).T
    size = max(float(np.linalg.norm(volume[candidates])), np.finfo(float).tiny)
    vectors = np.vstack([to_vectors @ some, volume[candidates] / size])
    wanted = np.append(to_vectors @ matrix.sum(axis=1), volume.sum() / size)
    part = len(candidates) / max(int(np.count_nonzero(volume)), 1)
    return Shares(sizes / (n * part) ** 0.5, vectors, wanted, candidates, len(volume))


def forces(experts: Experts, z: Tensor) -> Tensor:
    """Return the weighted stresses at the points at z (K, n, P, n_s), relative to the square root of the work."""
    force = point_values(experts, z).stress.permute(1, 2, 3, 0)
    work = (force.flatten(2) * local_strain(experts, z).permute(1, 2, 3, 0).flatten(2)).sum((0, 2))
    work = work + torch.einsum("kni,kij,knj->n", z, experts.quadratic, z)
    return force / work.sqrt()[None, :, None, None]


def changes(experts: Experts | TiledExperts, totals: Array, root: Array) -> Tensor:
    """Return the changes of z for those of the strain, the columns of `root` (n_s, n_s). Shape (K, n, m, n_s).

    `totals` (n, n_unknowns, n_s) are the changes of the unknowns.
    """
    found = [
        experts.local(torch.as_tensor(np.tile(unit, (len(totals), 1))), torch.as_tensor(experts.padded(change)))
        for unit, change in zip(root.T, np.moveaxis(totals, 2, 0), strict=True)
    ]
    return torch.stack(found, 3)
