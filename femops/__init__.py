"""Two-scale (FE²) simulation on DOLFINx and PETSc with nested and learned material laws."""

import femops.threads  # noqa: F401 - sets the threads of libraries before they are imported

# isort: split
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
