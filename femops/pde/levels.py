"""Finite-element operators of a function space and of its coarse subspaces, as sparse matrices.

The nodes of a level are the free nodes of its Lagrange space: periodic images are identified, and nodes with all
components prescribed are omitted, so that fields of the level vanish there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import ufl
from dolfinx import fem, geometry

from femops.notation import Array, Indices
from femops.surrogate.graph import FEGraph, Hierarchy, Level, graph_of_matrices

_TOLERANCE, _NEWTON = 1e-10, 20


@dataclass(frozen=True)
class Nodes:
    """Map between the nodes of a scalar Lagrange space and the free nodes of a level.

    Attributes:
        space: The space.
        of: Level node of each space node, -1 if prescribed. Shape (n_space,).
        first: First space node of each level node. Shape (n_nodes,).
    """

    space: Any
    of: Indices
    first: Indices

    def expansion(self) -> sp.csr_array:
        """Return the map from level nodes to space nodes, zero at prescribed nodes. Shape (n_space, n_nodes)."""
        rows = np.flatnonzero(self.of >= 0)
        ones = np.ones(len(rows))
        return sp.csr_array((ones, (rows, self.of[rows])), shape=(len(self.of), len(self.first)))


def scalar_space(space: Any) -> tuple[Any, Indices]:
    """Return the scalar space of a blocked space, and the scalar node of each of its nodes (blocks of dofs)."""
    size = space.dofmap.bs
    n_nodes = space.dofmap.index_map.size_local
    if size == 1:
        return space, np.arange(n_nodes)
    scalar, dofs = space.sub(0).collapse()
    of = np.empty(n_nodes, dtype=np.int64)
    of[np.ravel(dofs) // size] = np.arange(n_nodes)
    return scalar, of


def free_nodes(space: Any, prescribed: npt.NDArray[np.bool_], original: Indices) -> Nodes:
    """Return the nodes of the finest level: those that are free.

    Args:
        space: The scalar space.
        prescribed: Mask of the nodes with all components prescribed. Shape (n_space,).
        original: Node that each node is a periodic image of, or itself. Shape (n_space,).
    """
    first = np.flatnonzero((original == np.arange(len(original))) & ~prescribed)
    number = np.full(len(original), -1)
    number[first] = np.arange(len(first))
    return Nodes(space, number[original], first)


def make_hierarchy(nodes: Nodes, coarse: Sequence[Any]) -> Hierarchy:
    """Return the graphs of a space and of its coarse subspaces, finest first.

    Args:
        nodes: Nodes of the finest level.
        coarse: Scalar Lagrange spaces, from fine to coarse.
    """
    levels = [Level(_graph(nodes))]
    for space in coarse:
        coarse_nodes, full = _coarser(nodes, space)
        prolongation = full[nodes.first] @ coarse_nodes.expansion()
        levels.append(Level(_graph(coarse_nodes), sp.csr_array(prolongation), _averages(nodes.space, space)))
        nodes = coarse_nodes
    return tuple(levels)


def measures(mesh: Any) -> Array:
    """Return the area or volume of each cell. Shape (n_cells,)."""
    return _measures(fem.functionspace(mesh, ("DG", 0)))


def _measures(constant: Any) -> Array:
    one = fem.Constant(constant.mesh, 1.0)
    return np.array(fem.assemble_vector(fem.form(one * ufl.TestFunction(constant) * ufl.dx)).array)


def _graph(nodes: Nodes) -> FEGraph:
    """Return the graph of a level."""
    space = nodes.space
    dim = space.mesh.geometry.dim
    constant = fem.functionspace(space.mesh, ("DG", 0))
    trial, test = ufl.TrialFunction(space), ufl.TestFunction(constant)
    measure, expansion = _measures(constant), nodes.expansion()

    def integrated(expression: Any) -> sp.csr_array:
        matrix = fem.assemble_matrix(fem.form(expression * test * ufl.dx)).to_scipy()
        return sp.csr_array(sp.csr_array(matrix) @ expansion)

    mean = sp.diags_array(1.0 / measure) @ integrated(trial)
    size = sp.diags_array(measure ** (1.0 / dim - 1.0))
    gradient = sp.vstack([size @ integrated(trial.dx(axis)) for axis in range(dim)])
    return graph_of_matrices(sp.csr_array(mean), sp.csr_array(gradient), measure)


def _coarser(nodes: Nodes, space: Any) -> tuple[Nodes, sp.csr_array]:
    """Return the nodes of the next coarser level, and the interpolation from its space to the finer space."""
    full = interpolation(space, nodes.space.tabulate_dof_coordinates())
    onto = _coincident(full)
    number = nodes.of[onto]
    kept = np.unique(number[number >= 0])
    of = np.where(number >= 0, np.searchsorted(kept, number), -1)
    first = np.empty(len(kept), dtype=np.int64)
    inside = np.flatnonzero(of >= 0)[::-1]
    first[of[inside]] = inside
    return Nodes(space, of, first), full


def _coincident(full: sp.csr_array) -> Indices:
    """Return the fine node that coincides with each coarse node, where the coarse basis function is 1."""
    ones = sp.coo_array(full)
    here = np.abs(ones.data - 1.0) < _TOLERANCE
    found = np.full(full.shape[1], -1)
    found[ones.col[here]] = ones.row[here]
    if (found < 0).any():
        raise ValueError("a coarse space has nodes that the finer one does not have, expected a subspace of it")
    return found


def interpolation(space: Any, points: Array) -> sp.csr_array:
    """Return the interpolation from a scalar Lagrange space to points. Shape (n_points, n_space)."""
    mesh = space.mesh
    cells = _cells_at(mesh, points)
    reference = _pulled_back(mesh, cells, points)
    values = space.ufl_element().tabulate(0, reference)[0]
    values[np.abs(values) < _TOLERANCE] = 0.0
    rows = np.repeat(np.arange(len(points)), values.shape[1])
    shape = (len(points), space.dofmap.index_map.size_local)
    found = sp.csr_array((values.ravel(), (rows, space.dofmap.list[cells].ravel())), shape=shape)
    found.eliminate_zeros()
    return found


def _pulled_back(mesh: Any, cells: Indices, points: Array) -> Array:
    """Return the reference coordinates of points in given cells. Shape (n_points, dim)."""
    dim, geometry_of = mesh.geometry.dim, mesh.geometry.x[mesh.geometry.dofmaps[0]]
    found = np.empty((len(points), dim))
    order = np.argsort(cells, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
        corners = geometry_of[cells[own[0]], :, :dim]
        found[own] = mesh.geometry.cmaps[0].pull_back(points[own, :dim], corners, tol=_TOLERANCE, maxit=_NEWTON)
    return found


def _cells_at(mesh: Any, points: Array) -> Indices:
    """Return a cell that contains each point. Shape (n_points,)."""
    tree = geometry.bb_tree(mesh, mesh.topology.dim, padding=_TOLERANCE)
    candidates = geometry.compute_collisions_points(tree, points)
    hits = geometry.compute_colliding_cells(mesh, candidates, points)
    if (np.diff(hits.offsets) == 0).any():
        raise ValueError("a point of the fine mesh is outside the coarse one, expected a refinement of it")
    return np.asarray(hits.array[hits.offsets[:-1]])


def _averages(fine: Any, coarse: Any) -> sp.csr_array:
    """Return the averaging of fine-cell values over coarse cells. Shape (n_coarse_cells, n_fine_cells)."""
    spaces = [fem.functionspace(one.mesh, ("DG", 0)) for one in (fine, coarse)]
    within = _cells_at(coarse.mesh, spaces[0].tabulate_dof_coordinates())
    columns = np.arange(len(within))
    rows = spaces[1].dofmap.list[within, 0]
    parts = _measures(spaces[0]) / _measures(spaces[1])[rows]
    return sp.csr_array((parts, (rows, columns)), shape=(spaces[1].dofmap.index_map.size_local, len(within)))
