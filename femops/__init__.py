"""Two-scale (FE²) simulation on DOLFINx and PETSc with nested and learned material laws."""

import os

# One thread per MPI rank; NumPy and others read it when they are first imported.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

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
