"""The `rve` block of a case or study, and the discretised RVE built from it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from femops.errors import CaseError
from femops.law import LawContext, LawParameters
from femops.meshing import TaggedMesh
from femops.notation import Array
from femops.parallel import on_root
from femops.phases import Phase
from femops.plugins import get_phase, law_parameters
from femops.rve.conditions import Boundary
from femops.rve.discretisation import Discretisation, discretise
from femops.rve.geometry.cell import edges
from femops.rve.geometry.generators import (
    GENERATORS,
    Circles,
    Ellipses,
    Generator,
    Homogeneous,
    Laminate,
    Polygons,
    RandomCircles,
    RandomSpheres,
    Spheres,
    generate,
)
from femops.rve.geometry.image import ImageFile
from femops.rve.geometry.tiles import Tiles, tile_mesh
from femops.rve.geometry.voxels import Voxels
from femops.rve.outline import Outline
from femops.rve.parallelepiped import TOLERANCE, spanned
from femops.rve.periodicity import levelled, matched
from femops.validation import NestedError, shown


class MeshFile(BaseModel):
    """A mesh read from a file in any format of Gmsh or meshio."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    file: Path = Field(description="path, relative to the case file")
    tags: dict[str, int | dict[str, int]] | None = Field(
        None, description="name of each integer tag, for formats without names; or such a mapping for each cell array"
    )
    cell_array: str | None = Field(None, description="which cell array holds the tags, if there are several")

    def read(self, base: Path = Path()) -> TaggedMesh:
        """Read the mesh.

        Args:
            base: Folder to which a relative path refers.

        Raises:
            CaseError: The file is missing or contains no usable mesh.
        """
        from femops.meshing.reading import read_mesh  # gmsh loads graphics libraries: only when needed

        return read_mesh(base / self.file, self.tags, self.cell_array)


class RVEMeshFile(MeshFile):
    """The mesh of an RVE in a file, with its periods, if they are known."""

    periods: list[list[float]] | None = Field(None, description="period vectors [length]; default: found in the mesh")
    tolerance: float = Field(
        TOLERANCE, gt=0, le=1e-2, description="largest gap between opposite faces, relative to the size [-]"
    )

    def bounded(self, mesh: TaggedMesh, boundary: Boundary) -> TaggedMesh:
        """Return the mesh with the given periods, if any, matching faces, and notes on its outer surface.

        Args:
            mesh: The mesh as read.
            boundary: The boundary condition.

        Raises:
            CaseError: The mesh does not have these periods, or its faces do not match under periodic conditions; the
                key is that in the `rve` block.
        """
        if self.periods is not None:
            given = _vectors(self.periods, mesh.dim)
            mesh = replace(mesh, periods=spanned(mesh.points, given, self.tolerance).periods)
        outline = Outline(mesh, self.tolerance)
        if outline.cell is not None:
            moved = (matched if boundary == "periodic" else levelled)(mesh, outline.cell)
            if moved is not mesh:
                mesh, outline = moved, Outline(moved)
        elif boundary != "periodic":
            note = f"not a parallelepiped; {boundary} conditions act on its whole outer surface"
            mesh = replace(mesh, notes=(*mesh.notes, f"{note}, its volume is {outline.volume:.6g}"))
        if outline.voids_on_faces and self.periods is None:
            note = "voids reach the faces of the cell; the volume includes them, and their surfaces are free"
            mesh = replace(mesh, notes=(*mesh.notes, note))
        return mesh


def _vectors(periods: list[list[float]], dim: int) -> Array:
    if len(periods) != dim or any(len(one) != dim for one in periods):
        raise CaseError(f"{periods} given, expected {dim} vectors of {dim} numbers", key="mesh.periods")
    return np.array(periods, dtype=np.float64)


def valid_phases(phases: dict[str, Any]) -> dict[str, LawParameters]:
    """Validate the constituent laws of a block; called from its pydantic validator.

    Args:
        phases: A mapping as in a case file, or valid parameters, for each phase.
    """
    valid = {}
    for name, mapping in phases.items():
        if isinstance(mapping, LawParameters):
            valid[name] = mapping
            continue
        if not isinstance(mapping, Mapping):
            raise NestedError(CaseError(f"{shown(mapping)} given, expected a law with its parameters", key=name))
        try:
            valid[name] = law_parameters(mapping)
        except CaseError as error:
            raise NestedError(error.within(key=name)) from error
    return valid


_SOURCES = ("mesh", "image", *GENERATORS, "tiles")


class RVEParameters(BaseModel):
    """The `rve` block of a case or study: a mesh, an image or one generator, a boundary condition and the phases."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mesh: RVEMeshFile | None = None
    circles: Circles | None = None
    ellipses: Ellipses | None = None
    polygons: Polygons | None = None
    random_circles: RandomCircles | None = None
    laminate: Laminate | None = None
    spheres: Spheres | None = None
    random_spheres: RandomSpheres | None = None
    homogeneous: Homogeneous | None = None
    voxels: Voxels | None = None
    tiles: Tiles | None = None
    image: ImageFile | None = None
    boundary: Boundary = "periodic"
    phases: dict[str, Any] = Field(min_length=1, description="constituent law of each phase")

    @field_validator("phases", mode="after")
    @classmethod
    def _valid_phases(cls, phases: dict[str, Any]) -> dict[str, LawParameters]:
        return valid_phases(phases)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(_SOURCES)}; given: {', '.join(given) or 'none'}")
        return self

    def tagged_mesh(self, context: LawContext) -> TaggedMesh:
        """Read or generate the mesh on the root rank and broadcast it.

        Raises:
            CaseError: The file or the geometry is invalid, or its dimension is not that of the case.
        """
        source = next(name for name in _SOURCES if getattr(self, name) is not None)
        description = getattr(self, source)

        def make() -> TaggedMesh:
            from_file = isinstance(description, RVEMeshFile | ImageFile)
            try:
                mesh = description.read(context.base) if from_file else _generated(description)
            except CaseError as error:
                raise error.within(key=source) from error
            if not from_file:
                return replace(mesh, periods=np.diag(edges(description.size, mesh.dim)))
            if isinstance(description, ImageFile):
                return mesh
            known = set(mesh.regions) == set(self.phases)  # otherwise `discretise` raises
            return description.bounded(mesh, self.boundary) if known else mesh

        mesh = on_root(context.comm, make)
        if mesh.dim != context.dim:
            raise CaseError(f"the RVE is {mesh.dim}D, expected {context.dim}D as in the case", key=source)
        return mesh


def _generated(description: Generator | Tiles) -> TaggedMesh:
    return tile_mesh(description) if isinstance(description, Tiles) else generate(description)


@dataclass(frozen=True)
class RVE:
    """A discretised RVE with its phases, linear ones first.

    Attributes:
        discretisation: Mesh, strain operators and weights.
        phases: The constituent law of each phase, in the order of the discretisation.
        boundary: Boundary condition of the fluctuation.
    """

    discretisation: Discretisation
    phases: tuple[Phase, ...]
    boundary: Boundary


def build_rve(parameters: RVEParameters, context: LawContext) -> RVE:
    """Build the RVE of a case.

    Raises:
        CaseError: Geometry, mesh or phases are invalid.
    """
    laws: dict[str, Phase] = {}
    for name, phase in parameters.phases.items():
        try:
            laws[name] = get_phase(phase)
        except CaseError as error:
            raise error.within(key=f"phases.{name}") from error
    order = tuple(sorted(laws, key=lambda name: not laws[name].linear))
    discretisation = discretise(parameters.tagged_mesh(context), order)
    return RVE(discretisation, tuple(laws[name] for name in order), parameters.boundary)
