"""Whether this process has an accelerator, found without importing torch where there is none."""

import ctypes
from typing import Any, Literal

from femops.surrogate import torch_device

_DRIVER = "libcuda.so.1"


def accelerator(device: Literal["auto", "cpu", "cuda"]) -> Any | None:
    """Return the GPU of this process as a torch device; None where the kernels of the CPU are to be used.

    `auto` asks torch, which takes seconds to import, only where NVIDIA's driver library can be loaded; without it
    torch would find no GPU.

    Args:
        device: What a case asks for.

    Raises:
        CaseError: A GPU is wanted and there is none.
    """
    if device == "cpu" or (device == "auto" and not _driver()):
        return None
    found = torch_device(device)
    return None if found.type == "cpu" else found


def _driver() -> bool:
    """Return whether the driver can be loaded."""
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return False
    return True
