"""Snapshots: converged RVEs with their sensitivities, and the store that keeps them.

A snapshot holds, each with the snapshot as leading axis and in Mandel notation:

    strain                     E [-]                        (n_s,)
    stress, stress_33          S [stress]; S_33 in 2D       (n_s,), ()
    tangent                    dS/dE [stress]               (n_s, n_s)
    fluctuation                q, free dofs [length]        (n_free,)
    sensitivity                dq/dE [length]               (n_free, n_s)
    phase_stress               σ at the RVE's points        (n_s, n_points)
    phase_stress_sensitivity   dσ/dE                        (n_s, n_points, n_s)
    history/PHASE              state after the step         (n_state, n_points_of_phase), phases with state only
    path, step                 its load path and step       ()
    check                      checksum of all of these     ()

RVE points and free dofs are numbered as in `Discretisation` and `RVESolver.free`. Derivatives are those of the step:
the state at its start is held fixed.

A row counts only if it matches its check. Stores of earlier versions have none; their rows count if the tangent is not
zero, as it is in rows that were made and never written.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from femops.errors import CaseError
from femops.log import announce
from femops.notation import Array
from femops.rve.discretisation import Indices
from femops.rve.row_checks import CHECK, checks_of, field_names, sound_rows
from femops.rve.solver import RVESolver, Solution, SolverOptions
from femops.rve.spec import RVE, RVEParameters

Fields = Mapping[str, npt.NDArray[Any]]
RVE_INTERFACE = 1
"""Raised when the meaning of stored arrays changes; it is part of every content hash."""

_PARTIAL = ".partial-"
_BYTES_OF_CHUNK = 2**20


def content_hash(rve: RVE, parameters: RVEParameters) -> str:
    """Return what tells RVEs apart: a digest of mesh, phases with their parameters, boundary and interface version.

    Args:
        rve: The RVE.
        parameters: What it was built from.
    """
    mesh = rve.discretisation.mesh
    laws = {name: parameters.phases[name].model_dump(mode="json") for name in rve.discretisation.phases}
    cells = [[part.start, part.stop] for part in rve.discretisation.cells_of_phase]
    head = [RVE_INTERFACE, rve.boundary, mesh.kind.name, mesh.points.shape, mesh.cells.shape, list(laws), cells, laws]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(mesh.points, dtype="<f8").tobytes())
    digest.update(np.ascontiguousarray(mesh.cells, dtype="<i8").tobytes())
    outline = rve.discretisation.outline
    if outline.cell is None or outline.walls.any() or not outline.cell.aligned:  # what a box without cracks is not
        shape = "none" if outline.cell is None else outline.cell.periods.tolist()
        digest.update(json.dumps(["outline", shape, int(outline.walls.sum())]).encode())
    return digest.hexdigest()


class SnapshotSolver:
    """Solves an RVE for snapshots.

    Args:
        rve: The RVE.
        options: Settings of its solver; sensitivities are always exact.
    """

    def __init__(self, rve: RVE, options: SolverOptions) -> None:
        exact = SolverOptions(options.rtol, options.max_iter, options.linear, exact_sensitivities=True)
        self.rve = rve
        self.solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, exact)
        free = self.solver.free
        self._gradients = [rve.discretisation.gradient(free.of, part, free.count) for part in self._cells()]

    def solve(self, strain: Array, previous: Fields | None = None) -> dict[str, Array]:
        """Solve for snapshots.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
            previous: The snapshots one step before; None starts from the virgin RVE.

        Returns:
            The fields of the snapshots but path and step.

        Raises:
            NotConverged: An RVE did not converge.
        """
        columns = np.ascontiguousarray(strain.T)
        if previous is None:
            history = self.solver.virgin_history(len(strain))
            solution = self.solver.solve(columns, history)
        else:
            history = self._history(previous, len(strain))
            sensitivity = np.moveaxis(previous["sensitivity"], 0, -1).copy()
            change = columns - previous["strain"].T
            start = previous["fluctuation"].T + np.einsum("fsn,sn->fn", sensitivity, change)
            solution = self.solver.solve(columns, history, start, sensitivity)
        stress, stress_sensitivity = self._phase_stress(columns, solution, history)
        fields = {
            "strain": columns,
            "stress": solution.stress,
            "tangent": solution.tangent,
            "fluctuation": solution.fluctuation,
            "sensitivity": solution.sensitivity,
            "phase_stress": stress,
            "phase_stress_sensitivity": stress_sensitivity,
            **{f"history/{name}": solution.history[position] for position, name in self._with_state()},
        }
        if solution.stress_33 is not None:
            fields["stress_33"] = solution.stress_33
        return {name: np.ascontiguousarray(np.moveaxis(values, -1, 0)) for name, values in fields.items()}

    @property
    def needed(self) -> list[str]:
        """The fields of the step before that a step starts from."""
        return ["strain", "fluctuation", "sensitivity", *(f"history/{name}" for _, name in self._with_state())]

    def _cells(self) -> tuple[slice, ...]:
        return self.rve.discretisation.cells_of_phase

    def _with_state(self) -> list[tuple[int, str]]:
        sizes = self.solver.n_state_of_phase
        return [(i, name) for i, name in enumerate(self.rve.discretisation.phases) if sizes[i]]

    def _history(self, previous: Fields, n: int) -> list[Array]:
        history = self.solver.virgin_history(n)
        for position, name in self._with_state():
            history[position] = np.moveaxis(previous[f"history/{name}"], 0, -1).copy()
        return history

    def _phase_stress(self, strain: Array, solution: Solution, history: list[Array]) -> tuple[Array, Array]:
        """Return σ at all points, shape (n_s, n_points, n), and D (1 + B X), shape (n_s, n_points, n_s, n)."""
        n_s, n = strain.shape
        identity = np.eye(n_s)[:, None, :, None]
        flat = solution.sensitivity.reshape(len(solution.sensitivity), -1)
        stress, sensitivity = [], []
        for position, gradient in enumerate(self._gradients):
            local = (gradient @ solution.fluctuation).reshape(n_s, -1, n) + strain[:, None]
            answer = self.rve.phases[position].respond(local, history[position])
            change = (gradient @ flat).reshape(n_s, -1, n_s, n) + identity
            stress.append(answer.stress)
            sensitivity.append(np.einsum("stgn,tgkn->sgkn", answer.tangent, change, optimize=True))
        return np.concatenate(stress, axis=1), np.concatenate(sensitivity, axis=1)


@dataclass(frozen=True)
class StoreKind:
    """What a store holds, in the words of its file names and messages.

    Attributes:
        name: What a row is, in the plural.
        of: What they all belong to.
        differs: What is different where they belong to another one.
    """

    name: str
    of: str
    differs: str


SNAPSHOTS = StoreKind("snapshots", "RVE", "mesh, phases or boundary")


class SnapshotStore:
    """Snapshots of one RVE in `snapshots.h5`, and in `snapshots-ROW.h5` those added since the last `fold`.

    A kill at any moment is safe: no file is ever changed. `append` writes the new rows to a hidden file, waits until
    it is on the disk and renames it, which is all or nothing; a batch counts from that instant. `fold` does the same
    with a copy of `snapshots.h5` that holds all rows, and removes the added files only afterwards; those that
    a kill leaves behind start below the rows of `snapshots.h5` and are removed when the store is opened, as are the
    hidden files. One process at a time may write, see `femops.locks`.

    Args:
        folder: Where the files are; made if it is missing.
        rve: Content hash of the RVE.
        kind: What the rows are, if they are not snapshots of an RVE.

    Raises:
        CaseError: The folder holds snapshots of another RVE, or files that are not snapshots, or cannot be written.
    """

    def __init__(self, folder: Path, rve: str, kind: StoreKind = SNAPSHOTS) -> None:
        self.folder, self.rve, self.kind = folder, rve, kind
        self.file = folder / f"{kind.name}.h5"
        self._parts: list[tuple[int, int, Path]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for partial in folder.glob(f"{_PARTIAL}{kind.name}*.h5"):
                partial.unlink()
        except OSError as error:
            raise CaseError(f"{kind.name} cannot be written there ({error.strerror})", file=folder) from error
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
        """Add snapshots: all of them, or none if it fails.

        Args:
            fields: Arrays with one row per snapshot; the same names at every call.
        """
        start, rows = self.count, len(next(iter(fields.values())))
        final = self.folder / f"{self.kind.name}-{start:09d}.h5"
        temporary = final.with_name(_PARTIAL + final.name)
        with h5py.File(temporary, "w") as file:
            file.attrs.update(rve=self.rve, interface=RVE_INTERFACE, start=start)
            for name, values in fields.items():
                file.create_dataset(name, data=values)
            file.create_dataset(CHECK, data=checks_of(fields, start))
        _commit(temporary, final)
        self._parts.append((start, start + rows, final))

    def read(self, name: str, rows: slice | None = None) -> npt.NDArray[Any]:
        """Return a field of a range of snapshots, by default of all.

        Args:
            name: For example `stress`, or `history/matrix`.
            rows: First and last row; the step is 1.
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
        """Bring all snapshots into `snapshots.h5`."""
        added = [part for part in self._parts if part[2] != self.file]
        if added:
            self._fold(added)

    def sound_count(self) -> int:
        """Return the number of rows before the first one that does not match its check."""
        for start, stop, path in self._parts:
            with h5py.File(path) as file:
                sound = sound_rows(file, start)
            if start + sound < stop:
                return start + sound
        return self.count

    def discard_unsound(self) -> int:
        """Remove the first row that does not match its check, and all after it; return how many these are."""
        before, sound = self.count, self.sound_count()
        while self.count > sound:  # from the end, so that a kill leaves no gap
            start, _, path = self._parts.pop()
            if start < sound:
                self._parts.append((start, sound, path))
                self._shorten(path, sound - start)
            else:
                path.unlink()
        return before - sound

    def _fold(self, added: list[tuple[int, int, Path]]) -> None:
        temporary = self.file.with_name(_PARTIAL + self.file.name)
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
        _commit(temporary, self.file)
        self._parts = [(0, self.count, self.file)]
        for *_, path in added:
            path.unlink()

    def _shorten(self, path: Path, rows: int) -> None:
        """Keep the first rows of a file only."""
        temporary = path.with_name(_PARTIAL + path.name)
        with h5py.File(path) as old, h5py.File(temporary, "w") as file:
            file.attrs.update(old.attrs)
            for name in [*field_names(old), *([CHECK] if CHECK in old else [])]:
                _extend(file, name, old[name][:rows], 0)
        _commit(temporary, path)

    def _rows_of(self, path: Path) -> tuple[int, int]:
        """Return the first row of a file and the one after its last."""
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
    """Remove what cannot be trusted from a store, so that it is solved anew, and say so.

    Raises:
        CaseError: The store cannot be read or changed.
    """
    try:
        lost = store.discard_unsound()
    except (OSError, KeyError) as error:
        raise CaseError(f"{store.kind.name} cannot be read ({error})", file=store.folder) from error
    if lost:
        rows = f"from number {store.count + 1} on, {lost} in all"
        announce(f"{store.folder}: {store.kind.name} do not match their checks and are solved anew: {rows}")


def batch_of(start: int, size: int, n_paths: int) -> tuple[slice, slice | None]:
    """Return the rows to solve next and those one step before; row = step · n_paths + path.

    Args:
        start: First row.
        size: Largest number of rows; a batch ends with its step.
        n_paths: Number of paths.
    """
    stop = min(start + size, (start // n_paths + 1) * n_paths)
    return slice(start, stop), slice(start - n_paths, stop - n_paths) if start >= n_paths else None


def path_and_step(rows: slice, n_paths: int) -> dict[str, Indices]:
    """Return the path and the step, both from 0, of rows. Shape (n,) each."""
    step, path = np.divmod(np.arange(rows.start, rows.stop), n_paths)
    return {"path": path, "step": step}


def _extend(file: h5py.File, name: str, part: npt.NDArray[Any], start: int) -> None:
    if name not in file:
        rows = max(1, _BYTES_OF_CHUNK // max(1, part.dtype.itemsize * int(np.prod(part.shape[1:]))))
        shape = part.shape[1:]
        file.create_dataset(name, (0, *shape), part.dtype, chunks=(rows, *shape), maxshape=(None, *shape))
    file[name].resize(start + len(part), axis=0)
    file[name][start:] = part


def _commit(temporary: Path, final: Path) -> None:
    """Give a file its name once its content is on the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, final)
