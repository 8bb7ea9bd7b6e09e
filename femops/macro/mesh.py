"""The distributed macroscale mesh with its named regions and boundaries."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import basix.ufl
import numpy as np
import numpy.typing as npt
from dolfinx import mesh as dolfinx_mesh
from dolfinx.graph import adjacencylist
from dolfinx.io.utils import distribute_entity_data
from mpi4py import MPI

from femops.errors import CaseError
from femops.meshing import CELLS, CellKind, TaggedMesh
from femops.meshing.building import exterior_facets
from femops.meshing.connectivity import describe_parts, part_of_nodes
from femops.parallel import on_root

LocalIndices = npt.NDArray[np.int32]


@dataclass(frozen=True)
class MacroMesh:
    """A distributed mesh.

    Attributes:
        mesh: The DOLFINx mesh, without ghost cells.
        kind: The kind of its cells.
        regions: Cells of this rank in each region.
        boundaries: Facets of this rank on each named boundary.
        interior: Names of boundaries inside the body.
        notes: Warnings about the mesh, one line each.
        sets_without_facets: Named sets that are not boundaries, with the reason.
        parts: Description of each connected part of the body.
        part_of_cell: Connected part of each cell of this rank. Shape (n_cells,).
    """

    mesh: dolfinx_mesh.Mesh
    kind: CellKind
    regions: dict[str, LocalIndices]
    boundaries: dict[str, LocalIndices]
    interior: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    sets_without_facets: dict[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ("the body",)
    part_of_cell: LocalIndices = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    @property
    def n_cells(self) -> int:
        """Number of cells that this rank owns."""
        return int(self.mesh.topology.index_map(self.mesh.topology.dim).size_local)


def macro_mesh(make: Callable[[], TaggedMesh], dim: int, comm: MPI.Comm) -> MacroMesh:
    """Read or generate the mesh on rank 0 and distribute it; collective.

    Args:
        make: Reads or generates the mesh.
        dim: Dimension of the case.
        comm: The ranks that share the mesh.

    Raises:
        CaseError: The mesh cannot be read or has another dimension than the case.
    """
    kept: list[TaggedMesh] = []

    def describe() -> dict[str, Any]:
        kept.append(_complete(make()))
        return _header(kept[0])

    header = on_root(comm, describe)
    if header["dim"] != dim:
        raise CaseError(f"the mesh is {header['dim']}D, expected {dim}D as in kinematics", key="mesh")
    return _distribute(kept[0] if kept else None, header, comm)


def _header(mesh: TaggedMesh) -> dict[str, Any]:
    """Return the mesh data that every rank needs."""
    n_parts, part = part_of_nodes(mesh.cells, len(mesh.points))
    return {
        "dim": mesh.dim,
        "kind": mesh.kind.name,
        "regions": list(mesh.regions),
        "bounds": list(mesh.boundaries),
        "interior": _interior(mesh),
        "notes": mesh.notes,
        "sets_without_facets": mesh.sets_without_facets,
        "parts": tuple(describe_parts(mesh, part, n_parts)) if n_parts > 1 else ("the body",),
    }


def _interior(mesh: TaggedMesh) -> frozenset[str]:
    """Return the names of boundaries with facets between two cells."""
    surface = _as_keys(exterior_facets(mesh.cells, mesh.kind))
    return frozenset(name for name, facets in mesh.boundaries.items() if not np.isin(_as_keys(facets), surface).all())


def _as_keys(facets: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
    """Return a key for the node set of each facet. Shape (n_facets,)."""
    nodes = np.ascontiguousarray(np.sort(facets, axis=1))
    return nodes.view([("", nodes.dtype)] * nodes.shape[1]).ravel()


def _complete(mesh: TaggedMesh) -> TaggedMesh:
    """Convert quad8 to quad9 cells, as DOLFINx has no serendipity geometries."""
    if not mesh.kind.serendipity:
        return mesh
    if mesh.kind.name != "quad8":
        raise CaseError(f"cells of kind {mesh.kind.name} cannot be macroscale cells; expected hexahedron27", key="mesh")
    full = CELLS["quad9"]
    values, _ = mesh.kind.tabulate(full.nodes[-1:])
    centres = np.einsum("n,cni->ci", values[0], mesh.points[mesh.cells])
    numbers = len(mesh.points) + np.arange(len(mesh.cells))
    return replace(
        mesh, points=np.vstack([mesh.points, centres]), cells=np.column_stack([mesh.cells, numbers]), kind=full
    )


def _distribute(tagged: TaggedMesh | None, header: dict[str, Any], comm: MPI.Comm) -> MacroMesh:
    kind = CELLS[header["kind"]]
    dim = header["dim"]
    element = basix.ufl.element(
        "Lagrange", kind.shape, kind.degree, lagrange_variant=basix.LagrangeVariant.equispaced, shape=(dim,)
    )
    if tagged is None:
        cells, points = np.empty((0, kind.n_nodes), dtype=np.int64), np.empty((0, dim))
    else:
        cells = np.ascontiguousarray(tagged.cells[:, kind.lagrange_permutation], dtype=np.int64)
        points = np.ascontiguousarray(tagged.points)
    partitioner = dolfinx_mesh.create_cell_partitioner(dolfinx_mesh.GhostMode.none, 2)
    mesh = dolfinx_mesh.create_mesh(comm, cells, element, points, partitioner)
    mesh.topology.create_connectivity(dim - 1, dim)
    mesh.topology.create_connectivity(dim, dim)
    facet_order = CELLS[kind.facet].lagrange_permutation
    regions, boundaries = {}, {}
    for name in header["regions"]:
        chosen = None if tagged is None else cells[tagged.regions[name]]
        regions[name] = _entities(mesh, dim, chosen, kind.n_nodes)
    for name in header["bounds"]:
        chosen = None if tagged is None else tagged.boundaries[name][:, facet_order]
        boundaries[name] = _entities(mesh, dim - 1, chosen, CELLS[kind.facet].n_nodes)
    parts = _parts(mesh, cells, len(header["parts"]))
    return MacroMesh(
        mesh,
        kind,
        regions,
        boundaries,
        header["interior"],
        header["notes"],
        header["sets_without_facets"],
        header["parts"],
        parts,
    )


def _parts(mesh: dolfinx_mesh.Mesh, cells: npt.NDArray[np.int64], n_parts: int) -> LocalIndices:
    """Return the connected part of each cell of this rank; `cells` are input cells on rank 0, empty elsewhere."""
    dim = mesh.topology.dim
    found = np.zeros(mesh.topology.index_map(dim).size_local, dtype=np.int32)
    if n_parts == 1:
        return found
    part = part_of_nodes(cells, int(cells.max()) + 1)[1][cells[:, 0]] if len(cells) else np.empty(0)
    tags = _tagged(mesh, dim, cells, part.astype(np.int32))
    found[tags.indices] = tags.values
    return found


def _entities(mesh: dolfinx_mesh.Mesh, dim: int, nodes: Any, n_nodes: int) -> LocalIndices:
    """Return this rank's entities with the given input nodes (on rank 0; None elsewhere)."""
    if nodes is None:
        nodes = np.empty((0, n_nodes), dtype=np.int64)
    return np.unique(_tagged(mesh, dim, nodes, np.ones(len(nodes), dtype=np.int32)).indices).astype(np.int32)


def _tagged(mesh: dolfinx_mesh.Mesh, dim: int, nodes: Any, values: LocalIndices) -> dolfinx_mesh.MeshTags:
    """Return this rank's entities with the given input nodes as mesh tags."""
    nodes = np.ascontiguousarray(nodes, dtype=np.int64)
    found, found_values = distribute_entity_data(mesh, dim, nodes, values)
    mesh.topology.create_connectivity(dim, 0)
    return dolfinx_mesh.meshtags_from_entities(mesh, dim, adjacencylist(found), found_values)
