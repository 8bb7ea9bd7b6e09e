"""Boundary conditions and loads on named boundaries and regions, as functions of time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI

from femops.errors import CaseError
from femops.macro.analysis import Analysis, Load, Value, at_time
from femops.macro.mesh import MacroMesh
from femops.meshing import EVERYWHERE
from femops.meshing.connectivity import RigidMotions
from femops.notation import Array
from femops.parallel import on_every_rank


def check_analysis(analysis: Analysis, laws: Iterable[str], mesh: MacroMesh) -> None:
    """Check that an analysis fits the dimension of a mesh, and that the mesh has all boundaries and regions it names.

    Args:
        analysis: The analysis.
        laws: The regions that have a law.
        mesh: The mesh.

    Raises:
        CaseError: A name is unknown or cannot be used as the analysis demands, and the message lists the known names;
            or see `Analysis.check`.
    """
    analysis.check(mesh.mesh.topology.dim)
    laws = list(laws)
    if EVERYWHERE in laws and len(laws) > 1:
        problem = f"{EVERYWHERE!r} and named regions given, expected one law or a law for each region"
        raise CaseError(problem, key="material")
    boundaries = [(f"supports.{name}", name) for name in analysis.supports]
    regions = [(f"material.{name}", name) for name in laws if name != EVERYWHERE]
    for name, load in analysis.loads.items():
        if load.traction is not None or load.pressure is not None or load.displacement is not None:
            boundaries.append((f"loads.{name}", name))
        if load.body_force is not None and name != EVERYWHERE:
            regions.append((f"loads.{name}", name))
    for key, name in boundaries:
        check_boundary(name, mesh, key)
    for name, load in analysis.loads.items():
        if (load.traction is not None or load.pressure is not None) and name in mesh.interior:
            raise CaseError(
                "lies inside the body, expected an outer boundary for traction or pressure", key=f"loads.{name}"
            )
    for key, name in regions:
        if name not in mesh.regions:
            raise CaseError(_unknown("region", name, mesh.regions), key=key)
    without = [name for name in mesh.regions if EVERYWHERE not in laws and name not in laws]
    if without:
        given = ", ".join(laws)
        raise CaseError(f"no law for the region {without[0]!r} of the mesh; given: {given}", key="material")


def check_boundary(name: str, mesh: MacroMesh, key: str) -> None:
    """Check that the mesh has a boundary.

    Raises:
        CaseError: It does not; the message begins with the key.
    """
    if name in mesh.sets_without_facets:
        raise CaseError(_without_facets(name, mesh), key=key)
    if name not in mesh.boundaries:
        raise CaseError(_unknown("boundary", name, mesh.boundaries), key=key)


def _unknown(what: str, name: str, known: dict[str, Any]) -> str:
    return f"the mesh has no {what} {name!r}; it has: {', '.join(known) or 'none'}"


def _without_facets(name: str, mesh: MacroMesh) -> str:
    return (
        f"the set {name!r} {mesh.sets_without_facets[name]}; expected a boundary of facets, as single points cannot be "
        f"supported or loaded; the mesh has: {', '.join(mesh.boundaries) or 'none'}"
    )


class Supports:
    """Dirichlet conditions: the supports of an analysis and the prescribed displacements among its loads.

    Args:
        analysis: The analysis.
        mesh: The mesh.
        space: The displacement space.
    """

    def __init__(self, analysis: Analysis, mesh: MacroMesh, space: fem.FunctionSpace) -> None:
        self.conditions: list[fem.DirichletBC] = []
        held: list[_Held] = []
        part_of_node = _part_of_node(mesh, space)
        self._constants: list[tuple[fem.Constant, Value]] = []
        self._dofs: list[tuple[str, Any]] = []
        self._comm = mesh.mesh.comm
        for name, components in analysis.prescriptions():
            for axis, value in components.given().items():
                constant = fem.Constant(mesh.mesh, 0.0)
                dofs = fem.locate_dofs_topological(
                    space.sub(axis), mesh.mesh.topology.dim - 1, mesh.boundaries[name], remote=True
                )
                nodes = dofs // mesh.mesh.topology.dim
                held.append((space.tabulate_dof_coordinates()[nodes], np.full(len(nodes), axis), part_of_node[nodes]))
                self.conditions.append(fem.dirichletbc(constant, dofs, space.sub(axis)))
                self._constants.append((constant, value))
                self._dofs.append((f"u{'xyz'[axis]} of {name}", dofs))
        _check_rigid(held, mesh)

    def set_time(self, t: float) -> None:
        """Set every prescribed displacement to its value at time t."""
        for constant, value in self._constants:
            constant.value = _at(value, t)
        on_every_rank(self._comm, lambda: self._check_agreement(t))

    def _check_agreement(self, t: float) -> None:
        """Check that boundaries that share nodes prescribe the same values there."""
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
        loads: Loads by boundary or region.
        mesh: The mesh.
        degree: Quadrature degree of the boundary terms.
    """

    def __init__(self, loads: Mapping[str, Load], mesh: MacroMesh, degree: int) -> None:
        self._loads, self._mesh, self._degree = loads, mesh, degree
        self._vectors: list[tuple[fem.Constant, Sequence[Value]]] = []
        self._scalars: list[tuple[fem.Constant, Value]] = []

    def form(self, test: Any) -> Any:
        """Return the external virtual work as a UFL form; None without loads."""
        normal = ufl.FacetNormal(self._mesh.mesh)
        surface, volume = self._measures()
        terms = []
        for number, load in enumerate(self._loads.values()):
            if load.traction is not None:
                terms.append(ufl.inner(self._vector(load.traction), test) * surface(number))
            if load.pressure is not None:
                terms.append(-self._scalar(load.pressure) * ufl.inner(normal, test) * surface(number))
            if load.body_force is not None:
                terms.append(ufl.inner(self._vector(load.body_force), test) * volume(number))
        return sum(terms[1:], terms[0]) if terms else None

    def set_time(self, t: float) -> None:
        """Set every load to its value at time t."""
        for constant, values in self._vectors:
            constant.value = np.array([_at(value, t) for value in values])
        for constant, value in self._scalars:
            constant.value = _at(value, t)

    def _vector(self, values: Sequence[Value]) -> fem.Constant:
        constant = fem.Constant(self._mesh.mesh, np.zeros(len(values)))
        self._vectors.append((constant, values))
        return constant

    def _scalar(self, value: Value) -> fem.Constant:
        constant = fem.Constant(self._mesh.mesh, 0.0)
        self._scalars.append((constant, value))
        return constant

    def _measures(self) -> tuple[ufl.Measure, ufl.Measure]:
        """Return the measures over the loaded boundaries and regions; subdomain ids are load numbers."""
        mesh, domain = self._mesh, self._mesh.mesh
        sides, cells = [], []
        for number, (name, load) in enumerate(self._loads.items()):
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


def _at(value: Value, t: float) -> float:
    """Return a value at time t; values are validated at step ends only, and cutback adds other times."""
    try:
        return at_time(value, t)
    except ValueError as error:
        raise CaseError(str(error)) from error


_Held = tuple[Array, Any, Any]  # points (n, 3), constrained axis and connected part of the body at each


def _part_of_node(mesh: MacroMesh, space: fem.FunctionSpace) -> Any:
    """Return the connected part of the body to which each node of the displacement space belongs."""
    nodes = space.dofmap.list
    part = np.zeros(space.tabulate_dof_coordinates().shape[0], dtype=np.int64)
    part[nodes.ravel()] = np.repeat(mesh.part_of_cell, nodes.shape[1])
    return part


def _check_rigid(held: list[_Held], mesh: MacroMesh) -> None:
    """Check that the supports suppress all rigid body motions of every connected part of the body."""
    comm, n_parts = mesh.mesh.comm, len(mesh.parts)
    points = np.vstack([np.empty((0, 3)), *(x for x, _, _ in held)])
    axes, parts = (np.concatenate([np.empty(0, dtype=np.int64), *(one[i] for one in held)]) for i in (1, 2))
    sums = np.zeros((n_parts, 4))
    np.add.at(sums, parts, np.column_stack([points, np.ones(len(points))]))
    sums = total(comm, sums)
    centres = sums[:, :3] / np.maximum(sums[:, 3:], 1.0)
    reach = np.zeros(n_parts)
    np.maximum.at(reach, parts, np.abs(points - centres[parts]).max(axis=1))
    comm.Allreduce(MPI.IN_PLACE, reach, op=MPI.MAX)
    motions = RigidMotions(centres, np.where(reach > 0.0, reach, 1.0), mesh.mesh.topology.dim)
    free = motions.free(total(comm, motions.gram(motions.components(points, axes, parts), parts)))
    if free and n_parts == 1:
        raise CaseError(f"the body has a free {free[0]}; expected supports that prevent it", key="supports")
    if free:
        part, motion = next(iter(free.items()))
        raise CaseError(
            f"the mesh consists of {n_parts} disconnected parts, and one of them has a free {motion}: "
            f"{mesh.parts[part]}; expected merged nodes, or supports of each part",
            key="supports",
        )


def total(comm: MPI.Comm, values: Any) -> Any:
    """Return the sum of an array over all ranks; collective."""
    return comm.allreduce(np.asarray(values), op=MPI.SUM)
