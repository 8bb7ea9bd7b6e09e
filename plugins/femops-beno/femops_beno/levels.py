"""Coarse levels that follow the shape: smoothed aggregation of the free nodes of a mesh.

Aggregates join nodes that are neighbours in the mesh, so that no level connects nodes across a notch or a hole. The
basis functions of a level vanish at the prescribed nodes, as those of the mesh do (Vaněk, Mandel and Brezina, Computing
56, 1996; built by PyAMG).
"""

import numpy as np
import numpy.typing as npt
import pyamg
import scipy.sparse as sp

from femops.meshing import TaggedMesh
from femops.surrogate.graph import FEGraph, Hierarchy, Level, fe_graph, graph_of_matrices, pooling
from femops.surrogate.message_passing import cell_operator

_COARSEST = 12
# Local weights: the default estimates an eigenvalue from random vectors, which would make the levels random.
_JACOBI = ("jacobi", {"omega": 4.0 / 3.0, "weighting": "local"})


def shape_hierarchy(mesh: TaggedMesh, free: npt.NDArray[np.bool_], stiffness: sp.csr_array) -> Hierarchy:
    """Return the graphs of a mesh and of coarser levels; all nodes are free.

    Args:
        mesh: A mesh of linear cells.
        free: Mask of the nodes that are not prescribed. Shape (n_nodes,).
        stiffness: A scalar stiffness of the nodes of the mesh; it determines which nodes are strongly connected. Shape
            (n_nodes, n_nodes).

    Returns:
        As many levels as it takes to a few nodes; at least one.
    """
    levels = [Level(_without_prescribed(mesh, free))]
    for prolongation, aggregates in aggregations(stiffness[free][:, free]):
        levels.append(_coarser(levels[-1].graph, prolongation, aggregates))
    return tuple(levels)


def aggregations(stiffness: sp.csr_array) -> list[tuple[sp.csr_array, sp.csr_array]]:
    """Return the prolongation and the aggregates of each coarser level of a scalar stiffness.

    The functions of each level add up to 1 away from prescribed nodes.

    Args:
        stiffness: The stiffness of the finest level. Shape (n_nodes, n_nodes).

    Returns:
        The functions of the level, and a matrix that is 1 for the nodes of each aggregate. Shape (n_nodes, n_coarse)
        each.
    """
    multigrid = pyamg.smoothed_aggregation_solver(
        sp.csr_matrix(stiffness), smooth=_JACOBI, improve_candidates=None, max_coarse=_COARSEST, keep=True
    )
    found = []
    for given, coarse in zip(multigrid.levels, multigrid.levels[1:], strict=False):
        fine_sums, sums = (np.asarray(one.B).ravel() for one in (given, coarse))
        prolongation = sp.diags_array(1.0 / fine_sums) @ sp.csr_array(given.P) @ sp.diags_array(sums)
        found.append((sp.csr_array(prolongation), sp.csr_array(given.AggOp)))
    return found


def _without_prescribed(mesh: TaggedMesh, free: npt.NDArray[np.bool_]) -> FEGraph:
    """Return the graph of the free nodes; fields vanish at the others."""
    number = np.where(free, np.cumsum(free) - 1, -1)
    full = fe_graph(mesh.points, mesh.cells, mesh.kind, number, int(free.sum()))
    kept = full.cells >= 0
    mean, gradient = full.mean * kept, full.gradient * kept[:, None]
    return FEGraph(np.maximum(full.cells, 0), mean, gradient, full.volume, full.n_nodes)


def _coarser(graph: FEGraph, prolongation: sp.csr_array, aggregates: sp.csr_array) -> Level:
    """Return the next level; a coarse cell consists of the cells that have most of their nodes in one aggregate.

    Args:
        graph: The finer graph.
        prolongation: Functions of the next level. Shape (n_nodes, n_coarse).
        aggregates: 1 for the nodes of each aggregate. Shape (n_nodes, n_coarse).
    """
    mean, *slopes = (sp.csr_array(cell_operator(graph)[part :: 1 + graph.dim]) for part in range(1 + graph.dim))
    _, owner = np.unique((mean @ aggregates).toarray().argmax(axis=1), return_inverse=True)
    volume = np.bincount(owner, weights=graph.volume)
    pool = pooling(owner[:, None], graph.volume[:, None], len(volume))
    longer = sp.diags_array((volume[owner] / graph.volume) ** (1.0 / graph.dim))
    gradient = sp.vstack([pool @ longer @ slope @ prolongation for slope in slopes])
    return Level(
        graph_of_matrices(sp.csr_array(pool @ mean @ prolongation), sp.csr_array(gradient), volume), prolongation, pool
    )
