"""Mesh files with named groups: MSH through gmsh, Abaqus input directly, every other format through meshio."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import meshio
import numpy as np

from femops.errors import CaseError
from femops.meshing.abaqus import read_inp
from femops.meshing.building import RawMesh, build
from femops.meshing.tagged import Indices, TaggedMesh


def read_mesh(path: Path | str, tags: Mapping[str, int] | None = None, cell_array: str | None = None) -> TaggedMesh:
    """Read a mesh with its named regions and boundaries.

    Names come from physical groups (.msh), element and node sets (.inp), and cell sets, families or field data of
    other formats. `tags` names the integers of a cell array instead: those of the cells become regions, those of
    facets become boundaries. In a .msh file `tags` names the groups that have no name. A mesh without any region has
    the region `domain`.

    Args:
        path: The file.
        tags: Name and integer of each region and boundary.
        cell_array: Name of the integer cell array; needed if the file has several.

    Returns:
        The mesh with nodes in VTK order, in the dimension of its cells.

    Raises:
        CaseError: the file, its cells or its groups cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise CaseError("the mesh file does not exist", file=path)
    try:
        if path.suffix.lower() == ".msh":
            return _read_msh(path, tags or {})
        if path.suffix.lower() == ".inp":
            return _only_tagged(_read_abaqus(path), tags)
        mesh = _read_meshio(path)
        groups = _tagged_groups(mesh, tags, cell_array) if tags else _named_groups(mesh)
        blocks = [(block.type, np.asarray(block.data, dtype=np.int64)) for block in mesh.cells]
        sets = {name: np.asarray(nodes, dtype=np.int64) for name, nodes in mesh.point_sets.items()}
        return build(RawMesh(mesh.points, blocks, [block.dim for block in mesh.cells], groups, sets))
    except CaseError as error:
        raise error.within(file=path) from error


def _read_msh(path: Path, tags: Mapping[str, int]) -> TaggedMesh:
    import gmsh  # loads graphics libraries: only when needed

    from femops.meshing.gmsh_model import gmsh_session, tagged_mesh_from_gmsh

    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if not head.startswith((b"$MeshFormat", b"$Comments", b"$NO")):  # gmsh would run anything else as a script
        raise CaseError("not a gmsh mesh: it does not begin with $MeshFormat")
    with gmsh_session():
        try:
            gmsh.merge(str(path))
        except Exception as error:  # gmsh raises nothing more specific
            raise CaseError(f"gmsh cannot read the file: {error}") from error
        mesh = tagged_mesh_from_gmsh()
    names = {str(number): name for name, number in tags.items()}
    if missing := [number for number in names if number not in {*mesh.regions, *mesh.boundaries}]:
        given = ", ".join([*mesh.regions, *mesh.boundaries])
        raise CaseError(f"tags: {names[missing[0]]}: {missing[0]} is no nameless group; the file has {given}")
    return replace(
        mesh,
        regions={names.get(name, name): cells for name, cells in mesh.regions.items()},
        boundaries={names.get(name, name): facets for name, facets in mesh.boundaries.items()},
    )


def _read_abaqus(path: Path) -> TaggedMesh:
    try:
        return build(read_inp(path))
    except (ValueError, KeyError, OSError) as error:
        raise CaseError(f"not a readable Abaqus input file: {error}") from error


def _only_tagged(mesh: TaggedMesh, tags: Mapping[str, int] | None) -> TaggedMesh:
    if tags:
        raise CaseError("tags given for an Abaqus input file, which has no cell arrays; expected element sets")
    return mesh


def _read_meshio(path: Path) -> meshio.Mesh:
    if path.suffix.lower() not in meshio.extension_to_filetypes:
        known = ", ".join(sorted(meshio.extension_to_filetypes))
        raise CaseError(f"mesh format '{path.suffix}' is not known; known: {known}")
    said = io.StringIO()
    try:
        # meshio prints its problems and leaves the interpreter.
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return meshio.read(path)
    except (Exception, SystemExit) as error:  # its readers raise whatever they meet
        reason = " ".join(said.getvalue().split()) if isinstance(error, SystemExit) else str(error)
        raise CaseError(f"meshio cannot read the file: {reason or type(error).__name__}") from error


def _tagged_groups(mesh: meshio.Mesh, tags: Mapping[str, int], cell_array: str | None) -> dict[str, list[Indices]]:
    values = _integer_array(mesh, cell_array)
    groups = {name: [np.flatnonzero(block == number) for block in values] for name, number in tags.items()}
    for name, members in groups.items():
        if not any(len(block) for block in members):
            present = ", ".join(map(str, np.unique(np.concatenate(values))[:20]))
            raise CaseError(f"tags: {name}: {tags[name]} is the value of no cell; the file has {present}")
    return groups


def _integer_array(mesh: meshio.Mesh, cell_array: str | None) -> list[Indices]:
    integer = [
        name for name, blocks in mesh.cell_data.items() if all(np.asarray(block).dtype.kind in "iu" for block in blocks)
    ]
    if cell_array is not None:
        if cell_array not in integer:
            raise CaseError(f"cell_array: '{cell_array}' is no integer cell array; the file has {_listed(integer)}")
        chosen = cell_array
    elif len(integer) == 1:
        chosen = integer[0]
    else:
        raise CaseError(f"tags need one integer cell array; name one with cell_array: the file has {_listed(integer)}")
    return [np.asarray(block, dtype=np.int64).reshape(len(block), -1)[:, 0] for block in mesh.cell_data[chosen]]


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _named_groups(mesh: meshio.Mesh) -> dict[str, list[Indices]]:
    """Return the groups that the format names: cell sets, MED families, or field data (name: integer, dimension)."""
    nothing = np.empty(0, dtype=np.int64)
    groups = {
        name: [nothing if block is None else np.asarray(block, dtype=np.int64) for block in members]
        for name, members in mesh.cell_sets.items()
        if ":" not in name
    }
    families = getattr(mesh, "cell_tags", None) or {}
    if families and "cell_tags" in mesh.cell_data:
        values = [np.asarray(block) for block in mesh.cell_data["cell_tags"]]
        for name in dict.fromkeys(name for names in families.values() for name in names):
            numbers = [number for number, names in families.items() if name in names]
            groups[name] = [np.flatnonzero(np.isin(block, numbers)) for block in values]
    fields = {name: np.ravel(value) for name, value in mesh.field_data.items() if np.size(value) == 2}
    if fields and not groups:
        values = _integer_array(mesh, None)
        dims = [block.dim for block in mesh.cells]
        for name, (number, dim) in fields.items():
            groups[name] = [
                np.flatnonzero(block == number) if own == dim else nothing
                for block, own in zip(values, dims, strict=True)
            ]
    return groups
