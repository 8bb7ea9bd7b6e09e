"""Supports and loads by name, as functions of time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI

from femops.case import EVERYWHERE, Case
from femops.errors import CaseError
from femops.expressions import value_at
from femops.macro.mesh import MacroMesh
from femops.notation import Array
from femops.parallel import on_every_rank


def check_names(case: Case, mesh: MacroMesh) -> None:
    """Refuse names of boundaries and regions that the mesh does not have.

    Raises:
        CaseError: A name is unknown; the message lists those that the mesh has.
    """
    boundaries = [(f"supports.{name}", name) for name in case.supports]
    regions = [(f"material.{name}", name) for name in case.laws() if name != EVERYWHERE]
    for name, load in case.loads.items():
        if load.traction is not None or load.pressure is not None or load.displacement is not None:
            boundaries.append((f"loads.{name}", name))
        if load.body_force is not None and name != EVERYWHERE:
            regions.append((f"loads.{name}", name))
    for key, quantity in case.quantities.items():
        if quantity.reaction is not None:
            boundaries.append((f"quantities.{key}.reaction", quantity.reaction))
    for key, name in boundaries:
        if name not in mesh.boundaries:
            raise CaseError(_unknown("boundary", name, mesh.boundaries), key=key)
    for name, load in case.loads.items():
        if (load.traction is not None or load.pressure is not None) and name in mesh.interior:
            raise CaseError(
                "lies inside the body, expected an outer boundary for traction or pressure", key=f"loads.{name}"
            )
    for key, quantity in case.quantities.items():
        if quantity.reaction is not None and quantity.axis not in case.prescribed().get(quantity.reaction, ()):
            raise CaseError(
                f"{quantity.reaction!r} has no reaction along {'xyz'[quantity.axis]}: nothing is prescribed there",
                key=f"quantities.{key}",
            )
    for key, name in regions:
        if name not in mesh.regions:
            raise CaseError(_unknown("region", name, mesh.regions), key=key)
    without = [name for name in mesh.regions if EVERYWHERE not in case.laws() and name not in case.laws()]
    if without:
        given = ", ".join(case.laws())
        raise CaseError(f"no law for the region {without[0]!r} of the mesh; given: {given}", key="material")


def _unknown(what: str, name: str, known: dict[str, Any]) -> str:
    return f"the mesh has no {what} {name!r}; it has: {', '.join(known) or 'none'}"


class Supports:
    """Prescribed displacements.

    Args:
        case: The case; its `supports` and the `displacement` of its `loads`.
        mesh: The mesh.
        space: The displacement space.
    """

    def __init__(self, case: Case, mesh: MacroMesh, space: fem.FunctionSpace) -> None:
        self.conditions: list[fem.DirichletBC] = []
        held: list[tuple[Array, int]] = []
        self._constants: list[tuple[fem.Constant, Any]] = []
        self._dofs: list[tuple[str, Any]] = []
        self._comm = mesh.mesh.comm
        for name, components in case.prescriptions():
            for axis, value in components.given().items():
                constant = fem.Constant(mesh.mesh, 0.0)
                dofs = fem.locate_dofs_topological(
                    space.sub(axis), mesh.mesh.topology.dim - 1, mesh.boundaries[name], remote=True
                )
                held.append((space.tabulate_dof_coordinates()[dofs // case.dim], axis))
                self.conditions.append(fem.dirichletbc(constant, dofs, space.sub(axis)))
                self._constants.append((constant, value))
                self._dofs.append((f"u{'xyz'[axis]} of {name}", dofs))
        _check_rigid(held, case.dim, mesh.mesh.comm)

    def set_time(self, t: float) -> None:
        """Give every prescribed displacement its value at time t."""
        for constant, value in self._constants:
            constant.value = _at(value, t)
        on_every_rank(self._comm, lambda: self._check_agreement(t))

    def _check_agreement(self, t: float) -> None:
        """Refuse two different values for one node, as where boundaries meet."""
        for number, (name, dofs) in enumerate(self._dofs):
            value = float(self._constants[number][0].value)
            for (other, others), (constant, _) in zip(self._dofs[:number], self._constants, strict=False):
                if float(constant.value) != value and len(np.intersect1d(dofs, others)):
                    raise CaseError(
                        f"{name} is {value:g} and {other} is {float(constant.value):g} at t = {t:g}, and they share "
                        "nodes; expected the same value there",
                        key="supports",
                    )


class Loads:
    """Tractions, pressures and body forces as a linear form.

    Args:
        case: The case; its `loads`.
        mesh: The mesh.
        degree: Quadrature degree of the boundary terms.
    """

    def __init__(self, case: Case, mesh: MacroMesh, degree: int) -> None:
        self._case, self._mesh, self._degree = case, mesh, degree
        self._vectors: list[tuple[fem.Constant, Sequence[Any]]] = []
        self._scalars: list[tuple[fem.Constant, Any]] = []

    def form(self, test: Any) -> Any:
        """Return the virtual work of the loads, a UFL form; None if there are none."""
        normal = ufl.FacetNormal(self._mesh.mesh)
        surface, volume = self._measures()
        terms = []
        for number, load in enumerate(self._case.loads.values()):
            if load.traction is not None:
                terms.append(ufl.inner(self._vector(load.traction), test) * surface(number))
            if load.pressure is not None:
                terms.append(-self._scalar(load.pressure) * ufl.inner(normal, test) * surface(number))
            if load.body_force is not None:
                terms.append(ufl.inner(self._vector(load.body_force), test) * volume(number))
        return sum(terms[1:], terms[0]) if terms else None

    def set_time(self, t: float) -> None:
        """Give every load its value at time t."""
        for constant, values in self._vectors:
            constant.value = np.array([_at(value, t) for value in values])
        for constant, value in self._scalars:
            constant.value = _at(value, t)

    def _vector(self, values: Sequence[Any]) -> fem.Constant:
        constant = fem.Constant(self._mesh.mesh, np.zeros(len(values)))
        self._vectors.append((constant, values))
        return constant

    def _scalar(self, value: Any) -> fem.Constant:
        constant = fem.Constant(self._mesh.mesh, 0.0)
        self._scalars.append((constant, value))
        return constant

    def _measures(self) -> tuple[ufl.Measure, ufl.Measure]:
        """Return the measures over the loaded boundaries and regions, numbered as the loads are."""
        mesh, domain = self._mesh, self._mesh.mesh
        sides, cells = [], []
        for number, (name, load) in enumerate(self._case.loads.items()):
            if load.traction is not None or load.pressure is not None:
                facets = mesh.boundaries[name]
                kind = fem.IntegralType.exterior_facet
                sides.append((number, fem.compute_integration_domains(kind, domain.topology, facets)))
            if load.body_force is not None:
                everything = np.arange(mesh.n_cells, dtype=np.int32)
                cells.append((number, everything if name == EVERYWHERE else mesh.regions[name]))
        metadata = {"quadrature_degree": self._degree}
        surface = ufl.Measure("ds", domain=domain, subdomain_data=sides, metadata=metadata)
        return surface, ufl.Measure("dx", domain=domain, subdomain_data=cells)


def _at(value: Any, t: float) -> Any:
    """Return a value at a time that cutback may have chosen, which nobody could check before."""
    try:
        return np.asarray(value_at(value, t))
    except ValueError as error:
        raise CaseError(str(error)) from error


_MOTIONS = ("move along x", "move along y", "move along z", "turn about x", "turn about y", "turn about z")


def _check_rigid(held: list[tuple[Array, int]], dim: int, comm: MPI.Comm) -> None:
    """Refuse supports that leave the body a rigid motion; `held` are points (n, 3) and the axis held there."""
    points = np.vstack([np.empty((0, 3)), *(x for x, _ in held)])
    axes = np.concatenate([np.empty(0, dtype=int), *(np.full(len(x), axis) for x, axis in held)])
    points = points - total(comm, points.sum(0)) / max(int(total(comm, len(points))), 1)
    size = comm.allreduce(float(np.abs(points).max(initial=0.0)), op=MPI.MAX) or 1.0
    # What a held component sees of a translation along e_k, and of a rotation e_k × x.
    moved = np.eye(3)[axes]
    turned = -np.cross(points[:, None, :] / size, np.eye(3))[np.arange(len(axes)), :, axes]
    possible = [0, 1, 5] if dim == 2 else list(range(6))
    seen = np.hstack([moved, turned])[:, possible]
    values, vectors = np.linalg.eigh(total(comm, seen.T @ seen))
    if values[0] <= 1e-10 * values[-1]:
        motion = _MOTIONS[possible[int(np.abs(vectors[:, 0]).argmax())]]
        raise CaseError(f"the body can {motion}; expected supports that hold it", key="supports")


def total(comm: MPI.Comm, values: Any) -> Any:
    """Return the sum over all ranks of an array."""
    return comm.allreduce(np.asarray(values), op=MPI.SUM)
