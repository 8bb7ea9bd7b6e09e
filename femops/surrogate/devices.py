"""Selection of the torch device; torch is imported on first use."""

import os
from collections.abc import Mapping
from typing import Any, Literal

from femops.errors import CaseError

# Environment variables in which MPI libraries and schedulers store the local rank.
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PALS_LOCAL_RANKID", "SLURM_LOCALID", "PMI_RANK")


def torch_device(device: Literal["auto", "cpu", "cuda"], rank: int | None = None) -> Any:
    """Return the torch device of this process.

    Args:
        device: auto takes a GPU if there is one.
        rank: Rank of this process on its machine; ranks are assigned to GPUs round-robin. Default: the local MPI rank.

    Raises:
        CaseError: A GPU is requested and torch finds none.
    """
    from femops.surrogate.torch_library import torch

    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cuda" and count == 0:
        raise CaseError("'cuda' given, but torch finds no GPU; expected auto or cpu", key="device")
    if count == 0:
        return torch.device("cpu")
    return torch.device("cuda", (local_rank() if rank is None else rank) % count)


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the rank of this process on its machine, from 0."""
    given = (environment.get(name, "") for name in _LOCAL_RANKS)
    return next((int(text) for text in given if text.isdigit()), 0)
