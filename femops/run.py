"""The story of one run."""

import importlib.metadata
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from mpi4py import MPI

import femops
from femops.case import EVERYWHERE, Case
from femops.errors import CaseError, NotConverged
from femops.law import LawContext, MaterialLaw
from femops.log import Timers
from femops.macro.mesh import MacroMesh, macro_mesh
from femops.macro.probe import check_points, displacement_at
from femops.macro.problem import MacroProblem
from femops.macro.stepping import StepReport, run_steps
from femops.case_meshes import macro_tagged_mesh
from femops.output.atomic import write_text
from femops.output.results import Results, check_micro
from femops.output.tables import write_json
from femops.parallel import on_root
from femops.plugins import get_law

Watch = Callable[[int, float, int, float], None]
_PACKAGES = ("fenics-dolfinx", "dolfinx-solver-real", "petsc4py", "numpy", "numba", "gmsh", "torch")


@dataclass(frozen=True)
class Run:
    """A case made ready to solve.

    Attributes:
        case: The case.
        problem: Its macroscale problem.
        timers: Where the time goes.
    """

    case: Case
    problem: MacroProblem
    timers: Timers


def prepare(case: Case, path: Path, comm: MPI.Comm) -> Run:
    """Build everything that a case names, without solving it; collective.

    Raises:
        CaseError: The case cannot be built; the message names file and key.
    """
    timers = Timers()
    try:
        with timers.part("set-up"):
            mesh = macro_mesh(lambda: macro_tagged_mesh(case, path.parent), case.dim, comm)
            laws = _laws(case, path.parent, mesh, comm)
            problem = MacroProblem(case, mesh, laws, timers)
            check_points(problem)
    except CaseError as error:
        raise error.within(file=path) from error
    return Run(case, problem, timers)


def _laws(case: Case, base: Path, mesh: MacroMesh, comm: MPI.Comm) -> dict[str, MaterialLaw]:
    laws = {}
    for name, parameters in case.laws().items():
        try:
            laws[name] = get_law(parameters, LawContext(case.dim, base, comm))
        except CaseError as error:
            region = name if len(case.laws()) > 1 else ""
            raise error.within(key=".".join(part for part in ("material", region) if part)) from error
    problem = check_micro(case, laws)
    if problem:
        raise CaseError(problem, key="output.micro")
    return laws


def run_case(case: Case, path: Path, folder: Path, comm: MPI.Comm, watch: Watch | None = None) -> dict[str, Any]:
    """Solve a case and write its results; collective.

    Args:
        case: The case.
        path: Its file; relative paths start there and its stem names the results.
        folder: Where the results go; an earlier run there is replaced.
        comm: The ranks that share the work.
        watch: Called with step, time, iteration and residual.

    Returns:
        The summary.

    Raises:
        CaseError: The case cannot be built.
        NotConverged: A step failed; the results of the steps before are complete.
    """
    run = prepare(case, path, comm)
    on_root(comm, lambda: _clear(folder, case, path.parent))
    results = Results(run.problem, folder, path.stem)
    steps: list[StepReport] = []

    def accepted(report: StepReport) -> None:
        with run.timers.part("output"):
            results.step(report)
            steps.append(report)
            _write_summary(run, path, folder, steps, finished=False)

    try:
        run_steps(run.problem, accepted, watch)
    except NotConverged as error:
        _write_summary(run, path, folder, steps, finished=False, failure=str(error))
        raise
    with run.timers.part("output"):
        results.finish()
    return _write_summary(run, path, folder, steps, finished=True)


def _clear(folder: Path, case: Case, base: Path) -> None:
    """Remove the results of an earlier run and write the resolved case."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.vtkhdf", "*.vtp", "*.png", "curves.csv", "summary.json", "*.bp", "pictures"):
        for old in folder.glob(pattern):
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()
    data = resolved(case)
    _move_files(data, base, folder)
    write_text(folder / "case.yaml", yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def resolved(case: Case) -> dict[str, Any]:
    """Return a case with all its defaults, as it would be written in YAML."""
    data = case.model_dump(mode="json", exclude_none=True, serialize_as_any=True)
    laws = data["material"]
    data["material"] = laws[EVERYWHERE] if list(laws) == [EVERYWHERE] else laws
    return data


def _move_files(data: Any, base: Path, folder: Path) -> None:
    """Make the mesh files of a resolved case relative to the folder where it is written."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key == "file" and isinstance(value, str):
                data[key] = os.path.relpath(base / value, folder)
            _move_files(value, base, folder)


def _write_summary(
    run: Run, path: Path, folder: Path, steps: list[StepReport], *, finished: bool, failure: str = ""
) -> dict[str, Any]:
    """Write and return the machine-readable face of a run; its fields are documented in the README."""
    problem, comm = run.problem, run.problem.comm
    quantities = {name: _quantity(problem, name) for name in run.case.quantities} if steps else {}
    counted = comm.allreduce(problem.quadrature.n_points)
    summary = {
        "case": str(path),
        "title": run.case.title,
        "finished": finished,
        "failure": failure,
        "law": {name: parameters.law for name, parameters in run.case.laws().items()},
        "versions": _versions(),
        "ranks": comm.size,
        "n_qp": counted,
        "dofs": problem.n_dofs,
        "steps": [asdict(step) for step in steps],
        "seconds": {**run.timers.seconds, "total": run.timers.total()},
        "law_statistics": asdict(problem.material.statistics),
        "quantities": quantities,
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
