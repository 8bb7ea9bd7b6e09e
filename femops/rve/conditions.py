"""Boundary conditions of an RVE by name."""

from typing import Literal

Boundary = Literal["periodic", "kinematic", "static"]
"""Of the fluctuation: periodic; zero on the boundary; or the one of uniform tractions on it."""
