"""Finite-element matrices of Poisson's equation on plane meshes, assembled over all cells at once."""

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from femops.meshing import TaggedMesh
from femops.notation import Array, Indices
from femops_beno.systems import System


def stiffness_matrix(mesh: TaggedMesh) -> sp.csr_array:
    """Return ∫ ∇φ_i · ∇φ_j dx. Shape (n_nodes, n_nodes)."""
    _, slopes, jacobian, volume = _in_cells(mesh)
    gradient = np.swapaxes(slopes @ np.linalg.inv(jacobian), 1, 2).reshape(*mesh.cells.shape, -1)
    weight = np.repeat(volume, mesh.dim, axis=1)
    return _assembled(gradient * weight[:, None] @ np.swapaxes(gradient, 1, 2), mesh.cells, len(mesh.points))


def mass_matrix(mesh: TaggedMesh) -> sp.csr_array:
    """Return ∫ φ_i φ_j dx. Shape (n_nodes, n_nodes)."""
    basis, _, _, volume = _in_cells(mesh)
    products = basis[:, :, None] * basis[:, None, :]
    return _assembled(np.tensordot(volume, products, 1), mesh.cells, len(mesh.points))


def cell_load(mesh: TaggedMesh, values: Array) -> Array:
    """Return ∫ f φ_i dx of a function that is constant in each cell. Shape (n_nodes,).

    Args:
        mesh: The mesh.
        values: f. Shape (n_cells,).
    """
    basis, _, _, volume = _in_cells(mesh)
    parts = values[:, None] * (volume @ basis)
    return np.bincount(mesh.cells.ravel(), parts.ravel(), len(mesh.points))


def source_load(mesh: TaggedMesh, source: Array) -> Array:
    """Return ∫ f φ_i dx. Shape (n_nodes,).

    Args:
        mesh: The mesh.
        source: f at the nodes, or in each cell; between nodes it is interpolated by the shape functions. Shape
            (n_nodes,) or (n_cells,).
    """
    return mass_matrix(mesh) @ source if len(source) == len(mesh.points) else cell_load(mesh, source)


def edge_mass_matrix(mesh: TaggedMesh, edges: Indices) -> sp.csr_array:
    """Return ∫ φ_i φ_j ds over straight edges. Shape (n_nodes, n_nodes).

    Args:
        mesh: The mesh.
        edges: Both nodes of each edge. Shape (n_edges, 2).
    """
    length = np.linalg.norm(mesh.points[edges[:, 1]] - mesh.points[edges[:, 0]], axis=1)
    local = np.array([[2.0, 1.0], [1.0, 2.0]]) / 6.0
    return _assembled(length[:, None, None] * local, edges, len(mesh.points))


def poisson(
    mesh: TaggedMesh, source: Array, prescribed: npt.NDArray[np.bool_], values: Array, flux: Array | None = None
) -> System:
    """Return −Δu = f with u = g at prescribed nodes and ∂u/∂n = h on the rest of the boundary.

    Args:
        mesh: Mesh of a plane domain.
        source: f, see `source_load`.
        prescribed: Mask of the nodes with prescribed values. Shape (n_nodes,).
        values: g at the nodes; used at prescribed ones. Shape (n_nodes,).
        flux: ∫ h φ ds, see `edge_mass_matrix`; default zero. Shape (n_nodes,).
    """
    return System(
        mesh,
        prescribed,
        stiffness_matrix(mesh),
        source_load(mesh, source),
        np.zeros(len(mesh.points)) if flux is None else flux,
        np.where(prescribed, values, 0.0),
        np.empty((len(mesh.cells), 0)),
    )


def _in_cells(mesh: TaggedMesh) -> tuple[Array, Array, Array, Array]:
    """Return basis and Jacobian at quadrature points.

    Returns:
        The basis (n_q, n), its reference gradients (n_q, n, 2), the Jacobian (n_cells, n_q, 2, 2) and its determinant
        times the quadrature weight (n_cells, n_q).
    """
    reference, weight = mesh.kind.quadrature(2 * mesh.kind.degree)
    basis, slopes = mesh.kind.tabulate(reference)
    jacobian = np.einsum("cni,qnj->cqij", mesh.points[mesh.cells], slopes, optimize=True)
    return basis, slopes, jacobian, np.linalg.det(jacobian) * weight


def _assembled(local: Array, nodes: Indices, n: int) -> sp.csr_array:
    """Return the sum of local matrices (n_cells, k, k) at their nodes (n_cells, k)."""
    k = nodes.shape[1]
    rows, columns = np.repeat(nodes, k, axis=1).ravel(), np.tile(nodes, (1, k)).ravel()
    return sp.coo_array((local.ravel(), (rows, columns)), shape=(n, n)).tocsr()
