"""The command-line interface.

Exit codes: 0 success, 1 unexpected error, 2 invalid input, 3 not converged, 4 a quantity differs from its expected
value, 130 interrupted, 143 terminated.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

import femops
from femops.commands.ending import NOT_AS_EXPECTED, errors, exit_code
from femops.commands.progress import StepProgress, bars, stages
from femops.commands.reports import (
    missed,
    report_comparison,
    report_evaluation,
    report_notes,
    report_run,
    report_training,
)
from femops.errors import CaseError
from femops.inputs.case import Case, case_schema, load_case
from femops.output.folder import writing
from femops.output.locks import locked
from femops.parallel import on_root
from femops.plugins import installed
from femops.threads import thread_count

app = typer.Typer(
    name="femops",
    help="Two-scale (FE²) simulation with nested and learned material laws.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False, markup=False, emoji=False)

Kind = Literal["c", "mgis", "umat", "torch", "onnx"]
CaseFile = Annotated[Path, typer.Argument(metavar="CASE", help="The case file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a value of the file, e.g. solver.rtol=1e-6; may be repeated."
    ),
]


@app.command()
def run(
    case: CaseFile,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the results; default results/CASE.")] = None,
) -> None:
    """Solve a case and write its results. Runs in parallel under mpirun."""
    from mpi4py import MPI

    from femops.commands.run import run_case

    comm = MPI.COMM_WORLD
    loaded = load_case(case, tuple(overrides or ()))
    folder = output or Path("results") / case.stem
    with locked(folder, comm):
        with bars(console, comm) as display:
            steps = StepProgress(display, loaded)
            summary = run_case(loaded, case, folder, comm, steps, stages(display), steps.accepted)
        if comm.rank == 0:
            picture = _draw(loaded, case, folder)
            report_run(console, summary, folder, picture)
    _exit_if_missed(summary["case"], summary["quantities"], summary["expected"])


@app.command()
def check(case: CaseFile, overrides: Overrides = None) -> None:
    """Validate a case and build its meshes and laws without solving it; a surrogate without a model is trained."""
    from mpi4py import MPI

    from femops.commands.prepare import prepare

    comm = MPI.COMM_WORLD
    loaded = load_case(case, tuple(overrides or ()))
    with bars(console, comm, transient=True) as display:
        ready = prepare(loaded, case, comm, training=stages(display))
    n_qp = comm.allreduce(ready.problem.quadrature.n_points)
    laws = ", ".join(parameters.law for parameters in loaded.laws().values())
    report_notes(console, ready.notes)
    console.print(
        f"{case}: valid. {ready.problem.n_dofs} dofs, {n_qp} quadrature points, "
        f"{len(loaded.steps.ends())} steps, law: {laws}. Run it with: femops run {case}",
        soft_wrap=True,
    )


@app.command()
def schema(study: Annotated[bool, typer.Option("--study", help="The schema of study files.")] = False) -> None:
    """Print the JSON Schema of case files or study files, for editors."""
    from femops.inputs.study import study_schema

    printed = study_schema() if study else case_schema()
    console.print(json.dumps(printed, indent=2, ensure_ascii=False), soft_wrap=True)


@app.command()
def plugins() -> None:
    """List the installed laws, and the plugins that could not be loaded."""
    table, found = Table("law", "as RVE phase", "description"), installed()
    for spec in found.laws.values():
        table.add_row(spec.name, "yes" if spec.phase else "", spec.summary)
    console.print(table)
    for name, why in found.broken.items():
        console.print(f"Broken: the plugin {name} could not be loaded: {why}", soft_wrap=True)


@app.command()
def view(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A folder that femops run wrote.")],
    field: Annotated[list[str] | None, typer.Option(help="Field to draw; may be repeated; default all.")] = None,
    step: Annotated[int, typer.Option(help="Step to draw, from 0; negative numbers count from the end.")] = -1,
) -> None:
    """Draw the fields of a run as pictures."""
    from mpi4py import MPI

    from femops.output.picture import view as draw

    with console.status("drawing"):
        pictures = on_root(MPI.COMM_WORLD, lambda: draw(results, field, step))
    for path in pictures:
        console.print(str(path), soft_wrap=True)


@app.command()
def mesh(
    case: CaseFile,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the meshes; default results/CASE.")] = None,
) -> None:
    """Write the meshes of a case and of its RVEs, with pictures of grids, and list their regions and boundaries."""
    from mpi4py import MPI

    from femops.inputs.meshes import case_meshes, describe
    from femops.meshing.writing import write_mesh
    from femops.output.layer import write_layer

    folder = output or Path("results") / case.stem

    def write() -> tuple[list[tuple[str, ...]], list[str]]:
        rows: list[tuple[str, ...]] = []
        notes: list[str] = []
        for name, one in case_meshes(load_case(case, tuple(overrides or ())), case.parent).items():
            notes.extend(f"{name}: {note}" for note in one.notes)
            notes.extend(
                f"{name}: the set '{without_facets}' {why}" for without_facets, why in one.sets_without_facets.items()
            )
            folder.mkdir(parents=True, exist_ok=True)
            write_mesh(one, folder / f"{name}.msh")
            if name != "macro" and one.kind.name in ("quad", "hexahedron"):
                write_layer(one, folder / f"{name}.png")
            rows.append((name, *describe(one), str(folder / f"{name}.msh")))
        return rows, notes

    try:
        with console.status("building meshes"), writing(folder, "meshes"):
            rows, notes = on_root(MPI.COMM_WORLD, write)
    except CaseError as error:
        raise error.within(file=case) from error
    table = Table("mesh", "cells", "nodes", "regions (fraction of the volume)", "boundaries", "file")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    report_notes(console, notes)
    console.print("A case uses one by mesh: {file: PATH}, with PATH relative to the case.", soft_wrap=True)


@app.command()
def sample(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (YAML).")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the snapshots; default results/STUDY.")] = None,
    part: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Solve only part K of N; without it, parts that are there are merged."),
    ] = None,
) -> None:
    """Solve the RVE or the family of a study and store the snapshots.

    Resumes after an interruption. Runs in parallel under mpirun, and in parts in independent processes, on any hosts
    that see the folder.
    """
    from mpi4py import MPI

    from femops.inputs.study import load_study
    from femops.offline.parts import Part
    from femops.offline.sample import sample as sample_study

    comm = MPI.COMM_WORLD
    loaded = load_study(study, tuple(overrides or ()))
    stage = "microstructures" if loaded.family else "snapshots"
    with bars(console, comm) as display:
        progress = partial(stages(display), stage)
        folder, chosen = output or Path("results") / study.stem, None if part is None else Part.parse(part)
        report = sample_study(loaded, study, folder, comm, progress, chosen)
    solved = f"{report.solved} {stage} solved in {report.seconds:.1f} s, {report.found} found"
    console.print(f"{solved}; they are in {report.file}", soft_wrap=True)
    same = " and the same --set" if overrides else ""
    if chosen is not None:
        merge = f"femops sample {study} --output {folder}{same}"
        console.print(f"When all {chosen.count} parts are solved, merge them with: {merge}", soft_wrap=True)
    elif loaded.surrogate is not None:
        console.print(f"Train on them with: femops train {study} --output {report.file.parent}{same}", soft_wrap=True)


@app.command()
def train(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (YAML), with a surrogate block.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of model, metrics and snapshots; default results/STUDY-HASH.")
    ] = None,
) -> None:
    """Sample, train and validate the surrogate of a study.

    Resumes after an interruption. Runs in parallel under mpirun.
    """
    from mpi4py import MPI

    from femops.inputs.study import load_study
    from femops.offline.train import train as train_study

    comm = MPI.COMM_WORLD
    loaded = load_study(study, tuple(overrides or ()))
    with bars(console, comm) as display:
        report = train_study(loaded, study, output, comm, stages(display))
    if report.found:
        console.print(f"Already trained: {report.model}", soft_wrap=True)
    report_training(console, report.metrics)
    use = "" if loaded.problem else f"; use it in a case with model: {report.model}"
    rve = " and the rve that it is to stand in for" if loaded.family else ""
    console.print(f"Model in {report.model}{use}{rve}", soft_wrap=True)


@app.command()
def compare(
    case: CaseFile,
    law: Annotated[str, typer.Option(help="The law to assess: case, nested, a case file, or a YAML mapping.")] = "case",
    reference: Annotated[
        str, typer.Option(help="The reference law; nested: the RVE that the surrogate was trained on.")
    ] = "nested",
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the results; default results/CASE_compare.")] = None,
) -> None:
    """Solve a case with two laws, and compare the solutions and their times. Runs in parallel under mpirun."""
    from mpi4py import MPI

    from femops.commands.compare import PICTURE, REPORT
    from femops.commands.compare import compare as compare_laws

    folder, comm = output or Path("results") / f"{case.stem}_compare", MPI.COMM_WORLD
    with bars(console, comm) as display:
        report = compare_laws(case, tuple(overrides or ()), (law, reference), folder, comm, display)
    report_comparison(console, report)
    console.print(f"Report: {folder / REPORT}; picture: {folder / PICTURE}", soft_wrap=True)
    _exit_if_missed(report["case"], report["quantities"]["law"], report["expected"])


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder that femops train wrote.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A file of data, or a study whose test samples are evaluated.")
    ],
    output: Annotated[Path | None, typer.Option(help="Folder of the results; default results/DATA_evaluate.")] = None,
) -> None:
    """Evaluate a trained solution operator on data: errors in a table, and pictures."""
    from mpi4py import MPI

    from femops.commands.evaluate import evaluate as evaluate_model

    folder, comm = output or Path("results") / f"{data.stem}_evaluate", MPI.COMM_WORLD
    with bars(console, comm, transient=True) as display:
        report = on_root(comm, lambda: evaluate_model(model, data, folder, stages(display)))
    report_evaluation(console, report["rows"])
    console.print(f"Report and pictures in {folder}", soft_wrap=True)


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or a law: '{law: spon, model: ...}'.")],
    to: Annotated[
        Kind,
        typer.Option(
            help="c: the law alone; mgis, umat: with the interface of MFront or Abaqus; torch, onnx: a program."
        ),
    ],
    corrections: Annotated[str | None, typer.Option(help="The law's parameter: auto, 0, 1, ..., adjoint.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write, which names the functions in C; default results/LAW_KIND.")
    ] = None,
) -> None:
    """Write a trained law as C source or as a program of torch or ONNX for other finite-element codes."""
    import yaml
    from mpi4py import MPI

    from femops.export.model import export_model, law_mapping

    def write() -> Path:
        mapping = law_mapping(model)
        if corrections is not None:
            mapping["corrections"] = yaml.safe_load(corrections)
        folder = output or Path("results") / f"{mapping.get('law')}_{to}"
        export_model(mapping, to, folder)
        return folder

    folder = on_root(MPI.COMM_WORLD, write)
    is_program = to in ("torch", "onnx")
    written = f"Program in {folder}" if is_program else f"Source in {folder}; build it with: make -C {folder}"
    console.print(written, soft_wrap=True)


@app.callback(invoke_without_command=True)
def _start(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    thread_count()  # refuses a wrong number before anything is solved
    if version:
        console.print(femops.__version__)
        raise typer.Exit


def _draw(case: Case, path: Path, folder: Path) -> Path | None:
    """Draw the last step; return the picture, or None if the case asks for none or has no such field."""
    field = case.output.picture
    if field is None:
        return None
    from femops.output.picture import picture, read_step

    dataset, heading = read_step(folder / f"{path.stem}.vtkhdf")
    if field not in [*dataset.point_data.keys(), *dataset.cell_data.keys()]:
        return None
    target = folder / f"{path.stem}.png"
    picture(dataset, field, target, title=case.title or heading)
    return target


def _exit_if_missed(case: str, quantities: dict[str, float], expected: dict[str, dict[str, Any]]) -> None:
    """Print the quantities that differ from their expected values; if there are any, exit with that code."""
    lines = missed(case, quantities, expected)
    for line in lines:
        errors.print(f"femops: {line}")
    if lines:
        raise typer.Exit(NOT_AS_EXPECTED)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; under mpirun only rank 0 prints."""
    from mpi4py import MPI

    console.quiet = errors.quiet = MPI.COMM_WORLD.rank != 0
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(exit_code(partial(app, args=given, standalone_mode=False), given))


if __name__ == "__main__":
    main()
