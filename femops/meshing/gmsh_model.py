"""Gmsh sessions that restore the previous state, and conversion of gmsh models to and from `TaggedMesh`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import gmsh
import numpy as np

from femops.errors import CaseError
from femops.meshing.building import RawMesh, build
from femops.meshing.cells import CELLS, CellKind
from femops.meshing.tagged import TaggedMesh
from femops.notation import Indices

_QUIET = {"General.Terminal": 0.0, "General.NumThreads": 1.0}
_FAMILIES = {"interval": "line", "quadrilateral": "quadrangle"}  # gmsh names of shapes that differ from those of basix
_sessions = count()


@contextmanager
def gmsh_session(options: Mapping[str, float] | None = None) -> Iterator[None]:
    """Context with a new gmsh model, without terminal output and on one thread; sessions may be nested.

    Args:
        options: Numeric gmsh options by name, restored at the end.

    Raises:
        CaseError: gmsh reported an error.
    """
    outermost = not gmsh.isInitialized()
    if outermost:
        gmsh.initialize(argv=[], readConfigFiles=False, interruptible=False)
    previous_model = gmsh.model.getCurrent()
    wanted = {**_QUIET, **(options or {})}
    previous = {name: gmsh.option.getNumber(name) for name in wanted}
    name = f"femops-{next(_sessions)}"
    try:
        for option, value in wanted.items():
            gmsh.option.setNumber(option, value)
        gmsh.model.add(name)
        yield
    finally:
        if outermost:
            gmsh.finalize()
        else:
            for option, value in previous.items():
                gmsh.option.setNumber(option, value)
            _close(name, previous_model)


def tagged_mesh_from_gmsh() -> TaggedMesh:
    """Return the current gmsh model as a mesh with regions and boundaries named by its physical groups.

    A physical group without a name is named by its number. Nodes are in VTK order, cells positively oriented.

    Raises:
        CaseError: the model has no supported mesh; see `building.build`.
    """
    tags, coordinates, _ = gmsh.model.mesh.getNodes()
    order = np.argsort(tags)
    tags, points = np.asarray(tags)[order], np.asarray(coordinates).reshape(-1, 3)[order]
    blocks: list[tuple[str, Indices]] = []
    dims: list[int] = []
    entities: list[tuple[int, int]] = []
    for dim, entity in gmsh.model.getEntities():
        for element_type, _, nodes in zip(*gmsh.model.mesh.getElements(dim, entity), strict=True):
            name, permutation = _element(element_type)
            blocks.append((name, np.searchsorted(tags, nodes).reshape(-1, len(permutation))[:, permutation]))
            dims.append(dim)
            entities.append((dim, entity))
    return build(RawMesh(points, blocks, dims, _physical_groups(blocks, entities)))


def save_msh(mesh: TaggedMesh, path: Path) -> None:
    """Write a mesh as MSH 4.1 text with a physical group for each region and boundary."""
    with gmsh_session({"Mesh.MshFileVersion": 4.1, "Mesh.Binary": 0.0, "Mesh.SaveAll": 0.0}):
        points = np.zeros((len(mesh.points), 3))
        points[:, : mesh.dim] = mesh.points
        groups = [(mesh.kind, name, mesh.cells[members]) for name, members in mesh.regions.items()]
        groups += [(mesh.facet_kind, name, facets) for name, facets in mesh.boundaries.items()]
        for position, (kind, name, cells) in enumerate(groups):
            entity = gmsh.model.addDiscreteEntity(kind.dim)
            if position == 0:
                gmsh.model.mesh.addNodes(kind.dim, entity, np.arange(1, len(points) + 1), points.ravel())
            family = _FAMILIES.get(kind.shape, kind.shape)
            element_type = gmsh.model.mesh.getElementType(family, kind.degree, kind.serendipity)
            to_gmsh = np.argsort(_element(element_type)[1])
            gmsh.model.mesh.addElementsByType(entity, element_type, [], (cells[:, to_gmsh] + 1).ravel())
            gmsh.model.addPhysicalGroup(kind.dim, [entity], name=name)
        gmsh.write(str(path))


def _physical_groups(blocks: list[tuple[str, Indices]], entities: list[tuple[int, int]]) -> dict[str, list[Indices]]:
    """Return the cells of each block in each group; groups with the same name in several dimensions are merged."""
    nothing = np.empty(0, dtype=np.int64)
    groups: dict[str, list[Indices]] = {}
    for dim, tag in gmsh.model.getPhysicalGroups():
        name = gmsh.model.getPhysicalName(dim, tag) or str(tag)
        members = {(dim, int(entity)) for entity in gmsh.model.getEntitiesForPhysicalGroup(dim, tag)}
        group = groups.setdefault(name, [nothing] * len(blocks))
        for block, owner in enumerate(entities):
            if owner in members:
                group[block] = np.arange(len(blocks[block][1]))
    return groups


def _element(element_type: int) -> tuple[str, Indices]:
    """Return the kind of a gmsh element type and the gmsh positions of its nodes in VTK order."""
    name, dim, order, n_nodes, local, _ = gmsh.model.mesh.getElementProperties(element_type)
    for kind in CELLS.values():
        if (kind.dim, kind.degree, kind.n_nodes) == (dim, order, n_nodes):
            return kind.name, _vtk_order(kind, np.reshape(local, (n_nodes, dim)))
    return name, np.arange(n_nodes)


def _vtk_order(kind: CellKind, local: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Indices:
    """Return the positions of gmsh reference nodes (on [-1, 1] except for simplices) in VTK order."""
    reference = local if kind.shape in ("triangle", "tetrahedron") else 0.5 * (local + 1.0)
    distance = np.abs(kind.nodes[:, None, :] - reference[None, :, :]).max(-1)
    if distance.min(axis=1).max() > 1e-9:
        raise CaseError(f"gmsh orders the nodes of {kind.name} in an unknown way; expected gmsh 4")
    return np.asarray(distance.argmin(axis=1), dtype=np.int64)


def _close(name: str, previous_model: str) -> None:
    gmsh.model.setCurrent(name)
    gmsh.model.remove()
    if previous_model:
        gmsh.model.setCurrent(previous_model)
