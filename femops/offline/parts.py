"""Sampling in parts: independent processes, on any hosts, solve parts of the rows of one store, which are then merged.

Part K of N has a folder of its own beside the store, `part-K-of-N`, with its own lock, and is resumed like any other
sampling. A part takes whole load paths, as every step starts from the state of the one before.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from femops.errors import CaseError
from femops.offline.filling import Rows
from femops.offline.snapshot_store import SnapshotStore
from femops.output.folder import writing
from femops.output.locks import locked
from femops.output.messages import announce
from femops.rve.snapshots import Fields

_AT_ONCE = 256  # rows read at once

_Open = Callable[[Path, slice], SnapshotStore]
_Renumbered = Callable[[Fields, slice], Fields]


@dataclass(frozen=True)
class Part:
    """One of several parts of a sampling.

    Attributes:
        number: Number of the part, from 1.
        count: Number of parts.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the part of a text such as `3/16`.

        Raises:
            CaseError: The text is not of this form.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise CaseError(f"{text!r} given, expected K/N with K from 1 to N, for example 3/16", key="--part")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def share(self, n: int) -> slice:
        """Return the share of this part in n paths or members.

        Raises:
            CaseError: n is less than the number of parts.
        """
        if n < self.count:
            raise CaseError(f"{self} given, but the study has only {n} paths to share", key="--part")
        return slice((self.number - 1) * n // self.count, self.number * n // self.count)

    def folder(self, store: Path) -> Path:
        """Return the folder of this part of a store."""
        return store / f"part-{self.number}-of-{self.count}"


def merge_parts(
    store: SnapshotStore,
    rows: Rows,
    open_part: _Open,
    renumbered: _Renumbered = lambda fields, _: fields,
) -> None:
    """Move the rows of all parts beside a store into it; does nothing if there are none. Resumes after interruptions.

    Args:
        store: The store.
        rows: The rows that it should have.
        open_part: Opens the store of a part in a folder and checks that it has been solved for its share of the paths.
        renumbered: Returns the fields of rows of a part, numbered as the given rows of the store.

    Raises:
        CaseError: A part is missing, incomplete, being solved or of another study.
    """
    found = _found(store.folder)
    if not found:
        return
    if store.count < rows.total:
        _merge(store, rows, _complete(found, store.folder), open_part, renumbered)
    with writing(store.folder, store.kind.name):
        for part in found:
            part.folder(store.folder).joinpath(store.file.name).unlink(missing_ok=True)
            with suppress(OSError):  # it holds other files
                part.folder(store.folder).rmdir()
    announce(f"{store.folder}: {store.kind.name} of {found[0].count} parts are merged")


def _merge(store: SnapshotStore, rows: Rows, parts: list[Part], open_part: _Open, renumbered: _Renumbered) -> None:
    shares = [part.share(rows.per_step) for part in parts]
    stores = [_opened(part, store, share, rows, open_part) for part, share in zip(parts, shares, strict=True)]
    for step in range(rows.total // rows.per_step):
        for one, share in zip(stores, shares, strict=True):
            first, offset = step * rows.per_step + share.start, step * (share.stop - share.start)
            last = first + share.stop - share.start
            while first <= store.count < last:
                target = slice(store.count, min(store.count + _AT_ONCE, last))
                source = slice(target.start - first + offset, target.stop - first + offset)
                store.append(renumbered({name: one.read(name, source) for name in one.names}, target))
    store.fold()


def _found(folder: Path) -> list[Part]:
    """Return the parts beside a store, in any order."""
    named = (re.fullmatch(r"part-(\d+)-of-(\d+)", one.name) for one in folder.glob("part-*-of-*"))
    return [Part(int(one[1]), int(one[2])) for one in named if one]


def _complete(found: list[Part], folder: Path) -> list[Part]:
    """Return the parts in order.

    Raises:
        CaseError: One is missing, or there are parts of several numbers.
    """
    counts = {part.count for part in found}
    if len(counts) > 1:
        given = " and of ".join(str(count) for count in sorted(counts))
        raise CaseError(f"there are parts of {given}, expected one number of parts", file=folder)
    every = [Part(number, count) for count in counts for number in range(1, count + 1)]
    if missing := [part for part in every if part not in found]:
        raise CaseError(f"part {missing[0]} is missing; solve it with --part {missing[0]}", file=folder)
    return every


def _opened(part: Part, store: SnapshotStore, share: slice, rows: Rows, open_part: _Open) -> SnapshotStore:
    """Open the store of a part and check that it is complete, and that nobody is writing it."""
    folder = part.folder(store.folder)
    with locked(folder, None):  # opening removes unfinished files
        one = open_part(folder, share)
        wanted = (share.stop - share.start) * (rows.total // rows.per_step)
        if (sound := one.sound_count()) < wanted:
            what = f"holds {sound} of its {wanted} {store.kind.name}; finish it with --part {part}"
            raise CaseError(what, file=folder)
        one.fold()
    return one
