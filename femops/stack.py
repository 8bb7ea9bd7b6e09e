"""Compiled libraries in the order in which they work together; imported before any of them.

A program that only evaluates a trained law needs none of them, and gets none.
"""

import contextlib
import os

# One thread per MPI rank; read by the libraries when they are first imported.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# The pip-installed DOLFINx stack has to order MPI ahead of every compiled module.
with contextlib.suppress(ModuleNotFoundError):
    import dolfinx_solver  # noqa: F401

# Before DOLFINx, whose own HDF5 lacks the filters that h5py would then look for in it.
import h5py  # noqa: F401
