"""Solution and storage of families of RVEs.

Each row of the store is a microstructure; its RVE is not stored, as `microstructure` regenerates it. Fields, in Mandel
notation:

    linear phases              tangent           C̄ [stress]                          (n_s, n_s)
                               stress_33         in 2D, the row c of S_33 = c · E     (n_s,)
    solved at n strains        strain, stress    E [-], S [stress]                    (n, n_s)
                               tangent           dS/dE [stress]                       (n, n_s, n_s)
                               stress_33         in 2D [stress]                       (n,)
    always                     volume_fraction   of the inclusions in the mesh [-]    ()
    with voids                 void_fraction     of the holes in the mesh [-]         ()
                               number            of inclusions                        ()
                               contrast/PHASE    factor on the moduli [-]             ()
"""

import hashlib
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
from femops.offline.filling import CountProgress, Rows, SampleReport, fill
from femops.offline.parts import merge_parts
from femops.offline.snapshot_store import SnapshotStore, StoreKind, discard_unsound
from femops.plugins import get_phase
from femops.rve.family import FIBRE, Family, Microstructure, microstructure
from femops.rve.solver import RVESolver, SolverOptions
from femops.rve.spec import RVE, build_rve

Row = dict[str, npt.NDArray[Any]]
_MICROSTRUCTURES = StoreKind("microstructures", "family", "geometry, phases, boundary or, in parts, the count")


@dataclass(frozen=True)
class FamilyProblem:
    """A family to solve, with strains and solver settings.

    Attributes:
        family: The family.
        context: Context in which the RVEs are built, whose ranks share the work.
        options: Settings of the RVE solver.
        strain: Macroscale strains of each microstructure, Mandel [-], equal on all ranks, shape (count, n, n_s); None
            if all phases are linear.
        members: The members to solve, by default all.
    """

    family: Family
    context: LawContext
    options: SolverOptions
    strain: Array | None = None
    members: slice | None = None

    @property
    def first(self) -> int:
        """The first member to solve."""
        return 0 if self.members is None else int(self.members.start)

    @property
    def count(self) -> int:
        """Number of members to solve."""
        return self.family.count if self.members is None else int(self.members.stop - self.members.start)


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


def solve_family(task: FamilyProblem, folder: Path, progress: CountProgress | None = None) -> SampleReport:
    """Solve the microstructures of a family and store their responses; collective.

    Microstructures already stored for the same family, of any count, are not solved again.

    Args:
        task: The family with strains and settings.
        folder: Folder of the store.
        progress: Called with the number of stored microstructures and the total.

    Raises:
        CaseError: A microstructure cannot be built, or the folder contains another family or other strains.
        NotConverged: An RVE did not converge; the earlier batches are stored.
    """
    if not is_linear(task.family) and task.strain is None:
        raise CaseError("missing, expected with phases that are not linear", key="sampling")
    comm, rows = task.context.comm, Rows(task.count, task.count, task.count)
    rank, n_ranks = (0, 1) if comm is None else (comm.rank, comm.size)

    def opened() -> SnapshotStore:
        store = _store(task.family, folder, task.first)
        discard_unsound(store)
        _check_strains(task, store)
        merge_parts(store, rows, opened_part)
        return store

    def opened_part(part: Path, share: slice) -> SnapshotStore:
        store = _store(task.family, part, share.start)
        _check_strains(replace(task, members=share), store)
        return store

    def solve(_: SnapshotStore, batch: slice, __: slice | None) -> Callable[[], Row | None]:
        share = np.array_split(np.arange(batch.start, batch.stop), n_ranks)[rank]
        return partial(_solve_all, task, task.first + share)

    return fill(opened, rows, solve, comm, progress)


def solved_family(family: Family, folder: Path) -> Row:
    """Return all stored fields of the first `count` microstructures of a family.

    Raises:
        CaseError: Fewer valid microstructures of this family are stored.
    """
    store = _store(family, folder)
    if (sound := store.sound_count()) < family.count:
        raise CaseError(f"{sound} microstructures are there, expected {family.count}", file=folder)
    return {name: store.read(name, slice(0, family.count)) for name in store.names}


def _store(family: Family, folder: Path, first: int = 0) -> SnapshotStore:
    """Return the store of the members from the given one on; the share of a part depends on the number of members."""
    identity = hashlib.sha256(f"{family.hash} from {first}".encode()).hexdigest() if first else family.hash
    return SnapshotStore(folder, identity, _MICROSTRUCTURES)


def _solve_all(task: FamilyProblem, indices: npt.NDArray[np.int64]) -> Row | None:
    """Return the rows of some microstructures; None if there are none."""
    rows = [_solve(task, int(index)) for index in indices]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]} if rows else None


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
    return {**answers, **_figures(one, rve, task.family.inclusions.has_voids)}


def _linear_answers(solver: RVESolver) -> Row:
    """Return the tangent and, in 2D, stress_33 at unit strains; in 3D one unit strain gives the tangent."""
    n_s = solver.discretisation.n_s
    strain = np.eye(n_s) if solver.discretisation.dim == 2 else np.eye(n_s, 1)
    solution = solver.solve(strain, solver.virgin_state(strain.shape[1]))
    row = {"tangent": solution.tangent[:, :, 0].copy()}
    return row if solution.stress_33 is None else {**row, "stress_33": solution.stress_33}


def _answers(solver: RVESolver, strain: Array) -> Row:
    """Return the responses of the virgin RVE at strains of shape (n, n_s)."""

    def solve(part: slice) -> Row:
        columns = np.ascontiguousarray(strain[part].T)
        solution = solver.solve(columns, solver.virgin_state(columns.shape[1]))
        found = {"strain": columns, "stress": solution.stress, "tangent": solution.tangent}
        return found if solution.stress_33 is None else {**found, "stress_33": solution.stress_33}

    parts = solver.in_parts(len(strain), solve)
    return {name: np.moveaxis(np.concatenate([one[name] for one in parts], axis=-1), -1, 0) for name in parts[0]}


def _figures(one: Microstructure, rve: RVE, has_voids: bool) -> Row:
    meshed = {name: rve.discretisation.volume_fraction(i) for i, name in enumerate(rve.discretisation.phases)}
    fraction = meshed.get(FIBRE, 0.0)
    row = {f"contrast/{name}": np.array(factor) for name, factor in one.contrast.items()}
    if has_voids:
        void_fraction = 1.0 - sum(meshed.values()) if one.void_fraction > 0.0 else 0.0  # no round-off without holes
        row["void_fraction"] = np.array(void_fraction)
        fraction += void_fraction
    return {"volume_fraction": np.array(fraction), "number": np.array(one.number), **row}


def _check_strains(task: FamilyProblem, store: SnapshotStore) -> None:
    """Check that the stored microstructures were solved at the same strains."""
    count = min(store.count, task.count)
    if count == 0:
        return
    if (task.strain is not None) == ("strain" in store.names):
        if task.strain is None:
            return
        stored = store.read("strain", slice(0, count))
        expected = task.strain[task.first : task.first + count]
        if stored.shape == expected.shape and np.array_equal(stored, expected):
            return
    problem = f"{store.count} microstructures solved at other strains are there; choose another folder with --output"
    raise CaseError(problem, file=store.folder)
