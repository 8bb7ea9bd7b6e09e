"""torch, imported so that it calls its own linear algebra: `from femops.surrogate.torch_library import Tensor, torch`.

PETSc's wheel brings an OpenBLAS whose names are visible to every library that is loaded later. torch has functions of
the same names with another layout of their arguments (`cblas_dgemm_batch`), and would call OpenBLAS's: a crash. Looking
names up in its own libraries first keeps the two apart.
"""

import os
import sys

_DEEPBIND = getattr(os, "RTLD_DEEPBIND", 0)

_flags = sys.getdlopenflags()
sys.setdlopenflags(_flags | _DEEPBIND)
try:
    import torch
finally:
    sys.setdlopenflags(_flags)

torch.set_num_threads(1)  # ranks share the cores of a machine

Tensor = torch.Tensor

__all__ = ["Tensor", "torch"]
