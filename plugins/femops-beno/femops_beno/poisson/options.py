"""The `problem` block of a study that learns Poisson's equation on varying shapes."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from femops.pde.options import SampleCounts
from femops_beno.poisson.shapes import FEWEST_CELLS

_FEWEST_VERTICES, _MOST_VERTICES, _MOST_HOLES = 5, 12, 3


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PolygonBlock(_Block):
    """Smallest and largest number of vertices and holes of random polygons."""

    vertices: tuple[int, int] = Field((5, 12), description="of the outer contour, smallest and largest number")
    holes: tuple[int, int] = Field((0, 2), description="smallest and largest number")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        limits = {"vertices": (_FEWEST_VERTICES, self.vertices, _MOST_VERTICES), "holes": (0, self.holes, _MOST_HOLES)}
        for name, (least, (low, high), most) in limits.items():
            if not least <= low <= high <= most:
                raise ValueError(f"{name} [{low}, {high}] given, expected {least} <= smallest <= largest <= {most}")
        return self


class Shape(_Block):
    """A class of shapes: squares of quadrilaterals with corners cut, or polygons of triangles."""

    corners: int | None = Field(None, ge=0, le=4, description="number of rectangular corners cut off the unit square")
    polygon: PolygonBlock | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.corners is None) == (self.polygon is None):
            raise ValueError("expected exactly one of corners (a number) and polygon (vertices and holes)")
        return self

    @property
    def label(self) -> str:
        """Name in tables."""
        if self.polygon is None:
            return f"corners {self.corners}"
        vertices, holes = (
            "–".join(map(str, sorted(set(pair)))) for pair in (self.polygon.vertices, self.polygon.holes)
        )
        return f"polygon {vertices}, holes {holes}"

    @property
    def key(self) -> tuple[int, ...]:
        """Whole numbers that tell classes apart, for random numbers."""
        return (0, self.corners or 0) if self.polygon is None else (1, *self.polygon.vertices, *self.polygon.holes)


def _listed(given: Any) -> Any:
    return [given] if isinstance(given, str | Path) else given


Files = Annotated[tuple[Path, ...], BeforeValidator(_listed), Field(min_length=1)]


class GivenData(_Block):
    """Arrays in the published layout, see `femops_beno.poisson.arrays`; paths are relative to the study."""

    train: Files
    test: Files


class PoissonShapes(_Block):
    """−Δu = f on random shapes, u = g or ∂u/∂n = h on the boundary: from shape, f, g and h to u.

    f, g and h are Gaussian random fields in the plane; g and h are their values on the boundary.
    """

    pde: Literal["poisson_shapes"] = "poisson_shapes"
    shapes: tuple[Shape, ...] = Field((), description="classes of shapes")
    resolution: int = Field(
        32,
        ge=FEWEST_CELLS,
        description="grid cells along the side of the unit square; triangles have edges of 1 over it",
    )
    boundary: Literal["dirichlet", "neumann", "mixed"] = Field(
        "dirichlet", description="mixed: u is prescribed on one part of each contour, the flux on the other"
    )
    length: float = Field(0.2, gt=0, description="correlation length of f, g and h")
    amplitude: float = Field(
        0.05, ge=0, description="standard deviation of g; that of h is amplitude / length, that of f is 1"
    )
    samples: SampleCounts = Field(SampleCounts(train=900, test=100), description="numbers of each class")
    data: GivenData | None = Field(None, description="given arrays instead of random shapes")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.data is None and not self.shapes:
            raise ValueError("expected shapes, a list such as [{corners: 4}], or data, files of arrays")
        if len({one.label for one in self.shapes}) < len(self.shapes):
            raise ValueError("shapes: a class is given twice, expected each once")
        unused = sorted(self.model_fields_set - {"pde", "data"}) if self.data is not None else []
        if unused:
            raise ValueError(f"{unused[0]} given beside data, expected one of both")
        return self
