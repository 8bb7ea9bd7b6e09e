"""torch, imported so that it calls its own BLAS and LLVM: `from femops.devices.torch_library import Tensor, torch`.

OpenBLAS of PETSc's wheel has a symbol of the same name but other arguments (`cblas_dgemm_batch`). Triton, which
torch imports with its compiler, brings LLVM, and the software renderer of pictures brings another version of it.
"""

from contextlib import suppress
from importlib import import_module

from femops.devices.own_symbols import own_symbols

with own_symbols():
    import torch

    with suppress(ImportError):  # absent from torch for CPUs
        import_module("triton._C.libtriton")

torch.set_num_threads(1)  # ranks share the cores of a machine

Tensor = torch.Tensor

__all__ = ["Tensor", "torch"]
