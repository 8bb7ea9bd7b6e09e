"""Random inclusions: the `inclusions` block of a family, and shapes drawn from it."""

from dataclasses import dataclass
from itertools import product
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
from femops.rve.geometry.packing import away_from_faces, intervals, periodic_offsets
from femops.rve.geometry.polygon_inclusion import area, edge_distances
from femops.validation import NestedError

Pair = tuple[float, float]
_FACES = 8  # places of each face to choose from


class FamilyInclusions(Model):
    """How the inclusions of a family are drawn; ranges are [lowest, highest] and drawn from uniformly."""

    shape: Literal["circles", "ellipses", "polygons", "spheres"]
    number: tuple[PositiveInt, PositiveInt]
    volume_fraction: Pair
    spread: float = Field(0.0, ge=0, lt=1, description="sizes vary by ± this part around their mean [-]")
    aspect: Pair | None = Field(None, description="ratio of the semi-axes of ellipses [-]")
    corners: tuple[int, int] | None = Field(None, description="number of corners of polygons")
    irregularity: Pair | None = Field(
        None, description="the distances of corners of polygons from their centre vary by ± this part [-]"
    )
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
        for key, shape in (("aspect", "ellipses"), ("corners", "polygons"), ("irregularity", "polygons")):
            if (getattr(self, key) is None) == (self.shape == shape):
                raise NestedError(CaseError(f"expected with shape {shape}, and only there", key=key))
        if self.aspect is not None:
            check_range("aspect", self.aspect, self.aspect[0] >= 1.0, "1 or more")
        if self.corners is not None:
            check_range("corners", self.corners, self.corners[0] >= 3, "3 or more")
        if self.irregularity is not None:
            low, high = self.irregularity
            check_range("irregularity", self.irregularity, low >= 0.0 and high < 1.0, "from 0 to below 1")
        check_range("voids", share, share[0] >= 0.0 and share[1] <= 1.0, "from 0 to 1")
        return self

    @model_serializer(mode="wrap")
    def _block(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys that are younger than stored hashes of families, where they have their defaults."""
        young = ("corners", "irregularity", "voids")
        unused = {key for key in young if getattr(self, key) == type(self).model_fields[key].default}
        return {key: value for key, value in serialize(self).items() if key not in unused}

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
class RandomEllipsoids:
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

    def away_from_faces(self, centres: Array, extent: Array) -> Array:
        """Return places at which no inclusion touches a face; see `femops.rve.geometry.packing.away_from_faces`."""
        return away_from_faces(centres, extent, np.linalg.norm(self.frames, axis=2))

    def in_a_case(self, centres: Array) -> list[dict[str, Any]]:
        """Return the inclusions as in an `rve` block, without phases."""
        if self.angles is None:
            sizes = zip(centres.tolist(), self.semi_axes[:, 0].tolist(), strict=True)
            return [{"center": centre, "radius": radius} for centre, radius in sizes]
        shapes = zip(centres.tolist(), self.semi_axes.tolist(), self.angles.tolist(), strict=True)
        return [{"center": centre, "semi_axes": axes, "angle": angle} for centre, axes, angle in shapes]


@dataclass(frozen=True)
class RandomPolygons:
    """Polygons that have no places yet.

    Attributes:
        corners: Corners of each polygon relative to the centre of its bounding box, counterclockwise [length]. Shape
            (n_corners, 2) each.
    """

    corners: list[Array]

    @property
    def frames(self) -> Array:
        """Semi-axes of their circumscribed circles as columns [length]. Shape (n, 2, 2)."""
        radii = np.array([np.linalg.norm(one, axis=1).max() for one in self.corners])
        return np.asarray(radii[:, None, None] * np.eye(2))

    @property
    def volumes(self) -> Array:
        """Areas [length²]. Shape (n,)."""
        return np.array([area(one) for one in self.corners])

    def away_from_faces(self, centres: Array, extent: Array) -> Array:
        """Shift the cell so that its faces are far from the corners of polygons, and its corner from their edges.

        Args:
            centres: Centres of the bounding boxes [length]. Shape (n, 2).
            extent: Edge lengths of the cell [length]. Shape (2,).

        Returns:
            Centres in the cell centred at the origin [length]. Shape (n, 2).
        """
        placed = self._placed(centres)
        x, y = (intervals(ends, length) for ends, length in zip(np.concatenate(placed).T, extent, strict=True))
        wide_x, wide_y = (np.argsort(widths)[-_FACES:] for _, widths in (x, y))
        chosen = np.array(list(product(wide_x, wide_y))).T
        origins, widths = (np.stack([x[part][chosen[0]], y[part][chosen[1]]], axis=1) for part in (0, 1))
        images = (np.mod(origins, extent)[:, None] + periodic_offsets(extent)).reshape(-1, 2)
        to_edges = np.min([edge_distances(images, corners).min(axis=1) for corners in placed], axis=0)
        clearance = np.minimum(0.5 * widths.min(axis=1), to_edges.reshape(len(origins), -1).min(axis=1))
        return np.mod(centres - origins[clearance.argmax()], extent) - 0.5 * extent

    def in_a_case(self, centres: Array) -> list[dict[str, Any]]:
        """Return the inclusions as in an `rve` block, without phases."""
        return [{"points": points.tolist()} for points in self._placed(centres)]

    def _placed(self, centres: Array) -> list[Array]:
        return [centre + corners for centre, corners in zip(centres, self.corners, strict=True)]


def drawn(
    block: FamilyInclusions, number: int, volume: float, rng: np.random.Generator
) -> RandomEllipsoids | RandomPolygons:
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
    if block.corners is not None and block.irregularity is not None:
        low, high = block.corners
        shapes = [(int(rng.integers(low, high + 1)), rng.uniform(*block.irregularity)) for _ in sizes]
        return RandomPolygons([size * _polygon(rng, *shape) for size, shape in zip(sizes, shapes, strict=True)])
    if block.aspect is None:
        return RandomEllipsoids(np.repeat(sizes[:, None], dim, axis=1), None)
    stretch = np.sqrt(rng.uniform(*block.aspect, number))
    return RandomEllipsoids(np.stack([sizes * stretch, sizes / stretch], axis=1), rng.uniform(0.0, 180.0, number))


def _polygon(rng: np.random.Generator, n_corners: int, irregularity: float) -> Array:
    """Return the corners of a star-shaped polygon with the area of the unit circle. Shape (n_corners, 2).

    In polar coordinates, as the aggregates of Wang, Kwan and Chan (doi:10.1016/S0045-7949(98)00177-1): radii vary by ±
    irregularity, angles by ± irregularity / 4 of their spacing, less than half a turn apart even for triangles.
    """
    deviations = irregularity * rng.uniform(-1.0, 1.0, (2, n_corners))
    angles = 2.0 * pi * (rng.uniform() + (np.arange(n_corners) + 0.25 * deviations[0]) / n_corners)
    corners = (1.0 + deviations[1][:, None]) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners *= np.sqrt(pi / area(corners))
    return np.asarray(corners - 0.5 * (corners.min(axis=0) + corners.max(axis=0)))
