"""Connectivity of a mesh: disconnected parts, coincident nodes and rigid motions of parts."""

from dataclasses import dataclass

import basix
import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from femops.meshing.tagged import TaggedMesh
from femops.notation import Array, Indices

# Nodes closer than this fraction of the shortest edge at them are noted as coincident. Larger than the tolerance of
# the geometry of RVEs: the note should also find nodes that a mesh program has written with few digits.
_COINCIDENT = 1e-3
_NAMED = 5  # largest number of parts listed in a note


def part_of_nodes(cells: Indices, n_nodes: int, ties: Indices | None = None) -> tuple[int, Indices]:
    """Return the number of connected parts and the part of each node; −1 for nodes of no cell.

    Parts are numbered in the order of their first nodes.

    Args:
        cells: Nodes of each cell. Shape (n_cells, n_nodes_of_cell).
        n_nodes: Number of nodes.
        ties: Further pairs of connected nodes. Shape (n, 2).
    """
    links = links_of_cells(cells) if ties is None else np.vstack([links_of_cells(cells), ties])
    label = components(links, n_nodes)
    used = np.zeros(n_nodes, dtype=bool)
    used[links] = True
    _, first, inverse = np.unique(label[used], return_index=True, return_inverse=True)
    part = np.full(n_nodes, -1, dtype=np.int64)
    part[used] = np.argsort(np.argsort(first))[inverse]
    return len(first), part


def links_of_cells(cells: Indices) -> Indices:
    """Return pairs of nodes that connect the nodes of each cell. Shape (n_pairs, 2)."""
    return np.column_stack([np.repeat(cells[:, :1], cells.shape[1] - 1, axis=1).ravel(), cells[:, 1:].ravel()])


def components(links: Indices, n_nodes: int) -> Indices:
    """Return the number, from 0, of the connected component of each node of a graph. Shape (n_nodes,).

    Args:
        links: Pairs of connected nodes. Shape (n_links, 2).
        n_nodes: Number of nodes.
    """
    graph = sp.coo_array((np.ones(len(links), dtype=bool), (links[:, 0], links[:, 1])), shape=(n_nodes, n_nodes))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def coincident_pairs(points: Array, distance: float) -> Indices:
    """Return the pairs of points at most `distance` [length] apart. Shape (n_pairs, 2)."""
    return np.asarray(cKDTree(points).query_pairs(distance, output_type="ndarray"), dtype=np.int64)


def coincident_nodes(mesh: TaggedMesh) -> Indices:
    """Return the pairs of coincident nodes, each node with its nearest. Shape (n, 2)."""
    reach = _COINCIDENT * _size_at_nodes(mesh)
    tree = cKDTree(mesh.points)
    distance, nearest = tree.query(mesh.points, k=2, distance_upper_bound=reach.max() * (1.0 + 1e-9))
    # The query may return the other node of a coincident pair first.
    other = np.where(nearest[:, 0] == np.arange(len(nearest)), nearest[:, 1], nearest[:, 0])
    near = np.flatnonzero(distance[:, 1] < reach)
    return np.column_stack([near, other[near]]).astype(np.int64)


def describe_parts(mesh: TaggedMesh, part: Indices, n_parts: int) -> list[str]:
    """Return a description of each part: number of cells, regions, centre and instances.

    Args:
        mesh: The mesh.
        part: Part of each node. Shape (n_nodes,).
        n_parts: Number of parts.
    """
    of_cell = part[mesh.cells[:, 0]]
    counts = np.bincount(of_cell, minlength=n_parts)
    sums = [np.bincount(of_cell, mesh.points[mesh.cells].mean(axis=1)[:, axis], n_parts) for axis in range(mesh.dim)]
    centres = np.column_stack(sums) / np.maximum(counts, 1)[:, None]
    regions = _holders(mesh.regions, of_cell, n_parts)
    instances = _holders(mesh.instances, part, n_parts)
    return [
        f"{'instance ' + ', '.join(instances[number]) + ': ' if instances[number] else ''}{counts[number]} "
        f"{'cell' if counts[number] == 1 else 'cells'} of {', '.join(regions[number])} around {place(centres[number])}"
        for number in range(n_parts)
    ]


def place(point: Array) -> str:
    """Return the coordinates of a point in brackets."""
    return f"({', '.join(f'{x:.4g}' for x in point + 0.0)})"


def notes_on_connectivity(mesh: TaggedMesh) -> tuple[str, ...]:
    """Return notes on disconnected parts and on coincident nodes."""
    n_parts, part = part_of_nodes(mesh.cells, len(mesh.points))
    pairs = coincident_nodes(mesh)
    across = part[pairs[:, 0]] != part[pairs[:, 1]]
    notes = []
    if n_parts > 1:
        found = describe_parts(mesh, part, n_parts)
        more = f"; and {n_parts - _NAMED} more" if n_parts > _NAMED else ""
        touching = f"; {across.sum()} nodes coincide with nodes of another part: merge them if the parts are bonded"
        notes.append(
            f"the mesh consists of {n_parts} disconnected parts ({'; '.join(found[:_NAMED])}{more})"
            f"{touching if across.any() else ''}"
        )
    if (~across).any():
        example = place(mesh.points[pairs[~across][0, 0]])
        notes.append(
            f"{(~across).sum()} nodes coincide with another node of the same part, for example at {example}: "
            "a crack, or nodes that have to be merged"
        )
    return tuple(notes)


@dataclass(frozen=True)
class RigidMotions:
    """Rigid-body motions of the parts of a mesh, and those that the supports leave free.

    Attributes:
        centres: Centre of rotation of each part [length]. Shape (n_parts, 3).
        sizes: Length that scales the rotations of each part [length]. Shape (n_parts,).
        dim: Dimension of space.
    """

    centres: Array
    sizes: Array
    dim: int

    @property
    def names(self) -> list[str]:
        """Name of each motion."""
        translations = [f"rigid-body translation along {axis}" for axis in "xyz"[: self.dim]]
        return translations + [f"rigid-body rotation about {axis}" for axis in ("z" if self.dim == 2 else "xyz")]

    def components(self, points: Array, axes: Indices, parts: Indices) -> Array:
        """Return the displacement component of points in each rigid motion. Shape (n, n_motions).

        Args:
            points: Coordinates [length]. Shape (n, 3).
            axes: Displacement component at each point. Shape (n,).
            parts: Part of each point. Shape (n,).
        """
        arms = (points - self.centres[parts]) / self.sizes[parts][:, None]
        translations = np.eye(3)[axes]
        rotations = -np.cross(arms[:, None, :], np.eye(3))[np.arange(len(axes)), :, axes]  # e_k × x
        return np.hstack([translations, rotations])[:, [0, 1, 5] if self.dim == 2 else list(range(6))]

    def gram(self, components: Array, parts: Indices) -> Array:
        """Return the Gram matrix Σ c ⊗ c of the components c in each part. Shape (n_parts, n_motions, n_motions)."""
        total = np.zeros((len(self.sizes), components.shape[1], components.shape[1]))
        np.add.at(total, parts, components[:, :, None] * components[:, None, :])
        return total

    def free(self, gram: Array) -> dict[int, str]:
        """Return the insufficiently supported parts, whose Gram matrix is singular, with the name of a free motion."""
        values, vectors = np.linalg.eigh(gram)
        singular = np.flatnonzero(values[:, 0] <= 1e-10 * values[:, -1])
        return {int(part): self.names[int(np.abs(vectors[part, :, 0]).argmax())] for part in singular}


def _holders(groups: dict[str, Indices], part: Indices, n_parts: int) -> list[list[str]]:
    """Return the names of the groups that have members in each part."""
    found: list[list[str]] = [[] for _ in range(n_parts)]
    for name, members in groups.items():
        for number in np.unique(part[members[members < len(part)]]).tolist():
            found[number].append(name)
    return found


def _size_at_nodes(mesh: TaggedMesh) -> Array:
    """Return the length of the shortest edge of the cells at each node. Shape (n_nodes,)."""
    edges = np.array(basix.topology(mesh.kind.basix_cell)[1])
    corners = mesh.points[mesh.cells[:, _corners(mesh)]]
    shortest = np.linalg.norm(corners[:, edges[:, 0]] - corners[:, edges[:, 1]], axis=-1).min(axis=1)
    size = np.full(len(mesh.points), np.inf)
    np.minimum.at(size, mesh.cells, shortest[:, None])
    return np.where(np.isfinite(size), size, 0.0)


def _corners(mesh: TaggedMesh) -> Indices:
    """Return the VTK positions of the corners, in basix order."""
    corners = basix.geometry(mesh.kind.basix_cell)
    return np.asarray(np.abs(corners[:, None] - mesh.kind.nodes[None]).max(-1).argmin(1), dtype=np.int64)
