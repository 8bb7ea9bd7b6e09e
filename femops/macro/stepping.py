"""Load steps with automatic cutback and regrowth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from femops.errors import NotConverged, Refused
from femops.macro.problem import MacroProblem, NewtonReport

Watch = Callable[[int, float, int, float], None]
_SHRINK = 0.5
_GROW = 1.5
_EASY_ITERATIONS = 6


@dataclass(frozen=True)
class StepReport:
    """Report of an accepted load step.

    Attributes:
        number: Number of the step, from 1.
        t: Time at the end of the step.
        iterations: Newton iterations of all accepted increments.
        residuals: Relative residuals of the last increment.
        increments: Number of accepted increments.
        cutbacks: Number of failed increments that were retried with a smaller length.
    """

    number: int
    t: float
    iterations: int
    residuals: tuple[float, ...]
    increments: int
    cutbacks: int


def run_steps(problem: MacroProblem, watch: Watch | None = None) -> Iterator[StepReport]:
    """Solve the load steps of an analysis one after the other; laws may be enriched between steps; collective.

    A step is solved when its report is asked for, as by `for report in run_steps(problem):` or
    `list(run_steps(problem))`; until the next one, the problem holds the solution at the end of the step.

    Args:
        problem: The macroscale problem.
        watch: Called with step number, time, iteration and residual.

    Yields:
        The report of each step, once its state is committed.

    Raises:
        NotConverged: An increment failed at the smallest length; the message names the step.
        Refused: An increment converged to a solution that must not be used; it is not retried.
    """
    start, ends = 0.0, problem.analysis.steps.ends
    for number, end in enumerate(ends, start=1):
        report = _run_step(problem, number, start, end, watch)
        problem.locking.look()
        yield report
        if number < len(ends):
            problem.enrich(number)
        start = end


def _run_step(problem: MacroProblem, number: int, start: float, end: float, watch: Watch | None) -> StepReport:
    """Advance to the end of a step in one or more increments."""
    t, length = start, end - start
    smallest = problem.analysis.steps.smallest * (end - start)
    iterations = increments = cutbacks = 0
    while True:
        target = end if t + length > end - smallest else t + length
        try:
            report = _increment(problem, number, t, target, watch)
        except Refused as error:
            reached = f"step {number} stopped at t = {t:g}: at t = {target:g} {error.what}"
            raise Refused(reached, error.residuals) from error
        except NotConverged as error:
            cutbacks += 1
            length = _SHRINK * (target - t)
            if length < smallest:
                reached = f"step {number} stopped at t = {t:g} after {cutbacks} cutbacks"
                raise NotConverged(f"{reached}: {error.what}", error.residuals) from error
            continue
        t, iterations, increments = target, iterations + report.iterations, increments + 1
        if t == end:
            return StepReport(number, end, iterations, tuple(report.residuals), increments, cutbacks)
        if report.iterations <= _EASY_ITERATIONS:
            length *= _GROW


def _increment(problem: MacroProblem, number: int, t: float, target: float, watch: Watch | None) -> NewtonReport:
    def observe(iteration: int, residual: float) -> None:
        if watch is not None:
            watch(number, target, iteration, residual)

    return problem.solve(target, target - t, observe)
