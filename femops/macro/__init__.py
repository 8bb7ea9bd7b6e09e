"""The macroscale problem on DOLFINx and PETSc."""
