"""Work on one or all MPI ranks, with exceptions raised on every rank."""

import time
from collections.abc import Callable
from typing import Any, cast

_WAIT = 0.02  # [s]


def on_root[T](comm: Any, work: Callable[[], T]) -> T:
    """Run `work` on rank 0 and broadcast its result or exception.

    Args:
        comm: MPI communicator, or None for a single process.
        work: Called without arguments on rank 0 only; its result must be picklable.
    """
    if comm is None or comm.size == 1:
        return work()
    result: T | None = None
    error: Exception | None = None
    if comm.rank == 0:
        try:
            result = work()
        except Exception as caught:  # noqa: BLE001 - handed to every rank and raised there
            error = caught
    result, error = comm.bcast((result, error), root=0)
    if error is not None:
        raise error
    return cast("T", result)


def on_root_quietly[T](comm: Any, work: Callable[[], T]) -> T:
    """Run `work` on rank 0 as `on_root` does, while the other ranks sleep so that their cores are free.

    Args:
        comm: MPI communicator, or None for a single process.
        work: Called without arguments on rank 0 only; its result must be picklable.
    """
    if comm is None or comm.size == 1:
        return work()

    def wait() -> None:
        request = comm.Ibarrier()
        while not request.Test():
            time.sleep(_WAIT)

    def work_and_wake() -> T:
        try:
            return work()
        finally:
            wait()

    if comm.rank != 0:
        wait()
    return on_root(comm, work_and_wake)


def on_every_rank[T](comm: Any, work: Callable[[], T]) -> T:
    """Run `work` on every rank; if any rank fails, raise the exception of the first failed rank on all.

    Args:
        comm: MPI communicator, or None for a single process.
        work: Called without arguments; must not communicate.
    """
    if comm is None or comm.size == 1:
        return work()
    result: T | None = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as caught:  # noqa: BLE001 - handed to every rank and raised there
        error = caught
    errors = comm.allgather(error)
    first = next((rank for rank, one in enumerate(errors) if one is not None), None)
    if first is not None:
        raise error if error is not None and comm.rank == first else errors[first]  # the original has its traceback
    return cast("T", result)
