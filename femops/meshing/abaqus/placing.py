"""Assembles parts from their instances: transformed nodes, global numbering and sets."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from femops.errors import CaseError
from femops.meshing.abaqus.scopes import Elements, Instance, Model, Scope, SetEntry
from femops.meshing.building import exterior
from femops.meshing.cells import CELLS
from femops.notation import Array, Indices

_DISCRETE = -1  # number of an element without volume


@dataclass
class Labels:
    """Nodes or elements of one piece: labels, global numbers, and sets with case-insensitive names.

    Attributes:
        what: "node" or "element".
        labels: Labels in the file, sorted. Shape (n,).
        ids: Global number of each label. Shape (n,).
        sets: Global numbers in each set, by lower-case name.
        names: Name of each set as first written in the file, by lower-case name.
        own: Lower-case names of the sets defined by *NSET or *ELSET.
    """

    what: str
    labels: Indices
    ids: Indices
    sets: dict[str, Indices] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)

    def find(self, wanted: Indices) -> Indices:
        """Return the global numbers of labels.

        Raises:
            CaseError: A label is not defined.
        """
        position = np.searchsorted(self.labels, wanted)
        if len(lost := np.ravel(wanted[self._and_end[position] != wanted])):
            raise CaseError(f"{self.what} {lost[0]} is used but not defined")
        return self.ids[position]

    @cached_property
    def _and_end(self) -> Indices:
        """Labels, and a value that is none of them behind the last."""
        return np.append(self.labels, np.iinfo(np.int64).max)

    def add(self, entry: SetEntry, ids: Indices) -> None:
        """Add global numbers to the set that an entry defines."""
        key = entry.name.lower()
        self.names.setdefault(key, entry.name)
        self.sets[key] = np.union1d(self.sets.get(key, np.empty(0, dtype=np.int64)), ids[ids != _DISCRETE])
        if entry.own:
            self.own.add(key)


@dataclass
class Piece:
    """A placed instance of a part; the piece without a name is everything outside instances."""

    name: str
    part: str
    scopes: list[Scope]
    nodes: Labels
    elements: Labels


@dataclass
class Placed:
    """Assembled mesh: all pieces, with global node and element numbers.

    Attributes:
        points: Node coordinates [length]. Shape (n_nodes, 3).
        blocks: Elements with a cell kind, nodes by global number; global element numbers run through the blocks.
        discrete: Number of elements of each type without volume.
        pieces: The pieces by lower-case name, the one without a name last.
    """

    points: Array
    blocks: list[Elements]
    discrete: dict[str, int]
    pieces: dict[str, Piece]

    @cached_property
    def exterior(self) -> tuple[Indices, Indices]:
        """Exterior facets of the cells of highest dimension, of one kind, and the global number of the cell of each."""
        kinds = [CELLS[str(block.kind)] for block in self.blocks]
        highest = max(kind.dim for kind in kinds)
        starts = np.cumsum([0, *(len(block.labels) for block in self.blocks)])
        full = [number for number, kind in enumerate(kinds) if kind.dim == highest]
        facets, owner = exterior(np.vstack([self.blocks[number].nodes for number in full]), kinds[full[0]])
        return facets, np.concatenate([np.arange(starts[number], starts[number + 1]) for number in full])[owner]

    def by_block(self, ids: Indices) -> list[Indices]:
        """Split sorted global element numbers into positions within each block."""
        starts = np.cumsum([0, *(len(block.labels) for block in self.blocks)])
        cuts = np.searchsorted(ids, starts)
        return [ids[a:b] - start for (a, b), start in zip(pairwise(cuts), starts[:-1], strict=True)]

    def members(self, piece: Piece, word: str, what: str, instance: str = "") -> Indices:
        """Return the global numbers of the nodes or elements that a word refers to.

        Args:
            piece: Piece in which the word is used.
            word: A label, a set, or `INSTANCE.label` or `INSTANCE.set`.
            what: "node" or "element".
            instance: Value of the option INSTANCE=, if given.

        Raises:
            CaseError: Nothing has that name.
        """
        owner = self._instance(instance) if instance else piece
        if word.isdigit():
            return _of(owner, what).find(np.array([word], dtype=np.int64))
        for one in (owner, piece):
            if word.lower() in _of(one, what).sets:
                return _of(one, what).sets[word.lower()]
        prefix, dot, rest = word.partition(".")
        if dot and prefix.lower() in self.pieces:
            return self.members(self.pieces[prefix.lower()], rest, what)
        raise CaseError(f"{what} set '{word}' is not defined before it is used")

    def add_set(self, piece: Piece, entry: SetEntry, what: str) -> None:
        """Resolve a set definition and add it to the sets of a piece.

        Raises:
            CaseError: It names an instance, a set or a label that is not defined before it.
        """
        labels = _of(self._instance(entry.instance) if entry.instance else piece, what)
        plain = [word for word in entry.words if word.isdigit()]
        if entry.of_elements:
            elements = self.members(piece, entry.words[0], "element", entry.instance)
            found = [
                block.nodes[chosen].ravel() for block, chosen in zip(self.blocks, self.by_block(elements), strict=True)
            ]
        elif entry.generate:
            ranges = np.array(entry.words, dtype=np.int64).reshape(-1, 3)
            found = [labels.find(np.arange(first, last + 1, step)) for first, last, step in ranges.tolist()]
        else:
            found = [labels.find(np.array(plain, dtype=np.int64))]
            found += [self.members(piece, word, what, entry.instance) for word in entry.words if not word.isdigit()]
        _of(piece, what).add(entry, np.concatenate([np.empty(0, dtype=np.int64), *found]))

    def _instance(self, name: str) -> Piece:
        if name.lower() not in self.pieces:
            raise CaseError(f"instance '{name}' is used but not defined")
        return self.pieces[name.lower()]


def assemble(model: Model) -> Placed:
    """Assemble the instances of a model and resolve all sets.

    Raises:
        CaseError: Several parts without instances, or labels and names that are undefined or ambiguous.
    """
    placed = Placed(np.empty((0, 3)), [], {}, {})
    points = [placed.points]
    outer = [model.flat, *([] if model.instances else model.parts.values()), model.assembly]
    if not model.instances and len(model.parts) > 1:
        raise CaseError(f"the file has {len(model.parts)} parts and no instance of them; expected an assembly")
    for instance in model.instances.values():
        scopes = [model.parts[instance.part], instance]
        of_part = _add_piece(placed, scopes, instance.name, instance.part, sum(map(len, points)))
        points.append(_moved(of_part, instance))
    points.append(_add_piece(placed, outer, "", "", sum(map(len, points))))
    placed.points = np.vstack(points)
    for piece in placed.pieces.values():
        for scope in piece.scopes:
            for entry in scope.element_sets:
                placed.add_set(piece, entry, "element")
            for entry in scope.node_sets:
                placed.add_set(piece, entry, "node")
    return placed


def _of(piece: Piece, what: str) -> Labels:
    return piece.nodes if what == "node" else piece.elements


def _add_piece(placed: Placed, scopes: list[Scope], name: str, part: str, n_nodes: int) -> Array:
    """Append a piece with consecutive global numbers; return its node coordinates before any transformation."""
    nothing = np.empty(0, dtype=np.int64)
    labels = np.concatenate([nothing, *(one for scope in scopes for one in scope.labels)])
    points = np.vstack([np.empty((0, 3)), *(one for scope in scopes for one in scope.points)])
    known, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    if len(twice := labels[(points != points[first][inverse]).any(axis=1)]):
        raise CaseError(
            f"node {twice[0]} is defined twice, at different points{f' of instance {name!r}' if name else ''}"
        )
    nodes = Labels("node", known, n_nodes + np.arange(len(known)))
    blocks = [block for scope in scopes for block in scope.elements]
    n_elements = sum(len(block.labels) for block in placed.blocks)
    ids = []
    for block in blocks:
        if block.kind is None:
            placed.discrete[block.type] = placed.discrete.get(block.type, 0) + len(block.labels)
            ids.append(np.full(len(block.labels), _DISCRETE))
        else:
            placed.blocks.append(Elements(block.type, block.kind, block.labels, nodes.find(block.nodes)))
            ids.append(n_elements + np.arange(len(block.labels)))
            n_elements += len(block.labels)
    of_elements = np.concatenate([nothing, *(block.labels for block in blocks)])
    order = np.argsort(of_elements, kind="stable")
    ordered = of_elements[order]
    if len(twice := ordered[1:][ordered[1:] == ordered[:-1]]):
        raise CaseError(f"element {twice[0]} is defined twice{f' in instance {name!r}' if name else ''}")
    elements = Labels("element", ordered, np.concatenate([nothing, *ids])[order])
    placed.pieces[name.lower()] = Piece(name, part, scopes, nodes, elements)
    return points[first]


def _moved(points: Array, instance: Instance) -> Array:
    """Transform the points of an instance by its data lines: first translated, then rotated.

    The second line gives two points a and b on the axis and the angle in degrees, right-handed about b − a.
    """
    try:
        rows = [np.array([float(word or 0.0) for word in row]) for row in instance.rows]
    except ValueError as error:
        raise CaseError(f"instance '{instance.name}' has the data lines {instance.rows}; expected numbers") from error
    if not rows:
        return points
    if len(rows) > 2 or len(rows[0]) > 3 or (len(rows) == 2 and len(rows[1]) != 7):
        given = " / ".join(", ".join(row) for row in instance.rows)
        expected = "a translation of 3 numbers and, optionally, a rotation of 7"
        raise CaseError(f"instance '{instance.name}' has the data lines '{given}'; expected {expected}")
    moved = points + np.pad(rows[0], (0, 3 - len(rows[0])))
    if len(rows) == 1:
        return moved
    start, end, angle = rows[1][:3], rows[1][3:6], np.deg2rad(rows[1][6])
    if not np.linalg.norm(end - start) > 0.0:
        raise CaseError(
            f"instance '{instance.name}' is rotated about an axis of zero length; expected two distinct points"
        )
    axis = (end - start) / np.linalg.norm(end - start)
    arm = moved - start
    along = np.outer(arm @ axis, axis)
    return np.asarray(start + along + np.cos(angle) * (arm - along) + np.sin(angle) * np.cross(axis, arm))
