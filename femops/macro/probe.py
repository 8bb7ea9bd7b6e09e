"""Values of results, and at single points of the body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from dolfinx import fem, geometry
from mpi4py import MPI

from femops.errors import CaseError
from femops.law import MicroscaleLaw
from femops.macro.analysis import ReactionOn, Result
from femops.macro.mesh import MacroMesh
from femops.notation import Array

if TYPE_CHECKING:
    from femops.macro.problem import MacroProblem


def displacement_at(problem: MacroProblem, at: Sequence[float]) -> Array:
    """Return the displacement of a point [length], shape (dim,); collective.

    Raises:
        CaseError: The point lies outside the body.
    """
    comm, dim = problem.comm, problem.dim
    owner, cell = _locate(problem.mesh, at)
    value = None
    if comm.rank == owner:
        value = problem.displacement.eval(_point(at), np.array([cell], dtype=np.int32)).reshape(dim)
    return np.asarray(comm.bcast(value, root=owner))


def value_of(problem: MacroProblem, result: Result) -> float:
    """Return the value of a result; collective.

    Raises:
        CaseError: A point lies outside the body.
    """
    if isinstance(result, ReactionOn):
        return float(problem.reaction_on(result.boundary)[result.axis])
    return float(displacement_at(problem, result.at)[result.axis])


def basis_at(problem: MacroProblem, at: Sequence[float]) -> tuple[Array, Array]:
    """Return the nodes of this rank, ghosts included, and the values of their basis functions at a point; collective.

    On one rank, that of `displacement_at`; elsewhere both are empty.
    """
    owner, cell = _locate(problem.mesh, at)
    function = fem.Function(problem.displacement.function_space)  # collective
    if problem.comm.rank != owner:
        return np.empty(0, dtype=np.int64), np.empty(0)
    nodes, values = function.function_space.dofmap.cell_dofs(cell), function.x.array.reshape(-1, problem.dim)
    found = np.empty(len(nodes))
    for number, node in enumerate(nodes):
        values[node, 0] = 1.0
        found[number] = function.eval(_point(at), np.array([cell], dtype=np.int32)).ravel()[0]
        values[node, 0] = 0.0
    return np.asarray(nodes, dtype=np.int64), found


def check_point(problem: MacroProblem, at: Sequence[float], *, rve: bool = False) -> None:
    """Check that a point lies in the body, and that its law has an RVE if that is asked for; collective.

    Raises:
        CaseError: It does not.
    """
    owner, cell = _locate(problem.mesh, at)
    law = problem.comm.bcast(_law_without_rve(problem, cell), root=owner) if rve else ""
    if law:
        raise CaseError(f"the law at {list(at)} is {law!r}, which has no RVE")


def _law_without_rve(problem: MacroProblem, cell: int) -> str:
    """Return the name of the law of a cell; empty if it has an RVE or the cell is on another rank."""
    points = problem.quadrature.points_of([cell])
    for region in problem.material.regions:
        if cell >= 0 and not isinstance(region.law, MicroscaleLaw) and np.isin(points, region.points).any():
            return region.law_name or type(region.law).__name__
    return ""


def _point(at: Sequence[float]) -> Array:
    return np.array([[*at, 0.0, 0.0][:3]])


def _locate(mesh: MacroMesh, at: Sequence[float]) -> tuple[int, int]:
    """Return the lowest rank that has the point, and its cell on this rank or −1; collective."""
    comm, tolerance = mesh.mesh.comm, mesh.round_off
    cell = _cell_of(mesh, _point(at), tolerance)
    owner = comm.allreduce(comm.rank if cell >= 0 else comm.size, op=MPI.MIN)
    if owner == comm.size:
        raise CaseError(f"the point {list(at)} lies outside the body")
    return int(owner), cell


def _cell_of(mesh: MacroMesh, point: Array, tolerance: float) -> int:
    """Return a cell of this rank that contains the point up to round-off, or −1."""
    domain = mesh.mesh
    if mesh.n_cells == 0:
        return -1
    candidates = geometry.compute_collisions_points(mesh.tree, point)
    if len(candidates.links(0)) == 0:
        return -1
    hits = geometry.compute_colliding_cells(domain, candidates, point).links(0)
    return int(hits[0]) if len(hits) else _nearest(mesh, candidates.links(0), point, tolerance)


def _nearest(mesh: MacroMesh, candidates: Array, point: Array, tolerance: float) -> int:
    """Return the first candidate cell within the tolerance of the point, or −1."""
    domain = mesh.mesh
    squared = geometry.squared_distance(
        domain, domain.topology.dim, np.asarray(candidates, dtype=np.int32), np.repeat(point, len(candidates), axis=0)
    )
    best = int(np.argmin(squared))
    return int(candidates[best]) if squared[best] <= tolerance**2 else -1
