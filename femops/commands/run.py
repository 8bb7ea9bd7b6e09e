"""Run a case: build it, solve it and write the results."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from mpi4py import MPI

from femops.commands.results import Results, check_output, remarks
from femops.errors import CaseError, NotConverged, Refused
from femops.inputs.case import EVERYWHERE, Case
from femops.inputs.meshes import macro_tagged_mesh
from femops.law import LawContext, LawParameters, MaterialLaw, MicroscaleLaw
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
from femops.surrogate.spec import Progress, SurrogateParameters

Watch = Callable[[int, float, int, float], None]
Observe = Callable[[MacroProblem, StepReport], None]
# Keys of a case whose values are paths relative to it: meshes, models and studies.
_FILES = ("file", "model", "study")
# Smallest interval between summaries [s], and its smallest ratio to the time of writing one.
_SUMMARY_EVERY, _SUMMARY_SHARE = 1.0, 20.0
_PACKAGES = ("femops", "fenics-dolfinx", "dolfinx-solver-real", "petsc4py", "numpy", "numba", "gmsh", "torch")


@dataclass(frozen=True)
class Run:
    """A case that is ready to solve.

    Attributes:
        case: The case.
        problem: The macroscale problem.
        timers: Timers of the run.
        notes: Warnings about meshes, laws and results, one line each.
    """

    case: Case
    problem: MacroProblem
    timers: Timers
    notes: tuple[str, ...] = ()


def prepare(case: Case, path: Path, comm: MPI.Comm, mesh: MacroMesh | None = None, training: Progress = silent) -> Run:
    """Build meshes, laws and the macroscale problem of a case without solving it; collective.

    Every law is called once, so that its compilation counts as set-up time.

    Args:
        case: The case.
        path: The case file, to which relative paths refer.
        comm: The ranks that share the work.
        mesh: The macroscale mesh, if already built.
        training: Called while a missing surrogate is trained.

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
    """Return the notes on the macroscale mesh and the RVE meshes of a case, without duplicates."""
    found = [f"mesh: {note}" for note in mesh.notes]
    for name, law in laws.items():
        if isinstance(law, MicroscaleLaw):
            found += [f"RVE of {name}: {note}" for note in law.rve.discretisation.mesh.notes]
    return tuple(dict.fromkeys(found))


def _laws(case: Case, base: Path, comm: MPI.Comm, training: Progress) -> dict[str, MaterialLaw]:
    laws = {}
    for name, parameters in case.laws().items():
        try:
            laws[name] = get_law(_with_model(parameters, base, comm, training), LawContext(case.dim, base, comm))
        except CaseError as error:
            region = name if len(case.laws()) > 1 else ""
            raise error.within(key=".".join(part for part in ("material", region) if part)) from error
    return laws


def _with_model(parameters: LawParameters, base: Path, comm: MPI.Comm, training: Progress) -> LawParameters:
    """Return the parameters of a law with the model of its study, if they name one; it is trained if necessary."""
    if not isinstance(parameters, SurrogateParameters) or parameters.study is None:
        return parameters
    model = trained_model(base / parameters.study, parameters.law, comm, training)
    return parameters.model_copy(update={"model": model.absolute(), "study": None})


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
        path: The case file, to which relative paths refer; its stem names the results.
        folder: Results folder. Earlier results are replaced once the first step is complete; a run that fails before
            that keeps them and writes the reason to `failure.json`.
        comm: The ranks that share the work.
        watch: Called with step, time, iteration and residual.
        training: See `prepare`.
        observe: Called with the problem and each accepted step.

    Returns:
        The summary.

    Raises:
        CaseError: The case cannot be built, or another process uses the folder.
        NotConverged: A step failed; the results of the earlier steps are complete.
    """
    with locked(folder, comm):
        return solve(prepare(case, path, comm, training=training), path, folder, watch, observe)


def solve(
    run: Run, path: Path, folder: Path, watch: Watch | None = None, observe: Observe | None = None
) -> dict[str, Any]:
    """Solve a prepared case and write its results; collective.

    Args:
        run: The prepared case.
        path: The case file.
        folder: Results folder, locked by the caller.
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
    """Accepted steps and output of a run.

    Args:
        run: The prepared case.
        path: The case file.
        folder: Results folder.
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
        """Record an accepted step and write its output; collective."""
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
        """Record the failure of a run; return the error with case and note on earlier results added; collective."""
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
        """Move the written results to the results folder, also after a failure; not collective."""
        if self.problem.comm.rank != 0:
            return
        try:
            if self.steps or self.failure:
                with suppress(OSError):  # another error is raised already
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
        """Write the summary, the first time with the resolved case, and schedule the next one."""
        begin = time.monotonic()
        with writing(self.place.folder):
            if not self._written:
                self.place.write_case(self._case)
                self._written = True
            write_json(self.place.path / SUMMARY, self.summary())
        end = time.monotonic()
        self._next_summary = end + max(_SUMMARY_EVERY, _SUMMARY_SHARE * (end - begin))

    def summary(self) -> dict[str, Any]:
        """Return the content of `summary.json`; its fields are documented in cases/README.md."""
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
    """Compare quantities with their expected values.

    Args:
        case: The case.
        quantities: Values by name.

    Returns:
        For each quantity with an expected value, by name: `expected`, the relative `difference` (absolute where 0 is
        expected), `rtol`, and `missed`, whether the difference exceeds `rtol`.
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
    """Return a case with all defaults as a mapping for YAML."""
    data = case.model_dump(mode="json", exclude_none=True, serialize_as_any=True)
    data["output"].setdefault("picture", None)  # None is not the default
    laws = data["material"]
    data["material"] = laws[EVERYWHERE] if list(laws) == [EVERYWHERE] else laws
    return data


def move_files(data: Any, base: Path, folder: Path) -> None:
    """Rewrite the relative paths in a case to refer to another folder, in place.

    Args:
        data: The case, or a block of it, as a mapping for YAML.
        base: Folder to which the paths refer.
        folder: Folder to which they will refer.
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
