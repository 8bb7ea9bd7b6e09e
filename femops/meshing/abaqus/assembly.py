"""Reads the mesh of an Abaqus input file: element sets become regions, node sets and surfaces become boundaries.

Regions are the element sets used in sections, or all element sets if there is no section. Names that begin with an
underscore are internal to Abaqus and ignored unless used in a section.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from femops.errors import CaseError
from femops.meshing.abaqus.placing import Piece, Placed, assemble
from femops.meshing.abaqus.scopes import Model, SurfaceEntry, read_model
from femops.meshing.abaqus.surfaces import facets_of_surface
from femops.meshing.building import RawMesh
from femops.meshing.cells import CELLS
from femops.notation import Indices


def read_inp(path: Path) -> RawMesh:
    """Read an Abaqus input file: nodes, elements, sets, surfaces, and the parts placed by its assembly.

    Sets of the assembly keep their names. Sets of the same name in several instances of a part are merged; node sets
    and surfaces are also available separately as `INSTANCE.NAME`. Regions of different parts are named `PART.NAME`.

    Raises:
        CaseError: A keyword that changes the mesh is not supported, or a set, section, instance or element refers to
            something undefined.
    """
    model = read_model(path)
    placed = assemble(model)
    if not len(placed.points) or not placed.blocks:
        n_nodes, n_blocks = len(placed.points), len(placed.blocks)
        raise CaseError(f"the file has {n_nodes} nodes and {n_blocks} blocks of elements; expected a mesh")
    names = _Names()
    groups, notes = _element_groups(placed, names)
    pieces = placed.pieces.values()
    named = ((one, one.nodes.names[key], ids) for one in pieces for key, ids in one.nodes.sets.items())
    node_sets = names.of(_Member(*given) for given in named if not given[1].startswith("_"))
    facets, on_nodes, without_facets = _surfaces(placed, names)
    if names.merged:
        given = ", ".join(sorted(names.merged))
        alone = f"; those of one instance: {', '.join(names.qualified)}" if names.qualified else ""
        notes.append(f"sets of the same name in several instances are merged: {given}{alone}")
    instances = {one.name: one.nodes.ids for one in pieces if one.name}
    return RawMesh(
        placed.points,
        [(str(block.kind), block.nodes) for block in placed.blocks],
        [CELLS[str(block.kind)].dim for block in placed.blocks],
        {name: placed.by_block(ids) for name, ids in groups.items()},
        {**node_sets, **on_nodes},
        facets,
        without_facets,
        instances if len(instances) > 1 else {},
        (*_not_read(model, placed), *notes),
    )


@dataclass(frozen=True)
class _Member:
    """Named set of one piece: indices, or facets by nodes."""

    piece: Piece
    name: str
    ids: Indices


@dataclass
class _Names:
    """Names the sets of all pieces in the whole mesh, and records the names that merge several sets."""

    merged: set[str] = field(default_factory=set)
    qualified: list[str] = field(default_factory=list)

    def of(self, members: Iterable[_Member], of_parts: bool = False) -> dict[str, Indices]:
        """Return the sets by name; `of_parts` separates different parts and omits the names `INSTANCE.NAME`."""
        by_name: dict[str, list[_Member]] = {}
        for member in members:
            by_name.setdefault(member.name.lower(), []).append(member)
        named: dict[str, Indices] = {}
        for several in by_name.values():
            outer = [member for member in several if not member.piece.name]
            inner = [member for member in several if member.piece.name]
            name = (outer or inner)[0].name
            parts = {member.piece.part for member in inner}
            if outer:
                named[name] = _union(outer)
            elif not (of_parts and len(parts) > 1):
                named[name] = _union(inner)
                self.merged |= {name} if len(inner) > 1 else set()
            if (len(inner) > 1 or outer) and not of_parts:
                alone = {f"{member.piece.name}.{name}": member.ids for member in inner}
                self.qualified += alone if len(inner) > 1 else ()
                named |= alone
            elif of_parts and (len(parts) > 1 or outer):
                for part in parts:
                    own = [member for member in inner if member.piece.part == part]
                    named[f"{own[0].piece.scopes[0].name}.{name}"] = _union(own)
        return named


def _union(members: list[_Member]) -> Indices:
    return np.unique(np.concatenate([member.ids for member in members]), axis=0)


def _element_groups(placed: Placed, names: _Names) -> tuple[dict[str, Indices], list[str]]:
    """Return the element sets that are regions or boundaries, and notes on sections of lower-dimensional elements."""
    full = _cells_of_full_dimension(placed)
    regions, facets, notes = [], [], []
    sections = _sections(placed)
    # Regions: the sets used in sections, else the `*ELSET` sets if they cover the mesh, else all.
    chosen = set(sections) if any(full[ids].any() for ids in sections.values()) else _covering(placed, full)
    for piece in placed.pieces.values():
        for key, ids in piece.elements.sets.items():
            member, section = _Member(piece, piece.elements.names[key], ids), (piece.name, key) in sections
            if key.startswith("_") and not section:
                continue
            if not full[ids].any():
                facets.append(member)
                if section and len(ids):
                    notes.append(
                        f"the elements of section set '{member.name}' define a boundary only, without stiffness"
                    )
            elif not chosen or (piece.name, key) in chosen:
                regions.append(member)
    groups = names.of(regions, of_parts=True)
    for name, ids in names.of(facets).items():
        groups[name] = np.union1d(groups.get(name, ids), ids)
    return groups, notes


def _cells_of_full_dimension(placed: Placed) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    dims = np.repeat([CELLS[str(one.kind)].dim for one in placed.blocks], [len(one.labels) for one in placed.blocks])
    return np.asarray(dims == dims.max())


def _sections(placed: Placed) -> dict[tuple[str, str], Indices]:
    """Return the elements of each set used in a section, by piece and lower-case name."""
    found = {}
    for piece in placed.pieces.values():
        for name in (name for scope in piece.scopes for name in scope.sections):
            prefix, _, rest = name.partition(".")
            known = name.lower() in piece.elements.sets or prefix.lower() not in placed.pieces
            owner, own = (piece, name) if known else (placed.pieces[prefix.lower()], rest)
            found[owner.name, own.lower()] = placed.members(owner, own, "element")
    return found


def _covering(placed: Placed, full: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> set[tuple[str, str]]:
    """Return the sets defined by `*ELSET` if they cover all elements of full dimension, otherwise none.

    In that case they are the regions, instead of the sets named on `*ELEMENT` (one per entity in files of Gmsh).
    """
    covered = ~full
    own = set()
    for piece in placed.pieces.values():
        for key in piece.elements.own:
            covered[piece.elements.sets[key]] = True
            own.add((piece.name, key))
    return own if covered.all() else set()


def _surfaces(placed: Placed, names: _Names) -> tuple[dict[str, Indices], dict[str, Indices], dict[str, str]]:
    """Return element-based surfaces by facets, node-based ones by nodes, and other surfaces with the reason."""
    facets: list[_Member] = []
    nodes: list[_Member] = []
    without_facets: dict[str, str] = {}
    for piece in placed.pieces.values():
        known: dict[str, list[_Member]] = {}
        for entry in (one for scope in piece.scopes for one in scope.surfaces):
            member = _surface(placed, piece, entry, known)
            known.setdefault(entry.name.lower(), []).extend([member] if member else [])
            if entry.name.startswith("_"):
                continue
            if member is None:
                what = "is a surface" if entry.kind in ("ELEMENT", "NODE") else f"is a surface of type {entry.kind}"
                without_facets[entry.name] = f"{what} without a facet of the mesh"
            else:
                (nodes if entry.kind == "NODE" else facets).append(member)
    return names.of(facets), names.of(nodes), without_facets


def _surface(placed: Placed, piece: Piece, entry: SurfaceEntry, known: dict[str, list[_Member]]) -> _Member | None:
    if entry.combine:
        return _combined(entry, known)
    if entry.kind == "NODE":
        found = [placed.members(piece, row[0], "node") for row in entry.rows]
        return _Member(piece, entry.name, np.unique(np.concatenate(found))) if found else None
    facets = facets_of_surface(placed, piece, entry) if entry.kind == "ELEMENT" else None
    return None if facets is None else _Member(piece, entry.name, facets)


def _combined(entry: SurfaceEntry, known: dict[str, list[_Member]]) -> _Member | None:
    words = [word for row in entry.rows for word in row if word]
    lost = [word for word in words if word.lower() not in known]
    if entry.combine != "UNION" or lost:
        given = f"combines surface '{lost[0]}', which is not defined" if lost else f"is a {entry.combine.lower()}"
        raise CaseError(f"surface '{entry.name}' {given}; expected a union of surfaces of one instance")
    members = [member for word in words for member in known[word.lower()]]
    return _Member(members[0].piece, entry.name, _union(members)) if members else None


def _not_read(model: Model, placed: Placed) -> list[str]:
    """Return notes on the content of the file that is not in the mesh."""
    notes = []
    if placed.discrete:
        given = ", ".join(f"{count} of type {name}" for name, count in placed.discrete.items())
        notes.append(f"elements without volume are ignored: {given}")
    if axial := sorted({block.type for block in placed.blocks if block.type.upper().startswith("CAX")}):
        notes.append(f"elements of type {', '.join(axial)} are read as plane cells, without axial symmetry")
    if model.joining:
        given = ", ".join(f"*{keyword}" for keyword in model.joining)
        notes.append(f"{given} ignored: parts are connected by shared nodes only")
    used = {instance.part for instance in model.instances.values()}
    without = [scope.name for key, scope in model.parts.items() if model.instances and key not in used]
    if without:
        notes.append(f"parts without an instance are ignored: {', '.join(without)}")
    return notes
