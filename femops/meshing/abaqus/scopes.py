"""Definitions in the parts, instances and assembly of an Abaqus input file, before they are assembled."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from femops.errors import CaseError
from femops.meshing.abaqus.elements import kind_of_type
from femops.meshing.abaqus.text import Block, blocks, data_lines
from femops.meshing.cells import CELLS
from femops.notation import Array, Indices

# Keywords that generate or transform nodes and elements: ignoring them would give a wrong mesh.
_REFUSED = ["SYSTEM", "NGEN", "NFILL", "NCOPY", "NMAP", "ELGEN", "ELCOPY", "SYMMETRIC MODEL GENERATION"]
_REFUSED += ["IMPORT", "PARAMETER"]
# Keywords that connect parts; only shared nodes are supported.
_JOINING = ["TIE", "MPC", "EQUATION", "COUPLING", "RIGID BODY", "EMBEDDED ELEMENT", "CONTACT PAIR", "CONTACT"]
_JOINING += ["SHELL TO SOLID COUPLING", "FASTENER", "CLEARANCE"]


@dataclass(frozen=True)
class Elements:
    """A block of elements: Abaqus type, cell kind (None for discrete elements), labels and nodes."""

    type: str
    kind: str | None
    labels: Indices
    nodes: Indices


@dataclass(frozen=True)
class SetEntry:
    """A definition of a set; several entries of the same name are merged.

    Attributes:
        name: Name of the set.
        words: Labels and names of other sets; first, last and increment of each range if `generate`.
        instance: Instance in which the words are defined; empty for the scope of the entry.
        generate: Whether the words are ranges.
        of_elements: Whether the words are element sets whose nodes form the set.
        own: Whether defined by *NSET or *ELSET rather than on *NODE or *ELEMENT.
    """

    name: str
    words: list[str]
    instance: str = ""
    generate: bool = False
    of_elements: bool = False
    own: bool = True


@dataclass(frozen=True)
class SurfaceEntry:
    """A surface definition: rows of a set or label and a face; `kind` is ELEMENT, NODE, or a type without facets."""

    name: str
    kind: str
    rows: list[list[str]]
    combine: str = ""


@dataclass
class Scope:
    """Definitions of a part, an instance, the assembly, or a file without parts."""

    name: str = ""
    labels: list[Indices] = field(default_factory=list)
    points: list[Array] = field(default_factory=list)
    elements: list[Elements] = field(default_factory=list)
    node_sets: list[SetEntry] = field(default_factory=list)
    element_sets: list[SetEntry] = field(default_factory=list)
    surfaces: list[SurfaceEntry] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)


@dataclass
class Instance(Scope):
    """An instance: the name of its part, and the data lines of its translation and rotation."""

    part: str = ""
    rows: list[list[str]] = field(default_factory=list)


@dataclass
class Model:
    """All definitions of a file, and the keywords joining parts, which are not read."""

    flat: Scope = field(default_factory=Scope)
    parts: dict[str, Scope] = field(default_factory=dict)
    assembly: Scope = field(default_factory=Scope)
    instances: dict[str, Instance] = field(default_factory=dict)
    joining: dict[str, None] = field(default_factory=dict)


def read_model(path: Path) -> Model:
    """Read an input file and assign its blocks to parts, instances and the assembly.

    Raises:
        CaseError: A keyword that changes the mesh, or an element type, is not supported.
    """
    model = Model()
    scope = model.flat
    for block in blocks(path):
        keyword, name = block.keyword, block.options.get("NAME", "")
        if keyword == "PART":
            if name.lower() in model.parts:
                raise CaseError(f"part '{name}' is defined twice")
            scope = model.parts.setdefault(name.lower(), Scope(name))
        elif keyword == "ASSEMBLY" or keyword == "END INSTANCE":
            scope = model.assembly
        elif keyword == "INSTANCE":
            scope = _instance(model, block)
        elif keyword in ("END PART", "END ASSEMBLY"):
            scope = model.flat
        elif keyword in _REFUSED:
            raise CaseError(f"*{keyword} is not supported; expected nodes and elements as they are")
        elif keyword in _JOINING:
            model.joining[keyword] = None
        else:
            _define(scope, block, path.parent)
    return model


def _instance(model: Model, block: Block) -> Instance:
    name, part = block.options.get("NAME", ""), block.options.get("PART", "")
    if "INSTANCE" in block.options or "LIBRARY" in block.options:
        given = name or block.options.get("INSTANCE", "")
        raise CaseError(f"instance '{given}' comes from an earlier analysis, which is not supported; expected a part")
    if part.lower() not in model.parts:
        raise CaseError(f"instance '{name}' is of part '{part}', which is not defined before it")
    if name.lower() in model.instances:
        raise CaseError(f"instance '{name}' is defined twice")
    rows = [row for row in block.rows if any(row)]
    return model.instances.setdefault(name.lower(), Instance(name, part=part.lower(), rows=rows))


def _define(scope: Scope, block: Block, base: Path) -> None:
    keyword, options = block.keyword, block.options
    if keyword in ("NODE", "ELEMENT") and "INPUT" in options:
        block = Block(keyword, options, data_lines(base / options["INPUT"]))
    if keyword == "NODE" and block.words:
        _add_nodes(scope, block)
    elif keyword == "ELEMENT":
        _add_elements(scope, block)
    elif keyword in ("NSET", "ELSET"):
        sets = scope.node_sets if keyword == "NSET" else scope.element_sets
        name, instance = options[keyword], options.get("INSTANCE", "")
        of_elements = keyword == "NSET" and "ELSET" in options
        words = [options["ELSET"]] if of_elements else block.words
        if generate := "GENERATE" in options:
            words = [word for row in block.rows for word in (*row, "1")[:3]]
        sets.append(SetEntry(name, words, instance, generate, of_elements))
    elif keyword == "SURFACE":
        kind = options.get("TYPE", "ELEMENT").upper()
        entry = SurfaceEntry(options.get("NAME", ""), kind, block.rows, options.get("COMBINE", "").upper())
        scope.surfaces.append(entry)
    elif keyword.endswith(" SECTION") and "ELSET" in options:
        scope.sections.append(options["ELSET"])


def _add_nodes(scope: Scope, block: Block) -> None:
    if block.options.get("SYSTEM", "R").upper() != "R":
        raise CaseError(f"*NODE, SYSTEM={block.options['SYSTEM']} is not supported; expected Cartesian coordinates")
    # Omitted coordinates are zero; fields after the third coordinate are normals.
    padded = [[word or "0" for word in (*row[:4], "0", "0", "0")[:4]] for row in block.rows if row]
    scope.labels.append(np.array([int(row[0]) for row in padded], dtype=np.int64))
    scope.points.append(np.array([row[1:] for row in padded], dtype=np.float64))
    if "NSET" in block.options:
        words = [row[0] for row in padded]
        scope.node_sets.append(SetEntry(block.options["NSET"], words, own=False))


def _add_elements(scope: Scope, block: Block) -> None:
    element_type = block.options.get("TYPE", "")
    kind = kind_of_type(element_type)
    if kind is None:
        labels = np.array([int(row[0]) for row in block.rows if row], dtype=np.int64)
        nodes = np.empty((len(labels), 0), dtype=np.int64)
    else:
        if invalid := [word for word in block.words if not word.isdigit()]:
            raise CaseError(f"an element of type {element_type} has '{invalid[0]}'; expected node numbers")
        width = CELLS[kind].n_nodes + 1
        if len(block.words) % width:
            raise CaseError(
                f"elements of type {element_type} with {len(block.words)} numbers; expected {width} for each"
            )
        table = np.array(block.words, dtype=np.int64).reshape(-1, width)
        labels, nodes = table[:, 0], table[:, 1:]
    scope.elements.append(Elements(element_type, kind, labels, nodes))
    if "ELSET" in block.options:
        words = [str(label) for label in labels]
        scope.element_sets.append(SetEntry(block.options["ELSET"], words, own=False))
