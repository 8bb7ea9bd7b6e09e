"""Run a case: solve it and write the results."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from mpi4py import MPI

from femops.commands.prepare import Run, prepare
from femops.commands.results import Results
from femops.errors import CaseError, NotConverged, Refused
from femops.inputs.case import Case
from femops.inputs.resolved import move_files, resolved
from femops.macro.error_bars import Corrected
from femops.macro.probe import value_of
from femops.macro.problem import MacroProblem
from femops.macro.stepping import StepReport, Watch, run_steps
from femops.macro.timers import peak_memory
from femops.offline.train import silent
from femops.output.folder import FAILURE, SUMMARY, ResultsFolder, writing
from femops.output.locks import locked
from femops.output.tables import write_json
from femops.output.versions import versions
from femops.parallel import on_root
from femops.surrogate.spec import Progress
from femops.threads import thread_count

Observe = Callable[[MacroProblem, StepReport], None]
# Smallest interval between summaries [s], and its smallest ratio to the time of writing one.
_SUMMARY_EVERY, _SUMMARY_SHARE = 1.0, 20.0
_PACKAGES = ("femops", "fenics-dolfinx", "dolfinx-solver-real", "petsc4py", "numpy", "numba", "gmsh", "torch")


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
    comm = run.problem.comm
    place = on_root(comm, lambda: ResultsFolder(folder, path))
    try:
        return _Record(run, path, place).solve(watch, observe)
    finally:
        if comm.rank == 0:
            place.close()


class _Record:
    """Accepted steps and output of a run.

    Args:
        run: The prepared case.
        path: The case file.
        place: Results folder; the caller closes it.
    """

    def __init__(self, run: Run, path: Path, place: ResultsFolder) -> None:
        self.run, self.path, self.problem, self.place = run, path, run.problem, place
        data = resolved(run.case)
        move_files(data, path.parent, place.folder)
        self._case = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        self._n_qp = self.problem.comm.allreduce(self.problem.quadrature.n_points)
        self.results = Results(run.case, self.problem, place.path, path.stem)
        self.steps: list[StepReport] = []
        self.quantities: dict[str, float] = {}
        self.corrected: dict[str, Corrected] = {}
        self.micro: list[dict[str, Any]] = []
        self.memory: list[int] = []
        self.finished, self.failure = False, ""
        self._settled = self._written = False
        self._next_summary = 0.0

    def solve(self, watch: Watch | None, observe: Observe | None) -> dict[str, Any]:
        """Solve all steps and write their output; return the summary; collective."""
        try:
            for report in run_steps(self.problem, watch):
                with self.run.timers.part("output"):
                    self.add(report)
                    if observe is not None:
                        observe(self.problem, report)
            self.corrected = self.results.corrected(self.quantities)
            with self.run.timers.part("output"):
                self.micro = self.results.finish()
            self.memory = self.problem.comm.allgather(peak_memory())
            self.finished = True
            on_root(self.problem.comm, self.write_summary)
        except (CaseError, NotConverged) as error:
            raise self.failed(error) from error
        finally:
            self.close()
        return self.summary()

    def add(self, report: StepReport) -> None:
        """Record an accepted step and write its output; collective."""
        comm = self.problem.comm
        self.results.step(report)
        self.steps.append(report)
        self.memory = comm.allgather(peak_memory())
        self.quantities = {
            name: value_of(self.problem, quantity.result()) for name, quantity in self.run.case.quantities.items()
        }
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
        if self.problem.comm.rank == 0 and (self.steps or self.failure):
            with suppress(OSError, CaseError):  # another error is raised already
                self._close()

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
            "notes": tuple(dict.fromkeys((*run.notes, *problem.notes))),
            "versions": versions(_PACKAGES),
            "ranks": problem.comm.size,
            "threads": thread_count(),
            "n_qp": self._n_qp,
            "dofs": problem.n_dofs,
            "steps": [asdict(step) for step in self.steps],
            "seconds": {**run.timers.seconds, "total": run.timers.total()},
            "peak_memory": self.memory,
            "law_statistics": asdict(problem.material.statistics),
            "quantities": self.quantities,
            "error_bars": {name: {"width": bar.width, "kind": bar.kind} for name, bar in self.results.bars.items()},
            "corrected": {name: asdict(one) for name, one in self.corrected.items()},
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
