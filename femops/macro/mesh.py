"""The distributed macroscale mesh with its named regions and boundaries."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import basix.ufl
import numpy as np
import numpy.typing as npt
from dolfinx import geometry
from dolfinx import mesh as dolfinx_mesh
from dolfinx.graph import adjacencylist
from dolfinx.io.utils import distribute_entity_data
from mpi4py import MPI

from femops.errors import CaseError
from femops.meshing import CELLS, CellKind, TaggedMesh
from femops.meshing.connectivity import describe_parts, part_of_nodes
from femops.parallel import on_root

_ROUND_OFF = 1e-9  # relative to the extent of the body

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

    @cached_property
    def extent(self) -> float:
        """Largest extent of the body along an axis [length]; the first call is collective."""
        own = float(np.ptp(self.mesh.geometry.x, axis=0).max()) if self.n_cells else 0.0
        return float(self.mesh.comm.allreduce(own, op=MPI.MAX))

    @cached_property
    def tree(self) -> geometry.BoundingBoxTree:
        """Bounding boxes of the cells of this rank, which has some, padded by `round_off`."""
        return geometry.bb_tree(self.mesh, self.mesh.topology.dim, padding=self.round_off)

    @property
    def round_off(self) -> float:
        """Distance within which points coincide [length]."""
        return _ROUND_OFF * self.extent


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
    region, part = _of_cells(mesh, tagged, len(header["parts"]))
    regions = {name: _where(region == number) for number, name in enumerate(header["regions"])}
    boundaries = _boundaries(mesh, tagged, header["bounds"], CELLS[kind.facet])
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


def _of_cells(mesh: dolfinx_mesh.Mesh, tagged: TaggedMesh | None, n_parts: int) -> tuple[LocalIndices, LocalIndices]:
    """Return the number of the region and the connected part of each cell of this rank; `tagged` is on rank 0."""
    n_cells = mesh.topology.index_map(mesh.topology.dim).size_local
    numbers = mesh.comm.gather(np.asarray(mesh.topology.original_cell_index[:n_cells]))
    shares = None
    if tagged is not None:
        part = np.zeros(len(tagged.cells), dtype=np.int32)
        if n_parts > 1:
            part[:] = part_of_nodes(tagged.cells, len(tagged.points))[1][tagged.cells[:, 0]]
        region = tagged.region_of_cell()
        shares = [(region[own], part[own]) for own in numbers]
    return mesh.comm.scatter(shares)


def _where(mask: Any) -> LocalIndices:
    return np.flatnonzero(mask).astype(np.int32)


def _boundaries(
    mesh: dolfinx_mesh.Mesh, tagged: TaggedMesh | None, names: list[str], kind: CellKind
) -> dict[str, LocalIndices]:
    """Return this rank's facets on each boundary; `tagged` is on rank 0. Each facet is sent once."""
    dim = mesh.topology.dim - 1
    facets, values = np.empty((0, kind.n_nodes), dtype=np.int64), np.empty(0, dtype=np.int32)
    sets = None
    if tagged is not None and names:
        nodes = np.concatenate([tagged.boundaries[name] for name in names])
        of = np.repeat(np.arange(len(names)), [len(tagged.boundaries[name]) for name in names])
        _, first, inverse = np.unique(np.sort(nodes, axis=1), axis=0, return_index=True, return_inverse=True)
        member = np.zeros((len(first), len(names)), dtype=bool)
        member[inverse.ravel(), of] = True
        sets, value = np.unique(member, axis=0, return_inverse=True)
        facets = np.ascontiguousarray(nodes[first][:, kind.lagrange_permutation], dtype=np.int64)
        values = value.ravel().astype(np.int32)
    sets = mesh.comm.bcast(sets)
    if not names:
        return {}
    nodes_here, values_here = distribute_entity_data(mesh, dim, facets, values)
    mesh.topology.create_connectivity(dim, 0)
    tags = dolfinx_mesh.meshtags_from_entities(mesh, dim, adjacencylist(nodes_here), values_here)
    return {name: np.unique(tags.indices[sets[tags.values, k]]).astype(np.int32) for k, name in enumerate(names)}


def _interior(mesh: dolfinx_mesh.Mesh, boundaries: dict[str, LocalIndices]) -> frozenset[str]:
    """Return the names of boundaries with facets between two cells; collective."""
    surface = dolfinx_mesh.exterior_facet_indices(mesh.topology)
    own = {name for name, facets in boundaries.items() if not np.isin(facets, surface).all()}
    return frozenset().union(*mesh.comm.allgather(own))
