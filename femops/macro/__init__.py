"""The macroscale problem on DOLFINx and PETSc."""

import femops.stack  # noqa: F401
