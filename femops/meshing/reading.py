"""Reads mesh files with named groups: MSH with gmsh, Abaqus and DOLFINx XDMF directly, other formats with meshio."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import meshio
import numpy as np

from femops.errors import CaseError
from femops.meshing.abaqus import read_inp
from femops.meshing.building import RawMesh, build
from femops.meshing.tagged import TaggedMesh
from femops.meshing.tags import CellArray, Tags, as_integers, check_tags, tagged_groups
from femops.meshing.xdmf import has_several_grids, read_xdmf
from femops.notation import Indices


def read_mesh(path: Path | str, tags: Tags | None = None, cell_array: str | None = None) -> TaggedMesh:
    """Read a mesh with its named regions and boundaries.

    Names come from physical groups (.msh), element and node sets (.inp), and cell sets, families or field data of
    other formats. Alternatively, `tags` names the integers of a cell array: tags of cells become regions, tags of
    facets become boundaries. In a .msh file `tags` names the groups without a name. A mesh without any region gets
    the region `domain`.

    Args:
        path: The file.
        tags: Integer of each region and boundary by name; or such a mapping for each cell array by its name.
        cell_array: Name of the integer cell array; needed if the file has several.

    Returns:
        The mesh with nodes in VTK order; its coordinates have the dimension of its cells.

    Raises:
        CaseError: the file, its cells or its groups cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise CaseError("the mesh file does not exist", file=path)
    try:
        check_tags(tags or {}, cell_array)
        if path.suffix.lower() == ".msh":
            return _read_msh(path, tags or {})
        if path.suffix.lower() == ".inp":
            return _only_tagged(_read_abaqus(path), tags)
        if path.suffix.lower() in (".xdmf", ".xmf") and has_several_grids(path):
            return build(read_xdmf(path, tags or {}, cell_array))
        return _build_meshio(_read_meshio(path), tags or {}, cell_array)
    except CaseError as error:
        raise error.within(file=path) from error


def _read_msh(path: Path, tags: Tags) -> TaggedMesh:
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
    if nested := [name for name, number in tags.items() if not isinstance(number, int)]:
        problem = (
            f"'{nested[0]}' is a block, but a Gmsh mesh has no cell arrays; expected the number of a physical group"
        )
        raise CaseError(problem, key="tags")
    if missing := [number for number in names if number not in {*mesh.regions, *mesh.boundaries}]:
        given = ", ".join([*mesh.regions, *mesh.boundaries])
        problem = f"{missing[0]} is not a physical group without a name; the file has {given}"
        raise CaseError(problem, key=f"tags.{names[missing[0]]}")
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


def _only_tagged(mesh: TaggedMesh, tags: Tags | None) -> TaggedMesh:
    if tags:
        raise CaseError("given for an Abaqus input file, which has no cell arrays; expected element sets", key="tags")
    return mesh


def _read_meshio(path: Path) -> meshio.Mesh:
    if path.suffix.lower() not in meshio.extension_to_filetypes:
        known = ", ".join(sorted(meshio.extension_to_filetypes))
        raise CaseError(f"mesh format '{path.suffix}' is not known; known: {known}")
    printed = io.StringIO()
    try:
        # meshio prints some errors and exits the interpreter.
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            return meshio.read(path)
    except (Exception, SystemExit) as error:  # its readers raise exceptions of many types
        reason = " ".join(printed.getvalue().split()) if isinstance(error, SystemExit) else str(error)
        raise CaseError(f"meshio cannot read the file: {reason or type(error).__name__}") from error


def _build_meshio(mesh: meshio.Mesh, tags: Tags, cell_array: str | None) -> TaggedMesh:
    dims = [block.dim for block in mesh.cells]
    groups, notes = _named_groups(mesh), list[str]()
    if tags:
        flat = cell_array is None and any(isinstance(one, int) for one in tags.values())
        arrays = _integer_arrays(mesh)
        if (flat and len(arrays) != 1) or (cell_array is not None and cell_array not in arrays):
            _one_array(list(arrays), cell_array)
        groups, notes = tagged_groups(list(arrays.values()), dims, tags, cell_array)
    blocks = [(block.type, np.asarray(block.data, dtype=np.int64)) for block in mesh.cells]
    sets = {name: np.asarray(nodes, dtype=np.int64) for name, nodes in mesh.point_sets.items()}
    return build(RawMesh(mesh.points, blocks, dims, groups, sets, notes=tuple(notes)))


def _integer_arrays(mesh: meshio.Mesh) -> dict[str, CellArray]:
    """Return the integer cell arrays; if there are none, the floating-point arrays with integer values."""
    integer: dict[str, CellArray] = {}
    floating: dict[str, CellArray] = {}
    for name, blocks in mesh.cell_data.items():
        values = [as_integers(block) for block in blocks]
        columns = [one.reshape(len(one), -1)[:, 0] for one in values if one is not None]
        if len(columns) == len(blocks):
            kinds = {np.asarray(block).dtype.kind for block in blocks}
            (integer if kinds <= set("iu") else floating)[name] = CellArray(name, columns)
    return integer or floating


def _one_array(names: list[str], cell_array: str | None) -> NoReturn:
    listed = ", ".join(names) or "none"
    if cell_array is not None:
        raise CaseError(f"'{cell_array}' is not an integer cell array; the file has {listed}", key="cell_array")
    raise CaseError(f"expected one integer cell array, or its name as cell_array; the file has {listed}", key="tags")


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
        arrays = list(_integer_arrays(mesh).values())
        if len(arrays) != 1:
            _one_array([one.name for one in arrays], None)
        values = arrays[0].values
        dims = [block.dim for block in mesh.cells]
        for name, (number, dim) in fields.items():
            groups[name] = [
                np.flatnonzero(block == number) if own == dim else nothing
                for block, own in zip(values, dims, strict=True)
            ]
    return groups
