"""Progress display: bars on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from femops.inputs.case import Case
from femops.surrogate.spec import Progress as StageProgress

if TYPE_CHECKING:
    from femops.macro.stepping import StepReport

_WIDEST_BAR, _BESIDE_THE_BAR = 40, 70  # name, time and a typical note; longer notes are wrapped


class Display:
    """Stacked progress bars or, without a terminal, one plain line per completed stage.

    Args:
        progress: The bars.
        plain: Whether to print lines instead of bars.
    """

    def __init__(self, progress: Progress, *, plain: bool) -> None:
        self.progress, self.plain, self.console = progress, plain, progress.console
        self._line = self._printed = self._stage = ""

    def begin(self, text: str, total: int) -> TaskID:
        """Begin a bar; the first one replaces the set-up message."""
        self.progress.update(self.progress.task_ids[0], visible=False)
        return self.progress.add_task(text, total=total, note="")

    def line(self, text: str) -> None:
        """Print a line in plain mode."""
        if self.plain:
            self.console.print(text, soft_wrap=True)

    def update(self, stage: str, done: int, total: int, note: str) -> None:
        """Record the progress of a stage, and print a line when it ends."""
        if stage != self._stage:
            self.end_stage()
        self._stage, self._line = stage, f"{stage} {note}"
        if done >= total:
            self.end_stage()

    def end_stage(self) -> None:
        """Print the line of the last stage, unless already printed."""
        if self._line != self._printed:
            self.line(self._line)
        self._printed = self._line


@contextmanager
def bars(console: Console, comm: Any, *, transient: bool = False) -> Iterator[Display]:
    """Show progress bars on rank 0, preceded by a set-up message.

    Without a terminal only completed stages are reported, one line each.

    Args:
        console: The console.
        comm: The ranks that share the work.
        transient: Whether bars are removed at the end; if so, no plain lines are printed either.
    """
    text = TextColumn("{task.description}", markup=False)
    note = TextColumn("{task.fields[note]}", markup=False, table_column=Column())
    bar = BarColumn(max(5, min(_WIDEST_BAR, console.width - _BESIDE_THE_BAR)))
    columns = (SpinnerColumn(), text, bar, TimeRemainingColumn(elapsed_when_finished=True), note)
    first, terminal = comm.rank == 0, console.is_terminal
    settings: dict[str, Any] = {"disable": not (first and terminal), "transient": transient}
    with Progress(*columns, console=console, speed_estimate_period=3600.0, **settings) as progress:
        progress.add_task("setting up", total=None, note="")
        display = Display(progress, plain=first and not terminal and not transient)
        try:
            yield display
        finally:
            display.end_stage()


class StepProgress:
    """Shows the load steps of a run.

    Args:
        display: The progress display.
        case: The case.
    """

    def __init__(self, display: Display, case: Case) -> None:
        self._display, self._rtol = display, case.solver.rtol
        self._ends = [0.0, *case.steps.ends()]
        self._task: TaskID | None = None

    def __call__(self, step: int, t: float, iteration: int, residual: float) -> None:
        """Show an iteration; see `femops.macro.stepping.Watch`."""
        count = len(self._ends) - 1
        if self._task is None:
            self._task = self._display.begin(f"step 1/{count}", count)
        part = (t - self._ends[step - 1]) / (self._ends[step] - self._ends[step - 1])
        done = step - 1 + (part if residual <= self._rtol else 0.0)
        now = f"t = {t:.4g}, iteration {iteration}, residual {residual:.1e}"
        self._display.progress.update(self._task, description=f"step {step}/{count}", completed=done, note=now)

    def accepted(self, _: object, report: "StepReport") -> None:
        """Show an accepted step; see `femops.commands.run.Observe`."""
        cutbacks = f", {_counted(report.cutbacks, 'cutback')}" if report.cutbacks else ""
        what = f"t = {report.t:.4g}, {_counted(report.iterations, 'iteration')}{cutbacks}"
        self._display.line(f"step {report.number}/{len(self._ends) - 1}: {what}")


def stages(display: Display) -> StageProgress:
    """Return a callback that shows the stages of a training.

    Args:
        display: The progress display.
    """
    tasks: dict[str, TaskID] = {}

    def watch(stage: str, done: int, total: int, note: str = "") -> None:
        note = note or f"{done}/{total}"
        if stage not in tasks:
            tasks[stage] = display.begin(stage, total)
        display.progress.update(tasks[stage], completed=done, total=total, note=note)
        display.update(stage, done, total, note)

    return watch


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
