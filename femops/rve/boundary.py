"""Boundary conditions of an RVE: which displacement components are free, shared or fixed.

periodic   opposite nodes share their fluctuation; one node is pinned.
kinematic  the fluctuation vanishes on the boundary (u = E · x there): an upper bound of the stiffness.
static     only the mean strain is prescribed, ⟨ε(w)⟩ = 0, which makes the traction uniform: a lower bound.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.meshing.building import exterior_facets, jacobians

Boundary = Literal["periodic", "kinematic", "static"]
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class FreeDofs:
    """Free dofs of the fluctuation.

    Attributes:
        of: Free dof of each displacement component (node-major), −1 where it is fixed. Shape (n_nodes · dim,).
        count: Number of free dofs.
        zero_mean_strain: True if the mean strain of the fluctuation has to be constrained to zero.
    """

    of: npt.NDArray[np.int64]
    count: int
    zero_mean_strain: bool


def free_dofs(mesh: TaggedMesh, boundary: Boundary) -> FreeDofs:
    """Number the free dofs of the fluctuation under a boundary condition.

    Raises:
        CaseError: The nodes of opposite faces do not match (periodic), nothing is left free (kinematic), or voids
            reach the faces (static).
    """
    if boundary == "periodic":
        master = _periodic_masters(mesh)
        pinned = master == master[_nearest(mesh, np.zeros(mesh.dim))]
        fixed = np.repeat(pinned, mesh.dim)
    elif boundary == "kinematic":
        master = np.arange(len(mesh.points))
        fixed = np.repeat((_on_face(mesh, 0) | _on_face(mesh, 1)).any(axis=1), mesh.dim)
    else:
        _check_solid_faces(mesh)
        master = np.arange(len(mesh.points))
        fixed = _rigid_pins(mesh)
    used = np.zeros(len(mesh.points), dtype=bool)
    used[mesh.cells] = True
    is_free = ~fixed & np.repeat((master == np.arange(len(master))) & _any_of(master, used), mesh.dim)
    number = np.full(len(fixed), -1, dtype=np.int64)
    number[is_free] = np.arange(is_free.sum())
    shared = number.reshape(-1, mesh.dim)[master].ravel()
    if is_free.sum() == 0:
        raise CaseError(f"the RVE mesh has no free node under {boundary} boundary conditions", key="boundary")
    return FreeDofs(shared, int(is_free.sum()), boundary == "static")


def _any_of(master: npt.NDArray[np.int64], used: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Tell for each master whether any node that it stands for belongs to a cell."""
    count = np.bincount(master, weights=used, minlength=len(master))
    return count > 0


def _on_face(mesh: TaggedMesh, side: int) -> npt.NDArray[np.bool_]:
    """Tell which nodes lie on the lower (0) or upper (1) face of each axis. Shape (n_nodes, dim)."""
    lower, upper = mesh.bounds
    face = upper if side else lower
    return np.abs(mesh.points - face) < _TOLERANCE * (upper - lower).max()


def _periodic_masters(mesh: TaggedMesh) -> npt.NDArray[np.int64]:
    """Return for each node the node of the lower faces whose periodic image it is, or itself. Shape (n_nodes,)."""
    lower, _ = mesh.bounds
    on_lower, on_upper = _on_face(mesh, 0), _on_face(mesh, 1)
    for axis in range(mesh.dim):
        _check_faces(mesh, axis, on_lower[:, axis], on_upper[:, axis])
    wrapped = np.where(on_upper, lower, mesh.points)
    candidates = np.flatnonzero(~on_upper.any(axis=1))
    _, nearest = cKDTree(mesh.points[candidates]).query(wrapped)
    return candidates[nearest]


def _check_faces(mesh: TaggedMesh, axis: int, low: npt.NDArray[np.bool_], high: npt.NDArray[np.bool_]) -> None:
    """Refuse a mesh whose faces of one axis do not carry the same nodes."""
    lower, upper = mesh.bounds
    others = [i for i in range(mesh.dim) if i != axis]
    low_points, high_points = mesh.points[low][:, others], mesh.points[high][:, others]
    tolerance = _TOLERANCE * (upper - lower).max()
    for here, there, side in ((low_points, high_points, "lower"), (high_points, low_points, "upper")):
        distance = np.asarray(cKDTree(there).query(here)[0])
        if (distance > tolerance).any():
            at = mesh.points[low if side == "lower" else high][distance.argmax()]
            raise CaseError(
                f"opposite faces of the RVE mesh do not match along {'xyz'[axis]}: {(distance > tolerance).sum()} of "
                f"{len(here)} nodes of the {side} face have no image, for example the one at "
                f"({', '.join(f'{x:.4g}' for x in at)})",
                key="mesh",
            )


def _check_solid_faces(mesh: TaggedMesh) -> None:
    """Refuse a cell whose faces are cut by voids: there the uniform traction of static conditions has no body."""
    lower, upper = mesh.bounds
    facets, kind = exterior_facets(mesh.cells, mesh.kind), mesh.facet_kind
    for side in (0, 1):
        on_face = _on_face(mesh, side)
        for axis in range(mesh.dim):
            others = [i for i in range(mesh.dim) if i != axis]
            chosen = facets[on_face[facets, axis].all(axis=1)]
            area = np.abs(jacobians(mesh.points[:, others], chosen, kind)) @ kind.quadrature()[1]
            if area.sum() < (1.0 - 1e-9) * np.prod((upper - lower)[others]):
                raise CaseError(
                    "'static' given, but voids reach the faces of the RVE; expected periodic or kinematic",
                    key="boundary",
                )


def _nearest(mesh: TaggedMesh, corner: npt.NDArray[np.float64]) -> int:
    """Return the node nearest to a corner of the box, given as fractions of its edges."""
    lower, upper = mesh.bounds
    return int(np.linalg.norm(mesh.points - (lower + corner * (upper - lower)), axis=1).argmin())


def _rigid_pins(mesh: TaggedMesh) -> npt.NDArray[np.bool_]:
    """Fix just enough components to remove the rigid motions. Shape (n_nodes · dim,)."""
    fixed = np.zeros((len(mesh.points), mesh.dim), dtype=bool)
    corner = np.eye(mesh.dim)
    fixed[_nearest(mesh, np.zeros(mesh.dim)), :] = True
    fixed[_nearest(mesh, corner[0]), 1:] = True
    if mesh.dim == 3:
        fixed[_nearest(mesh, corner[1]), 2] = True
    return fixed.ravel()
