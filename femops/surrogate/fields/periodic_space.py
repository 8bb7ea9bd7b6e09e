"""The periodic finite-element space of an RVE as arrays: what field surrogates predict in.

Its nodes are those of the mesh with periodic images made one. They are numbered as the free dofs of the RVE solver are,
followed by the one node that the solver pins, so that fields go over to it and back without a search.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from femops.errors import CaseError
from femops.notation import Array
from femops.rve.boundary import free_dofs, periodic_cell
from femops.rve.discretisation import Discretisation, Indices
from femops.rve.spec import RVE


def common_order(rve: Discretisation) -> Indices:
    """Return the cells in an order that does not depend on their phases: by their nodes. Shape (n_cells,)."""
    return np.lexsort(rve.mesh.cells.T[::-1])


class PeriodicSpace:
    """Periodic displacement fields of an RVE; component c of node i is dof i · dim + c.

    Args:
        rve: The RVE, with periodic boundary condition.

    Attributes:
        discretisation: That of the RVE.
        node_of: Node of the space for each node of the mesh. Shape (n_mesh_nodes,).
        n_nodes: Number of nodes.
        cells: Nodes of each cell. Shape (n_cells, n_nodes_of_cell).

    Raises:
        CaseError: The boundary condition is another one, or the RVE no box along the axes.
    """

    def __init__(self, rve: RVE) -> None:
        if rve.boundary != "periodic":
            problem = f"{rve.boundary!r} given, expected 'periodic': the fields of this surrogate are"
            raise CaseError(problem, key="rve.boundary")
        self.discretisation: Discretisation = rve.discretisation
        mesh, dim = self.discretisation.mesh, self.discretisation.dim
        outline = self.discretisation.outline
        free = free_dofs(outline, "periodic")
        if not periodic_cell(outline).aligned:
            problem = "is rotated or sheared, expected a box along the axes: this surrogate needs one"
            raise CaseError(problem, key="rve.mesh")
        self.n_nodes = free.count // dim + 1
        first = free.of[::dim]
        self.node_of: Indices = np.where(first < 0, free.count // dim, first // dim)
        self.cells: Indices = self.node_of[mesh.cells]

    @classmethod
    def shared(cls, rve: RVE) -> "PeriodicSpace":
        """Return the space of all RVEs with the nodes and cells of this one, whichever phases they give the cells.

        Its cells are in an order of their own, see `phase_of_cell`.
        """
        old, order = rve.discretisation, common_order(rve.discretisation)
        mesh = replace(old.mesh, cells=old.mesh.cells[order], regions={"all": np.arange(len(order))})
        arrays = {name: getattr(old, name)[order] for name in ("strain_operator", "weight", "points")}
        common = replace(old, mesh=mesh, phases=("all",), cells_of_phase=(slice(0, len(order)),), **arrays)
        return cls(replace(rve, discretisation=common))

    def phase_of_cell(self, rve: RVE) -> Indices:
        """Return the position in `rve.phases` of the phase of each cell of this space. Shape (n_cells,).

        Raises:
            CaseError: The RVE has another mesh.
        """
        theirs, ours = rve.discretisation, self.discretisation
        counts = [part.stop - part.start for part in theirs.cells_of_phase]
        phase = np.repeat(np.arange(len(counts)), counts)
        order, target = common_order(theirs), common_order(ours)
        a, b = theirs.mesh, ours.mesh
        same_nodes = a.points.shape == b.points.shape and np.allclose(a.points, b.points)
        if not same_nodes or not np.array_equal(a.cells[order], b.cells[target]):
            raise CaseError("the meshes of two RVEs differ, expected one mesh for all", key="rve")
        found = np.empty_like(phase)
        found[target] = phase[order]
        return found

    @property
    def n_dofs(self) -> int:
        """Number of displacement components."""
        return self.n_nodes * self.discretisation.dim

    @cached_property
    def dofs(self) -> Indices:
        """Dof of each displacement component of the mesh, node by node. Shape (n_mesh_nodes · dim,)."""
        dim = self.discretisation.dim
        return np.asarray(self.node_of[:, None] * dim + np.arange(dim)).ravel()

    @cached_property
    def points(self) -> Array:
        """Coordinates of the nodes [length]. Shape (n_nodes, dim)."""
        found = np.empty((self.n_nodes, self.discretisation.dim))
        found[self.node_of[::-1]] = self.discretisation.mesh.points[::-1]  # of several images the first one
        return found

    @cached_property
    def gradient(self) -> sp.csr_array:
        """Strain at all points as a map of the dofs; rows component-major. Shape (n_s · n_points, n_dofs)."""
        cells = slice(0, len(self.cells))
        return self.discretisation.gradient(self.dofs, cells, self.n_dofs)

    @cached_property
    def mean(self) -> Array:
        """Share of each node in the mean over the body; adds up to 1. Shape (n_nodes,)."""
        rve = self.discretisation
        basis, _ = rve.mesh.kind.tabulate(rve.mesh.kind.quadrature()[0])
        integrals = rve.weight @ basis
        total = np.bincount(self.cells.ravel(), weights=integrals.ravel(), minlength=self.n_nodes)
        return np.asarray(total / total.sum())

    def centred(self, fields: Array) -> Array:
        """Return fields (n_dofs, k) without their mean."""
        by_node = fields.reshape(self.n_nodes, self.discretisation.dim, -1)
        return np.asarray((by_node - np.tensordot(self.mean, by_node, axes=1)).reshape(fields.shape))

    def to_free(self, fields: Array) -> Array:
        """Return fields (n_dofs, k) at the free dofs of the RVE solver, whose pinned node does not move."""
        by_node = fields.reshape(self.n_nodes, self.discretisation.dim, -1)
        return np.asarray((by_node[:-1] - by_node[-1]).reshape(self.n_dofs - self.discretisation.dim, -1))

    def from_free(self, values: Array) -> Array:
        """Return the fields of zero mean (n_dofs, k) that belong to values at the free dofs (n_free, k)."""
        pinned = np.zeros((self.discretisation.dim, values.shape[1]))
        return self.centred(np.concatenate([values, pinned]))
