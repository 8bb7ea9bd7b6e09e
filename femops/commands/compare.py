"""Implementation of `femops compare`: solve a case with two laws and compare the solutions."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from femops.commands.compare_laws import OWN, Chooser, blamed, surrogates_of
from femops.commands.prepare import Run, prepare
from femops.commands.progress import Display, StepProgress, stages
from femops.commands.run import solve
from femops.errors import CaseError, NotConverged
from femops.macro.difference import Comparer, Difference, Observation, boundary_differences, observe
from femops.macro.problem import MacroProblem
from femops.macro.stepping import StepReport
from femops.notation import Array
from femops.output.comparison import Curve, draw_comparison
from femops.output.folder import writing
from femops.output.locks import locked
from femops.output.tables import write_json
from femops.parallel import on_root
from femops.surrogate.store import read_manifest

REPORT, PICTURE = "compare.json", "compare.png"
_LAW_PARTS = ("law", "certificate", "exact solves")
_NOT_SOLUTION = ("set-up", "output")
_NORMS = ("displacement_rel_l2", "stress_rel_l2", "stress_rel_max")
_TIMING = (
    "seconds of the first rank; every law is called once during set-up, so that its time holds no compilation; "
    "speedup_law compares law, certificate and exact solves, speedup_total all but set-up and output"
)
_MOST_CURVES = 3


@dataclass
class _Side:
    """One of the two solutions.

    Attributes:
        name: `law` or `reference`.
        given: The law as given on the command line.
        run: The prepared run.
        summary: Summary of the run.
        observations: Solutions at the end of every step.
    """

    name: str
    given: str
    run: Run
    summary: dict[str, Any] = field(default_factory=dict)
    observations: list[Observation] = field(default_factory=list)

    def seconds(self, *, only: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> float:
        """Return the time of the selected parts [s]; by default of all parts."""
        parts = {name: value for name, value in self.summary["seconds"].items() if name != "total"}
        return float(sum(value for name, value in parts.items() if name in (only or parts) and name not in without))


def compare(
    path: Path, overrides: tuple[str, ...], laws: tuple[str, str], folder: Path, comm: MPI.Comm, display: Display
) -> dict[str, Any]:
    """Solve a case with two laws, in one process and on one mesh, and compare the solutions; collective.

    Args:
        path: The case file.
        overrides: Overrides of the case, as in `load_case`.
        laws: The law to assess and the reference law, see `Chooser.case_with`.
        folder: Folder for `compare.json`, `compare.png` and the results of both runs.
        comm: The ranks that share the work.
        display: Progress display.

    Returns:
        The content of `compare.json`; its fields are documented in cases/README.md.

    Raises:
        CaseError: The case or a law cannot be used; the message names the option.
        NotConverged: A step failed with one of the laws.
    """
    with locked(folder, comm), locked(folder / "law", comm), locked(folder / "reference", comm):
        return _compare(Chooser(path, overrides, folder, comm, stages(display)), laws, display)


def _compare(chooser: Chooser, laws: tuple[str, str], display: Display) -> dict[str, Any]:
    path, folder, comm = chooser.path, chooser.folder, chooser.comm
    law, reference = _prepared(chooser, laws)
    on_root(comm, lambda: _remove_reports(folder))  # of an earlier comparison, whose results are replaced now
    for side in (reference, law):
        side.run.timers.skip()  # time of the other side
        try:
            _solve(side, path, folder / side.name, display)
        except NotConverged as error:
            raise type(error)(f"--{side.name} {side.given}: {error.what}", error.residuals) from error
    comparer = Comparer(law.run.problem)
    differences = [comparer(*pair) for pair in zip(law.observations, reference.observations, strict=True)]
    trained = {chooser.model_folder(one) for one in surrogates_of(law.run.case).values()}
    offline = on_root(comm, lambda: sum(_offline_seconds(model) for model in trained))
    report = _report(law, reference, differences) | {"offline_seconds": offline}
    on_root(comm, lambda: _write(folder, report, law, reference, differences))
    return report


def _solve(side: _Side, path: Path, folder: Path, display: Display) -> None:
    """Solve one side, and store its summary and the solution at the end of every step."""
    display.console.print(f"solving with the {side.name}")
    steps = StepProgress(display, side.run.case)

    def accepted(problem: MacroProblem, report: StepReport) -> None:
        side.observations.append(observe(problem, report))
        steps.accepted(problem, report)

    side.summary = solve(side.run, path, folder, steps, accepted)


def _remove_reports(folder: Path) -> None:
    for name in (REPORT, PICTURE):
        (folder / name).unlink(missing_ok=True)


def _prepared(chooser: Chooser, laws: tuple[str, str]) -> tuple[_Side, _Side]:
    """Prepare both sides, so that errors in either are found before anything is solved."""
    law = chooser.case_with("--law", laws[0])
    reference = chooser.case_with("--reference", laws[1], law)
    if not surrogates_of(reference):
        reference = reference.model_copy(update={"trust": None})
    sides, mesh = [], None
    for name, given, case in (("law", laws[0], law), ("reference", laws[1], reference)):
        # The other law may not provide these.
        changes: dict[str, Any] = {"micro": [], "picture": None, "error_bars": False}
        output = case.output.model_copy(update=changes)
        try:
            case = case.model_copy(update={"output": output})
            run = prepare(case, chooser.path, chooser.comm, mesh, chooser.training)
        except CaseError as error:
            raise blamed(error, f"--{name}", given) from error
        mesh = run.problem.mesh
        sides.append(_Side(name, given, run))
    return sides[0], sides[1]


def _offline_seconds(model: Path) -> float:
    """Return the time of sampling and training of a model [s]; 0 if unknown."""
    return float(read_manifest(model).metrics.get("offline_seconds") or 0.0)


def _report(law: _Side, reference: _Side, differences: list[Difference]) -> dict[str, Any]:
    """Return the report without the training time."""
    both, last = (law, reference), differences[-1]
    worst = {name: max(differences, key=lambda one, name=name: getattr(one, name)) for name in _NORMS}  # type: ignore[misc]
    moved, force = (boundary_differences(law.observations, reference.observations, of) for of in ("moved", "force"))
    certified = law.summary["law_statistics"]
    return {
        **{key: law.summary[key] for key in ("case", "title", "versions", "ranks", "threads", "n_qp", "dofs")},
        "given": {side.name: side.given for side in both},
        "laws": {side.name: side.summary["law"] for side in both},
        **{name: getattr(last, name) for name in _NORMS},
        "stress_worst": asdict(last.stress_worst),
        "worst_step": {name: {"step": one.step, "value": getattr(one, name)} for name, one in worst.items()},
        "reaction_rel": max(force.values(), default=0.0),
        "boundaries": {"displacement_rel": moved, "reaction_rel": force},
        "steps": [asdict(one) for one in differences],
        "quantities": {side.name: side.summary["quantities"] for side in both},
        "error_bars": law.summary["error_bars"],
        "corrected": law.summary["corrected"],
        "expected": law.summary["expected"] if law.given == OWN else {},  # known of the law of the case only
        "iterations": {side.name: sum(step["iterations"] for step in side.summary["steps"]) for side in both},
        "seconds": {side.name: side.summary["seconds"] for side in both} | {"ratio": _ratios(law, reference)},
        "speedup_law": _over(reference.seconds(only=_LAW_PARTS), law.seconds(only=_LAW_PARTS)),
        "speedup_total": _over(reference.seconds(without=_NOT_SOLUTION), law.seconds(without=_NOT_SOLUTION)),
        "timing": _TIMING,
        "certified": {
            "kind": certified["certificate"],
            "largest_error": certified["largest_error"],
            "infinite": certified["points_infinite"],
            "error_over_certified": _over(last.stress_rel_max, certified["largest_error"]),
        },
        "law_statistics": {side.name: side.summary["law_statistics"] for side in both},
    }


def _ratios(law: _Side, reference: _Side) -> dict[str, float | None]:
    """Return the time of the reference divided by that of the law, for each part."""
    ours, theirs = law.summary["seconds"], reference.summary["seconds"]
    return {part: _over(theirs[part], value) for part, value in ours.items() if part in theirs}


def _over(a: float, b: float | None) -> float | None:
    return a / b if b else None


def _write(folder: Path, report: dict[str, Any], law: _Side, reference: _Side, differences: list[Difference]) -> None:
    errors = {
        "displacement (L2)": [one.displacement_rel_l2 for one in differences],
        "stress (L2)": [one.stress_rel_l2 for one in differences],
        "stress (largest)": [one.stress_rel_max for one in differences],
    }
    with writing(folder):
        draw_comparison(folder / PICTURE, _curves(law, reference), errors, ("law", "reference"))
        write_json(folder / REPORT, report)


def _curves(law: _Side, reference: _Side) -> list[Curve]:
    """Return force-displacement curves of the boundaries that move most; time-displacement without reactions."""
    observed = reference.observations
    moved = {name: np.array([one.moved[name] for one in observed]) for name in observed[0].moved}
    axis_of = {name: int(np.abs(values).max(axis=0).argmax()) for name, values in moved.items()}
    prescribed = law.run.problem.analysis.prescribed()
    loaded = [name for name in law.run.case.loads if name in moved] or list(moved)
    held = [name for name in loaded if axis_of[name] in prescribed.get(name, ())]
    chosen = sorted(held or loaded, key=lambda name: -float(np.abs(moved[name]).max()))[:_MOST_CURVES]
    force = "reaction [force]" if held else "time [time]"
    curves = []
    for name in chosen:
        points = (_points(side, name, axis_of[name], timed=not held) for side in (law, reference))
        curves.append(Curve(f"{name}, {'xyz'[axis_of[name]]}", force, *points))
    return curves


def _points(side: _Side, name: str, axis: int, *, timed: bool) -> Array:
    points = [(one.moved[name][axis], one.t if timed else one.force[name][axis]) for one in side.observations]
    return np.array([(0.0, 0.0), *points]).T
