"""Threads: those of numerical libraries, one unless the user sets them, and those that share the batches of a law."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from femops.errors import CaseError

_LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Environment variables in which MPI libraries and schedulers store the number of ranks on this machine; the last one
# that of all ranks.
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "PALS_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE", "PMI_SIZE")
_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Time on all cores [µs] that a container may use per period [µs], which the cores of the process do not show."""

_LIBRARIES_HAVE_THE_CORES = any(name in os.environ for name in _LIBRARIES)
for _name in _LIBRARIES:  # read by NumPy and others when they are first imported
    os.environ.setdefault(_name, "1")


def thread_count(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of threads of this process.

    It is that of FEMOPS_NUM_THREADS, or 1 if the user set the threads of a library, such as OMP_NUM_THREADS;
    otherwise the ranks on this machine share its cores.

    Raises:
        CaseError: FEMOPS_NUM_THREADS is not a positive integer.
    """
    given = environment.get("FEMOPS_NUM_THREADS")
    if given is not None:
        if not _is_positive(given):
            raise CaseError(f"FEMOPS_NUM_THREADS: {given!r} given, expected a positive integer")
        return int(given)
    if _LIBRARIES_HAVE_THE_CORES:
        return 1
    n_ranks = next((int(environment[name]) for name in _LOCAL_SIZES if _is_positive(environment.get(name, ""))), 1)
    return max(1, _core_count() // n_ranks)


def in_threads[A, B](work: Callable[[A], B], items: Sequence[A], count: int) -> list[B]:
    """Return the results of `work` for all items in order, computed in `count` threads.

    Raises:
        Exception: The exception of the first item, in order, for which `work` raises one.
    """
    count = min(count, len(items))
    if count < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, items))


def _is_positive(text: str) -> bool:
    return text.isdecimal() and int(text) > 0


def _core_count() -> int:
    """Return the number of cores that this process may use, in a container with a limit those of the limit."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _LIMIT.read_text().split()
        return max(1, min(bound, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return bound
