"""Common parts of the generators of RVE meshes: models of a periodic cell in a case file, edges and grid lines."""

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from femops.errors import CaseError
from femops.notation import Array

VOID = "void"
PhaseName = Annotated[str, Field(min_length=1)]
Size = PositiveFloat | list[PositiveFloat]
Point2 = tuple[float, float]
Point3 = tuple[float, float, float]


class Model(BaseModel):
    """Base of the blocks of a case file that describe a cell; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Cell(Model):
    """A periodic cell centred at the origin."""

    size: Size = Field(1.0, description="Edge lengths of the cell [length]; one number for all of them.")


def edges(size: float | list[float], dim: int) -> Array:
    """Return the edge lengths of a cell [length]. Shape (dim,).

    Raises:
        CaseError: The list has another length than the cell has dimensions.
    """
    extent = np.full(dim, size, dtype=np.float64) if isinstance(size, (int, float)) else np.array(size)
    if len(extent) != dim:
        raise CaseError(f"{len(extent)} lengths for a {dim}D cell; expected one number or {dim}", key="size")
    return extent


def grid_lines(extent: Array, cells: PositiveInt | list[PositiveInt]) -> list[Array]:
    """Return the grid lines of each axis of a cell centred at the origin [length]. Shape (n_cells + 1,) each.

    Args:
        extent: Edge lengths [length]. Shape (dim,).
        cells: Grid cells along each axis; one number for all of them.

    Raises:
        CaseError: The list has another length than the cell has dimensions.
    """
    counts = [cells] * len(extent) if isinstance(cells, int) else cells
    if len(counts) != len(extent):
        raise CaseError(f"{len(counts)} cell counts; expected {len(extent)}", key="cells")
    return [np.linspace(-0.5 * length, 0.5 * length, n + 1) for length, n in zip(extent, counts, strict=True)]
