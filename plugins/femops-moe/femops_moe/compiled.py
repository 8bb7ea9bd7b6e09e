"""Equilibrium of coupled experts on the CPU, compiled; `galerkin` solves the same equations in batched torch."""

import numpy as np
import numpy.typing as npt

from femops.notation import Array, Indices
from femops.phases.saturating import Saturating
from femops_moe.experts import Experts
from femops_moe.galerkin import BatchedExperts, Equilibrium
from femops_moe.kernel import GROUP, Tables, newton
from femops_moe.tiled import TiledExperts, TiledSolver

# Orthonormal deviators: of (11, 22, 12, 33) in plane strain and of (11, 22, 33, 23, 13, 12) in 3D.
_R2, _R6 = 2.0**-0.5, 6.0**-0.5
_DEVIATOR = {
    3: np.array([[_R2, -_R2, 0, 0], [_R6, _R6, 0, -2 * _R6], [0, 0, 1, 0]]),
    6: np.array([[_R2, -_R2, 0, 0, 0, 0], [_R6, _R6, -2 * _R6, 0, 0, 0], *np.eye(6)[3:]]),
}
_LANES = 8, 128  # strains per block, at least and at most: registers are filled, and blocks fit into the cache
_BYTES = 512e6  # for the matrices of a block
_MOST_PORTS = 4096  # of components: the kernel's matrix of the ports is dense in memory


class CompiledExperts:
    """Coupled experts whose sampled phases are `saturating`; see `BatchedExperts`, which has the same methods.

    Args:
        experts: The experts, on the CPU.
        number: Number of each expert's ports among all, −1 for fixed ones, shape (K, n_p), where the ports of an expert
            are its own.

    Attributes:
        tables: What the kernel takes.
    """

    def __init__(self, experts: Experts, number: Indices | None = None) -> None:
        if number is None:
            number = np.tile(np.arange(experts.n_ports), (len(experts.counts), 1))
        self._n_s, self.tables = experts.n_s, _tables(experts, number)
        self._lanes = _lanes(self.tables)

    def solve(self, strain: Array, start: Array, evaluations: int, tolerance: float) -> Equilibrium:
        """Return the response; a strain that has converged leaves the batch. See `BatchedExperts.solve`."""
        unfinished, answer = np.arange(len(strain)), self._answer(strain, start)
        for number in range(evaluations):
            enough = tolerance if number < evaluations - 1 else np.inf
            self._step(strain, unfinished, enough, answer)
            unfinished = unfinished[~(answer[3][unfinished] <= tolerance)]
            if not len(unfinished):
                break
        unknowns, stress, tangent, decrement = (one.astype(np.float64) for one in answer[:4])
        n_s, plane = self._n_s, stress.shape[1] > self._n_s
        return Equilibrium(
            unknowns,
            stress[:, :n_s],
            tangent[:, :n_s, :n_s],
            stress[:, n_s] if plane else np.zeros(len(strain)),
            tangent[:, n_s, :n_s] if plane else np.zeros(strain.shape),
            decrement,
        )

    def sensitivity(self, strain: Array, unknowns: Array) -> Array:
        """Return the derivative of the unknowns by the strain; see `BatchedExperts.sensitivity`."""
        answer = self._answer(strain, unknowns, len(strain))
        self._step(strain, np.arange(len(strain)), np.inf, answer)
        return answer[4][:, :, : self._n_s].astype(np.float64)

    def _step(self, strain: Array, points: Indices, tolerance: float, answer: tuple[Array, ...]) -> None:
        macro = np.zeros(answer[1].shape, answer[1].dtype)
        macro[:, : self._n_s] = strain
        lanes = -(-max(len(points), 1) // _LANES[0]) * _LANES[0]
        newton(macro, points, self.tables, min(lanes, self._lanes), tolerance, answer)

    def _answer(self, strain: Array, start: Array, n_slopes: int = 0) -> tuple[Array, ...]:
        """Return the arrays that the kernel writes; the first holds the initial unknowns."""
        (n, n_unknowns), n_e = start.shape, _DEVIATOR[self._n_s].shape[1]
        dtype = self.tables.quadratic.dtype
        shapes = [(n, n_e), (n, n_e, n_e), (n,), (n_slopes, n_unknowns, n_e)]
        return np.array(start, dtype), *(np.empty(shape, dtype) for shape in shapes)


def solver(experts: Experts) -> CompiledExperts | BatchedExperts:
    """Return the fastest solver of coupled experts: compiled on the CPU if it knows their phases."""
    return CompiledExperts(experts) if _knows(experts) else BatchedExperts(experts)


def tiled_solver(one: TiledExperts) -> CompiledExperts | TiledSolver:
    """Return the fastest solver of components, likewise."""
    few = one.n_ports <= _MOST_PORTS
    return CompiledExperts(one.experts, one.number) if few and _knows(one.experts) else TiledSolver(one)


def _knows(experts: Experts) -> bool:
    return not experts.maps.is_cuda and all(isinstance(phase, Saturating) for phase, _ in experts.sampled)


def _lanes(tables: Tables) -> int:
    """Return the most strains per block, whose matrices the kernel keeps."""
    m, n_shared = tables.quadratic.shape[1], len(tables.starts)  # without the strains
    entries = len(tables.quadratic) * m * (m + 1) // 2 + n_shared * (n_shared + 1) // 2
    least, most = _LANES
    allowed = int(_BYTES / (entries * tables.quadratic.itemsize)) // least * least
    return min(max(allowed, least), most)


def _tables(experts: Experts, number: Indices) -> Tables:
    """Return the experts as the kernel takes them; `number` as in `CompiledExperts`."""
    quadratic, projection, parameters = _with_strain_33(experts)
    (n_experts, _, n_d, _), n_e = projection.shape, _DEVIATOR[experts.n_s].shape[1]
    n_fixed, n_shared, counts = n_e + experts.n_ports, n_e + int(number.max(initial=-1)) + 1, np.array(experts.counts)
    weighted = parameters[:, :, 0] > 0.0
    used = (weighted[:, :, None, None] & (projection != 0.0)).any(axis=(1, 2)) | (quadratic != 0.0).any(axis=1)
    used[:, :n_e], used[:, n_fixed:] = True, np.arange(experts.n_bubbles) < counts[:, None]
    used[:, n_e:n_fixed] &= number >= 0
    n_points = -(-weighted.sum(axis=1) // GROUP) * GROUP
    sizes = np.stack([used[:, :n_fixed].sum(axis=1), used.sum(axis=1), n_points], axis=1)
    m, c = int(sizes[:, 1].max()), int(n_points.max())
    places, few = np.zeros((n_experts, m), np.int64), np.tile([0.0, 1.0, 1.0], (n_experts, c, 1))
    q, p = np.zeros((n_experts, m, m)), np.zeros((n_experts, c, n_d, m))
    others = np.cumsum(counts) - counts  # bubbles of the experts before
    shared = np.zeros((n_experts, n_shared), dtype=bool)
    for k, (n_k, m_k, _) in enumerate(sizes):
        own = n_shared + others[k] + np.arange(experts.n_bubbles)
        place = np.concatenate([np.arange(n_e), n_e + number[k], own])
        mine, points = np.flatnonzero(used[k]), np.flatnonzero(weighted[k])
        mine = mine[np.argsort(place[mine])]
        places[k, :m_k] = place[mine]
        shared[k, place[mine[:n_k]]] = True
        q[k, :m_k, :m_k] = quadratic[k][np.ix_(mine, mine)]
        p[k, : len(points), :, :m_k] = projection[k, points][:, :, mine]
        few[k, : len(points)] = parameters[k, points]
    rows, starts = _fill(shared, n_e)
    dtype = experts.maps.numpy().dtype
    return Tables(q.astype(dtype), p.astype(dtype), few.astype(dtype), places, sizes, rows, starts)


def _with_strain_33(experts: Experts) -> tuple[Array, Array, Array]:
    """Return Q (K, m, m), P (K, P, n_d, m) and (ω, α₁, α₂) (K, P, 3), in plane strain with the strain 33 in z.

    The derivative of the energy by that strain is the stress 33; its second derivative is not needed.
    """
    n_s, deviator = experts.n_s, _DEVIATOR[experts.n_s]
    where = [n_s] * (deviator.shape[1] - n_s)
    quadratic = np.insert(np.insert(experts.quadratic.numpy(), where, 0.0, axis=1), where, 0.0, axis=2)
    maps = np.einsum("as,kpsi->kpai", deviator[:, :n_s], experts.maps.numpy(), optimize=True)
    projection = np.insert(maps, where, 0.0, axis=3)
    if where:
        normal = np.insert(experts.normal.numpy(), n_s, 1.0, axis=1)
        quadratic[:, n_s], quadratic[:, :, n_s] = normal, normal
        projection[..., n_s] = deviator[:, n_s]
    parameters = np.ones((*experts.points.shape, 3))
    parameters[:, :, 0] = experts.weight.numpy()
    for phase, part in experts.sampled:
        assert isinstance(phase, Saturating)  # see `solver`
        parameters[:, part, 1:] = phase.alpha1, phase.alpha2
    return quadratic, projection, parameters


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
