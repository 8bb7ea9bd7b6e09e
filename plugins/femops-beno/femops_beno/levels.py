"""Coarse levels that follow the shape: smoothed aggregation of the free nodes of a mesh.

Aggregates join nodes that are neighbours in the mesh, so that no level connects nodes across a notch or a hole. The
basis functions of a level vanish at the prescribed nodes, as those of the mesh do (Vaněk, Mandel and Brezina, Computing
56, 1996; built by PyAMG).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyamg
import scipy.sparse as sp

from femops.meshing import TaggedMesh
from femops.notation import Array
from femops.surrogate.graph import FEGraph, Hierarchy, Level, fe_graph, graph_of_matrices

_PASSES_OF_JACOBI = ("jacobi", {"omega": 4.0 / 3.0})


def shape_hierarchy(mesh: TaggedMesh, free: npt.NDArray[np.bool_], stiffness: sp.csr_array, n_levels: int) -> Hierarchy:
    """Return the graphs of a mesh and of coarser levels, whose nodes are the free ones.

    Args:
        mesh: A mesh of linear cells.
        free: Mask of the nodes that are not prescribed. Shape (n_nodes,).
        stiffness: A scalar stiffness of all nodes, which determines what is near. Shape (n_nodes, n_nodes).
        n_levels: Number of levels, including the mesh; where a level has one node, the following ones repeat it.
    """
    finest = _without_prescribed(mesh, free)
    levels, operator = [Level(finest)], sp.csr_matrix(stiffness[free][:, free])
    multigrid = pyamg.smoothed_aggregation_solver(
        operator, smooth=_PASSES_OF_JACOBI, max_levels=n_levels, max_coarse=1, coarse_solver="pinv", keep=True
    )
    graph, measure = finest, _cell_measures(finest)
    for number in range(n_levels - 1):
        given = multigrid.levels[number] if number + 1 < len(multigrid.levels) else None
        prolongation, owner = _step(given, multigrid, number, graph)
        graph, measure, pool = _coarser(graph, measure, prolongation, owner)
        levels.append(Level(graph, prolongation, pool))
    return tuple(levels)


def _without_prescribed(mesh: TaggedMesh, free: npt.NDArray[np.bool_]) -> FEGraph:
    """Return the graph of the free nodes; fields vanish at the others."""
    number = np.where(free, np.cumsum(free) - 1, -1)
    full = fe_graph(mesh.points, mesh.cells, mesh.kind, number, int(free.sum()))
    kept = full.cells >= 0
    mean, gradient = full.mean * kept, full.gradient * kept[:, None]
    return FEGraph(np.maximum(full.cells, 0), mean, gradient, full.volume, full.n_nodes)


def _cell_measures(graph: FEGraph) -> Array:
    """Return the sizes of the cells, relative to the mean cell of the mesh [-]. Shape (n_cells,)."""
    return graph.volume


def _step(given: Any, multigrid: Any, number: int, graph: FEGraph) -> tuple[sp.csr_array, npt.NDArray[np.int64]]:
    """Return the prolongation from the next level, with row sums of 1 inside, and the aggregate of each node."""
    if given is None:
        return sp.eye_array(graph.n_nodes, format="csr"), np.arange(graph.n_nodes)
    ones = np.asarray(multigrid.levels[number + 1].B).ravel()
    prolongation = sp.csr_array(given.P) @ sp.diags_array(ones)
    aggregates = sp.csr_array(given.AggOp)
    owner = np.zeros(graph.n_nodes, dtype=np.int64)
    rows, columns = aggregates.nonzero()
    owner[rows] = columns
    return sp.csr_array(prolongation), owner


def _coarser(
    graph: FEGraph, measure: Array, prolongation: sp.csr_array, owner: npt.NDArray[np.int64]
) -> tuple[FEGraph, Array, sp.csr_array]:
    """Return the graph of the next level, the sizes of its cells and the averaging onto them.

    A coarse cell consists of the cells whose nodes belong to one aggregate, by majority of the shape functions.
    """
    n_cells, n_coarse = graph.n_cells, prolongation.shape[1]
    rows = np.repeat(np.arange(n_cells), graph.cells.shape[1])
    columns = graph.cells.ravel()
    shares = sp.coo_array((graph.mean.ravel(), (rows, owner[columns])), shape=(n_cells, n_coarse)).toarray()
    cell_owner, compact = np.unique(shares.argmax(axis=1), return_inverse=True)
    compact = compact.ravel()
    total = np.bincount(compact, weights=measure, minlength=len(cell_owner))
    pool = sp.coo_array(
        (measure / total[compact], (compact, np.arange(n_cells))), shape=(len(cell_owner), n_cells)
    ).tocsr()
    scale = (total[compact] / measure) ** (1.0 / graph.dim)

    def on_nodes(values: Array) -> sp.csr_array:
        return sp.coo_array((values.ravel(), (rows, columns)), shape=(n_cells, graph.n_nodes)).tocsr()

    mean = pool @ on_nodes(graph.mean) @ prolongation
    scaled = pool @ sp.diags_array(scale)
    slopes = [scaled @ on_nodes(graph.gradient[:, axis]) @ prolongation for axis in range(graph.dim)]
    coarse = graph_of_matrices(sp.csr_array(mean), sp.csr_array(sp.vstack(slopes)), total)
    return coarse, total, sp.csr_array(pool)
