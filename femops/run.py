"""The story of one run."""

import glob
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mpi4py import MPI

import femops
from femops.case import EVERYWHERE, Case
from femops.case_meshes import macro_tagged_mesh
from femops.errors import CaseError, NotConverged, Refused
from femops.law import LawContext, MaterialLaw
from femops.log import Timers
from femops.macro.mesh import MacroMesh, macro_mesh
from femops.macro.probe import check_points, displacement_at
from femops.macro.problem import MacroProblem
from femops.macro.stepping import StepReport, run_steps
from femops.output.atomic import write_text
from femops.output.results import Results, check_output
from femops.output.tables import write_json
from femops.parallel import on_root
from femops.plugins import get_law
from femops.surrogate.base import Progress
from femops.training import silent, trained_model

Watch = Callable[[int, float, int, float], None]
Observe = Callable[[MacroProblem, StepReport], None]
_MARK = "# Written by femops run: the case with all defaults.\n"
# Keys of a case whose values are paths relative to it: meshes, and what trained surrogates come from.
_FILES = ("file", "model", "study")
_PACKAGES = ("fenics-dolfinx", "dolfinx-solver-real", "petsc4py", "numpy", "numba", "gmsh", "torch")


@dataclass(frozen=True)
class Run:
    """A case made ready to solve.

    Attributes:
        case: The case.
        problem: Its macroscale problem.
        timers: Where the time goes.
        notes: What the user should know before trusting the results, one line each.
    """

    case: Case
    problem: MacroProblem
    timers: Timers
    notes: tuple[str, ...] = ()


def prepare(case: Case, path: Path, comm: MPI.Comm, mesh: MacroMesh | None = None, training: Progress = silent) -> Run:
    """Build everything that a case names, without solving it; collective.

    Every law is called once, so that what it compiles is part of the set-up and not of the law's time.

    Args:
        case: The case.
        path: Its file; relative paths start there.
        comm: The ranks that share the work.
        mesh: The macroscale mesh, if it is there already.
        training: Called while a surrogate is trained that the case wants and nobody has trained.

    Raises:
        CaseError: The case cannot be built; the message names file and key.
    """
    timers = Timers()
    try:
        with timers.part("set-up"):
            if mesh is None:
                mesh = macro_mesh(lambda: macro_tagged_mesh(case, path.parent), case.dim, comm)
            laws = _laws(case, path.parent, comm, training)
            problem = MacroProblem(case, mesh, laws, timers)
            check_output(problem)
            check_points(problem)
    except CaseError as error:
        raise error.within(file=path) from error
    return Run(case, problem, timers, (*notes(mesh, laws), *problem.locking.notes()))


def notes(mesh: MacroMesh, laws: Mapping[str, MaterialLaw]) -> tuple[str, ...]:
    """Return what the user should know about the meshes of a case, each line once."""
    found = [f"mesh: {note}" for note in mesh.notes]
    for name, law in laws.items():
        rve = getattr(law, "rve", None)
        found += [f"RVE of {name}: {note}" for note in (rve.discretisation.mesh.notes if rve is not None else ())]
    return tuple(dict.fromkeys(found))


def _laws(case: Case, base: Path, comm: MPI.Comm, training: Progress) -> dict[str, MaterialLaw]:
    laws = {}
    for name, parameters in case.laws().items():
        try:
            trained = partial(trained_model, law=parameters.law, comm=comm, progress=training)
            laws[name] = get_law(parameters, LawContext(case.dim, base, comm, trained=trained))
        except CaseError as error:
            region = name if len(case.laws()) > 1 else ""
            raise error.within(key=".".join(part for part in ("material", region) if part)) from error
    return laws


def run_case(
    case: Case, path: Path, folder: Path, comm: MPI.Comm, watch: Watch | None = None, training: Progress = silent
) -> dict[str, Any]:
    """Solve a case and write its results; collective.

    Args:
        case: The case.
        path: Its file; relative paths start there and its stem names the results.
        folder: Where the results go; an earlier run there is replaced.
        comm: The ranks that share the work.
        watch: Called with step, time, iteration and residual.
        training: See `prepare`.

    Returns:
        The summary.

    Raises:
        CaseError: The case cannot be built.
        NotConverged: A step failed; the results of the steps before are complete.
    """
    return solve(prepare(case, path, comm, training=training), path, folder, watch)


def solve(
    run: Run, path: Path, folder: Path, watch: Watch | None = None, observe: Observe | None = None
) -> dict[str, Any]:
    """Solve what `prepare` made and write the results; collective, arguments as in `run_case`.

    Args:
        run: A case made ready to solve.
        path: Its file.
        folder: Where the results go.
        watch: Called with step, time, iteration and residual.
        observe: Called with the problem and each accepted step.
    """
    case, comm = run.case, run.problem.comm
    on_root(comm, lambda: _clear(folder, case, path))
    results = Results(run.problem, folder, path.stem)
    progress = _Progress()

    def accepted(report: StepReport) -> None:
        with run.timers.part("output"):
            results.step(report)
            progress.steps.append(report)
            progress.quantities = {name: _quantity(run.problem, name) for name in case.quantities}
            _write_summary(run, path, folder, progress)
            if observe is not None:
                observe(run.problem, report)

    try:
        run_steps(run.problem, accepted, watch)
        with run.timers.part("output"):
            results.finish()
    except (CaseError, NotConverged) as error:
        failure = _explained(error, path, progress)
        progress.failure = str(failure)
        _write_summary(run, path, folder, progress)
        raise failure from error
    progress.finished = True
    return _write_summary(run, path, folder, progress)


@dataclass
class _Progress:
    """How far a run came: its accepted steps, the quantities of the last one, and why it ended."""

    steps: list[StepReport] = field(default_factory=list)
    quantities: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    failure: str = ""


def _explained(error: CaseError | NotConverged, path: Path, progress: _Progress) -> CaseError | NotConverged:
    """Add the case to an error that ended a run, and what to look at if nothing ever converged."""
    if isinstance(error, CaseError):
        return error.within(file=path)
    helps = not progress.steps and not isinstance(error, Refused)
    hint = "; is every part of the body supported, and is the first step small enough?" if helps else ""
    return NotConverged(f"{path}: {error.what}{hint}", error.residuals)


def _clear(folder: Path, case: Case, path: Path) -> None:
    """Remove the results of an earlier run, and nothing else, and write the resolved case."""
    written = folder / "case.yaml"
    if written.exists() and written.samefile(path):
        raise CaseError("the resolved case would replace the case itself; choose another folder", file=written)
    stem = glob.escape(path.stem)
    names = [f"{stem}.vtkhdf", f"{stem}.png", f"{stem}.bp", "micro_*_at_*.vtkhdf", "points.vtp"]
    names += ["curves.csv", "summary.json", f"pictures/{stem}_*.png", "pictures/micro_*_at_*.png"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ours = written.exists() and written.read_text(encoding="utf-8").startswith(_MARK)
        if written.exists() and not ours:
            raise CaseError("is not of femops and would be replaced; choose another folder", file=written)
        for old in (one for name in names for one in folder.glob(name) if ours):
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()
        pictures = folder / "pictures"
        if pictures.is_dir() and not any(pictures.iterdir()):
            pictures.rmdir()
        data = resolved(case)
        move_files(data, path.parent, folder)
        write_text(written, _MARK + yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise CaseError(f"results cannot be written there ({error.strerror})", file=folder) from error


def resolved(case: Case) -> dict[str, Any]:
    """Return a case with all its defaults, as it would be written in YAML."""
    data = case.model_dump(mode="json", exclude_none=True, serialize_as_any=True)
    data["output"].setdefault("picture", None)  # none is not its default
    laws = data["material"]
    data["material"] = laws[EVERYWHERE] if list(laws) == [EVERYWHERE] else laws
    return data


def move_files(data: Any, base: Path, folder: Path) -> None:
    """Make the files that a case names relative to another folder, in place.

    Args:
        data: The case, or a block of it, as it would be written in YAML.
        base: Folder from which its paths start.
        folder: Folder from which they will start.
    """
    if isinstance(data, dict):
        for key, value in data.items():
            if key in _FILES and isinstance(value, str):
                data[key] = os.path.relpath(base / value, folder)
            move_files(value, base, folder)


def _write_summary(run: Run, path: Path, folder: Path, progress: _Progress) -> dict[str, Any]:
    """Write and return the machine-readable face of a run; its fields are documented in cases/README.md."""
    problem, comm = run.problem, run.problem.comm
    counted = comm.allreduce(problem.quadrature.n_points)
    summary = {
        "case": str(path),
        "title": run.case.title,
        "finished": progress.finished,
        "failure": progress.failure,
        "law": {name: parameters.law for name, parameters in run.case.laws().items()},
        "notes": tuple(dict.fromkeys((*run.notes, *problem.locking.notes()))),
        "versions": _versions(),
        "ranks": comm.size,
        "n_qp": counted,
        "dofs": problem.n_dofs,
        "steps": [asdict(step) for step in progress.steps],
        "seconds": {**run.timers.seconds, "total": run.timers.total()},
        "law_statistics": asdict(problem.material.statistics),
        "quantities": progress.quantities,
    }
    if comm.rank == 0:
        write_json(folder / "summary.json", summary)
    return summary


def _quantity(problem: MacroProblem, name: str) -> float:
    quantity = problem.case.quantities[name]
    if quantity.reaction is not None:
        return float(problem.reaction_on(quantity.reaction)[quantity.axis])
    return float(displacement_at(problem, quantity.at or [])[quantity.axis])


def _versions() -> dict[str, str]:
    versions = {"femops": femops.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
