"""Macroscale and RVE meshes of a case, and their description."""

from pathlib import Path

import numpy as np

from femops.errors import CaseError
from femops.inputs.case import Case
from femops.law import LawContext
from femops.meshing import EVERYWHERE, TaggedMesh
from femops.meshing.building import measures
from femops.rve.law import NestedParameters
from femops.rve.outline import Outline


def macro_tagged_mesh(case: Case, base: Path) -> TaggedMesh:
    """Read or generate the macroscale mesh of a case.

    Raises:
        CaseError: The file cannot be used.
    """
    try:
        return case.mesh.read(base)
    except CaseError as error:
        raise error.within(key="mesh") from error


def case_meshes(case: Case, base: Path) -> dict[str, TaggedMesh]:
    """Return the macroscale mesh and the mesh of every RVE of a case, by name.

    Raises:
        CaseError: A mesh cannot be read or generated.
    """
    meshes = {"macro": macro_tagged_mesh(case, base)}
    for region, parameters in case.laws().items():
        if isinstance(parameters, NestedParameters):
            name = "rve" if region == EVERYWHERE else f"rve_{region}"
            key = "material.rve" if region == EVERYWHERE else f"material.{region}.rve"
            try:
                meshes[name] = parameters.rve.tagged_mesh(LawContext(case.dim, base))
            except CaseError as error:
                raise error.within(key=key) from error
    return meshes


def describe(mesh: TaggedMesh) -> tuple[str, str, str, str]:
    """Return cells, nodes, regions with volume fractions, and boundaries of a mesh as text."""
    volume = measures(mesh)
    whole = _volume(mesh)
    regions = ", ".join(f"{name} ({volume[cells].sum() / whole:.3f})" for name, cells in mesh.regions.items())
    return f"{len(mesh.cells)} {mesh.kind.name}", str(len(mesh.points)), regions, ", ".join(mesh.boundaries)


def _volume(mesh: TaggedMesh) -> float:
    """Return the volume including voids; that of the bounding box if the mesh has several parts."""
    try:
        return Outline(mesh).volume
    except CaseError:
        return float(np.prod(mesh.bounds[1] - mesh.bounds[0]))
