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
        "notes": mesh.notes,
        "sets_without_facets": mesh.sets_without_facets,
        "parts": tuple(describe_parts(mesh, part, n_parts)) if n_parts > 1 else ("the body",),
    }


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
    region, part = _of_cells(mesh, tagged)
    regions = {name: _cells_where(region == number) for number, name in enumerate(header["regions"])}
    boundaries = {}
    for name in header["bounds"]:
        facets = None if tagged is None else tagged.boundaries[name][:, facet_order]
        boundaries[name] = _facets(mesh, facets, CELLS[kind.facet].n_nodes)
    return MacroMesh(
        mesh,
        kind,
        regions,
        boundaries,
        _interior(mesh, boundaries),
        header["notes"],
        header["sets_without_facets"],
        header["parts"],
        part,
    )


def _of_cells(mesh: dolfinx_mesh.Mesh, tagged: TaggedMesh | None) -> tuple[LocalIndices, LocalIndices]:
    """Return the number of the region and the connected part of each cell of this rank; `tagged` is on rank 0."""
    n_cells = mesh.topology.index_map(mesh.topology.dim).size_local
    numbers = mesh.comm.gather(np.asarray(mesh.topology.original_cell_index[:n_cells]))
    shares = None
    if tagged is not None:
        part = part_of_nodes(tagged.cells, len(tagged.points))[1][tagged.cells[:, 0]].astype(np.int32)
        of_cell = np.stack([tagged.region_of_cell(), part])
        shares = [of_cell[:, own] for own in numbers]
    region, own_part = mesh.comm.scatter(shares)
    return region, own_part


def _cells_where(mask: Any) -> LocalIndices:
    return np.flatnonzero(mask).astype(np.int32)


def _interior(mesh: dolfinx_mesh.Mesh, boundaries: dict[str, LocalIndices]) -> frozenset[str]:
    """Return the names of boundaries with facets between two cells; collective."""
    surface = dolfinx_mesh.exterior_facet_indices(mesh.topology)
    own = {name for name, facets in boundaries.items() if not np.isin(facets, surface).all()}
    return frozenset().union(*mesh.comm.allgather(own))


def _facets(mesh: dolfinx_mesh.Mesh, nodes: Any, n_nodes: int) -> LocalIndices:
    """Return this rank's facets with the given input nodes (on rank 0; None elsewhere)."""
    dim = mesh.topology.dim - 1
    nodes = np.empty((0, n_nodes), dtype=np.int64) if nodes is None else np.ascontiguousarray(nodes, dtype=np.int64)
    found, values = distribute_entity_data(mesh, dim, nodes, np.ones(len(nodes), dtype=np.int32))
    mesh.topology.create_connectivity(dim, 0)
    return np.unique(dolfinx_mesh.meshtags_from_entities(mesh, dim, adjacencylist(found), values).indices)
