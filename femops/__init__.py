"""Two-scale (FE²) simulation on DOLFINx and PETSc with nested and learned material laws."""

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

from femops.errors import CaseError, NotConverged
from femops.law import LawResponse, MaterialLaw, StrainMeasure
from femops.loading import load_law

__version__ = "0.1.0"

__all__ = [
    "CaseError",
    "LawResponse",
    "MaterialLaw",
    "NotConverged",
    "StrainMeasure",
    "__version__",
    "load_law",
]
