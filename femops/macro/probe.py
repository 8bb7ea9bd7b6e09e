"""Values at single points of the body."""

from collections.abc import Sequence

import numpy as np
from dolfinx import fem, geometry
from mpi4py import MPI

from femops.errors import CaseError
from femops.macro.mesh import MacroMesh
from femops.macro.problem import MacroProblem
from femops.notation import Array


def displacement_at(problem: MacroProblem, at: Sequence[float]) -> Array:
    """Return the displacement of a point [length], shape (dim,); collective.

    Raises:
        CaseError: The point lies outside the body.
    """
    return _evaluate(problem.mesh, problem.displacement, at)


def check_points(problem: MacroProblem) -> None:
    """Refuse points of the case that lie outside the body; collective.

    Raises:
        CaseError: A point lies outside; the message names its key.
    """
    for name, quantity in problem.case.quantities.items():
        if quantity.at is not None:
            try:
                displacement_at(problem, quantity.at)
            except CaseError as error:
                raise error.within(key=f"quantities.{name}") from error


def _evaluate(mesh: MacroMesh, function: fem.Function, at: Sequence[float]) -> Array:
    dim = mesh.mesh.geometry.dim
    if len(at) != dim:
        raise CaseError(f"{list(at)} given, expected {dim} coordinates", key="at")
    point = np.zeros((1, 3))
    point[0, :dim] = at
    cell = _cell_of(mesh, point)
    value = function.eval(point, np.array([cell], dtype=np.int32)).ravel() if cell >= 0 else np.zeros(dim)
    comm = mesh.mesh.comm
    owner = comm.allreduce(comm.rank if cell >= 0 else comm.size, op=MPI.MIN)
    if owner == comm.size:
        raise CaseError(f"the point {list(at)} lies outside the body", key="at")
    return comm.bcast(value, root=owner)


def _cell_of(mesh: MacroMesh, point: Array) -> int:
    """Return a cell of this rank that holds the point, or −1; the boundary counts as inside to round-off."""
    domain = mesh.mesh
    if mesh.n_cells == 0:
        return -1
    extent = domain.comm.allreduce(float(np.ptp(domain.geometry.x, axis=0).max()), op=MPI.MAX)
    tree = geometry.bb_tree(domain, domain.topology.dim, padding=1e-9 * extent)
    candidates = geometry.compute_collisions_points(tree, point).links(0)
    if len(candidates) == 0:
        return -1
    hits = geometry.compute_colliding_cells(domain, geometry.compute_collisions_points(tree, point), point).links(0)
    return int(hits[0]) if len(hits) else _nearest(mesh, candidates, point, 1e-9 * extent)


def _nearest(mesh: MacroMesh, candidates: Array, point: Array, tolerance: float) -> int:
    """Return the first candidate cell within the tolerance of the point, or −1."""
    domain = mesh.mesh
    squared = geometry.squared_distance(
        domain, domain.topology.dim, np.asarray(candidates, dtype=np.int32), np.repeat(point, len(candidates), axis=0)
    )
    best = int(np.argmin(squared))
    return int(candidates[best]) if squared[best] <= tolerance**2 else -1
