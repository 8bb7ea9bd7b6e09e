"""Compiled libraries in the order in which they work together; imported before any of them.

A program that only evaluates a trained law needs none of them, and gets none.
"""

import contextlib

# The pip-installed DOLFINx stack has to order MPI ahead of every compiled module.
with contextlib.suppress(ModuleNotFoundError):
    import dolfinx_solver  # noqa: F401

# Before DOLFINx, whose own HDF5 lacks the filters that h5py would then look for in it.
import h5py  # noqa: F401
