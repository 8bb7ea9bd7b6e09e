"""Voxel RVEs: structured periodic meshes in which each cell has the phase at its centre."""

from dataclasses import replace
from typing import Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from femops.errors import CaseError
from femops.meshing.box import grid
from femops.meshing.cells import CELLS, AnyCell
from femops.meshing.tagged import TaggedMesh
from femops.notation import Array, Indices
from femops.rve.geometry.cell import VOID, Cell, Model, PhaseName, edges, grid_lines
from femops.rve.geometry.packing import periodic_offsets


class VoxelInclusion(Model):
    """A circle, an ellipse or a sphere; `center` has as many coordinates as the cell has dimensions."""

    center: list[float] = Field(min_length=2, max_length=3)
    radius: PositiveFloat | None = Field(None, description="Of a circle or a sphere [length].")
    semi_axes: tuple[PositiveFloat, PositiveFloat] | None = Field(None, description="Of an ellipse [length].")
    angle: float = Field(0.0, description="From the x axis to the first semi-axis of an ellipse [degrees].")
    phase: PhaseName = "fibre"

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if (self.radius is None) == (self.semi_axes is None):
            raise ValueError("expected exactly one of radius (a circle or a sphere) and semi_axes (an ellipse)")
        if self.semi_axes is not None and len(self.center) == 3:
            raise ValueError("an ellipse with three coordinates; expected two, or a radius")
        if self.phase == VOID:
            raise ValueError("voxels make no holes; expected a phase, which may be a soft one")
        return self

    @property
    def frame(self) -> Array:
        """Semi-axes as columns [length]. Shape (dim, dim)."""
        if self.semi_axes is None:
            return np.eye(len(self.center)) * (self.radius or 0.0)
        cos, sin = np.cos(np.deg2rad(self.angle)), np.sin(np.deg2rad(self.angle))
        return np.array([[cos, -sin], [sin, cos]]) * self.semi_axes


class Voxels(Cell):
    """Inclusions on a structured mesh; where they overlap, the last one counts."""

    cells: PositiveInt | list[PositiveInt] = Field(description="Grid cells along each axis.")
    inclusions: list[VoxelInclusion] = Field(min_length=1)
    matrix: PhaseName = Field("matrix", description="Phase around the inclusions.")
    cell: AnyCell | None = Field(None, description="Default: quad or hexahedron.")

    @property
    def dim(self) -> int:
        """Dimension of the inclusions."""
        return len(self.inclusions[0].center)

    @property
    def phases(self) -> list[str]:
        """Names of the phases, the matrix first."""
        return list(dict.fromkeys([self.matrix, *(one.phase for one in self.inclusions)]))


def voxel_mesh(spec: Voxels) -> TaggedMesh:
    """Return the mesh centred at the origin, with a region for each phase that occurs.

    Raises:
        CaseError: Dimensions of inclusions, size, counts and cell differ, or a phase is void.
    """
    dim = spec.dim
    if any(len(one.center) != dim for one in spec.inclusions):
        raise CaseError("circles and spheres are mixed; expected as many coordinates for all", key="inclusions")
    cell = spec.cell or ("quad" if dim == 2 else "hexahedron")
    if CELLS[cell].dim != dim:
        raise CaseError(f"cell '{cell}' with {dim}D inclusions; expected a {dim}D cell", key="cell")
    if spec.matrix == VOID:
        raise CaseError("voxels make no holes; expected a phase", key="matrix")
    mesh = grid(grid_lines(edges(spec.size, dim), spec.cells), cell)
    phase = phase_of_points(spec, mesh.points[mesh.cells].mean(axis=1))
    regions = {name: np.flatnonzero(phase == number) for number, name in enumerate(spec.phases)}
    return replace(mesh, regions={name: members for name, members in regions.items() if len(members)}, boundaries={})


def phase_of_points(spec: Voxels, points: Array) -> Indices:
    """Return the position in `spec.phases` of the phase at each point, including periodic images.

    Args:
        spec: The microstructure.
        points: Coordinates in the cell centred at the origin [length]. Shape (n, dim).

    Returns:
        Positions. Shape (n,).
    """
    extent, names = edges(spec.size, spec.dim), spec.phases
    phase = np.zeros(len(points), dtype=np.int64)
    for one in spec.inclusions:
        frame = one.frame
        apart = points - np.array(one.center)
        apart -= extent * np.rint(apart / extent)
        reach = np.linalg.norm(frame, axis=1)
        offsets = periodic_offsets(extent, int(np.ceil((reach / extent).max())))
        offsets = offsets[(np.abs(offsets) - 0.5 * extent <= reach).all(axis=1)]
        reduced = (apart[:, None] + offsets) @ np.linalg.inv(frame).T
        phase[(np.einsum("nmi,nmi->nm", reduced, reduced) <= 1.0).any(axis=1)] = names.index(one.phase)
    return phase
