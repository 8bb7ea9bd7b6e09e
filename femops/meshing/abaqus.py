"""Meshes in Abaqus input files.

Regions are the element sets that a section names, or all element sets if there is no section; node sets are
boundaries. Names that begin with an underscore are Abaqus' own and are left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from femops.errors import CaseError
from femops.meshing.building import RawMesh
from femops.meshing.cells import CELLS
from femops.meshing.tagged import Indices, TaggedMesh

_KINDS = {
    "planar": {"3": "triangle", "4": "quad", "6": "triangle6", "8": "quad8", "9": "quad9"},
    "solid": {"4": "tetra", "8": "hexahedron", "10": "tetra10", "20": "hexahedron20"},
    "bar": {"2": "line", "3": "line3"},
}
_FAMILIES = {"CPE": "planar", "CPEG": "planar", "CPS": "planar", "CAX": "planar", "S": "planar", "SFM3D": "planar"}
_FAMILIES |= {"M3D": "planar", "R3D": "planar", "C3D": "solid", "T2D": "bar", "T3D": "bar"}
_TYPE = re.compile(rf"({'|'.join(sorted(_FAMILIES, key=len, reverse=True))})(\d+)")
_WRITTEN = {"triangle": "CPE3", "triangle6": "CPE6", "quad": "CPE4", "quad8": "CPE8", "quad9": "S9R5"}
_WRITTEN |= {"tetra": "C3D4", "tetra10": "C3D10", "hexahedron": "C3D8", "hexahedron20": "C3D20"}


@dataclass
class _Sets:
    """Sets of labels, found by name whatever its case."""

    labels: dict[str, list[int]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, labels: list[int]) -> None:
        self.names.setdefault(name.lower(), name)
        self.labels.setdefault(name.lower(), []).extend(labels)

    def read(self, name: str, words: list[str], generate: bool) -> None:
        if generate:
            numbers = [int(word) for word in words]
            steps = [(*numbers[i : i + 3], 1)[:3] for i in range(0, len(numbers), 3)]
            self.add(name, [label for first, last, step in steps for label in range(first, last + 1, step)])
            return
        for word in words:
            if not word.isdigit() and word.lower() not in self.labels:
                raise CaseError(f"set '{name}' refers to set '{word}', which is not defined before it")
            self.add(name, [int(word)] if word.isdigit() else list(self.labels[word.lower()]))


def read_inp(path: Path) -> RawMesh:
    """Read the nodes, elements and sets of an Abaqus input file with one part.

    Raises:
        CaseError: an element type is not supported, there are several parts, or a set refers to nothing.
    """
    nodes: list[list[float]] = []
    elements: list[tuple[str, Indices]] = []
    node_sets, element_sets, sections, own = _Sets(), _Sets(), set[str](), set[str]()
    parts = 0
    for keyword, options, rows in _blocks(path):
        words = [word for row in rows for word in row]
        if keyword == "PART":
            parts += 1
        elif keyword == "NODE" and words:
            nodes += [[float(word) for word in row] for row in rows]
            if "NSET" in options:
                node_sets.add(options["NSET"], [int(row[0]) for row in rows])
        elif keyword == "ELEMENT":
            kind = _kind(options.get("TYPE", ""))
            table = np.array(words, dtype=np.int64).reshape(-1, CELLS[kind].n_nodes + 1)
            elements.append((kind, table))
            if "ELSET" in options:
                element_sets.add(options["ELSET"], table[:, 0].tolist())
        elif keyword == "NSET":
            node_sets.read(options["NSET"], words, "GENERATE" in options)
        elif keyword == "ELSET":
            own.add(options["ELSET"].lower())
            element_sets.read(options["ELSET"], words, "GENERATE" in options)
        elif keyword.endswith(" SECTION") and "ELSET" in options:
            sections.add(options["ELSET"].lower())
    if parts > 1:
        raise CaseError(f"the file has {parts} parts; expected one part")
    return _raw(nodes, elements, node_sets, element_sets, sections or _covering(own, element_sets, elements))


def write_inp(mesh: TaggedMesh, path: Path) -> None:
    """Write nodes, elements, an element set for each region and a node set for each boundary.

    Raises:
        CaseError: Abaqus has no element for the kind of the cells.
    """
    if mesh.kind.name not in _WRITTEN:
        raise CaseError(f"Abaqus files cannot hold {mesh.kind.name} cells; expected one of {', '.join(_WRITTEN)}")
    with path.open("w", encoding="ascii", errors="backslashreplace") as file:
        file.write("*NODE\n")
        np.savetxt(file, np.column_stack([np.arange(1, len(mesh.points) + 1), mesh.points]), fmt=_row_format(mesh.dim))
        file.write(f"*ELEMENT, TYPE={_WRITTEN[mesh.kind.name]}\n")
        _write_integers(file, np.column_stack([np.arange(len(mesh.cells)), mesh.cells]) + 1)
        for name, cells in mesh.regions.items():
            file.write(f"*ELSET, ELSET={name}\n")
            _write_integers(file, cells[None, :] + 1)
        for name, facets in mesh.boundaries.items():
            file.write(f"*NSET, NSET={name}\n")
            _write_integers(file, np.unique(facets)[None, :] + 1)


def _row_format(dim: int) -> str:
    return ", ".join(["%d", *["%.17g"] * dim])


def _write_integers(file: TextIO, rows: Indices) -> None:
    """Write rows with at most eight numbers on a line; a comma at its end continues a row."""
    for row in rows.tolist():
        lines = [", ".join(map(str, row[i : i + 8])) for i in range(0, len(row), 8)]
        file.write(",\n".join(lines) + "\n")


def _blocks(path: Path) -> Iterator[tuple[str, dict[str, str], list[list[str]]]]:
    """Yield keyword, options by upper-case name, and data lines as words."""
    keyword = ""
    options: dict[str, str] = {}
    rows: list[list[str]] = []
    for line in _lines(path):
        if line.startswith("*"):
            yield keyword, options, rows
            head, *rest = [part.strip() for part in line[1:].split(",")]
            pairs = [part.partition("=") for part in rest if part]
            keyword, rows = " ".join(head.upper().split()), []
            options = {key.strip().upper(): value.strip().strip("\"'") for key, _, value in pairs}
        else:
            rows.append([word.strip() for word in line.split(",") if word.strip()])
    yield keyword, options, rows


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines without comments, keyword lines joined with their continuations, included files inserted."""
    pending = ""
    for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = pending + raw.strip()
        pending = ""
        if not line or line.startswith("**"):
            continue
        if line.startswith("*") and line.endswith(","):
            pending = line
        elif line.upper().startswith("*INCLUDE"):
            yield from _lines(path.parent / line.partition("=")[2].strip().strip("\"'"))
        else:
            yield line


def _kind(element_type: str) -> str:
    match = _TYPE.match(element_type.upper())
    kind = _KINDS[_FAMILIES[match[1]]].get(match[2][:1] if match[1] == "S" else match[2]) if match else None
    if kind is None:
        known = ", ".join(_WRITTEN.values())
        raise CaseError(f"Abaqus element type '{element_type}' is not supported; supported: {known} and their variants")
    return kind


def _covering(own: set[str], sets: _Sets, elements: list[tuple[str, Indices]]) -> set[str]:
    """Return the sets of `*ELSET` if they hold every element of full dimension, otherwise none.

    They then are the regions, and the sets named on `*ELEMENT` (one for each entity, in files of Gmsh) are not.
    """
    largest = max((CELLS[kind].dim for kind, _ in elements), default=0)
    cells = [rows[:, 0] for kind, rows in elements if CELLS[kind].dim == largest]
    members = [label for name in own for label in sets.labels[name]]
    return own if cells and np.isin(np.concatenate(cells), members).all() else set()


def _raw(
    nodes: list[list[float]],
    elements: list[tuple[str, Indices]],
    node_sets: _Sets,
    element_sets: _Sets,
    sections: set[str],
) -> RawMesh:
    if not nodes or not elements:
        raise CaseError(f"the file has {len(nodes)} nodes and {len(elements)} blocks of elements; expected a mesh")
    table = np.array(nodes)
    labels = table[:, 0].astype(np.int64)
    blocks = [(kind, _positions(labels, rows[:, 1:], "node")) for kind, rows in elements]
    dims = [CELLS[kind].dim for kind, _ in blocks]
    groups = {}
    for key, members in element_sets.labels.items():
        found = [np.flatnonzero(np.isin(rows[:, 0], members)) for _, rows in elements]
        full = any(len(one) for one, dim in zip(found, dims, strict=True) if dim == max(dims))
        if not key.startswith("_") and (key in sections or not sections or not full):
            groups[element_sets.names[key]] = found
    sets = {
        node_sets.names[key]: _positions(labels, np.array(members, dtype=np.int64), "node")
        for key, members in node_sets.labels.items()
        if not key.startswith("_")
    }
    return RawMesh(table[:, 1:], blocks, dims, groups, sets)


def _positions(labels: Indices, wanted: Indices, what: str) -> Indices:
    order = np.argsort(labels)
    places = np.searchsorted(labels[order], wanted).clip(max=len(labels) - 1)
    found = order[places]
    if (labels[found] != wanted).any():
        raise CaseError(f"{what} {wanted[labels[found] != wanted].flat[0]} is used but not defined")
    return np.asarray(found, dtype=np.int64)
