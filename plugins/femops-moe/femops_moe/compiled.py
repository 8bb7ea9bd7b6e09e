"""Equilibrium of coupled experts on the CPU, compiled; `galerkin` solves the same equations in batched torch."""

import numpy as np
import numpy.typing as npt

from femops.notation import Array, Indices
from femops.phases.saturating import Saturating
from femops_moe.experts import Experts
from femops_moe.galerkin import Equilibrium
from femops_moe.kernel import GROUP, Tables, newton

# Orthonormal deviators: of (11, 22, 12, 33) in plane strain and of (11, 22, 33, 23, 13, 12) in 3D.
_R2, _R6 = 2.0**-0.5, 6.0**-0.5
_DEVIATOR = {
    3: np.array([[_R2, -_R2, 0, 0], [_R6, _R6, 0, -2 * _R6], [0, 0, 1, 0]]),
    6: np.array([[_R2, -_R2, 0, 0, 0, 0], [_R6, _R6, -2 * _R6, 0, 0, 0], *np.eye(6)[3:]]),
}
_LANES = 32


class CompiledExperts:
    """Coupled experts whose sampled phases are `saturating`.

    The unknowns are ports, then the bubbles of each expert, without padding.

    Args:
        experts: The experts.
        dtype: Precision of the computation.
    """

    def __init__(self, experts: Experts, dtype: npt.DTypeLike = np.float64) -> None:
        self._n_s, self._n_unknowns = experts.n_s, experts.n_ports + sum(experts.counts)
        self._tables = Tables(
            *(one if one.dtype.kind == "i" else one.astype(dtype) for one in _tables(experts))
        )

    @staticmethod
    def applies(experts: Experts) -> bool:
        """Return whether the kernel knows the sampled energies."""
        return all(isinstance(phase, Saturating) for phase, _ in experts.sampled)

    def solve(self, strain: Array, start: Array, evaluations: int, tolerance: float) -> Equilibrium:
        """Solve for the unknowns at all strains; a strain that has converged leaves the batch.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
            start: Initial unknowns. Shape (n, n_unknowns).
            evaluations: Largest number of evaluations of the energies, one more than Newton steps.
            tolerance: Decrement at convergence [-].
        """
        n, n_s, n_e = len(strain), self._n_s, _DEVIATOR[self._n_s].shape[1]
        dtype = self._tables.quadratic.dtype
        macro = np.zeros((n, n_e), dtype)
        macro[:, :n_s] = strain
        unknowns, stress = np.array(start, dtype), np.empty((n, n_e), dtype)
        tangent, decrement = np.empty((n, n_e, n_e), dtype), np.empty(n, dtype)
        unfinished = np.arange(n)
        for number in range(evaluations):
            enough = tolerance if number < evaluations - 1 else np.inf
            answer = (unknowns, stress, tangent, decrement)
            newton(macro, unfinished, self._tables, _LANES, enough, answer)
            unfinished = unfinished[~(decrement[unfinished] <= tolerance)]
            if not len(unfinished):
                break
        unknowns, stress, tangent, decrement = (one.astype(np.float64) for one in answer)
        plane = n_e > n_s
        return Equilibrium(
            unknowns,
            stress[:, :n_s],
            tangent[:, :n_s, :n_s],
            stress[:, n_s] if plane else np.zeros(n),
            tangent[:, n_s, :n_s] if plane else np.zeros((n, n_s)),
            decrement,
        )


def _tables(experts: Experts) -> Tables:
    """Return the experts as the kernel takes them, in double precision."""
    n_s, n_shared, counts = experts.n_s, experts.n_shared, np.array(experts.counts)
    deviator = _DEVIATOR[n_s]
    n_e = deviator.shape[1]
    plane = n_e - n_s
    maps, weight = experts.maps.numpy(), experts.weight.numpy()
    quadratic = np.insert(experts.quadratic.numpy(), [n_s] * plane, 0.0, axis=1)
    quadratic = np.insert(quadratic, [n_s] * plane, 0.0, axis=2)
    projection = np.insert(np.einsum("as,kpsi->kpai", deviator[:, :n_s], maps), [n_s] * plane, 0.0, axis=3)
    if plane:  # the derivative by the strain 33 is the stress 33
        normal = np.insert(experts.normal.numpy(), n_s, 1.0, axis=1)
        quadratic[:, n_s], quadratic[:, :, n_s] = normal, normal
        projection[..., n_s] = deviator[:, n_s]
    used = (weight[:, :, None, None] * projection != 0.0).any(axis=(1, 2)) | (quadratic != 0.0).any(axis=1)
    used[:, :n_e] = True
    used[:, n_e + experts.n_ports :] = np.arange(experts.n_bubbles) < counts[:, None]
    first = n_shared + plane + np.cumsum(counts) - counts  # of the bubbles of each expert in (E, unknowns)
    m, n_c = int(used.sum(axis=1).max()), -(-int((weight > 0.0).sum(axis=1).max()) // GROUP) * GROUP
    n_experts, n_d = len(counts), len(deviator)
    own = np.arange(m)
    row, column = np.tril_indices(m)
    parameters = np.tile([0.0, 1.0, 1.0], (n_experts, n_c, 1))
    small = (np.zeros((n_experts, m, m)), np.zeros((n_experts, n_c, n_d, m)), np.zeros((n_experts, n_c, len(row))))
    places, sizes = np.zeros((n_experts, m), np.int64), np.zeros((n_experts, 3), np.int64)
    constants = np.zeros((weight.shape[1], 2))
    for phase, part in experts.sampled:
        constants[part] = phase.alpha1, phase.alpha2
    for k in range(n_experts):
        mine, points = np.flatnonzero(used[k]), np.flatnonzero(weight[k] > 0.0)
        place = np.where(mine < n_e + experts.n_ports, mine, mine - n_e - experts.n_ports + first[k])
        places[k, : len(mine)] = place
        sizes[k] = len(mine) - counts[k], len(mine), -(-len(points) // GROUP) * GROUP
        small[0][k, : len(mine), : len(mine)] = quadratic[k][np.ix_(mine, mine)]
        small[1][k, : len(points), :, : len(mine)] = projection[k, points][:, :, mine]
        small[2][k] = (small[1][k][:, :, row] * small[1][k][:, :, column]).sum(axis=1)
        parameters[k, : len(points), 0] = weight[k, points]
        parameters[k, : len(points), 1:] = constants[points]
    rows, starts = _fill(used[:, : n_e + experts.n_ports], n_e)
    return Tables(*small, parameters, places, sizes, rows, starts)


def _fill(used: npt.NDArray[np.bool_], n_e: int) -> tuple[Indices, Indices]:
    """Return `rows` and `starts` of the elimination of the ports, from the last to the first.

    Args:
        used: Whether strains and ports are used by each expert. Shape (K, n_e + n_ports).
        n_e: Number of strains.
    """
    entries = (used.T.astype(np.float32) @ used.astype(np.float32)) > 0.0
    rows = []
    for p in range(len(entries) - 1, n_e - 1, -1):
        row = np.flatnonzero(entries[p, :p])
        entries[np.ix_(row, row)] = True
        rows.append(row)
    rows.reverse()
    starts = np.cumsum([0, *(len(row) for row in rows)])
    return np.concatenate([np.zeros(0, np.int64), *rows]), starts
