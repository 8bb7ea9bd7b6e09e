"""Writes mesh files that other programs and `read_mesh` can read."""

import os
from pathlib import Path

import meshio
import numpy as np

from femops.errors import CaseError
from femops.meshing.abaqus.writing import write_inp
from femops.meshing.tagged import TaggedMesh


def write_mesh(mesh: TaggedMesh, path: Path | str) -> None:
    """Write a mesh atomically, in the format given by the suffix.

    MSH 4.1 (`.msh`) and Abaqus files (`.inp`) contain regions and boundaries by name. VTK files (`.vtu`, `.vtk`) have
    the integer cell array `region`, which numbers the regions and then the boundaries from 1, in their order.

    Args:
        mesh: The mesh.
        path: The file; its folder must exist.

    Raises:
        CaseError: the format is not known or does not support the mesh.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    draft = path.with_name(f".{path.stem}-{os.getpid()}{suffix}")
    try:
        if suffix == ".msh":
            from femops.meshing.gmsh_model import save_msh  # gmsh loads graphics libraries: only when needed

            save_msh(mesh, draft)
        elif suffix == ".inp":
            write_inp(mesh, draft)
        elif suffix in (".vtu", ".vtk"):
            meshio.write(draft, _to_meshio(mesh))
        else:
            raise CaseError(f"mesh format '{suffix}' cannot be written; expected .msh, .inp, .vtu or .vtk")
        os.replace(draft, path)
    except CaseError as error:
        raise error.within(file=path) from error
    finally:
        draft.unlink(missing_ok=True)


def _to_meshio(mesh: TaggedMesh) -> meshio.Mesh:
    points = np.zeros((len(mesh.points), 3))
    points[:, : mesh.dim] = mesh.points
    cells, region = [(mesh.kind.name, mesh.cells)], [mesh.region_of_cell() + 1]
    if mesh.boundaries:
        facets = list(mesh.boundaries.values())
        numbers = np.arange(len(facets), dtype=np.int32) + 1 + len(mesh.regions)
        cells.append((mesh.facet_kind.name, np.vstack(facets)))
        region.append(np.repeat(numbers, [len(one) for one in facets]))
    return meshio.Mesh(points, cells, cell_data={"region": region})
