"""Boundary conditions of an RVE: free, shared and fixed displacement components.

periodic   opposite nodes share their fluctuation; one node is fixed. Parallelepipeds only.
kinematic  the fluctuation vanishes on the boundary (u = E · x there): an upper bound of the stiffness.
static     only the mean strain of the fluctuation is constrained, ⟨ε(w)⟩ = 0 (uniform traction): a lower bound.

For the last two the boundary is that of `Outline`: the faces of a parallelepiped, or the outer surface of any other
body.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.notation import Array
from femops.rve.conditions import Boundary
from femops.rve.outline import Outline
from femops.rve.parallelepiped import Parallelepiped
from femops.rve.periodicity import faces_match, periodic_masters

_UNEVEN = (1e-5, 1e-4, 1e-3, 1e-2)


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


def free_dofs(outline: Outline, boundary: Boundary) -> FreeDofs:
    """Number the free dofs of the fluctuation under a boundary condition.

    Args:
        outline: Boundary of the RVE.
        boundary: The boundary condition.

    Raises:
        CaseError: The RVE is not a parallelepiped or the nodes of opposite faces do not match (periodic), there is no
            free node (kinematic), or voids reach the faces (static).
    """
    mesh = outline.mesh
    master = np.arange(len(mesh.points))
    if boundary == "periodic":
        cell = periodic_cell(outline)
        master = periodic_masters(mesh, cell)
        pinned = master == master[_nearest(mesh, cell.origin)]
        fixed = np.repeat(pinned, mesh.dim)
    elif boundary == "kinematic":
        fixed = np.repeat(outline.boundary_nodes, mesh.dim)
    else:
        _check_solid_faces(outline)
        fixed = _rigid_pins(outline)
    used = np.zeros(len(mesh.points), dtype=bool)
    used[mesh.cells] = True
    is_free = ~fixed & np.repeat((master == np.arange(len(master))) & _any_of(master, used), mesh.dim)
    number = np.full(len(fixed), -1, dtype=np.int64)
    number[is_free] = np.arange(is_free.sum())
    shared = number.reshape(-1, mesh.dim)[master].ravel()
    if is_free.sum() == 0:
        problem = f"{boundary!r} given, but the RVE mesh has no free node then; expected a finer mesh"
        raise CaseError(problem, key="boundary")
    return FreeDofs(shared, int(is_free.sum()), boundary == "static")


def periodic_cell(outline: Outline) -> Parallelepiped:
    """Return the parallelepiped of a periodic RVE.

    Raises:
        CaseError: The RVE is not a parallelepiped.
    """
    if outline.cell is not None:
        return outline.cell
    cells = (Outline(outline.mesh, tolerance).cell for tolerance in _UNEVEN)
    found = next((cell.tolerance for cell in cells if cell is not None and faces_match(outline.mesh, cell)), None)
    advice = "if voids reach its corners, give its period vectors as `periods` in the mesh block"
    if found is not None:
        advice = f"its faces are uneven: `tolerance: {found:g}` in the mesh block accepts them"
    problem = "'periodic' given, but the RVE mesh is not a parallelepiped; expected a box, rotated or sheared"
    raise CaseError(f"{problem} ({advice}), or kinematic or static, which allow any shape", key="boundary")


def _any_of(master: npt.NDArray[np.int64], used: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a mask of the masters with a node that belongs to a cell. Shape (n_nodes,)."""
    count = np.bincount(master, weights=used, minlength=len(master))
    return count > 0


def _check_solid_faces(outline: Outline) -> None:
    """Check that no voids reach the faces of a parallelepiped, as the uniform traction cannot act there."""
    cell, mesh, surface = outline.cell, outline.mesh, outline.surface
    if cell is None:
        return
    areas = surface.normals.sum(axis=1)
    for side in (0, 1):
        on_face = cell.on_face(mesh.points, side)[surface.facets].all(axis=1)
        for axis in range(mesh.dim):
            area = np.linalg.norm(areas[on_face[:, axis]].sum(axis=0))
            if area < (1.0 - 1e-9) * cell.volume / cell.heights[axis]:
                raise CaseError(
                    "'static' given, but voids reach the faces of the RVE; expected periodic or kinematic",
                    key="boundary",
                )


def _nearest(mesh: TaggedMesh, place: Array) -> int:
    """Return the node nearest to a point."""
    return int(np.linalg.norm(mesh.points - place, axis=1).argmin())


def _rigid_pins(outline: Outline) -> npt.NDArray[np.bool_]:
    """Return a mask of a minimal set of fixed components that removes rigid motions. Shape (n_nodes · dim,).

    The first node is fixed. The second is free only along the axis on which it is farthest from the first, which
    leaves the rotation about the line through both; of the third, the component that this rotation moves most is
    fixed.
    """
    mesh, (lower, upper) = outline.mesh, outline.mesh.bounds
    cell = outline.cell or Parallelepiped(lower, np.diag(upper - lower))
    fixed, corner = np.zeros((len(mesh.points), mesh.dim), dtype=bool), np.eye(mesh.dim)
    first, *others = (_nearest(mesh, cell.corner(one)) for one in (np.zeros(mesh.dim), *corner[: mesh.dim - 1]))
    along, *rest = mesh.points[others] - mesh.points[first]
    fixed[first] = True
    fixed[others[0]] = np.arange(mesh.dim) != np.abs(along).argmax()
    if mesh.dim == 3:
        fixed[others[1], np.abs(np.cross(along, rest[0])).argmax()] = True
    return fixed.ravel()
