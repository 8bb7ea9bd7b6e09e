"""RVEs under kinematic conditions as problems of the operator: u = E · x on the boundary, for each unit strain."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from femops import notation
from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.notation import Array, Indices
from femops.rve.spec import RVE
from femops.surrogate.fields.linear import LinearFields, cell_features
from femops_beno.encoding import Batch, Encoded, encode
from femops_beno.network import BENO
from femops_beno.systems import System


def rve_fields(rve: RVE, device: torch.device | str = "cpu") -> LinearFields:
    """Return the mechanics of an RVE.

    Raises:
        CaseError: A phase is nonlinear, the boundary condition is not kinematic, or the cells are not linear.
    """
    if rve.boundary != "kinematic":
        problem = f"{rve.boundary!r} given, expected 'kinematic': this surrogate prescribes u = E · x on the boundary"
        raise CaseError(problem, key="rve.boundary")
    if rve.discretisation.mesh.kind.degree > 1:
        raise CaseError("has quadratic cells, expected linear ones, for example cell: triangle", key="rve")
    return LinearFields.of([rve], device=device)


def rve_system(problem: LinearFields) -> System:
    """Return the problems of the unit strains of an RVE; the lifting is E · (x − centre) everywhere.

    Args:
        problem: An RVE with kinematic boundary condition, a batch of one.
    """
    rve, tangent = problem.space.discretisation, problem.cells.tangent[0]
    mesh, n_s = rve.mesh, rve.n_s
    fixed = problem.space.node_of == problem.space.n_nodes - 1
    centred = mesh.points - 0.5 * sum(mesh.bounds)
    lifting = np.einsum("sij,nj->nis", notation.to_tensor(np.eye(n_s)), centred).reshape(-1, n_s)
    none = np.zeros_like(lifting)
    features = cell_features(torch.as_tensor(tangent)[None])[0].numpy()
    stiffness = _stiffness(rve.strain_operator, rve.weight, tangent, rve.dofs)
    return System(mesh, np.repeat(fixed, mesh.dim), stiffness, none, none, lifting, features)


def predicted(network: BENO, problems: Sequence[LinearFields]) -> list[Tensor]:
    """Return the fluctuations of the unit strains of RVEs, all in one batch [length].

    Args:
        network: The network; it computes in its precision and on its device.
        problems: The RVEs.

    Returns:
        Shape (1, n_nodes, dim, n_s) each, of the precision and on the device of its RVE.
    """
    with torch.no_grad():
        batch = batch_of([encode(rve_system(one)) for one in problems], network)
        values = network(batch).split(list(batch.sizes), dim=1)
    return [_as_fields(*pair) for pair in zip(values, problems, strict=True)]


def batch_of(encoded: Sequence[Encoded], network: BENO) -> Batch:
    """Join encoded systems in the precision and on the device of a network."""
    return Batch.of(encoded, network.damping.dtype, network.damping.device)


def _as_fields(values: Tensor, problem: LinearFields) -> Tensor:
    """Return values at the free nodes (n_s, n_free, dim) as fields; the last node is that of the boundary."""
    found = torch.zeros_like(problem.load)
    found[0, :-1] = values.permute(1, 2, 0).to(found)
    return found


def _stiffness(operator: Array, weight: Array, tangent: Array, dofs: Indices) -> sp.csr_array:
    """Return Σ w Bᵀ D B at all nodes of the mesh."""
    n = dofs.shape[1]
    weighted = (operator * weight[..., None, None]).reshape(len(dofs), -1, n)
    of_cells = weighted.transpose(0, 2, 1) @ (tangent[:, None] @ operator).reshape(weighted.shape)
    rows, columns = (np.broadcast_to(one, of_cells.shape).ravel() for one in (dofs[:, :, None], dofs[:, None]))
    return sp.coo_array((of_cells.ravel(), (rows, columns))).tocsr()
