"""torch, imported so that it calls its own BLAS: `from femops.surrogate.torch_library import Tensor, torch`.

PETSc's wheel loads an OpenBLAS whose symbols are visible to all libraries loaded later. torch's BLAS has a symbol of
the same name but other arguments (`cblas_dgemm_batch`), and calling OpenBLAS's instead crashes. RTLD_DEEPBIND makes
torch resolve symbols in its own libraries first.
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
