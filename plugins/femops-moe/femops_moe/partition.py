"""Partition of an RVE into the subdomains of the experts."""

from dataclasses import dataclass

import numpy as np

from femops.devices.own_symbols import own_symbols
from femops.errors import CaseError
from femops.meshing.building import local_facets
from femops.notation import Indices
from femops.surrogate.fields.fluctuation_space import FluctuationSpace

with own_symbols():  # METIS of PETSc's wheel counts in other integers
    import pymetis


@dataclass(frozen=True)
class Partition:
    """Cells of an RVE by expert, and the interface between them.

    The interface consists of the nodes with cells of several experts. Periodic images are one node, so that opposite
    faces of the RVE belong to the interface where they separate experts.

    Attributes:
        expert: Expert of each cell, in the cell order of the RVE. Shape (n_cells,).
        owner: Expert of each node of the fluctuation space; −1 on the interface. Shape (n_nodes,).
    """

    expert: Indices
    owner: Indices

    @property
    def n_experts(self) -> int:
        """Number of experts."""
        return int(self.expert.max()) + 1

    @classmethod
    def of_cells(cls, space: FluctuationSpace, expert: Indices) -> "Partition":
        """Return the partition with given experts of the cells (n_cells,), numbered from 0 without gaps."""
        first, last = np.full(space.n_nodes, expert.max() + 1), np.full(space.n_nodes, -1)
        of_nodes = np.broadcast_to(expert[:, None], space.cells.shape)
        np.minimum.at(first, space.cells, of_nodes)
        np.maximum.at(last, space.cells, of_nodes)
        return cls(expert, np.where(first == last, first, -1))


def grid(space: FluctuationSpace, count: int) -> Partition:
    """Divide the bounding box into `count` parts along each axis; cells belong to the part of their centre.

    Args:
        space: Fluctuations of the RVE.
        count: Experts along each axis; parts without cells (voids) have none.
    """
    mesh = space.discretisation.mesh
    lower, upper = mesh.bounds
    centre = mesh.points[mesh.cells].mean(axis=1)
    place = np.clip(((centre - lower) / (upper - lower) * count).astype(np.int64), 0, count - 1)
    number = np.ravel_multi_index(tuple(place.T), (count,) * mesh.dim)
    return Partition.of_cells(space, np.unique(number, return_inverse=True)[1])


def bisection(space: FluctuationSpace, count: int) -> Partition:
    """Divide the cells evenly by recursive bisection of their dual graph, which connects periodic neighbours too.

    G. Karypis and V. Kumar, SIAM J. Sci. Comput. 20 (1998), 359–392 (METIS).

    Args:
        space: Fluctuations of the RVE.
        count: Number of experts.

    Raises:
        CaseError: There are fewer cells than experts.
    """
    n_cells = len(space.cells)
    if count > n_cells:
        raise CaseError(f"{count} given, but the RVE has {n_cells} cells; expected no more experts", key="experts")
    starts, neighbours = _dual_graph(space)
    found = pymetis.part_graph(count, pymetis.CSRAdjacency(starts, neighbours), recursive=True)
    return Partition.of_cells(space, np.unique(found.vertex_part, return_inverse=True)[1])


def _dual_graph(space: FluctuationSpace) -> tuple[Indices, Indices]:
    """Return the pairs of cells with a common facet as offsets (n_cells + 1,) and neighbours."""
    facets = np.sort(space.cells[:, local_facets(space.discretisation.mesh.kind)], axis=2)
    n_cells, n_facets, _ = facets.shape
    number = np.unique(facets.reshape(n_cells * n_facets, -1), axis=0, return_inverse=True)[1]
    order = np.argsort(number, kind="stable")
    shared = np.flatnonzero(number[order[:-1]] == number[order[1:]])
    one, other = order[shared] // n_facets, order[shared + 1] // n_facets
    one, other = one[one != other], other[one != other]  # a cell may be its own periodic neighbour
    first, second = np.concatenate([one, other]), np.concatenate([other, one])
    by_first = np.argsort(first, kind="stable")
    return np.concatenate([[0], np.cumsum(np.bincount(first, minlength=n_cells))]), second[by_first]
