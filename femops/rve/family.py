"""Families of random microstructures: the `family` block of a study, and sampling of its members."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from femops.errors import CaseError
from femops.law import LawParameters
from femops.meshing.cells import CELLS, AnyCell
from femops.notation import Array
from femops.phases.elastic import ElasticParameters
from femops.rve.conditions import Boundary
from femops.rve.geometry.cell import VOID, Cell, Model, edges
from femops.rve.geometry.placing import place
from femops.rve.random_inclusions import FamilyInclusions, Pair, check_range, drawn
from femops.rve.snapshots import RVE_INTERFACE
from femops.rve.spec import RVEParameters, valid_phases
from femops.validation import NestedError

MATRIX, FIBRE = "matrix", "fibre"
_DRAWS = 100


class FamilyMesh(Model):
    """The meshes of a family: one grid for all, or a mesh of each that follows its inclusions."""

    cells: PositiveInt | None = Field(None, description="grid cells along each axis")
    mesh_size: float | None = Field(None, gt=0, description="edge length of elements that follow the inclusions")
    cell: AnyCell | None = Field(None, description="default quad or hexahedron on a grid, otherwise triangle or tetra")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.cells is None) == (self.mesh_size is None):
            raise ValueError("expected exactly one of cells (a grid) and mesh_size (meshes that follow the inclusions)")
        return self


class Family(Cell):
    """A family of microstructures: inclusions of the phase `fibre`, or holes, in the phase `matrix`."""

    count: PositiveInt = Field(description="number of microstructures; more of them keep the first ones")
    validation: PositiveInt = Field(64, description="number of further microstructures to judge a surrogate by")
    seed: int = Field(0, ge=0)
    mesh: FamilyMesh
    inclusions: FamilyInclusions
    boundary: Boundary = "periodic"
    phases: dict[str, Any] = Field(description="constituent law of each phase")
    contrast: dict[str, Pair] = Field(
        default_factory=dict,
        description="range of a factor on the moduli of an elastic phase, drawn log-uniformly, by phase",
    )

    @property
    def dim(self) -> int:
        """2 (plane strain) or 3."""
        return self.inclusions.dim

    @property
    def hash(self) -> str:
        """Content hash of the family, without the numbers of microstructures."""
        data = [RVE_INTERFACE, self.model_dump(mode="json", exclude={"count", "validation"})]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    @field_validator("phases", mode="after")
    @classmethod
    def _valid_phases(cls, phases: dict[str, Any], info: ValidationInfo) -> dict[str, LawParameters]:
        inclusions = info.data.get("inclusions")  # missing if it is invalid
        only_holes = inclusions is not None and inclusions.voids[0] == 1.0
        if set(phases) not in ({MATRIX, FIBRE}, {MATRIX} if only_holes else {MATRIX, FIBRE}):
            raise ValueError(f"{', '.join(phases) or 'none'} given, expected {MATRIX} and {FIBRE}")
        return valid_phases(phases)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, pair in self.contrast.items():
            if not isinstance(self.phases.get(name), ElasticParameters):
                raise NestedError(CaseError("expected the name of an elastic phase", key=f"contrast.{name}"))
            check_range(f"contrast.{name}", pair, pair[0] > 0.0, "above 0")
        try:
            edges(self.size, self.dim)
            _check_cell(self.mesh, self.inclusions)
            _check_grid(self)
        except CaseError as error:
            raise NestedError(error) from error
        if self.inclusions.has_voids and self.boundary == "static":
            problem = "'static' given, but voids may reach the faces of the RVE; expected periodic or kinematic"
            raise NestedError(CaseError(problem, key="boundary"))
        if self.mesh.mesh_size is not None and self.inclusions.min_gap == 0.0:
            problem = "0 given, expected a positive number, since these meshes follow the inclusions"
            raise NestedError(CaseError(problem, key="inclusions.min_gap"))
        return self


@dataclass(frozen=True)
class Microstructure:
    """A member of a family.

    Attributes:
        index: Number in the family, from 0.
        parameters: The RVE, as in the `rve` block of a case.
        number: Number of inclusions.
        volume_fraction: Exact volume fraction of the inclusions, holes included [-]; the mesh approximates it.
        void_fraction: Exact volume fraction of the holes [-].
        contrast: Factor on the moduli of each phase with a contrast [-].
    """

    index: int
    parameters: RVEParameters
    number: int
    volume_fraction: float
    void_fraction: float
    contrast: Mapping[str, float] = field(default_factory=dict)


def microstructure(family: Family, index: int) -> Microstructure:
    """Draw a member of a family; it depends on the family and the index only, not on the count.

    Number, volume fraction, shapes and positions are drawn by rejection sampling, so that dense arrangements are
    slightly under-represented. Polygons are kept apart by their circumscribed circles. Holes have random numbers of
    their own: with another range of `voids`, or none, the same inclusions are at the same places. A microstructure
    without fibres has no phase `fibre`.

    Args:
        family: The family.
        index: Number of the member, from 0; it may exceed the count.

    Raises:
        CaseError: No admissible arrangement of inclusions was found.
    """
    rng = np.random.default_rng(np.random.SeedSequence(family.seed, spawn_key=(index,)))
    contrast = {name: float(np.exp(rng.uniform(*np.log(pair)))) for name, pair in sorted(family.contrast.items())}
    try:
        extent = edges(family.size, family.dim)
        fraction, inclusions, volumes = _placed(family, extent, rng)
    except CaseError as error:
        raise error.within(key="family") from error
    chance = rng.spawn(1)[0]
    share = chance.uniform(*family.inclusions.voids)
    holes = chance.random(len(volumes)) < share
    for inclusion, is_hole in zip(inclusions, holes, strict=True):
        inclusion["phase"] = VOID if is_hole else FIBRE
    phases = {
        name: _scaled(phase, contrast[name]) if name in contrast else phase
        for name, phase in family.phases.items()
        if name == MATRIX or not holes.all()
    }
    generator = _generator(family, inclusions)
    parameters = RVEParameters.model_validate({**generator, "boundary": family.boundary, "phases": phases})
    void_fraction = fraction * float(volumes[holes].sum() / volumes.sum())
    return Microstructure(index, parameters, len(inclusions), fraction, void_fraction, contrast)


def _placed(family: Family, extent: Array, rng: np.random.Generator) -> tuple[float, list[dict[str, Any]], Array]:
    """Return the volume fraction, the inclusions as in a case file without phases, and their relative volumes."""
    block, conforming = family.inclusions, family.mesh.mesh_size
    min_gap = block.min_gap if block.min_gap is not None else 0.5 * (conforming or 0.0)
    smallest = 0.5 * (extent.max() / family.mesh.cells if family.mesh.cells else 0.0)
    for _ in range(_DRAWS):
        number = int(rng.integers(block.number[0], block.number[1] + 1))
        fraction = float(rng.uniform(*block.volume_fraction))
        shapes = drawn(block, number, fraction * float(np.prod(extent)), rng)
        frames = shapes.frames
        if np.linalg.norm(frames, axis=1).min() < smallest:
            continue
        centres = place(rng, extent, frames, min_gap)
        if centres is None:
            continue
        centres = shapes.away_from_faces(centres, extent) if conforming else centres - 0.5 * extent
        return fraction, shapes.in_a_case(centres), shapes.volumes
    problem = f"{_DRAWS} draws gave no {block.shape} that are {min_gap:g} apart and not smaller than the cells"
    expected = "expected a smaller volume_fraction, number, aspect or min_gap, or finer cells"
    raise CaseError(f"{problem}; {expected}", key="inclusions")


def _generator(family: Family, inclusions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the generator entry of an `rve` block."""
    mesh, shape = family.mesh, family.inclusions.shape
    common = {"size": family.size, "matrix": MATRIX}
    if mesh.cells is not None:
        return {"voxels": {**common, "cells": mesh.cells, "inclusions": inclusions, "cell": mesh.cell}}
    cell = mesh.cell or ("triangle" if family.dim == 2 else "tetra")
    return {shape: {**common, "mesh_size": mesh.mesh_size, shape: inclusions, "cell": cell}}


def _check_cell(mesh: FamilyMesh, inclusions: FamilyInclusions) -> None:
    if mesh.cell is None:
        return
    kind, dim = CELLS[mesh.cell], inclusions.dim
    simplices = dim == 3 and mesh.mesh_size is not None  # gmsh meshes 3D cells with inclusions with tetrahedra only
    if kind.dim != dim or (simplices and kind.shape != "tetrahedron"):
        expected = "a tetrahedron" if simplices else f"a {dim}D cell"
        raise CaseError(f"'{mesh.cell}' given with {inclusions.shape}, expected {expected}", key="mesh.cell")


def _check_grid(family: Family) -> None:
    if family.mesh.cells is None:
        return
    expected = "expected mesh.mesh_size"
    if family.inclusions.shape == "polygons":
        raise CaseError(f"'polygons' given with mesh.cells, {expected}", key="inclusions.shape")
    if family.inclusions.has_voids:
        problem = f"{list(family.inclusions.voids)} given with mesh.cells, but a grid has no holes"
        raise CaseError(f"{problem}; {expected}", key="inclusions.voids")


def _scaled(phase: ElasticParameters, factor: float) -> ElasticParameters:
    """Return an elastic phase with its moduli scaled by a factor at constant Poisson's ratio."""
    moduli = {name: getattr(phase, name) for name in ("K", "G", "E")}
    return phase.model_copy(update={name: factor * value for name, value in moduli.items() if value is not None})
