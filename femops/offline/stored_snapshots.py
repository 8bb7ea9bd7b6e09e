"""Stored snapshots as a mapping of lazily read fields."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt

from femops.offline.snapshot_store import SnapshotStore


class StoredSnapshots(Mapping[str, npt.NDArray[Any]]):
    """The fields of a store by name, each read on access.

    Args:
        store: The store, after `fold`.
    """

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._names = store.names

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._store.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
