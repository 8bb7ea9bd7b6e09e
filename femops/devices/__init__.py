"""Selection of the device that computes; torch is imported on first use."""

import ctypes
import os
from collections.abc import Mapping
from typing import Any, Literal

from femops.errors import CaseError
from femops.packages import require

_DRIVER = "libcuda.so.1"
# Environment variables in which MPI libraries and schedulers store the local rank.
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PALS_LOCAL_RANKID", "SLURM_LOCALID", "PMI_RANK")

DeviceName = Literal["auto", "cpu", "cuda"]
"""Device of a law; auto takes a GPU if there is one."""


def torch_device(device: DeviceName, rank: int | None = None) -> Any:
    """Return the torch device of this process.

    Args:
        device: auto takes a GPU if there is one.
        rank: Rank of this process on its machine; ranks are assigned to GPUs round-robin. Default: the local MPI rank.

    Raises:
        CaseError: A GPU is requested and torch finds none.
    """
    from femops.devices.torch_library import torch

    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cuda" and count == 0:
        raise CaseError("'cuda' given, but torch finds no GPU; expected auto or cpu", key="device")
    if count == 0:
        return torch.device("cpu")
    return torch.device("cuda", (local_rank() if rank is None else rank) % count)


def accelerator(device: DeviceName) -> Any | None:
    """Return the GPU of this process as a torch device, or None to compute without torch.

    `auto` imports torch, which takes seconds and need not be installed, only if NVIDIA's driver library can be loaded;
    torch finds no GPU without it.

    Args:
        device: auto takes a GPU if there is one.

    Raises:
        CaseError: A GPU is requested but not available.
    """
    if device == "cpu" or (device == "auto" and not (_driver() and _installed())):
        return None
    found = torch_device(device)
    return None if found.type == "cpu" else found


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the rank of this process on its machine, from 0."""
    given = (environment.get(name, "") for name in _LOCAL_RANKS)
    return next((int(text) for text in given if text.isdigit()), 0)


def _installed() -> bool:
    """Return whether torch is installed."""
    try:
        require(["torch"])
    except ModuleNotFoundError:
        return False
    return True


def _driver() -> bool:
    """Return whether NVIDIA's driver library can be loaded."""
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return False
    return True
