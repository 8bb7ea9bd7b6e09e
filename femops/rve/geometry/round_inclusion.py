"""Ellipses and spheres in a periodic cell."""

from dataclasses import dataclass

import numpy as np

from femops.notation import Array

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class RoundInclusion:
    """An ellipse or a sphere.

    Attributes:
        centre: Centre [length]. Shape (dim,).
        semi_axes: Semi-axes [length]; equal for spheres. Shape (dim,).
        angle: Angle from the x axis to the first semi-axis of an ellipse [rad].
        phase: Name of its phase.
    """

    centre: Array
    semi_axes: Array
    angle: float
    phase: str

    @property
    def frame(self) -> Array:
        """Semi-axes as columns [length]. Shape (dim, dim)."""
        if len(self.centre) == 3:
            return np.diag(self.semi_axes)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]]) * self.semi_axes

    @property
    def reach(self) -> Array:
        """Half the edges of the bounding box [length]. Shape (dim,)."""
        return np.asarray(np.linalg.norm(self.frame, axis=1))

    @property
    def radius(self) -> float:
        """Radius of the circumscribed circle or sphere [length]."""
        return float(self.semi_axes.max())

    def touched(self, extent: Array) -> str | None:
        """Return which face of a cell, or of a periodic image, the inclusion touches; None if it touches none.

        Args:
            extent: Edge lengths of the cell, which is centred at the origin [length]. Shape (dim,).
        """
        ends = np.stack([self.centre - self.reach, self.centre + self.reach]) / extent + 0.5
        touching = (np.abs(ends - np.rint(ends)) < _TOLERANCE).any(axis=0)
        return f"a face {'xyz'[touching.argmax()]} = const" if touching.any() else None

    def meets(self, other: "RoundInclusion") -> bool:
        """Return whether two inclusions intersect; ellipses are compared where the other is the unit circle."""
        if len(self.centre) == 3:
            return bool(np.linalg.norm(self.centre - other.centre) <= (self.semi_axes + other.semi_axes)[0])
        if np.linalg.norm(np.linalg.solve(self.frame, other.centre - self.centre)) <= 1.0:
            return True
        middle, width = 0.0, np.pi
        for _ in range(3):
            turns = middle + width * np.linspace(-1.0, 1.0, 721)
            boundary = self.centre[:, None] + self.frame @ np.stack([np.cos(turns), np.sin(turns)])
            norms = np.linalg.norm(np.linalg.solve(other.frame, boundary - other.centre[:, None]), axis=0)
            middle, width = turns[norms.argmin()], width / 180.0
        return bool(norms.min() <= 1.0 + _TOLERANCE)
