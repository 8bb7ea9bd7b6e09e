"""Runs benchmark problems, each in a child process, and writes what they found with the circumstances.

A benchmark is a module of this folder with `PROBLEMS`: functions from options (str → str) to a flat dict of results,
by name. The results of `NAME` go to `results/NAME.json`. What has been found is kept in `results/NAME.part.json`; a run
that was interrupted continues from there, if commit and options are the same.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).parent
PACKAGES = (
    "femops",
    "femops-beno",
    "femops-equino",
    "femops-moe",
    "femops-spon",
    "pyamg",
    "torch",
    "dolfinx-solver-real",
    "mkl",
    "pypardiso",
    "numba",
    "numpy",
    "scipy",
    "ogs",
    "kratosgeomechanicsapplication",
    "felupe",
    "scikit-fem",
    "torch-fem",
    "dolfinx-external-operator",
)
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_benchmark(name: str, only: list[str], options: Mapping[str, str], console: Console) -> None:
    """Run the problems of a benchmark one after the other, show what they found and, if all have run, write it.

    Args:
        name: Module in this folder.
        only: Problems wanted; empty means all.
        options: Handed to the problems.
        console: Where progress and results are shown.
    """
    names = only or _problem_names(name)
    part = HERE / "results" / f"{name}.part.json"
    origin = {"commit": _git("rev-parse", "HEAD"), "options": dict(options)}
    problems = {} if only else _kept(part, origin)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for problem in names:
            task = progress.add_task(f"{name}: {problem}", total=1)
            if problem not in problems:
                problems[problem] = _run_child(name, problem, options)
            if not only:
                _write(part, {"origin": origin, "problems": problems})
            progress.advance(task)
    console.print(_table(name, problems))
    if only:
        return
    record = {"benchmark": name, **circumstances(), "problems": problems}
    target = HERE / "results" / f"{name}.json"
    _write(target, record)
    part.unlink()
    console.print(f"written: {target}")


def circumstances() -> dict[str, Any]:
    """Return commit, date, hardware and versions."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "commit": _git("rev-parse", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--", ":/femops")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "load_average": os.getloadavg()[0],
            "threads": 1,
        },
        "versions": versions,
    }


def _run_child(name: str, problem: str, options: Mapping[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "benchmarks.harness", name, problem, json.dumps(dict(options)), str(answer)]
        path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, **dict.fromkeys(_THREADS, "1"), "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if not answer.exists():
            raise SystemExit(f"{name}: {problem} failed:\n{done.stderr.strip()}")
        return dict(json.loads(answer.read_text(encoding="utf-8")))


def _kept(part: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an interrupted run of the same origin has found."""
    found = json.loads(part.read_text(encoding="utf-8")) if part.exists() else {}
    return dict(found["problems"]) if found.get("origin") == origin else {}


def _write(target: Path, record: Mapping[str, Any]) -> None:
    """Write a record at once, so that an interrupted write leaves the earlier one."""
    target.parent.mkdir(exist_ok=True)
    new = target.with_suffix(".new")
    new.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(target)


def _problem_names(name: str) -> list[str]:
    return list(importlib.import_module(f"benchmarks.{name}").PROBLEMS)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _table(name: str, problems: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("", *problems, title=name)
    keys = list(dict.fromkeys(key for result in problems.values() for key in result))
    for key in keys:
        values = [result.get(key, "") for result in problems.values()]
        table.add_row(key, *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values))
    return table


def _child() -> None:
    name, problem, options, answer = sys.argv[1:]
    result = importlib.import_module(f"benchmarks.{name}").PROBLEMS[problem](json.loads(options))
    Path(answer).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    _child()
