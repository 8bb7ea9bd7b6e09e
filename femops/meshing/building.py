"""Builds a checked `TaggedMesh` from the cell blocks and named groups of a mesh file; facets of cells."""

from dataclasses import dataclass, field, replace

import basix
import numpy as np

from femops.errors import CaseError
from femops.meshing.cell_checks import check_nodes_of_cells, check_volume_of_cells, jacobians
from femops.meshing.cells import CELLS, CellKind
from femops.meshing.connectivity import notes_on_connectivity
from femops.meshing.tagged import TaggedMesh
from femops.notation import Array, Indices

SUPPORTED = tuple(name for name, kind in CELLS.items() if kind.dim > 1)


@dataclass(frozen=True)
class RawMesh:
    """Mesh as stored in a file: blocks of cells of any dimension, and groups across the blocks.

    Attributes:
        points: Node coordinates [length]. Shape (n_nodes, 2) or (n_nodes, 3).
        blocks: Cell kind (name as in meshio) and nodes in VTK order, shape (n_cells, n_nodes_of_cell), of each block.
        dims: Topological dimension of each block.
        groups: Cell indices of each named group, one array per block.
        node_sets: Node indices of each named set; it denotes the exterior facets with all nodes in the set.
        facets: Facets of each named surface, by nodes in VTK order.
        sets_without_facets: Sets without facets, which cannot be boundaries, with the reason.
        instances: Nodes of each instance, if the file assembles the mesh from several.
        notes: Notes to the user, one line each.
    """

    points: Array
    blocks: list[tuple[str, Indices]]
    dims: list[int]
    groups: dict[str, list[Indices]] = field(default_factory=dict)
    node_sets: dict[str, Indices] = field(default_factory=dict)
    facets: dict[str, Indices] = field(default_factory=dict)
    sets_without_facets: dict[str, str] = field(default_factory=dict)
    instances: dict[str, Indices] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def build(raw: RawMesh) -> TaggedMesh:
    """Build the mesh from the cells of highest dimension: unused nodes removed, cells positively oriented, checked.

    Groups of these cells become regions, groups of cells of one dimension less become boundaries. Without any group
    of cells the mesh has the single region `domain`.

    Raises:
        CaseError: an unsupported or mixed kind of cells, regions that overlap or do not cover the mesh, boundaries
            off the mesh, a 2D mesh out of plane, or degenerate cells.
    """
    kind, blocks = _kind_of_cells(raw)
    cells = np.vstack([raw.blocks[block][1] for block in blocks]).astype(np.int64)
    used, compact = np.unique(cells, return_inverse=True)
    if used[0] < 0 or used[-1] >= len(raw.points):
        raise CaseError(
            f"cells refer to nodes {used[0]} to {used[-1]}; the mesh has {len(raw.points)} nodes, counted from 0"
        )
    renumber = np.full(len(raw.points), -1, dtype=np.int64)
    renumber[used] = np.arange(len(used))
    points = _in_space(np.asarray(raw.points, dtype=np.float64)[used], kind.dim)
    cells = compact.reshape(cells.shape)
    check_nodes_of_cells(points, cells)
    sign, curved = check_volume_of_cells(points, cells, kind)
    cells = _oriented(cells, kind, sign)
    boundaries, without_facets, notes = _boundaries(raw, renumber, cells, kind)
    instances = {name: renumber[nodes][renumber[nodes] >= 0] for name, nodes in raw.instances.items()}
    regions = _regions(raw, blocks, len(cells))
    without_facets = {name: why for name, why in without_facets.items() if name not in regions}
    mesh = TaggedMesh(
        points, cells, kind, regions, boundaries, (*raw.notes, *curved, *notes), without_facets, instances
    )
    return replace(mesh, notes=(*mesh.notes, *notes_on_connectivity(mesh)))


def local_facets(kind: CellKind) -> Indices:
    """Return the facets of a cell by local nodes in VTK order. Shape (n_facets, n_nodes_of_facet)."""
    corners = basix.geometry(kind.basix_cell)
    facets = basix.topology(kind.basix_cell)[kind.dim - 1]
    # Facets of reference cells are affine images of the reference facet.
    starts = np.array([corners[facet[0]] for facet in facets])
    edges = np.array([[corners[facet[i + 1]] - corners[facet[0]] for i in range(kind.dim - 1)] for facet in facets])
    nodes = starts[:, None, :] + np.einsum("na,fad->fnd", CELLS[kind.facet].nodes, edges)
    return np.asarray(np.abs(nodes[:, :, None, :] - kind.nodes).max(-1).argmin(-1), dtype=np.int64)


def exterior_facets(cells: Indices, kind: CellKind) -> Indices:
    """Return the exterior facets, which belong to one cell only, in VTK order. Shape (n_facets, n_nodes_of_facet)."""
    return exterior(cells, kind)[0]


def exterior(cells: Indices, kind: CellKind) -> tuple[Indices, Indices]:
    """Return the exterior facets, see `exterior_facets`, and the cell of each, shape (n_facets,)."""
    facets = _all_facets(cells, kind)
    nodes = np.sort(facets, axis=1)
    order = np.lexsort(nodes.T)  # much faster than np.unique of rows, as cells mostly follow their neighbours
    differs = np.ones(len(order) + 1, dtype=bool)
    differs[1:-1] = (nodes[order[1:]] != nodes[order[:-1]]).any(axis=1)
    chosen = np.sort(order[differs[1:] & differs[:-1]])
    return np.asarray(facets[chosen], dtype=np.int64), chosen // len(local_facets(kind))


def measures(mesh: TaggedMesh) -> Array:
    """Return the area or volume [length^dim] of each cell. Shape (n_cells,)."""
    return np.asarray(jacobians(mesh.points, mesh.cells, mesh.kind) @ mesh.kind.quadrature()[1])


def _kind_of_cells(raw: RawMesh) -> tuple[CellKind, list[int]]:
    dim = max((d for d, (_, cells) in zip(raw.dims, raw.blocks, strict=True) if len(cells)), default=0)
    blocks = [i for i, d in enumerate(raw.dims) if d == dim and len(raw.blocks[i][1])]
    names = list(dict.fromkeys(raw.blocks[block][0] for block in blocks))
    if dim < 2:
        raise CaseError(f"the mesh has no 2D or 3D cells; expected cells of one of {', '.join(SUPPORTED)}")
    if unknown := [name for name in names if name not in SUPPORTED]:
        raise CaseError(f"cell type '{unknown[0]}' is not supported; supported: {', '.join(SUPPORTED)}")
    if len(names) > 1:
        raise CaseError(f"the mesh mixes cells of the kinds {', '.join(names)}; expected one kind")
    return CELLS[names[0]], blocks


def _in_space(points: Array, dim: int) -> Array:
    """Truncate coordinates to the dimension of the cells; 2D cells must lie in a plane of constant z."""
    if points.shape[1] < dim:
        raise CaseError(f"{dim}D cells have nodes of {points.shape[1]} coordinates; expected {dim}")
    if points.shape[1] > dim and np.ptp(points[:, 2]) > 1e-9 * np.ptp(points, axis=0).max():
        low, high = points[:, 2].min(), points[:, 2].max()
        raise CaseError(f"2D cells have z between {low:g} and {high:g}; expected a mesh in the x-y plane")
    return np.ascontiguousarray(points[:, :dim])


def _oriented(cells: Indices, kind: CellKind, sign: Array) -> Indices:
    """Flip cells of negative orientation by exchanging the first two reference axes."""
    swapped = kind.nodes.copy()
    swapped[:, [0, 1]] = kind.nodes[:, [1, 0]]
    flip = np.abs(swapped[:, None, :] - kind.nodes).max(-1).argmin(-1)
    oriented = cells.copy()
    oriented[sign < 0] = cells[sign < 0][:, flip]
    return oriented


def _regions(raw: RawMesh, blocks: list[int], n_cells: int) -> dict[str, Indices]:
    offsets = np.cumsum([0, *(len(raw.blocks[block][1]) for block in blocks)])
    regions: dict[str, Indices] = {}
    for name, members in raw.groups.items():
        cells = np.unique(np.concatenate([members[block] + offsets[i] for i, block in enumerate(blocks)]))
        if len(cells):
            regions[name] = cells.astype(np.int64)
    if not regions:
        return {"domain": np.arange(n_cells)}
    owners = np.zeros(n_cells, dtype=np.int64)
    for name, cells in regions.items():
        if owners[cells].any():
            other = list(regions)[owners[cells].max() - 1]
            raise CaseError(f"regions '{other}' and '{name}' share {(owners[cells] > 0).sum()} cells; expected none")
        owners[cells] = list(regions).index(name) + 1
    if unassigned := int((owners == 0).sum()):
        named = ", ".join(regions)
        raise CaseError(
            f"{unassigned} of {n_cells} cells belong to no region ({named}); expected a region for each cell"
        )
    return regions


def _boundaries(
    raw: RawMesh, renumber: Indices, cells: Indices, kind: CellKind
) -> tuple[dict[str, Indices], dict[str, str], list[str]]:
    """Return boundaries, other sets with the reason, and notes; facets take precedence over node sets."""
    boundaries = {
        name: _once(renumber[facets]) for name, facets in {**_boundary_groups(raw, kind), **raw.facets}.items()
    }
    _check_facets(boundaries, cells, kind)
    exterior = exterior_facets(cells, kind) if raw.node_sets else cells[:0, local_facets(kind)[0]]
    without_facets, notes = dict(raw.sets_without_facets), []
    for name, nodes in raw.node_sets.items():
        inside = np.zeros(int(cells.max()) + 1, dtype=bool)
        inside[renumber[nodes][renumber[nodes] >= 0]] = True
        facets = exterior[inside[exterior].all(axis=1)]
        if name in boundaries:
            if not (len(facets) == len(boundaries[name]) and facets_among(facets, boundaries[name]).all()):
                notes.append(f"'{name}' is a set of facets and a set of other nodes; the facets are the boundary")
        elif len(facets):
            boundaries[name] = facets
        else:
            count = f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}"
            without_facets[name] = f"contains {count} but no complete facet of the surface"
    for name, members in raw.groups.items():
        small = [raw.blocks[i][0] for i, one in enumerate(members) if len(one) and raw.dims[i] < kind.dim - 1]
        if small and name not in boundaries:
            without_facets[name] = f"contains cells of kind {small[0]} but no facets"
    return boundaries, {name: why for name, why in without_facets.items() if name not in boundaries}, notes


def _check_facets(boundaries: dict[str, Indices], cells: Indices, kind: CellKind) -> None:
    """Check that the facets of all boundaries are facets of cells."""
    if not boundaries:
        return
    given, facets = np.vstack(list(boundaries.values())), _all_facets(cells, kind)
    near = np.zeros(int(cells.max()) + 1, dtype=bool)
    near[given[given >= 0]] = True
    known = facets_among(given, facets[near[facets].all(axis=1)])
    ends = np.cumsum([len(one) for one in boundaries.values()])
    for name, of_boundary in zip(boundaries, np.split(known, ends[:-1]), strict=True):
        if off := int((~of_boundary).sum()):
            raise CaseError(f"boundary '{name}' has {off} facets that belong to no cell; expected facets of the mesh")


def facets_among(facets: Indices, others: Indices) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return a mask of the facets that are among `others`, in any order of their nodes. Shape (n_facets,)."""
    _, number = np.unique(np.sort(np.vstack([facets, others]), axis=1), axis=0, return_inverse=True)
    number = np.ravel(number)
    return np.asarray(np.isin(number[: len(facets)], number[len(facets) :]))


def _once(facets: Indices) -> Indices:
    """Return the facets without duplicates (the same nodes in any order)."""
    _, first = np.unique(np.sort(facets, axis=1), axis=0, return_index=True)
    return facets[np.sort(first)]


def _all_facets(cells: Indices, kind: CellKind) -> Indices:
    local = local_facets(kind)
    return cells[:, local].reshape(-1, local.shape[1])


def _boundary_groups(raw: RawMesh, kind: CellKind) -> dict[str, Indices]:
    boundaries: dict[str, Indices] = {}
    facet_blocks = [i for i, d in enumerate(raw.dims) if d == kind.dim - 1]
    for name, members in raw.groups.items():
        parts = [(raw.blocks[i][0], raw.blocks[i][1][members[i]]) for i in facet_blocks if len(members[i])]
        if wrong := [facet for facet, _ in parts if facet != kind.facet]:
            raise CaseError(f"boundary '{name}' has facets of kind {wrong[0]}; {kind.name} cells have {kind.facet}")
        if parts:
            boundaries[name] = np.vstack([facets for _, facets in parts]).astype(np.int64)
    return boundaries
