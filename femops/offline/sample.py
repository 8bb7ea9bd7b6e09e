"""Implementation of `femops sample`: solve an RVE at many strains, or the members of a family, and store them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from femops.errors import CaseError, NotConverged
from femops.inputs.study import Study
from femops.law import LawContext
from femops.notation import Array, Indices
from femops.offline import family_store
from femops.offline.filling import CountProgress, Rows, SampleReport, fill
from femops.offline.parts import Part, merge_parts
from femops.offline.snapshot_store import SnapshotStore, discard_unsound
from femops.offline.strains import member_strains, study_paths
from femops.output.locks import locked
from femops.plugins import get_law
from femops.rve.family import Family
from femops.rve.law import NestedLaw, NestedParameters
from femops.rve.snapshots import Fields, SnapshotSolver, content_hash
from femops.rve.solver import SolverOptions
from femops.rve.spec import RVE
from femops.threads import thread_count


def sample(
    study: Study,
    path: Path,
    folder: Path,
    comm: Any,
    progress: CountProgress | None = None,
    part: Part | None = None,
) -> SampleReport:
    """Solve the RVE of a study at its strains, or the members of its family, and store them; collective.

    Snapshots already stored for the same study are not solved again. If another process works in the folder, its end
    is awaited.

    Args:
        study: The study.
        path: The study file, to which relative paths refer.
        folder: Folder of the store.
        comm: The ranks that share the work; rank 0 writes.
        progress: Called with the number of stored snapshots and the total.
        part: Part to solve, in a folder of its own beside the store; by default, the parts beside the store, if
            any, are merged into it, and what is then missing is solved.

    Raises:
        CaseError: The study cannot be built, a part is missing, incomplete or being solved, or the folder contains
            snapshots of another RVE or other strains.
        NotConverged: An RVE did not converge; the earlier batches are stored.
    """
    folder = folder if part is None else part.folder(folder)
    if study.family is not None:
        with locked(folder, comm, wait=True):
            return solve_members(study, path, study.family, folder, comm, progress, part=part)
    if study.rve is None:
        raise CaseError("missing, expected rve or family to solve", file=path, key="rve")
    rve = study_rve(study, path, comm)
    paths = study_paths(study, path, comm)
    if part is not None:
        paths = paths[part.share(len(paths))]
    with locked(folder, comm, wait=True):
        return solve_snapshots(study, rve, paths, folder, comm, progress)


def study_rve(study: Study, path: Path, comm: Any) -> RVE:
    """Build the RVE of a study; collective.

    Raises:
        CaseError: The RVE cannot be built.
    """
    assert study.rve is not None
    try:
        law = get_law(NestedParameters(rve=study.rve), LawContext(study.dim, path.parent, comm))
    except CaseError as error:
        raise error.within(file=path) from error
    assert isinstance(law, NestedLaw)
    return law.rve


def solve_members(
    study: Study,
    path: Path,
    family: Family,
    folder: Path,
    comm: Any,
    progress: CountProgress | None = None,
    unseen: bool = False,
    part: Part | None = None,
) -> SampleReport:
    """Solve members of a family at the strains of a study and store them; collective; see `sample`.

    Args:
        study: The study, for its strains and solver settings.
        path: The study file.
        family: The family of the study, or the same with another seed.
        folder: Folder of the store.
        comm: The ranks that share the work.
        progress: Called with the number of stored microstructures and the total.
        unseen: Whether to sample strains other than those of the study.
        part: The part of the members to solve; by default all.

    Raises:
        CaseError: The strains do not fit the family; see also `femops.offline.family_store.solve_family`.
        NotConverged: An RVE did not converge; the earlier batches are stored.
    """
    settings, context = study.solver, LawContext(family.dim, path.parent, comm)
    options = SolverOptions(settings.rtol, settings.max_iter, settings.linear, exact_sensitivities=True)
    try:
        strain = member_strains(study, family, unseen=unseen)
        share = slice(0, family.count) if part is None else part.share(family.count)
        task = family_store.FamilyProblem(family, context, options, strain, share)
        return family_store.solve_family(task, folder, progress)
    except CaseError as error:
        raise error if error.file else error.within(file=path) from error


def solve_snapshots(
    study: Study, rve: RVE, paths: Array, folder: Path, comm: Any, progress: CountProgress | None = None
) -> SampleReport:
    """Solve an RVE along paths and store the snapshots; collective; see `sample`.

    Args:
        study: The study, for the parameters of the RVE and the solver settings.
        rve: The RVE.
        paths: Strains, Mandel [-]. Shape (n_paths, n_steps, n_s).
        folder: Folder of the store.
        comm: The ranks that share the work.
        progress: Called with the number of stored snapshots and the total.
    """
    settings = study.solver
    solver = SnapshotSolver(rve, SolverOptions(settings.rtol, settings.max_iter, settings.linear))
    n_paths, n_steps, _ = paths.shape
    n_threads = max(comm.allgather(thread_count()))  # ranks on other machines may have more cores
    rows = Rows(n_paths * n_steps, n_paths, solver.solver.batch * n_threads)

    def renumbered(fields: Fields, target: slice) -> Fields:
        return {**fields, **path_and_step(np.arange(target.start, target.stop), n_paths)}

    def opened() -> SnapshotStore:
        assert study.rve is not None
        store = SnapshotStore(folder, content_hash(rve, study.rve))

        def opened_part(part: Path, share: slice) -> SnapshotStore:
            found = SnapshotStore(part, store.rve)
            _check_strains(found, paths[share])
            return found

        discard_unsound(store)
        _check_strains(store, paths)
        merge_parts(store, rows, opened_part, renumbered)
        return store

    def solve(store: SnapshotStore, batch: slice, previous: slice | None) -> Callable[[], Fields | None]:
        shares = np.array_split(np.arange(batch.start, batch.stop), comm.size)
        states = comm.scatter(_states(solver, store, previous, shares) if comm.rank == 0 else None)
        return partial(_solve, solver, paths, shares[comm.rank], states, batch)

    return fill(opened, rows, solve, comm, progress)


def _states(
    solver: SnapshotSolver, store: SnapshotStore, previous: slice | None, shares: list[Indices]
) -> list[Fields | None]:
    """Return the snapshots of the previous step for each rank; None in the first step."""
    if previous is None:
        return [None] * len(shares)
    ends = np.cumsum([len(share) for share in shares])[:-1]
    parts = {name: np.split(store.read(name, previous), ends) for name in solver.needed}
    return [{name: part[rank] for name, part in parts.items()} for rank in range(len(shares))]


def _solve(solver: SnapshotSolver, paths: Array, rows: Indices, states: Fields | None, batch: slice) -> Fields | None:
    """Solve some rows of a batch; None if there are none."""
    if not len(rows):
        return None
    of = path_and_step(rows, len(paths))
    try:
        return {**solver.solve(paths[of["path"], of["step"]], states), **of}
    except NotConverged as error:
        where = f"snapshots {batch.start + 1} to {batch.stop}"
        raise NotConverged(f"{where}: {error.what}; try a smaller range or more steps", error.residuals) from error


def path_and_step(rows: Indices, n_paths: int) -> dict[str, Indices]:
    """Return the path and step numbers, both from 0, of the given rows. Shape (n,) each."""
    step, path = np.divmod(rows, n_paths)
    return {"path": path, "step": step}


def _check_strains(store: SnapshotStore, paths: Array) -> None:
    """Check that the stored snapshots are the first ones of this sampling."""
    n_paths, n_steps, n_s = paths.shape
    count = min(store.count, n_paths * n_steps)
    if count == 0:
        return
    wanted = paths.transpose(1, 0, 2).reshape(-1, n_s)[:count]
    of, stored = path_and_step(np.arange(count), n_paths), slice(0, count)
    same = np.allclose(store.read("strain", stored), wanted, rtol=1e-12, atol=1e-15)
    if not same or any(not np.array_equal(store.read(name, stored), of[name]) for name in of):
        problem = f"{store.count} snapshots of another sampling are there; choose another folder with --output"
        raise CaseError(problem, file=store.folder)
