"""Empirical cubature of every expert: few points with positive weights replace the quadrature points of its subdomain.

For each expert, the points' shares in the gradient of the sampled energy at training states are decomposed by singular
values. Nonnegative least squares (Lawson and Hanson 1974) find at most one point for each singular vector kept
(Hernández, Caicedo and Ferrer, CMAME 313, 2017); all experts keep the vectors above one size. Positive weights keep
the energy convex.

By the envelope theorem, an error of the gradient changes the homogenized stress to first order only through its total
derivative by the strain, with the sensitivities of the unknowns; the derivatives by the unknowns have a smaller weight.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from femops.notation import Array
from femops.surrogate import chunks
from femops.surrogate.torch_library import Tensor, torch
from femops_moe.experts import Experts, restricted
from femops_moe.galerkin import equilibrium, point_values, sensitivity

_WEIGHT_OF_UNKNOWNS = 0.3
_SKETCH = 400  # random combinations of the functionals, far more than singular vectors are kept
_EVALUATIONS, _CONVERGED = 12, 1e-14
_LARGEST, _STEPS = 1e-4, 16  # sizes of the singular vectors to keep: the first, and how often it is halved


@dataclass(frozen=True)
class Shares:
    """The points' shares of an expert in the functionals to integrate, by singular values.

    Attributes:
        sizes: Singular values, descending. Shape (r,).
        vectors: Singular vectors over the points, and the volumes of the points. Shape (r + 1, P).
    """

    sizes: Array
    vectors: Array

    def factors(self, smallest: float) -> Array:
        """Return factors (P,) of the weights, mostly zero, that keep the functionals above a size."""
        rows = self.vectors[np.append(self.sizes > smallest, True)]
        return np.asarray(nnls(rows, rows.sum(axis=1), maxiter=10 * rows.shape[1])[0])


def choose(
    experts: Experts, strain: Array, metric: Array, tolerance: float, seed: int
) -> tuple[Array, dict[int, float]]:
    """Choose cubature points until the stress of the experts at training states is as accurate as wanted.

    Args:
        experts: The experts with all points.
        strain: Strains of the training states, Mandel [-]. Shape (T, n_s).
        metric: Metric of stresses [1/stress]. Shape (n_s, n_s).
        tolerance: Median relative error of the stress, in the norm of `metric`.
        seed: Seed of the random combinations of functionals.

    Returns:
        Factors of the weights, shape (K, P), and the error by number of points.
    """
    given = torch.as_tensor(strain)

    def stress(of: Experts) -> Array:
        start = given.new_zeros(len(given), of.n_unknowns)
        return np.asarray(equilibrium(of, given, start, _EVALUATIONS, _CONVERGED).stress.numpy())

    truth, found, smallest = stress(experts), shares(experts, strain, metric, seed), _LARGEST
    root, errors = np.linalg.cholesky(metric), dict[int, float]()
    for _ in range(_STEPS):
        factor = np.stack([one.factors(smallest) for one in found])
        change = np.linalg.norm((stress(restricted(experts, factor)) - truth) @ root, axis=1)
        errors[int((factor > 0.0).sum())] = error = float(np.median(change / np.linalg.norm(truth @ root, axis=1)))
        if error <= tolerance:
            break
        smallest *= 0.5
    return factor, errors


def shares(experts: Experts, strain: Array, metric: Array, seed: int) -> list[Shares]:
    """Return the shares of the points of every expert; arguments as in `choose`.

    Stresses are measured relative to the square root of the work, because soft deformations, which contribute little to
    the stress, affect the fluctuation as much as stiff ones.
    """
    n_experts, n_points = experts.weight.shape
    rng, sums = np.random.default_rng(seed), np.zeros((n_experts, _SKETCH, n_points))
    for part in chunks(len(strain), 8.0 * n_experts * n_points * experts.maps.shape[3] * 4):
        force, wanted = _functionals(
            experts, torch.as_tensor(strain[part]), torch.as_tensor(np.linalg.cholesky(metric))
        )
        for k, (of_expert, maps) in enumerate(zip(force, experts.maps, strict=True)):
            local = torch.einsum("ngs,gsi->nig", of_expert, maps)
            rows = (wanted[k].mT @ local).flatten(0, 1).numpy()
            sums[k] += rng.standard_normal((_SKETCH, len(rows))) @ rows
    result = []
    for matrix, weight in zip(sums, experts.weight.numpy(), strict=True):
        _, sizes, vectors = np.linalg.svd(matrix, full_matrices=False)
        volume = weight / max(float(np.linalg.norm(weight)), np.finfo(float).tiny)
        result.append(Shares(sizes / (_SKETCH * len(strain)) ** 0.5, np.vstack([vectors, volume])))
    return result


def _functionals(experts: Experts, strain: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted stresses at the points (K, n, P, n_s), and maps z → functionals (K, n, m, c) of forces."""
    n_s = experts.n_s
    start = strain.new_zeros(len(strain), experts.n_unknowns)
    found = equilibrium(experts, strain, start, _EVALUATIONS, _CONVERGED)
    z, columns = experts.local(strain, found.unknowns), sensitivity(experts, strain, found.unknowns)
    units = torch.eye(n_s).to(strain).expand(len(strain), -1, -1)
    totals = torch.stack([experts.local(units[:, s], columns[:, :, s]) for s in range(n_s)], 3) @ root
    single = torch.eye(z.shape[2]).to(strain)[:, n_s:] * (_WEIGHT_OF_UNKNOWNS / experts.n_unknowns**0.5)
    every = torch.cat([totals, single.expand(*totals.shape[:2], -1, -1)], 3)
    work = (found.stress * strain).sum(1)
    return point_values(experts, z).stress.permute(1, 2, 3, 0), every / work.sqrt()[:, None, None]
