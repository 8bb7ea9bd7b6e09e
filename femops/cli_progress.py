"""The bars that the command line shows while a command works."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from femops.case import Case
from femops.surrogate.base import Progress as StageProgress

_WIDEST_BAR, _BESIDE_THE_BAR = 40, 70  # a name, the time, and the usual note; longer ones are wrapped


@contextmanager
def bars(console: Console, comm: Any, *, transient: bool = False) -> Iterator[Progress]:
    """Show bars on rank 0, below each other; until the first one begins, say that things are being set up.

    Args:
        console: Where to show them.
        comm: The ranks that work.
        transient: Whether they vanish at the end.
    """
    text = TextColumn("{task.description}", markup=False)
    note = TextColumn("{task.fields[note]}", markup=False, table_column=Column())
    bar = BarColumn(max(5, min(_WIDEST_BAR, console.width - _BESIDE_THE_BAR)))
    columns = (SpinnerColumn(), text, bar, TimeRemainingColumn(elapsed_when_finished=True), note)
    hidden = comm.rank != 0 or (transient and not console.is_interactive)
    settings: dict[str, Any] = {"disable": hidden, "transient": transient, "speed_estimate_period": 3600.0}
    with Progress(*columns, console=console, **settings) as shown:
        shown.add_task("setting up", total=None, note="")
        yield shown


class Steps:
    """Shows the load steps of a run as a bar.

    Args:
        shown: Where the bar is.
        case: The case that runs.
    """

    def __init__(self, shown: Progress, case: Case) -> None:
        self._shown, self._rtol = shown, case.solver.rtol
        self._ends = [0.0, *case.steps.ends()]
        self._task: TaskID | None = None

    def __call__(self, step: int, t: float, iteration: int, residual: float) -> None:
        """Show an iteration; see `femops.run.Watch`."""
        count = len(self._ends) - 1
        if self._task is None:
            self._task = _begun(self._shown, f"step 1/{count}", count)
        part = (t - self._ends[step - 1]) / (self._ends[step] - self._ends[step - 1])
        done = step - 1 + (part if residual <= self._rtol else 0.0)
        now = f"t = {t:.4g}, iteration {iteration}, residual {residual:.1e}"
        self._shown.update(self._task, description=f"step {step}/{count}", completed=done, note=now)


def stages(shown: Progress) -> StageProgress:
    """Return what shows each stage of a training as a bar.

    Args:
        shown: Where the bars are.
    """
    tasks: dict[str, TaskID] = {}

    def watch(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in tasks:
            tasks[stage] = _begun(shown, stage, total)
        shown.update(tasks[stage], completed=done, total=total, note=note)

    return watch


def _begun(shown: Progress, text: str, total: int) -> TaskID:
    """Begin a bar, the first one in place of the word about the set-up."""
    shown.update(shown.task_ids[0], visible=False)
    return shown.add_task(text, total=total, note="")
