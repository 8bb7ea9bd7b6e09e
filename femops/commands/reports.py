"""Printed reports of runs, comparisons and trainings."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def missed(case: str, quantities: Mapping[str, float], expected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each quantity of a run that differs from its expected value.

    Args:
        case: The case file.
        quantities: Values by name.
        expected: As returned by `femops.commands.run.expectations`.
    """
    return [
        f"{case}: quantities.{name}: {quantities[name]:.8g}, expected {one['expected']:.8g} "
        f"({'relative ' if one['expected'] else ''}difference {one['difference']:.1e}, rtol {one['rtol']:.1e})"
        for name, one in expected.items()
        if one["missed"]
    ]


def report_quantities(console: Console, columns: Mapping[str, Mapping[str, float]], first: Mapping[str, Any]) -> None:
    """Print the quantities of one or two runs with what is known of those of the first; nothing if there are none.

    Args:
        console: The console.
        columns: Values by name, for each column of the table.
        first: `expected`, `error_bars` and `corrected` of the summary of the first run.
    """
    expected, bars, corrected = (first[key] for key in ("expected", "error_bars", "corrected"))
    more = [*(["error bar"] if bars else []), *(["corrected"] if corrected else [])]
    table = Table("quantity", *columns, *more, "expected")
    for name in next(iter(columns.values())):
        known = expected.get(name)
        last = "" if known is None else f"{known['expected']:.8g}{'  MISSED' if known['missed'] else ''}"
        bar = [f"± {bars[name]['width']:.2g} ({bars[name]['kind']})"] if bars else []
        moved = [f"{corrected[name]['value']:.8g} ± {corrected[name]['width']:.2g}"] if corrected else []
        table.add_row(name, *(f"{values[name]:.8g}" for values in columns.values()), *bar, *moved, last)
    if table.row_count:
        console.print(table)
    for points in {one["points"] for one in corrected.values()}:
        console.print(f"Corrected by exact solutions at {points} points after the last step.")


def report_notes(console: Console, notes: Iterable[str]) -> None:
    """Print the notes of a run, one line each."""
    for note in notes:
        console.print(f"Note: {note}", soft_wrap=True)


def report_run(console: Console, summary: dict[str, Any], folder: Path, picture: Path | None) -> None:
    """Print the timings, quantities, notes and result files of a run.

    Args:
        console: The console.
        summary: The summary of the run.
        folder: The results folder.
        picture: The picture of the last step, if one was drawn.
    """
    seconds = dict(summary["seconds"])
    total = seconds.pop("total")
    seconds["other"] = max(total - sum(seconds.values()), 0.0)
    table = Table("part", "seconds", "share", title=f"{summary['n_qp']} points, {summary['dofs']} dofs")
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{value:.2f}", f"{value / total:.0%}")
    table.add_row("total", f"{total:.2f}", "")
    console.print(table)
    report_quantities(console, {"value": summary["quantities"]}, summary)
    report_notes(console, summary["notes"])
    iterations = sum(step["iterations"] for step in summary["steps"])
    cutbacks = sum(step["cutbacks"] for step in summary["steps"])
    counts = {"step": len(summary["steps"]), "iteration": iterations, "cutback": cutbacks}
    console.print(f"{', '.join(f'{n} {what}{"" if n == 1 else "s"}' for what, n in counts.items())}.")
    report_trust(console, summary["law_statistics"])
    memory = [f"{size / 2**20:.0f}" for size in (min(summary["peak_memory"]), max(summary["peak_memory"]))]
    console.print(f"Peak memory: {' to '.join(dict.fromkeys(memory))} MiB{' a rank' if summary['ranks'] > 1 else ''}.")
    fields = folder / f"{Path(summary['case']).stem}.vtkhdf"
    console.print(f"Results in {folder}; open {fields} in ParaView.", soft_wrap=True)
    if picture is not None:
        console.print(f"Picture: {picture}", soft_wrap=True)


def report_trust(console: Console, statistics: dict[str, Any]) -> None:
    """Print the numbers of points in doubt and their treatment, and the largest errors.

    Args:
        console: The console.
        statistics: `law_statistics` of the summary.
    """
    evaluated, solved = statistics["points_evaluated"], statistics["points_solved_exactly"]
    if solved:
        reasons = {name.replace("_", " "): count for name, count in statistics["solved_because"].items() if count}
        why = ", ".join(f"{count} for {name}" for name, count in reasons.items())
        console.print(f"{solved} of {evaluated} evaluations of a point were solved exactly: {why}.", soft_wrap=True)
    elif doubtful := statistics["points_above_tolerance"] + statistics["points_invalid"]:
        console.print(f"Warning: {doubtful} of {evaluated} evaluations are above the tolerance or not valid.")
    for one in statistics["enrichments"]:
        console.print(f"After step {one['step']} the law of {one['region']} learned {one['snapshots']} snapshots.")
    _report_error(console, statistics)
    if (residual := statistics["largest_solver_residual"]) is not None:
        console.print(f"Largest solver residual of a law: {residual:.1e}; it is no error of the stress.")


def _report_error(console: Console, statistics: dict[str, Any]) -> None:
    """Print the largest error of the accepted responses, and the number of points where it is unknown."""
    infinite, certified = statistics["points_infinite"], statistics["points_judged"]
    kind = statistics["certificate"] or "as stated by the law"
    beyond = f"infinite at {infinite} of {certified} points" if infinite else ""
    if statistics["largest_error"]:  # zero if all points were solved exactly
        largest = f"{statistics['largest_error']:.1e} ({kind})"
        console.print(f"Largest error of the answers used: {largest}{beyond and ', '}{beyond}.", soft_wrap=True)
    elif beyond:
        console.print(f"Error of the answers used ({kind}): {beyond}.", soft_wrap=True)
    elif statistics["can_certify"] and not certified:
        how = "trust: {on_violation: warn} in the case does that"
        console.print(f"No error of the answers was estimated; {how}.", soft_wrap=True)


def report_comparison(console: Console, report: dict[str, Any]) -> None:
    """Print the differences between the solutions of two laws, and their times.

    Args:
        console: The console.
        report: The content of `compare.json`.
    """
    title = " against ".join(", ".join(sorted(set(report["laws"][side].values()))) for side in ("law", "reference"))
    table = Table("relative difference", "last step", "worst step", title=title)
    for name, worst in report["worst_step"].items():
        table.add_row(name, _number(report[name]), f"{_number(worst['value'])} (step {worst['step']})")
    table.add_row("reaction_rel", "", _number(report["reaction_rel"]))
    console.print(table)
    report_quantities(console, report["quantities"], report)
    console.print(_times(report["seconds"], report["iterations"]))
    worst = report["stress_worst"]
    place = ", ".join(f"{x:.4g}" for x in worst["at"])
    sizes = f"{_number(worst['difference'])} at ({place}), where the reference is {_number(worst['reference'])}"
    console.print(f"Largest difference of the stress: {sizes}.", soft_wrap=True)
    law, total = (_number(report[key]) for key in ("speedup_law", "speedup_total"))
    faster = f"Speed-up: {law} in the laws, {total} in the whole solution without set-up and output"
    console.print(f"{faster}.", soft_wrap=True)
    if report["offline_seconds"]:
        console.print(f"Sampling and training before that: {report['offline_seconds']:.1f} s.")


def _times(seconds: dict[str, Any], iterations: dict[str, int]) -> Table:
    table = Table("part", "law [s]", "reference [s]", "reference / law")
    for part in dict.fromkeys([*seconds["law"], *seconds["reference"]]):
        sides = (seconds[side].get(part) for side in ("law", "reference", "ratio"))
        table.add_row(part, *(_number(one) for one in sides))
    table.add_row("Newton iterations", str(iterations["law"]), str(iterations["reference"]), "")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def report_training(console: Console, metrics: Mapping[str, Any]) -> None:
    """Print the accuracy and the training cost of a surrogate.

    Args:
        console: The console.
        metrics: The content of `metrics.json`.
    """
    if "validation" in metrics:
        _report_validation(console, metrics)
    elif metrics["fit"]:
        table = Table("metric", "value", title="metrics of the fit")
        for name, value in metrics["fit"].items():
            table.add_row(name.replace("_", " "), _number(value))
        console.print(table)
    spent = ", ".join(f"{name} {_number(value)} s" for name, value in metrics["seconds"].items() if value is not None)
    snapshots = f"; {metrics['snapshots']} snapshots" if "snapshots" in metrics else ""
    console.print(f"Training time: {spent}{snapshots}.", soft_wrap=True)
    if metrics["fit"] and "validation" in metrics:
        fit = ", ".join(f"{name} {_number(value)}" for name, value in metrics["fit"].items())
        console.print(f"Fit: {fit}.", soft_wrap=True)


def _report_validation(console: Console, metrics: Mapping[str, Any]) -> None:
    validation = metrics["validation"]
    unseen = f"{validation['count']} unseen {metrics.get('unseen', 'strains')}"
    table = Table("relative error", "median", "95 %", "largest", title=f"errors at {unseen}")
    rows = {name: validation[name] for name in ("stress", "tangent")}
    certificates = {name: validation[name] for name in ("bound", "indicator") if name in validation}
    counts = {name: int(figures.get("of", validation["count"])) for name, figures in certificates.items()}
    for name, figures in certificates.items():
        infinite = f", infinite at {figures['infinite']} of {counts[name]}" if figures["infinite"] else ""
        rows[f"{name} / error of stress{infinite}"] = figures["effectivity"]
    for name, spread in rows.items():
        numbers = ("infinite" if spread[part] is None else _number(spread[part]) for part in ("median", "p95", "max"))
        table.add_row(name, *numbers)
    console.print(table)
    if "bound" in certificates and certificates["bound"]["infinite"] < counts["bound"]:
        violations = certificates["bound"]["violations"]
        console.print(f"The bound is below the error at {violations} of {counts['bound']}.")
    for name, what in (("seconds_per_point", "a point"), ("seconds_per_rve", "an RVE, from its mesh to its stiffness")):
        if name in metrics:
            time = metrics[name]
            law, nested = (f"{1e6 * time[side]:.3g} µs" for side in ("law", "nested"))
            console.print(f"Time of {what}: law {law}, nested {nested}, ratio {time['ratio']:.3g}.", soft_wrap=True)


def report_evaluation(console: Console, rows: Mapping[str, Mapping[str, float | None]]) -> None:
    """Print the table of an evaluation; numbers that are not finite are None."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table("", *columns)
    for name, row in rows.items():
        shown = {column: "not finite" if value is None else f"{value:.3g}" for column, value in row.items()}
        table.add_row(name, *(shown.get(column, "") for column in columns))
    console.print(table)
