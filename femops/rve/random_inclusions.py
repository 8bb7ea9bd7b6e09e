"""Random inclusions: the `inclusions` block of a family, and shapes drawn from it."""

from dataclasses import dataclass
from math import gamma, pi
from typing import Any, Literal, Self

import numpy as np
from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from femops.errors import CaseError
from femops.notation import Array
from femops.rve.geometry.cell import Model
from femops.validation import NestedError

Pair = tuple[float, float]


class FamilyInclusions(Model):
    """How the inclusions of a family are drawn; ranges are [lowest, highest] and drawn from uniformly."""

    shape: Literal["circles", "ellipses", "spheres"]
    number: tuple[PositiveInt, PositiveInt]
    volume_fraction: Pair
    spread: float = Field(0.0, ge=0, lt=1, description="sizes vary by ± this part around their mean [-]")
    aspect: Pair | None = Field(None, description="ratio of the semi-axes of ellipses [-]")
    voids: Pair = Field(
        (0.0, 0.0), description="share of the inclusions that are holes [-]; each is a hole with this probability"
    )
    min_gap: NonNegativeFloat | None = Field(
        None, description="smallest distance between surfaces [length]; default 0 on a grid, otherwise mesh_size / 2"
    )

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        fraction, share = self.volume_fraction, self.voids
        check_range("number", self.number, self.number[0] >= 1, "1 or more")
        check_range("volume_fraction", fraction, fraction[0] > 0.0 and fraction[1] < 1.0, "above 0 and below 1")
        if (self.aspect is None) == (self.shape == "ellipses"):
            raise NestedError(CaseError("expected with shape ellipses, and only there", key="aspect"))
        if self.aspect is not None:
            check_range("aspect", self.aspect, self.aspect[0] >= 1.0, "1 or more")
        check_range("voids", share, share[0] >= 0.0 and share[1] <= 1.0, "from 0 to 1")
        return self

    @model_serializer(mode="wrap")
    def _block(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out voids if there are none: the hashes of such families are older than this key."""
        return {key: value for key, value in serialize(self).items() if key != "voids" or self.has_voids}

    @property
    def has_voids(self) -> bool:
        """Whether inclusions may be holes."""
        return self.voids[1] > 0.0

    @property
    def dim(self) -> int:
        """2, or 3 for spheres."""
        return 3 if self.shape == "spheres" else 2


def check_range(key: str, pair: Pair, within: bool, limits: str) -> None:
    """Refuse a range that is not `within` its `limits`, or whose ends are in the wrong order."""
    if not (within and pair[0] <= pair[1]):
        raise NestedError(CaseError(f"{list(pair)} given, expected [lowest, highest], {limits}", key=key))


@dataclass(frozen=True)
class Ellipsoids:
    """Circles, ellipses or spheres that have no places yet.

    Attributes:
        semi_axes: Semi-axes [length], large inclusions first. Shape (n, dim).
        angles: Angles from the x axis to the first semi-axes of ellipses [degrees]; None for circles and spheres.
            Shape (n,).
    """

    semi_axes: Array
    angles: Array | None

    @property
    def frames(self) -> Array:
        """Semi-axes as columns [length]. Shape (n, dim, dim)."""
        if self.angles is None:
            return self.semi_axes[:, None, :] * np.eye(self.semi_axes.shape[1])
        cos, sin = np.cos(np.deg2rad(self.angles)), np.sin(np.deg2rad(self.angles))
        return np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1) * self.semi_axes[:, None, :]

    @property
    def volumes(self) -> Array:
        """Volumes relative to that of the unit ball [length^dim]. Shape (n,)."""
        return np.asarray(self.semi_axes.prod(axis=1))

    def extremes(self, centres: Array) -> Array:
        """Return the corners of the bounding boxes at given places [length]. Shape (2 n, dim)."""
        reach = np.linalg.norm(self.frames, axis=2)
        return np.concatenate([centres - reach, centres + reach])

    def in_a_case(self, centres: Array) -> list[dict[str, Any]]:
        """Return the inclusions as in an `rve` block, without phases."""
        if self.angles is None:
            sizes = zip(centres.tolist(), self.semi_axes[:, 0].tolist(), strict=True)
            return [{"center": centre, "radius": radius} for centre, radius in sizes]
        shapes = zip(centres.tolist(), self.semi_axes.tolist(), self.angles.tolist(), strict=True)
        return [{"center": centre, "semi_axes": axes, "angle": angle} for centre, axes, angle in shapes]


def drawn(block: FamilyInclusions, number: int, volume: float, rng: np.random.Generator) -> Ellipsoids:
    """Draw the shapes of some inclusions.

    Args:
        block: The ranges.
        number: Number of inclusions.
        volume: Total volume [length^dim].
        rng: Random generator.
    """
    dim = block.dim
    sizes = np.sort(rng.uniform(1.0 - block.spread, 1.0 + block.spread, number))[::-1]
    unit_ball = pi ** (dim / 2) / gamma(dim / 2 + 1)
    sizes *= (volume / (unit_ball * (sizes**dim).sum())) ** (1.0 / dim)
    if block.aspect is None:
        return Ellipsoids(np.repeat(sizes[:, None], dim, axis=1), None)
    stretch = np.sqrt(rng.uniform(*block.aspect, number))
    return Ellipsoids(np.stack([sizes * stretch, sizes / stretch], axis=1), rng.uniform(0.0, 180.0, number))
