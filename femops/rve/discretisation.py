"""Finite-element discretisation of an RVE: strain operators, quadrature weights, phases."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from femops import notation
from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.notation import Array, Indices
from femops.rve.outline import Outline

_ROUND_OFF = 1e-12


@dataclass(frozen=True)
class Discretisation:
    """Finite-element arrays of an RVE; quadrature point g = cell · n_q + q, cells sorted by phase.

    Attributes:
        mesh: The mesh, cells in the order of `phases`.
        phases: Names of the phases.
        cells_of_phase: Slice of the cells of each phase.
        strain_operator: B of every cell and quadrature point, Mandel [1/length]; read-only. Shape (n_cells, n_q, n_s,
            n_dofs).
        weight: Quadrature weight times Jacobian determinant [volume]; read-only. Shape (n_cells, n_q).
        points: Coordinates of the quadrature points [length]. Shape (n_cells, n_q, dim).
        outline: Outer surface, voids and cracks.
    """

    mesh: TaggedMesh
    phases: tuple[str, ...]
    cells_of_phase: tuple[slice, ...]
    strain_operator: Array
    weight: Array
    points: Array
    outline: Outline

    @property
    def dim(self) -> int:
        """Dimension of space."""
        return self.mesh.dim

    @property
    def volume(self) -> float:
        """Volume including voids [length^dim]."""
        return self.outline.volume

    @property
    def n_s(self) -> int:
        """Number of strain components."""
        return notation.n_strain(self.dim)

    @property
    def n_q(self) -> int:
        """Number of quadrature points of a cell."""
        return int(self.weight.shape[1])

    @property
    def n_points(self) -> int:
        """Number of quadrature points of the RVE."""
        return int(self.weight.size)

    @property
    def dofs(self) -> Indices:
        """Displacement dofs of each cell, node by node. Shape (n_cells, n_dofs)."""
        nodes = self.mesh.cells[:, :, None] * self.dim + np.arange(self.dim)
        return nodes.reshape(len(self.mesh.cells), -1)

    def points_of_phase(self, position: int) -> slice:
        """Return the quadrature points of the phase at `position` in `phases`."""
        cells = self.cells_of_phase[position]
        return slice(cells.start * self.n_q, cells.stop * self.n_q)

    def volume_fraction(self, position: int) -> float:
        """Return the volume fraction of a phase in the volume including voids [-]."""
        return float(self.weight[self.cells_of_phase[position]].sum() / self.volume)

    def gradient(self, free: Indices, cells: slice, n_free: int) -> sp.csr_array:
        """Return the sparse matrix from free dofs to the strain at the quadrature points of `cells`.

        Args:
            free: Free dof of each displacement component, −1 where it is fixed. Shape (n_nodes · dim,).
            cells: Slice of the cells.
            n_free: Number of free dofs.

        Returns:
            Matrix with component-major rows. Shape (n_s · n_points_of_cells, n_free).
        """
        operator = self.strain_operator[cells]
        n_cells, n_q, n_s, _ = operator.shape
        n_points = n_cells * n_q
        columns = free[self.dofs[cells]]
        rows = (
            np.arange(n_s)[None, None, :, None] * n_points
            + (np.arange(n_points).reshape(n_cells, n_q)[:, :, None, None])
        )
        shape = operator.shape
        flat_columns = np.broadcast_to(columns[:, None, None, :], shape).ravel()
        keep = (flat_columns >= 0) & (operator.ravel() != 0.0)
        flat_rows = np.broadcast_to(rows, shape).ravel()[keep]
        matrix = sp.coo_array((operator.ravel()[keep], (flat_rows, flat_columns[keep])), shape=(n_s * n_points, n_free))
        return matrix.tocsr()


def discretise(mesh: TaggedMesh, phases: tuple[str, ...]) -> Discretisation:
    """Discretise an RVE, with the cells sorted in the order of `phases`.

    Args:
        mesh: The mesh; its regions are the phases.
        phases: All regions of the mesh, in the desired order.

    Raises:
        CaseError: A phase has no volume, phases and regions differ, or a cell is inverted.
    """
    for name in phases:
        if name not in mesh.regions:
            raise CaseError(f"the RVE mesh has no such phase; it has: {', '.join(mesh.regions)}", key=f"phases.{name}")
    for name in mesh.regions:
        if name not in phases:
            raise CaseError(f"no law for the phase {name!r} of the RVE mesh; given: {', '.join(phases)}", key="phases")
    order = np.concatenate([mesh.regions[name] for name in phases])
    counts = [len(mesh.regions[name]) for name in phases]
    stops = np.cumsum(counts)
    slices = tuple(slice(int(stop - count), int(stop)) for stop, count in zip(stops, counts, strict=True))
    regions = {name: np.arange(part.start, part.stop) for name, part in zip(phases, slices, strict=True)}
    sorted_mesh = replace(mesh, cells=mesh.cells[order], regions=regions)
    operator, weight, points = _integrate(sorted_mesh)
    for name, part in zip(phases, slices, strict=True):
        if weight[part].sum() <= 0.0:
            raise CaseError(f"phase {name!r} has no volume", key=f"phases.{name}")
    return Discretisation(sorted_mesh, phases, slices, operator, weight, points, Outline(sorted_mesh))


def _integrate(mesh: TaggedMesh) -> tuple[Array, Array, Array]:
    """Return strain operators, weights and coordinates at the quadrature points."""
    reference, reference_weight = mesh.kind.quadrature()
    basis, slopes = mesh.kind.tabulate(reference)
    nodes = mesh.points[mesh.cells]
    points = basis @ nodes
    n_cells = len(nodes)
    if _congruent(nodes):  # one operator for all, without copies
        nodes = nodes[:1]
    jacobian = np.einsum("cni,qnj->cqij", nodes, slopes)
    determinant = np.linalg.det(jacobian)
    if determinant.min() <= 0.0:
        inverted = int((determinant <= 0.0).any(axis=1).sum())
        raise CaseError(f"{inverted} cells of the RVE mesh are inverted or have no volume", key="mesh")
    gradients = np.einsum("qnj,cqji->cqni", slopes, np.linalg.inv(jacobian))
    operator = np.zeros((*determinant.shape, notation.n_strain(mesh.dim), mesh.kind.n_nodes, mesh.dim))
    for row, (i, j) in enumerate(notation.PAIRS[mesh.dim]):
        if i == j:
            operator[:, :, row, :, i] = gradients[..., i]
        else:
            operator[:, :, row, :, i] = gradients[..., j] / notation.SQRT2
            operator[:, :, row, :, j] = gradients[..., i] / notation.SQRT2
    flat = operator.reshape(*operator.shape[:3], -1)
    weight = determinant * reference_weight
    return np.broadcast_to(flat, (n_cells, *flat.shape[1:])), np.broadcast_to(weight, (n_cells, len(reference))), points


def _congruent(nodes: Array) -> bool:
    """Return whether all cells, nodes (n_cells, n_nodes_of_cell, dim), are translated copies of the first one."""
    largest = _ROUND_OFF * np.abs(nodes[0] - nodes[0, 0]).max()
    return all(
        np.abs(nodes[:, i] - nodes[:, 0] - (nodes[0, i] - nodes[0, 0])).max() <= largest for i in range(len(nodes[0]))
    )
