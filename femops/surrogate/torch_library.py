"""torch, imported so that it calls its own BLAS: `from femops.surrogate.torch_library import Tensor, torch`.

OpenBLAS of PETSc's wheel has a symbol of the same name but other arguments (`cblas_dgemm_batch`).
"""

from femops.surrogate.own_symbols import own_symbols

with own_symbols():
    import torch

torch.set_num_threads(1)  # ranks share the cores of a machine

Tensor = torch.Tensor

__all__ = ["Tensor", "torch"]
