"""A case made ready to solve: meshes, laws, the macroscale problem and the output."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mpi4py import MPI

from femops.commands.results import remarks
from femops.errors import CaseError
from femops.inputs.case import Case
from femops.inputs.meshes import macro_tagged_mesh
from femops.law import LawContext, LawParameters, MaterialLaw, MicroscaleLaw
from femops.macro.boundary import check_boundary
from femops.macro.mesh import MacroMesh, macro_mesh
from femops.macro.probe import check_point
from femops.macro.problem import MacroProblem
from femops.macro.timers import Timers
from femops.offline.train import silent, trained_model
from femops.parallel import on_every_rank
from femops.plugins import get_law
from femops.rve.law import NestedLaw
from femops.surrogate.spec import Progress, SurrogateParameters


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
            problem = MacroProblem(case.analysis(), mesh, laws, timers)
            _check_reactions(case, problem)
            _check_output(case, problem)
            _check_points(case, problem)
    except CaseError as error:
        raise error.within(file=path) from error
    found = (f"{name} {text}" for name, text in remarks(case, problem).items())
    return Run(case, problem, timers, (*notes(mesh, laws), *found, *problem.notes))


def notes(mesh: MacroMesh, laws: Mapping[str, MaterialLaw]) -> tuple[str, ...]:
    """Return the notes on the macroscale mesh and the RVEs of a case, without duplicates."""
    found = [f"mesh: {note}" for note in mesh.notes]
    for name, law in laws.items():
        if isinstance(law, MicroscaleLaw):
            found += [f"RVE of {name}: {note}" for note in law.rve.discretisation.mesh.notes]
        if isinstance(law, NestedLaw):
            found += [f"RVE of {name}: {note}" for note in law.solver.notes]
    return tuple(dict.fromkeys(found))


def _laws(case: Case, base: Path, comm: MPI.Comm, training: Progress) -> dict[str, MaterialLaw]:
    laws = {}
    for name, parameters in case.laws().items():
        try:
            law = get_law(_with_model(parameters, base, comm, training), LawContext(case.dim, base, comm))
            if isinstance(law, MicroscaleLaw):
                on_every_rank(comm, partial(_rve_of, law))  # read now, where errors name the region
            laws[name] = law
        except CaseError as error:
            region = name if len(case.laws()) > 1 else ""
            raise error.within(key=".".join(part for part in ("material", region) if part)) from error
    return laws


def _rve_of(law: MicroscaleLaw) -> Any:
    """Return the RVE of a law, which a stored surrogate builds when it is first asked for."""
    return law.rve


def _with_model(parameters: LawParameters, base: Path, comm: MPI.Comm, training: Progress) -> LawParameters:
    """Return the parameters of a law with the model of its study, if they name one; it is trained if necessary."""
    if not isinstance(parameters, SurrogateParameters) or parameters.study is None:
        return parameters
    model = trained_model(base / parameters.study, parameters.law, comm, training)
    return parameters.model_copy(update={"model": model.absolute(), "study": None})


def _check_reactions(case: Case, problem: MacroProblem) -> None:
    """Check that the reactions among the quantities exist.

    Raises:
        CaseError: A boundary is unknown, or nothing is prescribed on it along the axis of the reaction.
    """
    prescribed = problem.analysis.prescribed()
    for name, quantity in case.quantities.items():
        if quantity.reaction is None:
            continue
        check_boundary(quantity.reaction, problem.mesh, f"quantities.{name}.reaction")
        if quantity.axis not in prescribed.get(quantity.reaction, ()):
            raise CaseError(
                f"{quantity.reaction!r} has no reaction along {'xyz'[quantity.axis]}: nothing is prescribed there",
                key=f"quantities.{name}",
            )


def _check_output(case: Case, problem: MacroProblem) -> None:
    """Check that the laws provide the output that the case asks for.

    Raises:
        CaseError: RVE output is requested but no law has RVEs, error bars but no law certifies its error, or the field
            of the picture does not exist.
    """
    wanted, regions = case.output, problem.material.regions
    if wanted.error_bars and problem.material.statistics.certificate is None:
        raise CaseError("true given, but no law of the case can certify its error", key="output.error_bars")
    if wanted.micro and not any(isinstance(region.law, MicroscaleLaw) for region in regions):
        laws = ", ".join(parameters.law for parameters in case.laws().values())
        raise CaseError(f"no law of the case has RVEs whose fields could be written; laws: {laws}", key="output.micro")
    known = {"error": "law_error"}
    fields = [known.get(name, name) for name in wanted.fields if name != "state"]
    if "state" in wanted.fields:
        fields += [name for region in regions for name in region.law.state_fields]
    if wanted.picture is not None and wanted.picture not in fields:
        raise CaseError(f"no field {wanted.picture!r}; fields: {', '.join(fields)}", key="output.picture")


def _check_points(case: Case, problem: MacroProblem) -> None:
    """Check that all points of the case lie in the body, and that points of RVE output have an RVE; collective.

    Raises:
        CaseError: A point is invalid; the message names its key.
    """
    for key, at in case.points():
        try:
            check_point(problem, at, rve=key.startswith("output.micro"))
        except CaseError as error:
            raise error.within(key=key) from error
