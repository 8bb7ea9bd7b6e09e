"""Implementation of `femops sample`: solve an RVE at many strains, or the members of a family, and store them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from femops import notation
from femops.errors import CaseError, NotConverged
from femops.inputs.study import Study
from femops.law import LawContext
from femops.notation import Array
from femops.offline import family_store
from femops.offline.snapshot_store import SnapshotStore, batch_of, discard_unsound, path_and_step
from femops.output.locks import locked
from femops.parallel import on_root
from femops.plugins import get_law
from femops.rve.family import Family
from femops.rve.law import NestedLaw, NestedParameters
from femops.rve.sampling import Sampling, bounds, chosen, load_paths, sobol
from femops.rve.snapshots import SnapshotSolver, content_hash
from femops.rve.solver import SolverOptions
from femops.rve.spec import RVE

Watch = Callable[[int, int], None]
# Smallest number of batches of a sampling; at most one batch is lost on interruption, and progress moves per batch.
_PARTS = 20
# Tensor components of a symmetric field in VTK order.
_VTK = ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2))


@dataclass(frozen=True)
class SampleReport:
    """Report of `sample`.

    Attributes:
        file: The store.
        found: Number of snapshots found in the store.
        solved: Number of snapshots added.
        seconds: Wall-clock time without set-up [s].
    """

    file: Path
    found: int
    solved: int
    seconds: float


def sample(study: Study, path: Path, folder: Path, comm: Any, watch: Watch | None = None) -> SampleReport:
    """Solve the RVE of a study at its strains, or the members of its family, and store them; collective.

    Snapshots already stored for the same study are not solved again. If another process works in the folder, its end
    is awaited.

    Args:
        study: The study.
        path: The study file, to which relative paths refer.
        folder: Folder of the store.
        comm: The ranks that share the work; rank 0 writes.
        watch: Called with the number of stored snapshots and the total.

    Raises:
        CaseError: The study cannot be built, or the folder contains snapshots of another RVE or other strains.
        NotConverged: An RVE did not converge; the earlier batches are stored.
    """
    if study.family is not None:
        with locked(folder, comm, wait=True):
            return solve_members(study, path, study.family, folder, comm, watch)
    if study.rve is None:
        raise CaseError("missing, expected rve or family to solve", file=path, key="rve")
    rve = study_rve(study, path, comm)
    paths = study_paths(study, path, comm)
    with locked(folder, comm, wait=True):
        return solve_snapshots(study, rve, paths, folder, comm, watch)


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
    study: Study, path: Path, family: Family, folder: Path, comm: Any, watch: Watch | None = None, unseen: bool = False
) -> SampleReport:
    """Solve members of a family at the strains of a study and store them; collective; see `sample`.

    Args:
        study: The study, for its strains and solver settings.
        path: The study file.
        family: The family of the study, or the same with another seed.
        folder: Folder of the store.
        comm: The ranks that share the work.
        watch: Called with the number of stored microstructures and the total.
        unseen: Whether to sample strains other than those of the study.

    Raises:
        CaseError: The strains do not fit the family; see also `femops.offline.family_store.solve_family`.
        NotConverged: An RVE did not converge; the earlier batches are stored.
    """
    settings, context = study.solver, LawContext(family.dim, path.parent, comm)
    options = SolverOptions(settings.rtol, settings.max_iter, settings.linear, exact_sensitivities=True)
    try:
        strain = member_strains(study, family, unseen=unseen)
        task = family_store.FamilyProblem(family, context, options, strain)
        found = family_store.solve_family(task, folder, watch)
    except CaseError as error:
        raise error if error.file else error.within(file=path) from error
    return SampleReport(found.file, found.found, found.solved, found.seconds)


def member_strains(study: Study, family: Family, *, unseen: bool = False) -> Array | None:
    """Return the strains of each member of a family, Mandel [-]; None if all phases are linear. Shape (count, n, n_s).

    Raises:
        CaseError: Strains are given for linear phases or missing for nonlinear ones, or the method is not `sobol`.
    """
    sampling = study.sampling
    linear = family_store.is_linear(family)
    if linear != (sampling is None):
        problem = "given, but all phases are linear" if linear else "missing, expected strains for a nonlinear phase"
        raise CaseError(problem, key="sampling")
    if sampling is None:
        return None
    if sampling.method != "sobol":
        raise CaseError(f"{sampling.method!r} given, expected 'sobol' with a family", key="sampling.method")
    low, high = bounds(sampling, study.dim)
    n = sampling.count or 0
    return sobol(low, high, family.count * n, sampling.seed + unseen).reshape(family.count, n, -1)


def study_paths(study: Study, path: Path, comm: Any, key: Literal["sampling", "validation"] = "sampling") -> Array:
    """Return the strains of a study's sampling or validation, Mandel [-]; collective. Shape (n_paths, n_steps, n_s).

    Raises:
        CaseError: The strains cannot be read from the run that the study names.
    """
    block = dict(study.samplings())[key]
    try:
        return on_root(comm, lambda: _paths(block, study.dim, path.parent, key))
    except CaseError as error:
        raise error.within(file=path) from error


def solve_snapshots(
    study: Study, rve: RVE, paths: Array, folder: Path, comm: Any, watch: Watch | None = None
) -> SampleReport:
    """Solve an RVE along paths and store the snapshots; collective; see `sample`.

    Args:
        study: The study, for the parameters of the RVE and the solver settings.
        rve: The RVE.
        paths: Strains, Mandel [-]. Shape (n_paths, n_steps, n_s).
        folder: Folder of the store.
        comm: The ranks that share the work.
        watch: Called with the number of stored snapshots and the total.
    """
    settings = study.solver
    solver = SnapshotSolver(rve, SolverOptions(settings.rtol, settings.max_iter, settings.linear))

    def opened() -> SnapshotStore:
        assert study.rve is not None
        store = SnapshotStore(folder, content_hash(rve, study.rve))
        discard_unsound(store)
        _check_strains(store, paths)
        return store

    store = on_root(comm, opened)
    found, begin = store.count, time.perf_counter()
    solved = _solve_missing(solver, store, paths, comm, watch)
    on_root(comm, lambda: _written(folder, store.fold))
    return SampleReport(store.file, found, solved, time.perf_counter() - begin)


def _solve_missing(solver: SnapshotSolver, store: SnapshotStore, paths: Array, comm: Any, watch: Watch | None) -> int:
    """Solve the missing snapshots in batches shared among the ranks; return their number."""
    n_paths, n_steps, _ = paths.shape
    total, found = n_paths * n_steps, store.count
    size = min(solver.solver.batch * comm.size, max(comm.size, -(-total // _PARTS)))
    done = found
    while done < total:
        if watch is not None:
            watch(done, total)
        rows, before = batch_of(done, size, n_paths)
        shares = _shares(solver, store, paths, rows, before, comm.size) if comm.rank == 0 else None
        answers = comm.gather(_attempt(solver, *comm.scatter(shares)))
        on_root(comm, partial(_append, store, answers, rows, n_paths))
        done = rows.stop
    if watch is not None:
        watch(total, total)
    return max(total - found, 0)


def _shares(
    solver: SnapshotSolver, store: SnapshotStore, paths: Array, rows: slice, before: slice | None, n_ranks: int
) -> list[tuple[Array, dict[str, Array] | None]]:
    """Return the strains for each rank, and its snapshots of the previous step."""
    of = path_and_step(rows, len(paths))
    parts = np.array_split(np.arange(rows.stop - rows.start), n_ranks)
    strain = paths[of["path"], of["step"]]
    previous = None if before is None else {name: store.read(name, before) for name in solver.needed}
    return [
        (strain[part], None if previous is None else {name: one[part] for name, one in previous.items()})
        for part in parts
    ]


def _attempt(
    solver: SnapshotSolver, strain: Array, previous: dict[str, Array] | None
) -> dict[str, Array] | NotConverged | None:
    """Solve the share of this rank, possibly empty; return an exception instead of raising it on one rank only."""
    try:
        return solver.solve(strain, previous) if len(strain) else None
    except NotConverged as error:
        return error


def _append(store: SnapshotStore, answers: list[Any], rows: slice, n_paths: int) -> None:
    """Store the results of all ranks, or raise the first exception among them."""
    for answer in answers:
        if isinstance(answer, NotConverged):
            where = f"snapshots {rows.start + 1} to {rows.stop}"
            raise NotConverged(f"{where}: {answer.what}; try a smaller range or more steps", answer.residuals)
    filled = [answer for answer in answers if answer is not None]
    fields = {name: np.concatenate([one[name] for one in filled]) for name in filled[0]}
    _written(store.folder, lambda: store.append(fields | path_and_step(rows, n_paths)))


def _written(folder: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise CaseError(f"snapshots cannot be written there ({error.strerror or error})", file=folder) from error


def _paths(sampling: Sampling, dim: int, base: Path, key: str) -> Array:
    """Return the strains of a sampling. Shape (n_paths, n_steps, n_s)."""
    if sampling.run is None:
        return load_paths(sampling, dim)
    try:
        return chosen(strains_of_run(base / sampling.run, dim), sampling)
    except CaseError as error:
        error = CaseError(error.problem, error.file, error.key.replace("sampling", key, 1))
        raise error if error.file or error.key else error.within(key=f"{key}.run") from error


def strains_of_run(path: Path, dim: int) -> Array:
    """Return the macroscale strains at the quadrature points of a run's last step.

    Args:
        path: Results folder of a run with `output.points: true`, or the `.vtp` file in it.
        dim: 2 (plane strain) or 3.

    Returns:
        Strains, Mandel [-]. Shape (n_qp, n_s).

    Raises:
        CaseError: The file does not exist, has no strains, or has strains of another dimension.
    """
    import pyvista

    file = path / "points.vtp" if path.is_dir() else path
    if not file.is_file():
        raise CaseError("does not exist; run the case with --set output.points=true", file=file)
    try:
        data = pyvista.read(file).point_data
        components = np.asarray(data["strain"], dtype=np.float64)
    except (KeyError, ValueError, OSError) as error:
        raise CaseError("has no strains; is strain among output.fields of the run?", file=file) from error
    if components.ndim != 2 or components.shape[1] != len(_VTK):
        raise CaseError(f"strain has shape {components.shape}, expected ({len(components)}, {len(_VTK)})", file=file)
    tensor = np.empty((len(components), 3, 3))
    for column, (i, j) in enumerate(_VTK):
        tensor[:, i, j] = tensor[:, j, i] = components[:, column]
    if dim == 2 and tensor[:, 2].any():
        raise CaseError("has strains out of the plane, expected a run in plane strain", file=file)
    return notation.from_tensor(tensor[:, :dim, :dim])


def _check_strains(store: SnapshotStore, paths: Array) -> None:
    """Check that the stored snapshots are the first ones of this sampling."""
    n_paths, n_steps, n_s = paths.shape
    count = min(store.count, n_paths * n_steps)
    if count == 0:
        return
    wanted = paths.transpose(1, 0, 2).reshape(-1, n_s)[:count]
    of, stored = path_and_step(slice(0, count), n_paths), slice(0, count)
    same = np.allclose(store.read("strain", stored), wanted, rtol=1e-12, atol=1e-15)
    if not same or any(not np.array_equal(store.read(name, stored), of[name]) for name in of):
        problem = f"{store.count} snapshots of another sampling are there; choose another folder with --output"
        raise CaseError(problem, file=store.folder)
