"""Solution of the rows that a store lacks, in batches shared among the ranks."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from femops.offline.snapshot_store import SnapshotStore
from femops.parallel import on_every_rank, on_root
from femops.rve.snapshots import Fields

# Smallest number of batches; at most one batch is lost on interruption, and progress is reported per batch.
_BATCHES = 20

CountProgress = Callable[[int, int], None]
SolveRows = Callable[[SnapshotStore, slice, slice | None], Callable[[], Fields | None]]


@dataclass(frozen=True)
class SampleReport:
    """Report of `sample`.

    Attributes:
        file: The store.
        found: Number of snapshots or microstructures found in the store.
        solved: Number of those added.
        seconds: Wall-clock time without set-up [s].
    """

    file: Path
    found: int
    solved: int
    seconds: float


@dataclass(frozen=True)
class Rows:
    """The rows that a store should have.

    Attributes:
        total: Number of rows.
        per_step: Number of rows of a load step; a batch does not extend beyond one step.
        per_rank: Largest number of rows that a rank solves at once.
    """

    total: int
    per_step: int
    per_rank: int


def fill(
    open_store: Callable[[], SnapshotStore],
    rows: Rows,
    solve: SolveRows,
    comm: Any,
    progress: CountProgress | None = None,
) -> SampleReport:
    """Solve the missing rows of a store, store every batch, and merge them in the end; collective.

    Args:
        open_store: Opens and checks the store; called on rank 0.
        rows: Number of rows and of those in a batch.
        solve: Prepares the solution of the rows of a batch, given those of the previous step; collective. The function
            that it returns solves the share of this rank, None if empty, and must not communicate.
        comm: The ranks that share the work; None for a single process.
        progress: Called with the number of stored rows and the total.
    """
    progress = progress or (lambda done, total: None)
    store = on_root(comm, open_store)
    found, begin, n_ranks = store.count, time.perf_counter(), 1 if comm is None else comm.size
    size = min(rows.per_rank * n_ranks, max(n_ranks, -(-rows.total // _BATCHES)))
    done = found  # the other ranks have a copy of the store that does not grow
    while done < rows.total:
        progress(done, rows.total)
        batch, previous = batch_of(done, size, rows.per_step)
        share = on_every_rank(comm, solve(store, batch, previous))
        shares = [share] if comm is None else comm.gather(share)
        on_root(comm, lambda shares=shares: store.append(_joined(shares)))  # type: ignore[misc]
        done = batch.stop
    progress(rows.total, rows.total)
    on_root(comm, store.fold)
    return SampleReport(store.file, found, max(rows.total - found, 0), time.perf_counter() - begin)


def batch_of(start: int, size: int, n_paths: int) -> tuple[slice, slice | None]:
    """Return the rows of the next batch and those of the previous step; row = step · n_paths + path.

    Args:
        start: First row.
        size: Largest number of rows; a batch does not extend beyond one step.
        n_paths: Number of paths.
    """
    stop = min(start + size, (start // n_paths + 1) * n_paths)
    return slice(start, stop), slice(start - n_paths, stop - n_paths) if start >= n_paths else None


def _joined(shares: list[Fields | None]) -> Fields:
    """Return the fields of all ranks in one array each."""
    filled = [share for share in shares if share is not None]
    return {name: np.concatenate([share[name] for share in filled]) for name in filled[0]}
