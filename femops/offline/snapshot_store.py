"""A store of snapshots with checksums.

The fields of a row are those of `femops.rve.snapshots`, its load path and step (`path`, `step`), and `check`, the
checksum of all other fields. A row is valid if its checksum matches. Stores of earlier versions have no checksums;
their rows are valid if the tangent is not zero, as it is in allocated but unwritten rows.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from femops.errors import CaseError
from femops.offline.row_checks import CHECK, checks_of, field_names, sound_rows
from femops.output.atomic import PARTIAL, atomic_path
from femops.output.folder import writing
from femops.output.messages import announce
from femops.rve.snapshots import RVE_INTERFACE, Fields

_BYTES_OF_CHUNK = 2**20


@dataclass(frozen=True)
class StoreKind:
    """Kind of the rows of a store, as worded in file names and messages.

    Attributes:
        name: Plural noun for the rows.
        of: Noun for the object to which all rows belong.
        differs: Properties in which two such objects may differ.
    """

    name: str
    of: str
    differs: str


SNAPSHOTS = StoreKind("snapshots", "RVE", "mesh, phases or boundary")


class SnapshotStore:
    """Snapshots of one RVE: `snapshots.h5`, and one file `snapshots-ROW.h5` per batch added since the last `fold`.

    The store survives interruption at any time, as no file is modified in place. `append` writes the new rows to a
    hidden file, syncs it to disk and renames it atomically. `fold` does the same with a copy of `snapshots.h5` that
    contains all rows, and then removes the batch files. After an interruption, leftover batch files, which start below
    the last row of `snapshots.h5`, and hidden files are removed when the store is opened. Only one process at a time
    may write, see `femops.output.locks`.

    Args:
        folder: Folder of the files; created if missing.
        rve: Content hash of the RVE.
        kind: Kind of the rows; by default snapshots of an RVE.

    Raises:
        CaseError: The folder contains snapshots of another RVE or other files, or cannot be written.
    """

    def __init__(self, folder: Path, rve: str, kind: StoreKind = SNAPSHOTS) -> None:
        self.folder, self.rve, self.kind = folder, rve, kind
        self.file = folder / f"{kind.name}.h5"
        self._parts: list[tuple[int, int, Path]] = []
        with writing(folder, kind.name):
            folder.mkdir(parents=True, exist_ok=True)
            for partial in folder.glob(f"{PARTIAL}{kind.name}*.h5"):
                partial.unlink()
        files = [self.file] if self.file.exists() else []
        for file in [*files, *sorted(folder.glob(f"{kind.name}-*.h5"))]:
            start, stop = self._rows_of(file)
            if start < self.count:
                file.unlink()
            elif start > self.count:
                raise CaseError(f"rows {self.count} to {start} are missing before it", file=file)
            else:
                self._parts.append((start, stop, file))

    @property
    def count(self) -> int:
        """Number of snapshots."""
        return self._parts[-1][1] if self._parts else 0

    @property
    def names(self) -> list[str]:
        """Names of the fields; none if there are no snapshots."""
        if not self._parts:
            return []
        with h5py.File(self._parts[0][2]) as file:
            return field_names(file)

    def append(self, fields: Fields) -> None:
        """Add snapshots atomically.

        Args:
            fields: Arrays with one row per snapshot; the names must be the same in every call.

        Raises:
            CaseError: The folder cannot be written.
        """
        start, rows = self.count, len(next(iter(fields.values())))
        final = self.folder / f"{self.kind.name}-{start:09d}.h5"
        with (
            writing(self.folder, self.kind.name),
            atomic_path(final) as temporary,
            h5py.File(temporary, "w") as file,
        ):
            file.attrs.update(rve=self.rve, interface=RVE_INTERFACE, start=start)
            for name, values in fields.items():
                file.create_dataset(name, data=values)
            file.create_dataset(CHECK, data=checks_of(fields, start))
        self._parts.append((start, start + rows, final))

    def read(self, name: str, rows: slice | None = None) -> npt.NDArray[Any]:
        """Return a field of a range of snapshots, by default of all.

        Args:
            name: Name of the field, for example `stress` or `history/matrix`.
            rows: Range of rows with step 1.
        """
        first, last, _ = (rows or slice(None)).indices(self.count)
        found = []
        for start, stop, path in self._parts:
            if start < last and stop > first:
                with h5py.File(path) as file:
                    found.append(file[name][max(first - start, 0) : min(last, stop) - start])
        if not found:
            raise ValueError(f"no rows {first} to {last} in {self.folder}, which has {self.count}")
        return np.concatenate(found)

    def fold(self) -> None:
        """Merge all snapshots into `snapshots.h5`.

        Raises:
            CaseError: The folder cannot be written.
        """
        added = [part for part in self._parts if part[2] != self.file]
        if added:
            self._fold(added)

    def sound_count(self) -> int:
        """Return the number of rows before the first one whose checksum does not match."""
        for start, stop, path in self._parts:
            with h5py.File(path) as file:
                sound = sound_rows(file, start)
            if start + sound < stop:
                return start + sound
        return self.count

    def discard_unsound(self) -> int:
        """Remove the first row whose checksum does not match and all later rows; return their number."""
        before, sound = self.count, self.sound_count()
        while self.count > sound:  # from the end, so that an interruption leaves no gap
            start, _, path = self._parts.pop()
            if start < sound:
                self._parts.append((start, sound, path))
                self._shorten(path, sound - start)
            else:
                path.unlink()
        return before - sound

    def _fold(self, added: list[tuple[int, int, Path]]) -> None:
        with writing(self.folder, self.kind.name):
            with atomic_path(self.file) as temporary:
                self._fold_into(temporary, added)
            self._parts = [(0, self.count, self.file)]
            for *_, path in added:
                path.unlink()

    def _fold_into(self, temporary: Path, added: list[tuple[int, int, Path]]) -> None:
        if self.file.exists():
            shutil.copyfile(self.file, temporary)
        with h5py.File(temporary, "a" if self.file.exists() else "w") as file:
            file.attrs.update(rve=self.rve, interface=RVE_INTERFACE, start=0)
            if self.file.exists() and CHECK not in file:
                _extend(file, CHECK, checks_of({name: file[name][...] for name in field_names(file)}, 0), 0)
            for start, _, path in added:
                with h5py.File(path) as part:
                    fields = {name: part[name][...] for name in field_names(part)}
                    checks = part[CHECK][...] if CHECK in part else checks_of(fields, start)
                    for name, values in (fields | {CHECK: checks}).items():
                        _extend(file, name, values, start)

    def _shorten(self, path: Path, rows: int) -> None:
        """Truncate a file to its first rows."""
        with atomic_path(path) as temporary, h5py.File(path) as old, h5py.File(temporary, "w") as file:
            file.attrs.update(old.attrs)
            for name in [*field_names(old), *([CHECK] if CHECK in old else [])]:
                _extend(file, name, old[name][:rows], 0)

    def _rows_of(self, path: Path) -> tuple[int, int]:
        """Return the range of rows of a file: first row, and last row plus one."""
        kind = self.kind
        try:
            with h5py.File(path) as file:
                rve, start, rows = str(file.attrs["rve"]), int(file.attrs["start"]), len(file[field_names(file)[0]])
        except (OSError, KeyError, IndexError) as error:
            raise CaseError(f"is not a file of {kind.name} that femops wrote", file=path) from error
        if rve != self.rve:
            raise CaseError(
                f"holds {kind.name} of another {kind.of} ({rve[:12]}, this one is {self.rve[:12]}); "
                f"{kind.differs} differ; choose another folder with --output",
                file=path,
            )
        return start, start + rows


def discard_unsound(store: SnapshotStore) -> None:
    """Remove damaged rows from a store, so that they are solved again, and announce it.

    Raises:
        CaseError: The store cannot be read or written.
    """
    try:
        lost = store.discard_unsound()
    except (OSError, KeyError) as error:
        raise CaseError(f"{store.kind.name} cannot be read ({error})", file=store.folder) from error
    if lost:
        rows = f"from number {store.count + 1} on, {lost} in all"
        announce(f"{store.folder}: {store.kind.name} do not match their checks and are solved anew: {rows}")


def _extend(file: h5py.File, name: str, part: npt.NDArray[Any], start: int) -> None:
    if name not in file:
        rows = max(1, _BYTES_OF_CHUNK // max(1, part.dtype.itemsize * int(np.prod(part.shape[1:]))))
        shape = part.shape[1:]
        file.create_dataset(name, (0, *shape), part.dtype, chunks=(rows, *shape), maxshape=(None, *shape))
    file[name].resize(start + len(part), axis=0)
    file[name][start:] = part
