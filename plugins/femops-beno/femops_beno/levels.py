"""Coarse levels that follow the shape: smoothed aggregation of the free nodes of a mesh.

Aggregates join nodes that are neighbours in the mesh, so that no level connects nodes across a notch or a hole. The
basis functions of a level vanish at the prescribed nodes, as those of the mesh do (Vaněk, Mandel and Brezina, Computing
56, 1996; built by PyAMG).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyamg
import scipy.sparse as sp

from femops.meshing import TaggedMesh
from femops.notation import Array
from femops.surrogate.graph import FEGraph, Hierarchy, Level, fe_graph, graph_of_matrices

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
    finest = _without_prescribed(mesh, free)
    multigrid = pyamg.smoothed_aggregation_solver(
        sp.csr_matrix(stiffness[free][:, free]),
        smooth=_JACOBI,
        improve_candidates=None,
        max_coarse=_COARSEST,
        keep=True,
    )
    levels, measure, graph = [Level(finest)], finest.volume, finest
    for given, coarse in zip(multigrid.levels, multigrid.levels[1:], strict=False):
        # The factors make the functions of each level add up to 1 away from prescribed nodes.
        fine_sums, sums = (np.asarray(one.B).ravel() for one in (given, coarse))
        prolongation = sp.diags_array(1.0 / fine_sums) @ sp.csr_array(given.P) @ sp.diags_array(sums)
        cells = _CoarseCells.of_aggregates(graph, measure, sp.csr_array(given.AggOp))
        levels.append(Level(_coarser(graph, cells, prolongation), sp.csr_array(prolongation), cells.mean))
        graph, measure = levels[-1].graph, cells.measure
    return tuple(levels)


def _without_prescribed(mesh: TaggedMesh, free: npt.NDArray[np.bool_]) -> FEGraph:
    """Return the graph of the free nodes; fields vanish at the others."""
    number = np.where(free, np.cumsum(free) - 1, -1)
    full = fe_graph(mesh.points, mesh.cells, mesh.kind, number, int(free.sum()))
    kept = full.cells >= 0
    mean, gradient = full.mean * kept, full.gradient * kept[:, None]
    return FEGraph(np.maximum(full.cells, 0), mean, gradient, full.volume, full.n_nodes)


@dataclass(frozen=True)
class _CoarseCells:
    """Cells of the next level: unions of cells.

    Attributes:
        measure: Sizes of the coarse cells, relative to the mean cell of the mesh [-]. Shape (n_coarse_cells,).
        scale: Length of the coarse cell over that of each of its cells [-]. Shape (n_cells,).
        mean: Means over the coarse cells. Shape (n_coarse_cells, n_cells).
    """

    measure: Array
    scale: Array
    mean: sp.csr_array

    @classmethod
    def of_aggregates(cls, graph: FEGraph, measure: Array, aggregates: sp.csr_array) -> "_CoarseCells":
        """Return the coarse cells; each cell belongs to the aggregate with most of its nodes."""
        rows = np.repeat(np.arange(graph.n_cells), graph.cells.shape[1])
        shares = sp.coo_array((graph.mean.ravel(), (rows, graph.cells.ravel())), shape=(graph.n_cells, graph.n_nodes))
        _, owner = np.unique((shares @ aggregates).toarray().argmax(axis=1), return_inverse=True)
        total = np.bincount(owner, weights=measure)
        shape = (len(total), graph.n_cells)
        mean = sp.coo_array((measure / total[owner], (owner, np.arange(graph.n_cells))), shape=shape).tocsr()
        return cls(total, (total[owner] / measure) ** (1.0 / graph.dim), mean)


def _coarser(graph: FEGraph, cells: _CoarseCells, prolongation: sp.csr_array) -> FEGraph:
    """Return the graph of the next level: means and mean gradients of its functions over its cells."""
    rows, columns = np.repeat(np.arange(graph.n_cells), graph.cells.shape[1]), graph.cells.ravel()

    def of_functions(values: Array) -> sp.csr_array:
        return sp.coo_array((values.ravel(), (rows, columns)), shape=(graph.n_cells, graph.n_nodes)) @ prolongation

    scaled = cells.mean @ sp.diags_array(cells.scale)
    slopes = [scaled @ of_functions(graph.gradient[:, axis]) for axis in range(graph.dim)]
    mean = sp.csr_array(cells.mean @ of_functions(graph.mean))
    return graph_of_matrices(mean, sp.csr_array(sp.vstack(slopes)), cells.measure)
