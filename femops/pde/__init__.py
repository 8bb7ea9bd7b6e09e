"""Partial differential equations in UFL, their DOLFINx solutions, and random inputs for operator learning."""

import femops.stack  # noqa: F401
