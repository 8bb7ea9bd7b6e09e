"""The story of one run."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mpi4py import MPI

from femops.commands.results import Results, check_output, remarks
from femops.errors import CaseError, NotConverged, Refused
from femops.inputs.case import EVERYWHERE, Case
from femops.inputs.meshes import macro_tagged_mesh
from femops.law import LawContext, MaterialLaw
from femops.macro.mesh import MacroMesh, macro_mesh
from femops.macro.probe import check_points, displacement_at
from femops.macro.problem import MacroProblem
from femops.macro.stepping import StepReport, run_steps
from femops.macro.timers import Timers
from femops.offline.train import silent, trained_model
from femops.output.folder import FAILURE, SUMMARY, ResultsFolder, writing
from femops.output.locks import locked
from femops.output.tables import write_json
from femops.output.versions import versions
from femops.parallel import on_root
from femops.plugins import get_law
from femops.surrogate.spec import Progress

Watch = Callable[[int, float, int, float], None]
Observe = Callable[[MacroProblem, StepReport], None]
# Keys of a case whose values are paths relative to it: meshes, and what trained surrogates come from.
_FILES = ("file", "model", "study")
# A summary is written at most so often [s], and takes at most the inverse of this share of the time.
_SUMMARY_EVERY, _SUMMARY_SHARE = 1.0, 20.0
_PACKAGES = ("femops", "fenics-dolfinx", "dolfinx-solver-real", "petsc4py", "numpy", "numba", "gmsh", "torch")


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
    found = (f"{name} {text}" for name, text in remarks(problem).items())
    return Run(case, problem, timers, (*notes(mesh, laws), *found, *problem.locking.notes()))


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
    case: Case,
    path: Path,
    folder: Path,
    comm: MPI.Comm,
    watch: Watch | None = None,
    training: Progress = silent,
    observe: Observe | None = None,
) -> dict[str, Any]:
    """Solve a case and write its results; collective.

    Args:
        case: The case.
        path: Its file; relative paths start there and its stem names the results.
        folder: Where the results go. Those of an earlier run are replaced when the first step is complete; a run that
            ends before that leaves them as they were and writes why into `failure.json`.
        comm: The ranks that share the work.
        watch: Called with step, time, iteration and residual.
        training: See `prepare`.
        observe: Called with the problem and each accepted step.

    Returns:
        The summary.

    Raises:
        CaseError: The case cannot be built, or another process works in the folder.
        NotConverged: A step failed; the results of the steps before are complete.
    """
    with locked(folder, comm):
        return solve(prepare(case, path, comm, training=training), path, folder, watch, observe)


def solve(
    run: Run, path: Path, folder: Path, watch: Watch | None = None, observe: Observe | None = None
) -> dict[str, Any]:
    """Solve what `prepare` made and write the results; collective, arguments as in `run_case`.

    Args:
        run: A case made ready to solve.
        path: Its file.
        folder: Where the results go; locked by the caller.
        watch: Called with step, time, iteration and residual.
        observe: Called with the problem and each accepted step.
    """
    story = _Story(run, path, folder)

    def accepted(report: StepReport) -> None:
        with run.timers.part("output"):
            story.add(report)
            if observe is not None:
                observe(run.problem, report)

    try:
        run_steps(run.problem, accepted, watch)
        with run.timers.part("output"):
            story.micro = story.results.finish()
        story.finished = True
        on_root(run.problem.comm, story.write_summary)
    except (CaseError, NotConverged) as error:
        raise story.failed(error) from error
    finally:
        story.close()
    return story.summary()


class _Story:
    """What a run has reached and written.

    Args:
        run: A case made ready to solve.
        path: Its file.
        folder: Where the results go.
    """

    def __init__(self, run: Run, path: Path, folder: Path) -> None:
        self.run, self.path, self.problem = run, path, run.problem
        data = resolved(run.case)
        move_files(data, path.parent, folder)
        self._case = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        self._n_qp = self.problem.comm.allreduce(self.problem.quadrature.n_points)
        self.place = on_root(self.problem.comm, lambda: ResultsFolder(folder, path))
        self.results = Results(self.problem, self.place.path, path.stem)
        self.steps: list[StepReport] = []
        self.quantities: dict[str, float] = {}
        self.micro: list[dict[str, Any]] = []
        self.finished, self.failure = False, ""
        self._settled = self._written = False
        self._next_summary = 0.0

    def add(self, report: StepReport) -> None:
        """Write an accepted step; collective."""
        comm = self.problem.comm
        self.results.step(report)
        self.steps.append(report)
        self.quantities = {name: _quantity(self.problem, name) for name in self.run.case.quantities}
        on_root(comm, self._write_summary_if_due)
        if not self._settled:
            self.place = on_root(comm, self._taken_over)
            self.results.settle(self.place.folder, report)
            self._settled = True

    def _write_summary_if_due(self) -> None:
        if not self._settled or time.monotonic() >= self._next_summary:
            self.write_summary()

    def _taken_over(self) -> ResultsFolder:
        with writing(self.place.folder):
            self.place.take_over()
        return self.place

    def failed(self, error: CaseError | NotConverged) -> CaseError | NotConverged:
        """Note why a run ended; return the error with the case and with what was kept; collective."""
        helps = not self.steps and not isinstance(error, Refused)
        hint = "; is every part of the body supported, and is the first step small enough?" if helps else ""
        kept = (
            "" if self.steps or not self.place.keeps_earlier else f"; the earlier results in {self.place.folder} stay"
        )
        explained: CaseError | NotConverged
        if isinstance(error, CaseError):
            explained = CaseError(error.problem + kept, error.file, error.key).within(file=self.path)
        else:
            explained = type(error)(f"{self.path}: {error.what}{hint}{kept}", error.residuals)
        self.failure = str(explained)
        self.results.close()
        return explained

    def close(self) -> None:
        """Bring what there is to its place, however the run ended; not collective."""
        if self.problem.comm.rank != 0:
            return
        try:
            if self.steps or self.failure:
                with suppress(OSError):  # then there is another error to tell
                    self._close()
        finally:
            self.place.close()

    def _close(self) -> None:
        if not self.finished:
            self.results.write_waiting()
            if not self.steps and self.place.keeps_earlier:
                write_json(self.place.folder / FAILURE, self.summary())
                return
            self.write_summary()
        self.place.take_over()

    def write_summary(self) -> None:
        """Write the summary, and at first the case beside it; the next one waits, so that it takes little time."""
        begin = time.monotonic()
        with writing(self.place.folder):
            if not self._written:
                self.place.write_case(self._case)
                self._written = True
            write_json(self.place.path / SUMMARY, self.summary())
        end = time.monotonic()
        self._next_summary = end + max(_SUMMARY_EVERY, _SUMMARY_SHARE * (end - begin))

    def summary(self) -> dict[str, Any]:
        """Return the machine-readable face of a run; its fields are documented in cases/README.md."""
        problem, run = self.problem, self.run
        return {
            "case": str(self.path),
            "title": run.case.title,
            "finished": self.finished,
            "failure": self.failure,
            "law": {name: parameters.law for name, parameters in run.case.laws().items()},
            "notes": tuple(dict.fromkeys((*run.notes, *problem.locking.notes()))),
            "versions": versions(_PACKAGES),
            "ranks": problem.comm.size,
            "n_qp": self._n_qp,
            "dofs": problem.n_dofs,
            "steps": [asdict(step) for step in self.steps],
            "seconds": {**run.timers.seconds, "total": run.timers.total()},
            "law_statistics": asdict(problem.material.statistics),
            "quantities": self.quantities,
            "expected": expectations(run.case, self.quantities),
            "micro": self.micro,
        }


def expectations(case: Case, quantities: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return how far quantities are from what a case expects of them.

    Args:
        case: The case.
        quantities: Their values.

    Returns:
        For each that has one, by name: the `expected` value, the `difference` relative to it (to 1 where it is 0), the
        `rtol`, and whether it is `missed`.
    """
    found = {}
    for name, value in quantities.items():
        quantity = case.quantities[name]
        if quantity.expected is not None:
            difference = abs(value - quantity.expected) / (abs(quantity.expected) or 1.0)
            missed = not difference <= quantity.rtol  # NaN is a miss
            expected = {"expected": quantity.expected, "difference": difference, "rtol": quantity.rtol}
            found[name] = {**expected, "missed": missed}
    return found


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


def _quantity(problem: MacroProblem, name: str) -> float:
    quantity = problem.case.quantities[name]
    if quantity.reaction is not None:
        return float(problem.reaction_on(quantity.reaction)[quantity.axis])
    return float(displacement_at(problem, quantity.at or [])[quantity.axis])
