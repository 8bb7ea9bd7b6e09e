"""Solution and storage of families of RVEs.

Each row of the store is a microstructure; its RVE is not stored, as `microstructure` regenerates it. Fields, in Mandel
notation:

    linear phases              tangent           C̄ [stress]                          (n_s, n_s)
                               stress_33         in 2D, the row c of S_33 = c · E     (n_s,)
    solved at n strains        strain, stress    E [-], S [stress]                    (n, n_s)
                               tangent           dS/dE [stress]                       (n, n_s, n_s)
                               stress_33         in 2D [stress]                       (n,)
    always                     volume_fraction   of the inclusions in the mesh [-]    ()
                               number            of inclusions                        ()
                               contrast/PHASE    factor on the moduli [-]             ()
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from femops.errors import CaseError, NotConverged
from femops.law import LawContext
from femops.notation import Array
from femops.offline.snapshot_store import SnapshotStore, StoreKind, discard_unsound
from femops.parallel import on_root
from femops.plugins import get_phase
from femops.rve.family import FIBRE, Family, Microstructure, microstructure
from femops.rve.solver import RVESolver, SolverOptions
from femops.rve.spec import RVE, build_rve

Watch = Callable[[int, int], None]
Row = dict[str, npt.NDArray[Any]]
# Smallest number of batches of a family; at most one batch is lost on interruption, and progress moves per batch.
_PARTS = 20
_MICROSTRUCTURES = StoreKind("microstructures", "family", "geometry, phases or boundary")


@dataclass(frozen=True)
class FamilyReport:
    """Report of `solve_family`.

    Attributes:
        file: The store.
        found: Number of microstructures found in the store.
        solved: Number of microstructures added.
        seconds: Wall-clock time [s].
    """

    file: Path
    found: int
    solved: int
    seconds: float


@dataclass(frozen=True)
class FamilyProblem:
    """A family to solve, with strains and solver settings.

    Attributes:
        family: The family.
        context: Context in which the RVEs are built, whose ranks share the work.
        options: Settings of the RVE solver.
        strain: Macroscale strains of each microstructure, Mandel [-], equal on all ranks, shape (count, n, n_s); None
            if all phases are linear.
    """

    family: Family
    context: LawContext
    options: SolverOptions
    strain: Array | None = None


def is_linear(family: Family) -> bool:
    """Return whether all phases of a family are linear, so that the effective tangent determines the response.

    Raises:
        CaseError: A law cannot be a phase.
    """
    linear = True
    for name, parameters in family.phases.items():
        try:
            linear &= get_phase(parameters).linear
        except CaseError as error:
            raise error.within(key=f"family.phases.{name}") from error
    return linear


def solve_family(task: FamilyProblem, folder: Path, watch: Watch | None = None) -> FamilyReport:
    """Solve the microstructures of a family and store their responses; collective.

    Microstructures already stored for the same family, of any count, are not solved again.

    Args:
        task: The family with strains and settings.
        folder: Folder of the store.
        watch: Called with the number of stored microstructures and the total.

    Raises:
        CaseError: A microstructure cannot be built, or the folder contains another family or other strains.
        NotConverged: An RVE did not converge; the earlier batches are stored.
    """
    if not is_linear(task.family) and task.strain is None:
        raise CaseError("missing, expected with phases that are not linear", key="sampling")
    comm, begin = task.context.comm, time.perf_counter()

    def opened() -> SnapshotStore:
        store = _store(task.family, folder)
        discard_unsound(store)
        _check_strains(task, store)
        return store

    store = on_root(comm, opened)
    found = store.count
    solved = _solve_missing(task, store, watch)
    on_root(comm, partial(_written, store, store.fold))
    return FamilyReport(store.file, found, solved, time.perf_counter() - begin)


def solved_family(family: Family, folder: Path) -> Row:
    """Return all stored fields of the first `count` microstructures of a family.

    Raises:
        CaseError: Fewer valid microstructures of this family are stored.
    """
    store = _store(family, folder)
    if (sound := store.sound_count()) < family.count:
        raise CaseError(f"{sound} microstructures are there, expected {family.count}", file=folder)
    return {name: store.read(name, slice(0, family.count)) for name in store.names}


def _store(family: Family, folder: Path) -> SnapshotStore:
    return SnapshotStore(folder, family.hash, _MICROSTRUCTURES)


def _solve_missing(task: FamilyProblem, store: SnapshotStore, watch: Watch | None) -> int:
    """Solve the missing microstructures in batches shared among the ranks; return their number."""
    total, found, comm = task.family.count, store.count, task.context.comm
    rank, n_ranks = (0, 1) if comm is None else (comm.rank, comm.size)
    size = max(n_ranks, -(-total // _PARTS))
    done = found
    while done < total:
        if watch is not None:
            watch(done, total)
        wanted = np.arange(done, min(done + size, total))
        answer = _attempt(task, np.array_split(wanted, n_ranks)[rank])
        answers = [answer] if comm is None else comm.gather(answer)
        on_root(comm, partial(_append, store, answers))
        done += len(wanted)
    if watch is not None:
        watch(total, total)
    return max(total - found, 0)


def _attempt(task: FamilyProblem, indices: npt.NDArray[np.int64]) -> list[Row] | CaseError | NotConverged:
    """Solve the share of this rank, possibly empty; return an exception instead of raising it on one rank only."""
    try:
        return [_solve(task, int(index)) for index in indices]
    except (CaseError, NotConverged) as error:
        return error


def _solve(task: FamilyProblem, index: int) -> Row:
    one = microstructure(task.family, index)
    try:
        rve = build_rve(one.parameters, replace(task.context, comm=None))
    except CaseError as error:
        raise CaseError(f"microstructure {index}: {error.problem}", error.file, "family.mesh") from error
    try:
        solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, task.options)
        answers = _linear_answers(solver) if task.strain is None else _answers(solver, task.strain[index])
    except NotConverged as error:
        raise NotConverged(f"microstructure {index}: {error.what}", error.residuals) from error
    return {**answers, **_figures(one, rve)}


def _linear_answers(solver: RVESolver) -> Row:
    """Return the tangent and, in 2D, stress_33 at unit strains; in 3D one unit strain gives the tangent."""
    n_s = solver.discretisation.n_s
    strain = np.eye(n_s) if solver.discretisation.dim == 2 else np.eye(n_s, 1)
    solution = solver.solve(strain, solver.virgin_state(strain.shape[1]))
    row = {"tangent": solution.tangent[:, :, 0].copy()}
    return row if solution.stress_33 is None else {**row, "stress_33": solution.stress_33}


def _answers(solver: RVESolver, strain: Array) -> Row:
    """Return the responses of the virgin RVE at strains of shape (n, n_s)."""
    parts = []
    for start in range(0, len(strain), solver.batch):
        columns = np.ascontiguousarray(strain[start : start + solver.batch].T)
        solution = solver.solve(columns, solver.virgin_state(columns.shape[1]))
        part = {"strain": columns, "stress": solution.stress, "tangent": solution.tangent}
        parts.append(part if solution.stress_33 is None else {**part, "stress_33": solution.stress_33})
    return {name: np.moveaxis(np.concatenate([one[name] for one in parts], axis=-1), -1, 0) for name in parts[0]}


def _figures(one: Microstructure, rve: RVE) -> Row:
    fraction = rve.discretisation.volume_fraction(rve.discretisation.phases.index(FIBRE))
    contrast = {f"contrast/{name}": np.array(factor) for name, factor in one.contrast.items()}
    return {"volume_fraction": np.array(fraction), "number": np.array(one.number), **contrast}


def _append(store: SnapshotStore, answers: list[Any]) -> None:
    """Store the results of all ranks, or raise the first exception among them."""
    for answer in answers:
        if isinstance(answer, CaseError | NotConverged):
            raise answer
    rows = [row for answer in answers for row in answer]
    _written(store, lambda: store.append({name: np.stack([row[name] for row in rows]) for name in rows[0]}))


def _written(store: SnapshotStore, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        problem = f"microstructures cannot be written there ({error.strerror or error})"
        raise CaseError(problem, file=store.folder) from error


def _check_strains(task: FamilyProblem, store: SnapshotStore) -> None:
    """Check that the stored microstructures were solved at the same strains."""
    count = min(store.count, task.family.count)
    if count == 0:
        return
    if (task.strain is not None) == ("strain" in store.names):
        if task.strain is None:
            return
        stored = store.read("strain", slice(0, count))
        if stored.shape == task.strain[:count].shape and np.array_equal(stored, task.strain[:count]):
            return
    problem = f"{store.count} microstructures solved at other strains are there; choose another folder with --output"
    raise CaseError(problem, file=store.folder)
