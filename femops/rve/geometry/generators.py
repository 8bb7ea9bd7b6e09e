"""Generators of periodic RVE meshes: their models in case files, and `generate`.

All cells are centred at the origin. The regions of the mesh are the phases; inclusions of the phase `void` are holes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from femops.errors import CaseError
from femops.meshing.box import grid
from femops.meshing.cells import CELLS, AnyCell, PlanarCell, SimplexCell
from femops.meshing.tagged import TaggedMesh
from femops.notation import Array
from femops.rve.geometry.cell import VOID, Cell, Model, PhaseName, Point2, Point3, edges, grid_lines
from femops.rve.geometry.polygon_inclusion import PolygonInclusion, check_simple
from femops.rve.geometry.round_inclusion import RoundInclusion
from femops.rve.geometry.voxels import Voxels, voxel_mesh
from femops.validation import NestedError


class _Matrix(Cell):
    mesh_size: PositiveFloat = Field(description="Edge length of the finite elements [length].")
    matrix: PhaseName = Field("matrix", description="Phase around the inclusions.")


class Ball(Model):
    """A circle or a sphere; `center` has as many coordinates as the cell has dimensions."""

    radius: PositiveFloat
    phase: PhaseName = Field("fibre", description="Its phase; `void` is a hole.")


class Circle(Ball):
    """A circular inclusion."""

    center: Point2


class Sphere(Ball):
    """A spherical inclusion."""

    center: Point3


class Ellipse(Model):
    """An elliptic inclusion."""

    center: Point2
    semi_axes: tuple[PositiveFloat, PositiveFloat]
    angle: float = Field(0.0, description="From the x axis to the first semi-axis [degrees].")
    phase: PhaseName = Field("fibre", description="Its phase; `void` is a hole.")


class Polygon(Model):
    """A polygonal inclusion, convex or not."""

    points: list[Point2] = Field(min_length=3, description="Corners in order around the polygon [length].")
    phase: PhaseName = Field("fibre", description="Its phase; `void` is a hole.")

    @field_validator("points")
    @classmethod
    def _simple(cls, points: list[Point2]) -> list[Point2]:
        try:
            check_simple(np.array(points))
        except CaseError as error:
            raise NestedError(error) from error
        return points


class Circles(_Matrix):
    """Circles in a matrix."""

    circles: list[Circle] = Field(min_length=1)
    cell: PlanarCell = "quad8"


class Ellipses(_Matrix):
    """Ellipses in a matrix."""

    ellipses: list[Ellipse] = Field(min_length=1)
    cell: PlanarCell = "quad8"


class Polygons(_Matrix):
    """Polygons in a matrix."""

    polygons: list[Polygon] = Field(min_length=1)
    cell: PlanarCell = "quad8"


class Spheres(_Matrix):
    """Spheres in a matrix."""

    spheres: list[Sphere] = Field(min_length=1)
    cell: SimplexCell = "tetra10"


class _Random(_Matrix):
    count: PositiveInt
    volume_fraction: float = Field(gt=0.0, lt=1.0)
    seed: int = Field(0, ge=0)
    min_gap: NonNegativeFloat | None = Field(
        None, description="Smallest distance between surfaces [length]; default a tenth of the radius."
    )
    phase: PhaseName = Field("fibre", description="Phase of the inclusions; `void` makes holes.")


class RandomCircles(_Random):
    """Equal circles placed at random without overlap."""

    cell: PlanarCell = "quad8"


class RandomSpheres(_Random):
    """Equal spheres placed at random without overlap."""

    cell: SimplexCell = "tetra10"


class Laminate(Cell):
    """Layers perpendicular to an axis; a structured mesh."""

    phases: list[tuple[PhaseName, PositiveFloat]] = Field(
        min_length=1, description="Name and thickness fraction of each layer, from the lower to the upper face."
    )
    axis: Literal[0, 1, 2] = 0
    mesh_size: PositiveFloat = Field(description="Edge length of the finite elements [length].")
    cell: AnyCell = "quad8"


class Homogeneous(Cell):
    """One phase; a structured mesh."""

    phase: PhaseName = "matrix"
    dim: Literal[2, 3] = 2
    cells: PositiveInt | list[PositiveInt] = Field(2, description="Grid cells along each axis.")
    cell: AnyCell | None = Field(None, description="Default: quad or hexahedron.")


Generator = Circles | Ellipses | Polygons | Spheres | RandomCircles | RandomSpheres | Laminate | Homogeneous | Voxels

GENERATORS: dict[str, type[Generator]] = {
    "circles": Circles,
    "ellipses": Ellipses,
    "polygons": Polygons,
    "spheres": Spheres,
    "random_circles": RandomCircles,
    "random_spheres": RandomSpheres,
    "laminate": Laminate,
    "homogeneous": Homogeneous,
    "voxels": Voxels,
}


def generate(spec: Generator) -> TaggedMesh:
    """Return the periodic mesh that a generator describes.

    Args:
        spec: One of the models of `GENERATORS`.

    Returns:
        The mesh centred at the origin, with a region for each phase and matching nodes on opposite faces.

    Raises:
        CaseError: inclusions overlap or do not fit, fractions do not add up, or a phase has no cells.
    """
    if isinstance(spec, Laminate):
        mesh = _laminate(spec)
    elif isinstance(spec, Homogeneous):
        mesh = _homogeneous(spec)
    elif isinstance(spec, Voxels):
        mesh = voxel_mesh(spec)
    else:
        mesh = _with_inclusions(spec)
    for name in _phases(spec):
        if not len(mesh.regions.get(name, ())):
            raise CaseError(f"phase '{name}' has no volume; the cell has {', '.join(mesh.regions)}")
    return mesh


def _with_inclusions(spec: Circles | Ellipses | Polygons | Spheres | RandomCircles | RandomSpheres) -> TaggedMesh:
    from femops.rve.geometry.inclusions import mesh_inclusions  # gmsh loads graphics libraries: only when needed
    from femops.rve.geometry.packing import pack

    if spec.matrix == VOID:
        raise CaseError("the matrix is void; expected a phase, since only inclusions may be holes", key="matrix")
    extent = edges(spec.size, CELLS[spec.cell].dim)
    if isinstance(spec, Polygons):
        return mesh_inclusions(extent, spec.matrix, _polygons(spec, extent), spec.mesh_size, spec.cell)
    if isinstance(spec, _Random):
        centres, radius = pack(extent, spec.count, spec.volume_fraction, spec.min_gap, spec.seed)
        inclusions = [RoundInclusion(centre, np.full(len(extent), radius), 0.0, spec.phase) for centre in centres]
    elif isinstance(spec, Ellipses):
        inclusions = [
            RoundInclusion(np.array(one.center), np.array(one.semi_axes), np.deg2rad(one.angle), one.phase)
            for one in spec.ellipses
        ]
    else:
        balls: Sequence[Circle | Sphere] = spec.circles if isinstance(spec, Circles) else spec.spheres
        inclusions = [
            RoundInclusion(np.array(one.center), np.full(len(extent), one.radius), 0.0, one.phase) for one in balls
        ]
    return mesh_inclusions(extent, spec.matrix, inclusions, spec.mesh_size, spec.cell)


def _polygons(spec: Polygons, extent: Array) -> list[PolygonInclusion]:
    inclusions = [PolygonInclusion.of(np.array(one.points), one.phase) for one in spec.polygons]
    for index, one in enumerate(inclusions):
        if (np.abs(one.centre) >= 0.5 * extent + one.reach).any():
            size = " × ".join(f"{length:g}" for length in extent)
            problem = f"inclusion {index} lies outside the cell, {size} around the origin"
            raise CaseError(f"{problem}; expected at least a part inside")
    return inclusions


def _laminate(spec: Laminate) -> TaggedMesh:
    dim = CELLS[spec.cell].dim
    extent = edges(spec.size, dim)
    fractions = np.array([fraction for _, fraction in spec.phases])
    if abs(fractions.sum() - 1.0) > 1e-9:
        raise CaseError(f"the thickness fractions add up to {fractions.sum():g}; expected 1", key="phases")
    if spec.axis >= dim:
        raise CaseError(f"axis {spec.axis} with the {dim}D cell '{spec.cell}'; expected below {dim}", key="axis")
    lengths = fractions / fractions.sum() * extent[spec.axis]
    layers = np.maximum(1, np.rint(lengths / spec.mesh_size)).astype(int)
    ends = np.concatenate([[0.0], np.cumsum(lengths)]) - 0.5 * extent[spec.axis]
    ends[-1] = 0.5 * extent[spec.axis]
    starts = [np.linspace(a, b, n + 1)[:-1] for a, b, n in zip(ends[:-1], ends[1:], layers, strict=True)]
    counts = np.maximum(1, np.rint(extent / spec.mesh_size)).astype(int)
    axes = grid_lines(extent, counts.tolist())
    axes[spec.axis] = np.concatenate([*starts, ends[-1:]])
    mesh = grid(axes, spec.cell)
    middles = mesh.points[mesh.cells, spec.axis].mean(axis=1)
    layer_of_cell = np.searchsorted(ends[1:-1], middles)
    names = list(dict.fromkeys(name for name, _ in spec.phases))
    phase_of_layer = np.array([names.index(name) for name, _ in spec.phases])
    phase_of_cell = phase_of_layer[layer_of_cell]
    return replace(
        mesh, regions={name: np.flatnonzero(phase_of_cell == i) for i, name in enumerate(names)}, boundaries={}
    )


def _homogeneous(spec: Homogeneous) -> TaggedMesh:
    cell = spec.cell or ("quad" if spec.dim == 2 else "hexahedron")
    if CELLS[cell].dim != spec.dim:
        raise CaseError(f"cell '{cell}' with dim {spec.dim}; expected a {spec.dim}D cell", key="cell")
    mesh = grid(grid_lines(edges(spec.size, spec.dim), spec.cells), cell)
    return replace(mesh, regions={spec.phase: mesh.regions["domain"]}, boundaries={})


def _phases(spec: Generator) -> set[str]:
    """Return the phases required in the mesh."""
    if isinstance(spec, Laminate):
        return {name for name, _ in spec.phases}
    if isinstance(spec, Homogeneous):
        return {spec.phase}
    if isinstance(spec, Voxels):
        return set(spec.phases)
    if isinstance(spec, _Random):
        named = {spec.phase}
    elif isinstance(spec, Ellipses):
        named = {one.phase for one in spec.ellipses}
    elif isinstance(spec, Polygons):
        named = {one.phase for one in spec.polygons}
    else:
        named = {one.phase for one in (spec.circles if isinstance(spec, Circles) else spec.spheres)}
    return ({spec.matrix} | named) - {VOID}
