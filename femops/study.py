"""The study file: an RVE, the strains to solve it at, what to train on them, and the story of `femops sample`."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.json_schema import models_json_schema

from femops import notation
from femops.case import case_schema
from femops.case_reading import load_validated
from femops.errors import CaseError, NotConverged
from femops.law import LawContext
from femops.notation import Array
from femops.parallel import on_root
from femops.plugins import get_law, installed_surrogates, surrogate_options
from femops.rve.law import NestedLaw, NestedParameters
from femops.rve.linear import LinearSolverName
from femops.rve.sampling import Sampling, bounds, chosen, load_paths
from femops.rve.snapshots import SnapshotSolver, SnapshotStore, batch_of, content_hash, path_and_step
from femops.rve.solver import SolverOptions
from femops.rve.spec import RVE, RVEParameters
from femops.surrogate.base import SurrogateOptions
from femops.validation import NestedError, numbers, shown

Watch = Callable[[int, int], None]
# A sampling is stored in at least so many parts: the work that a kill may cost, and how often progress moves.
_PARTS = 20
# The tensor components of a symmetric field in the order of result files.
_VTK = ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2))


class SnapshotSolverBlock(BaseModel):
    """Settings of the RVE solver; snapshots are converged tighter than a nested law has to be."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rtol: float = Field(1e-10, gt=0, description="largest residual relative to the internal forces")
    max_iter: int = Field(30, gt=0, description="largest number of Newton iterations")
    linear: LinearSolverName = Field("auto", description="auto takes pardiso where it is installed, otherwise mumps")


class Study(BaseModel):
    """An RVE, the strains to solve it at, and the surrogate to train on them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    title: str = ""
    units: str = Field("", description="a note for readers; femops computes in whatever consistent units are given")
    kinematics: Literal["plane_strain", "solid"]
    rve: RVEParameters
    solver: SnapshotSolverBlock = SnapshotSolverBlock()
    sampling: Sampling
    surrogate: Any = Field(None, description="what femops train trains: a surrogate and its options")
    validation: Sampling | None = Field(None, description="strains to judge it by; default 100 others of the range")

    @property
    def dim(self) -> int:
        """2 in plane strain, 3 for solids."""
        return 2 if self.kinematics == "plane_strain" else 3

    @field_validator("surrogate", mode="after")
    @classmethod
    def _valid_options(cls, surrogate: Any) -> SurrogateOptions | None:
        if surrogate is None or isinstance(surrogate, SurrogateOptions):
            return surrogate
        if not isinstance(surrogate, Mapping):
            raise ValueError(f"{shown(surrogate)} given, expected a surrogate with its options")
        try:
            return surrogate_options(surrogate)
        except CaseError as error:
            raise NestedError(error) from error

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, block in self.samplings():
            try:
                bounds(block, self.dim)
            except CaseError as error:
                raise NestedError(CaseError(error.problem, key=error.key.replace("sampling", name, 1))) from error
        for name, phase in self.rve.phases.items():
            for key, number in numbers(phase.model_dump(), f"rve.phases.{name}"):
                if not np.isfinite(number):
                    raise NestedError(CaseError(f"{number} given, expected a finite number", key=key))
        return self

    def samplings(self) -> Iterator[tuple[str, Sampling]]:
        """Yield the blocks of strains by their keys."""
        yield "sampling", self.sampling
        if self.validation is not None:
            yield "validation", self.validation


def load_study(path: Path, overrides: tuple[str, ...] = ()) -> Study:
    """Read and validate a study file.

    Args:
        path: The YAML file.
        overrides: Changes of the form `sampling.count=64`; the value is YAML.

    Raises:
        CaseError: The file is missing or not valid; the message names file, key and what was expected.
    """
    return load_validated(path, overrides, Study, study_schema)


def study_schema() -> dict[str, Any]:
    """Return the JSON Schema of a study file with the laws and surrogates that are installed."""
    options = [spec.options for spec in installed_surrogates().values()]
    models: list[Any] = [(model, "validation") for model in (Study, *options)]
    references, definitions = models_json_schema(models, title="femops study")
    case, defs = case_schema(), definitions["$defs"]
    schema = defs.pop("Study")
    schema["properties"]["surrogate"] = {"anyOf": [references[one, "validation"] for one in options]}
    for one in options:
        defs[references[one, "validation"]["$ref"].rpartition("/")[2]].setdefault("required", []).append("law")
    return {**schema, "$defs": {**defs, **case["$defs"]}, "$schema": case["$schema"]}


@dataclass(frozen=True)
class SampleReport:
    """What `sample` did.

    Attributes:
        file: The store.
        found: Snapshots that were there already.
        solved: Snapshots that were added.
        seconds: Wall-clock time without set-up [s].
    """

    file: Path
    found: int
    solved: int
    seconds: float


def sample(study: Study, path: Path, folder: Path, comm: Any, watch: Watch | None = None) -> SampleReport:
    """Solve the RVE of a study at its strains and store the snapshots; collective.

    What an earlier run of the same study left in the folder is kept and not solved again.

    Args:
        study: The study.
        path: Its file; relative paths start there.
        folder: Where the store is.
        comm: The ranks that share the work; the first one writes.
        watch: Called with the number of snapshots that are stored and the number wanted.

    Raises:
        CaseError: The study cannot be built, or the folder holds snapshots of another RVE or of other strains.
        NotConverged: An RVE did not converge; the snapshots before it are stored.
    """
    rve = study_rve(study, path, comm)
    paths = study_paths(study, path, comm)
    return solve_snapshots(study, rve, paths, folder, comm, watch)


def study_rve(study: Study, path: Path, comm: Any) -> RVE:
    """Build the RVE of a study; collective.

    Raises:
        CaseError: It cannot be built.
    """
    try:
        law = get_law(NestedParameters(rve=study.rve), LawContext(study.dim, path.parent, comm))
    except CaseError as error:
        raise error.within(file=path) from error
    assert isinstance(law, NestedLaw)
    return law.rve


def study_paths(study: Study, path: Path, comm: Any, key: Literal["sampling", "validation"] = "sampling") -> Array:
    """Return the strains of a study's sampling or validation, Mandel [-]; collective. Shape (n_paths, n_steps, n_s).

    Raises:
        CaseError: They cannot be read from the run that the study names.
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
        study: Tells what the RVE was made from, and the settings of the solver.
        rve: The RVE.
        paths: Strains, Mandel [-]. Shape (n_paths, n_steps, n_s).
        folder: Where the store is.
        comm: The ranks that share the work.
        watch: Called with the number of snapshots that are stored and the number wanted.
    """
    settings = study.solver
    solver = SnapshotSolver(rve, SolverOptions(settings.rtol, settings.max_iter, settings.linear))

    def opened() -> SnapshotStore:
        store = SnapshotStore(folder, content_hash(rve, study.rve))
        _check_strains(store, paths)
        return store

    store = on_root(comm, opened)
    found, begin = store.count, time.perf_counter()
    solved = _solve_missing(solver, store, paths, comm, watch)
    on_root(comm, lambda: _written(folder, store.fold))
    return SampleReport(store.file, found, solved, time.perf_counter() - begin)


def _solve_missing(solver: SnapshotSolver, store: SnapshotStore, paths: Array, comm: Any, watch: Watch | None) -> int:
    """Solve batch by batch, every rank a share of each; return the number of snapshots solved."""
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
    """Return the strains of each rank and the snapshots one step before."""
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
    """Solve a share, which may be empty; a failure is an answer, so that all ranks go on together."""
    try:
        return solver.solve(strain, previous) if len(strain) else None
    except NotConverged as error:
        return error


def _append(store: SnapshotStore, answers: list[Any], rows: slice, n_paths: int) -> None:
    """Store what the ranks solved."""
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
        CaseError: There is no such file, it has no strains, or they are not of this dimension.
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
    """Refuse to continue a store whose snapshots are not the first ones of this sampling."""
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
