"""Condensation of many components by nested dissection.

Every component eliminates its bubbles; then neighbours are merged in pairs, along the longer axis first, and each pair
eliminates the ports that no other pair has. One batch of Cholesky factorisations over pairs and strains does this for
all pairs of a level, and the number of operations grows like that of nested dissection (A. George, SIAM J. Numer.
Anal. 10, 1973), not like the cube of the number of ports. Macroscale strains, which all components share, are left.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Indices
from femops_moe.galerkin import Elimination


@dataclass(frozen=True)
class Merge:
    """Merges clusters of components in pairs.

    Attributes:
        children: The one or two clusters of each new one; −1 for none. Shape (G, 2).
        kept: Place in each child of the unknowns that are left, macroscale strains first; −1 where it has not got them
            or for padding. Shape (G, 2, B).
        inner: Likewise of those that are eliminated. Shape (G, 2, I).
        eliminated: Numbers of the ports that are eliminated, by new cluster.
    """

    children: Indices
    kept: Indices
    inner: Indices
    eliminated: Indices

    @cached_property
    def places(self) -> Tensor:
        """`kept` and `inner`. Shape (G, 2, B + I)."""
        return torch.as_tensor(np.concatenate([self.kept, self.inner], axis=2))

    @cached_property
    def padding(self) -> Tensor:
        """1 for unknowns that are padding, otherwise 0. Shape (G, B + I)."""
        return (self.places < 0).all(dim=1).double()

    def merged(self, matrix: Tensor) -> Tensor:
        """Return the sum over the children of matrices (C, n, S, S). Shape (G, n, B + I, B + I)."""
        total = torch.diag_embed(self.padding).to(matrix)[:, None]
        padded = torch.nn.functional.pad(matrix, (0, 1, 0, 1, 0, 0, 0, 1))
        n, size = matrix.shape[1], padded.shape[3]
        for child in (0, 1):
            place = (self.places[:, child] % size).to(matrix.device)
            rows = place[:, None, :, None].expand(-1, n, -1, size)
            columns = place[:, None, None, :].expand(-1, n, place.shape[1], -1)
            total = total + padded[self.children[:, child]].gather(2, rows).gather(3, columns)
        return total

    def merged_vectors(self, vectors: Tensor) -> Tensor:
        """Return the sum over the children of vectors (C, n, S, c). Shape (G, n, B + I, c)."""
        padded = torch.nn.functional.pad(vectors, (0, 0, 0, 1, 0, 0, 0, 1))
        _, n, size, columns = padded.shape
        places = (self.places % size).to(vectors.device)[..., None]
        first, second = (
            padded[self.children[:, child]].gather(2, places[:, child, None].expand(-1, n, -1, columns))
            for child in (0, 1)
        )
        return first + second

    def divided(self, vectors: Tensor, n_children: int, size: int) -> Tensor:
        """Return the values of each child (C, n, S, c) of those of the clusters (G, n, B + I, c)."""
        _, n, _, columns = vectors.shape
        found = vectors.new_zeros(n_children + 1, n, size + 1, columns)
        places = (self.places % (size + 1)).to(vectors.device)[..., None]
        for child in (0, 1):
            values = found[self.children[:, child]]
            values.scatter_(2, places[:, child, None].expand(-1, n, -1, columns), vectors)
            found[self.children[:, child]] = values
        return found[:-1, :, :-1]


class Condensation:
    """Elimination of all ports by merges, level by level.

    Args:
        merges: The merges.
        matrix: Matrices of the components in macroscale strains and ports. Shape (K, n, S, S).

    Attributes:
        condensed: What is left of the strains. Shape (n, n_s, n_s).
        failed: Whether a factorisation failed. Shape (n,).
    """

    def __init__(self, merges: Sequence[Merge], matrix: Tensor) -> None:
        self._levels: list[tuple[Merge, Elimination, int, int]] = []
        self.failed = torch.zeros(matrix.shape[1], dtype=torch.bool, device=matrix.device)
        for merge in merges:
            level = Elimination(merge.merged(matrix), merge.kept.shape[2])
            self._levels.append((merge, level, len(matrix), matrix.shape[2]))
            self.failed, matrix = self.failed | level.failed.any(0), level.condensed
        self.condensed = matrix[0]

    def solve(self, force: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the response to forces on the components (K, n, S, c).

        Returns:
            Change −K⁻¹ f of the ports of each component, zero for strains, shape (K, n, S, c); what is left of the
            forces on the strains, shape (n, n_s, c); and f₁ · K⁻¹ f with the first force f₁, shape (n, c).
        """
        work, own = force.new_zeros(force.shape[1], force.shape[3]), []
        for merge, level, _, _ in self._levels:
            inner, force = level.forward(merge.merged_vectors(force))
            own.append(inner)
            work = work + (inner[..., :1] * inner).sum((0, 2))
        change = torch.zeros_like(force)
        for (merge, level, count, size), inner in zip(reversed(self._levels), reversed(own), strict=True):
            change = merge.divided(torch.cat([change, level.backward(inner, change)], 2), count, size)
        return change, force[0], work


def dissection(number: Indices, shape: tuple[int, ...], n_shared: int) -> list[Merge]:
    """Return the merges of a grid of components.

    Args:
        number: Numbers of the ports of each component, different ones within each; −1 for those that are fixed. Shape
            (K, L).
        shape: Number of rows and columns, in 3D of layers, rows and columns.
        n_shared: Number of unknowns that all components share and that are left: the macroscale strains.
    """
    clusters = np.arange(len(number)).reshape(shape)
    ports = [{int(one): place for place, one in enumerate(row) if one >= 0} for row in number]
    merges = []
    while clusters.size > 1:
        pairs, clusters = _pairs(clusters)
        holders = Counter(port for own in ports for port in own)
        merge, ports = _merge(pairs, ports, holders, n_shared)
        merges.append(merge)
    return merges


def renumbered(number: Indices, shape: tuple[int, ...]) -> Indices:
    """Return the numbers of the ports (K, L) in the order in which nested dissection eliminates them, the last first.

    Args:
        number: Numbers of the ports of each component; see `dissection`.
        shape: Number of rows and columns, in 3D of layers, rows and columns.
    """
    order = np.concatenate([merge.eliminated for merge in dissection(number, shape, 0)])[::-1]
    found = np.full(len(order) + 1, -1)  # the last one is fixed
    found[order] = np.arange(len(order))
    return found[number]


def _pairs(clusters: Indices) -> tuple[Indices, Indices]:
    """Return the pairs of neighbours along the longer axis (G, 2), and the grid of the pairs."""
    axis = int(np.argmax(clusters.shape))
    one, other = (np.take(clusters, np.arange(start, clusters.shape[axis], 2), axis) for start in (0, 1))
    if one.shape != other.shape:
        width = [(0, 0)] * clusters.ndim
        width[axis] = (0, 1)
        other = np.pad(other, width, constant_values=-1)
    pairs = np.stack([one.ravel(), other.ravel()], axis=1)
    return pairs, np.arange(len(pairs)).reshape(one.shape)


def _merge(
    pairs: Indices, ports: list[dict[int, int]], holders: Counter[int], n_shared: int
) -> tuple[Merge, list[dict[int, int]]]:
    """Return a merge, and the places of the ports that are left of each new cluster.

    Args:
        pairs: Clusters to merge. Shape (G, 2).
        ports: Place of each port of the clusters.
        holders: Number of clusters that have a port.
        n_shared: Number of unknowns that all share.
    """
    kept, inner = [], []
    for pair in pairs:
        own = [ports[child] for child in pair if child >= 0]
        within = Counter(port for one in own for port in one)
        kept.append(sorted(port for port in within if holders[port] > within[port]))
        inner.append(sorted(port for port in within if holders[port] == within[port]))
    places = []
    for lists in (kept, inner):
        found = np.full((len(pairs), 2, max(len(one) for one in lists)), -1)
        for group, pair in enumerate(pairs):
            for side, child in enumerate(pair):
                if child >= 0:
                    of_child = [ports[child].get(port, -1) for port in lists[group]]
                    place = np.array(of_child, dtype=np.int64)
                    found[group, side, : len(place)] = np.where(place < 0, -1, place + n_shared)
        places.append(found)
    shared = np.tile(np.arange(n_shared), (len(pairs), 2, 1))
    shared[pairs < 0] = -1
    eliminated = np.array([port for one in inner for port in one], dtype=np.int64)
    merge = Merge(pairs, np.concatenate([shared, places[0]], axis=2), places[1], eliminated)
    return merge, [{port: place for place, port in enumerate(one)} for one in kept]
