"""Detection of a GPU, without importing torch where there is none."""

import ctypes
from typing import Any, Literal

from femops.surrogate import torch_device

_DRIVER = "libcuda.so.1"


def accelerator(device: Literal["auto", "cpu", "cuda"]) -> Any | None:
    """Return the GPU of this process as a torch device, or None to use the CPU kernels.

    `auto` imports torch, which takes seconds, only if NVIDIA's driver library can be loaded; torch finds no GPU
    without it.

    Args:
        device: Device given in the case.

    Raises:
        CaseError: A GPU is requested but not available.
    """
    if device == "cpu" or (device == "auto" and not _driver()):
        return None
    found = torch_device(device)
    return None if found.type == "cpu" else found


def _driver() -> bool:
    """Return whether NVIDIA's driver library can be loaded."""
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return False
    return True
