"""The finite-element space of the fluctuations of an RVE, in which field surrogates predict.

Its nodes are the mesh nodes with periodic images identified (periodic), or with all nodes of the boundary identified
(kinematic: the fluctuation is constant there). Fields are defined up to a translation, since it strains nothing. The
nodes are numbered like the free dofs of the RVE solver, followed by the one that the solver fixes, so that no map is
needed between the two.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from femops.errors import CaseError
from femops.notation import Array, Indices
from femops.rve.boundary import free_dofs, periodic_cell
from femops.rve.discretisation import Discretisation
from femops.rve.spec import RVE


def common_order(rve: Discretisation) -> Indices:
    """Return the permutation that sorts the cells by their nodes, independent of their phases. Shape (n_cells,)."""
    return np.lexsort(rve.mesh.cells.T[::-1])


class FluctuationSpace:
    """Displacement fluctuations of an RVE; component c of node i is dof i · dim + c.

    Args:
        rve: The RVE, with periodic or kinematic boundary condition.

    Attributes:
        boundary: The boundary condition.
        discretisation: Discretisation of the RVE.
        node_of: Node of the space for each mesh node. Shape (n_mesh_nodes,).
        n_nodes: Number of nodes.
        cells: Nodes of each cell. Shape (n_cells, n_nodes_of_cell).

    Raises:
        CaseError: The boundary condition is static, or a periodic RVE is not an axis-aligned box.
    """

    def __init__(self, rve: RVE) -> None:
        if rve.boundary == "static":
            raise CaseError("'static' given, expected periodic or kinematic for this surrogate", key="rve.boundary")
        self.boundary = rve.boundary
        self.discretisation: Discretisation = rve.discretisation
        mesh, dim = self.discretisation.mesh, self.discretisation.dim
        outline = self.discretisation.outline
        free = free_dofs(outline, rve.boundary)
        if rve.boundary == "periodic" and not periodic_cell(outline).aligned:
            problem = "is rotated or sheared, expected a box along the axes: this surrogate needs one"
            raise CaseError(problem, key="rve.mesh")
        self.n_nodes = free.count // dim + 1
        first = free.of[::dim]
        self.node_of: Indices = np.where(first < 0, free.count // dim, first // dim)
        self.cells: Indices = self.node_of[mesh.cells]

    @classmethod
    def shared(cls, rve: RVE) -> "FluctuationSpace":
        """Return the space shared by all RVEs on this mesh, independent of their phases.

        Its cells are in `common_order`; see `phase_of_cell`.
        """
        old, order = rve.discretisation, common_order(rve.discretisation)
        mesh = replace(old.mesh, cells=old.mesh.cells[order], regions={"all": np.arange(len(order))})
        arrays = {name: getattr(old, name)[order] for name in ("strain_operator", "weight", "points")}
        common = replace(old, mesh=mesh, phases=("all",), cells_of_phase=(slice(0, len(order)),), **arrays)
        return cls(replace(rve, discretisation=common))

    def phase_of_cell(self, rve: RVE) -> Indices:
        """Return the index into `rve.phases` of each cell of this space. Shape (n_cells,).

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
        """Dof of the space for each displacement component of the mesh nodes. Shape (n_mesh_nodes · dim,)."""
        dim = self.discretisation.dim
        return np.asarray(self.node_of[:, None] * dim + np.arange(dim)).ravel()

    @cached_property
    def points(self) -> Array:
        """Coordinates of the nodes [length], of identified ones those of the first. Shape (n_nodes, dim)."""
        found = np.empty((self.n_nodes, self.discretisation.dim))
        found[self.node_of[::-1]] = self.discretisation.mesh.points[::-1]
        return found

    @cached_property
    def gradient(self) -> sp.csr_array:
        """Map from dofs to the strain at all points, component-major. Shape (n_s · n_points, n_dofs)."""
        cells = slice(0, len(self.cells))
        return self.discretisation.gradient(self.dofs, cells, self.n_dofs)

    @cached_property
    def mean(self) -> Array:
        """Nodal weights of the volume average; they sum to 1. Shape (n_nodes,)."""
        rve = self.discretisation
        basis, _ = rve.mesh.kind.tabulate(rve.mesh.kind.quadrature()[0])
        integrals = rve.weight @ basis
        total = np.bincount(self.cells.ravel(), weights=integrals.ravel(), minlength=self.n_nodes)
        return np.asarray(total / total.sum())

    def centred(self, fields: Array) -> Array:
        """Return fields (n_dofs, k) minus their volume average."""
        by_node = fields.reshape(self.n_nodes, self.discretisation.dim, -1)
        return np.asarray((by_node - np.tensordot(self.mean, by_node, axes=1)).reshape(fields.shape))

    def to_free(self, fields: Array) -> Array:
        """Return fields (n_dofs, k) at the free dofs of the RVE solver, translated to zero at its fixed nodes."""
        by_node = fields.reshape(self.n_nodes, self.discretisation.dim, -1)
        return np.asarray((by_node[:-1] - by_node[-1]).reshape(self.n_dofs - self.discretisation.dim, -1))

    def from_free(self, values: Array) -> Array:
        """Return zero-mean fields (n_dofs, k) from values at the free dofs (n_free, k)."""
        pinned = np.zeros((self.discretisation.dim, values.shape[1]))
        return self.centred(np.concatenate([values, pinned]))
