"""Output of a run: fields of the steps, curves, and RVE fields at chosen points."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dolfinx.io import VTXWriter
from mpi4py import MPI

from femops import notation
from femops.inputs.case import Case
from femops.law import ExactMicroscaleLaw, MicroscaleLaw
from femops.macro.analysis import ReactionOn
from femops.macro.error_bars import Corrected, ErrorBar
from femops.macro.gather import Gatherer
from femops.macro.problem import MacroProblem
from femops.macro.region import Region
from femops.macro.stepping import StepReport
from femops.notation import Array
from femops.output.atomic import shielded
from femops.output.folder import CURVES, writing
from femops.output.grid import Grid
from femops.output.points import write_points
from femops.output.tables import append_curve, write_curves
from femops.output.vtkhdf import VtkHdfSeries, tensor_components
from femops.parallel import on_every_rank, on_root

_NESTED = "nested solve"


class _MicroPoint(NamedTuple):
    """A point whose RVE is written: region, index in the region, strain (n_s,) and coordinates (dim,)."""

    region: Region
    position: int
    strain: Array
    at: Array


class Results:
    """Writes the results of a run; after every step the files are complete.

    Curves are written at every step, fields at every `output.every`-th step and at the last accepted one. `bars` holds
    the error bars of the quantities at the last accepted step.

    Args:
        case: The case.
        problem: Its macroscale problem.
        folder: Initial folder of the files; see `settle`.
        name: Stem of the field file.
    """

    def __init__(self, case: Case, problem: MacroProblem, folder: Path, name: str) -> None:
        self.case, self.problem, self.folder, self._name = case, problem, folder, name
        self._gatherer = Gatherer(problem)
        self._states_error = problem.material.states_error
        certified = problem.material.statistics.certificate is not None
        self._barred = {name: quantity.result() for name, quantity in case.quantities.items()} if certified else {}
        self.bars: Mapping[str, ErrorBar] = {}
        self._last, self._every = len(problem.analysis.steps.ends), case.output.every
        self._series = None
        if self._gatherer.grid is not None:
            room = -(-self._last // self._every)
            self._series = VtkHdfSeries(folder / f"{name}.vtkhdf", self._gatherer.grid, room, remarks(case, problem))
        self._waiting: tuple[float, dict[str, Any], dict[str, Any]] | None = None
        self._begun = False
        self._vtx: VTXWriter | None = None

    def step(self, report: StepReport) -> None:
        """Write the output due at an accepted step; collective.

        Raises:
            CaseError: A file cannot be written.
        """
        if self._barred:
            with self.problem.timers.part("error bars"):
                self.bars = self.problem.error_bars.of(self._barred)
        self._waiting = report.t, self._nodal(), self._cells()
        row, due = self._row(report), self.is_due(report)
        on_root(self.problem.comm, lambda: self._write_step(row, due))
        if self._vtx is not None and due:
            self._vtx.write(report.t)

    def corrected(self, quantities: Mapping[str, float]) -> dict[str, Corrected]:
        """Return the quantities of the last step, corrected if the case asks for it; collective.

        Raises:
            NotConverged: A point could not be solved exactly.
        """
        trust = self.problem.analysis.trust
        if trust is None or not trust.correct or not self._barred:
            return {}
        with self.problem.timers.part("error bars"):
            return self.problem.error_bars.corrected(self._barred, quantities, trust.correct)

    def is_due(self, report: StepReport) -> bool:
        """Return whether the fields of a step are to be written."""
        return report.number % self._every == 0 or report.number == self._last

    def settle(self, folder: Path, report: StepReport) -> None:
        """Continue in the folder to which the files of the first step were moved; collective.

        Args:
            folder: The folder.
            report: The first step.
        """
        self.folder = folder
        if self._series is not None:
            self._series.path = folder / f"{self._name}.vtkhdf"
        if self.case.output.vtx:
            # ADIOS2 reopens its path, which therefore must not be moved.
            self._vtx = VTXWriter(
                self.problem.comm, folder / f"{self._name}.bp", [self.problem.displacement], engine="BP4"
            )
            if self.is_due(report):
                self._vtx.write(report.t)

    def close(self) -> None:
        """Close the files that are open; collective."""
        if self._vtx is not None:
            self._vtx.close()
            self._vtx = None

    def finish(self) -> list[dict[str, Any]]:
        """Write the output of the last step; return file, location and source of the RVE fields; collective.

        Raises:
            CaseError: A file cannot be written.
        """
        self.close()
        if self.case.output.points:
            self._write_points()
        chosen = self._micro_points()
        mine = on_every_rank(self.problem.comm, lambda: self._write_all_micro(chosen))
        written = [one for part in self.problem.comm.allgather(mine) for one in part]
        return [entry for _, entry in sorted(written, key=lambda one: one[0])]

    def write_waiting(self) -> None:
        """Write the fields of the last accepted step if still pending; on rank 0, not collective."""
        if self._series is not None and self._waiting is not None:
            with shielded():
                self._series.append(*self._waiting)
                self._waiting = None

    def _write_step(self, row: dict[str, float], due: bool) -> None:
        with writing(self.folder):
            if due:
                self.write_waiting()
            if self._begun:
                append_curve(self.folder / CURVES, row)
            else:
                write_curves(self.folder / CURVES, [row])
                self._begun = True

    def _nodal(self) -> dict[str, Any]:
        functions = {"displacement": self.problem.displacement, "reaction": self.problem.reaction}
        wanted = self.case.output.fields
        return {name: self._gatherer.nodes(function) for name, function in functions.items() if name in wanted}

    def _cells(self) -> dict[str, Any]:
        fields = {name: self._gatherer.cell_means(values) for name, values in self._point_fields()}
        if "error" in self.case.output.fields:
            for name, bar in self.bars.items():
                fields[f"error_bar_{name}"] = self._gatherer.cell_sums(bar.contribution)
        return fields

    def _point_fields(self) -> Iterator[tuple[str, Any]]:
        """Yield name and values of the requested fields at the quadrature points of this rank, one by one."""
        problem = self.problem
        material, wanted = problem.material, self.case.output.fields
        stress_33 = material.stress_33 if problem.dim == 2 else None
        if "strain" in wanted:
            yield "strain", tensor_components(problem.quadrature.strain())
        if "stress" in wanted:
            yield "stress", tensor_components(material.stress, stress_33)
        if "von_mises" in wanted:
            yield "von_mises", notation.von_mises(material.stress, stress_33)
        if "state" in wanted:
            for name, values in material.state_fields().items():
                yield name, values[:, 0] if values.shape[1] == 1 else values
        if "error" in wanted and self._states_error:
            yield "law_error", material.error

    def _row(self, report: StepReport) -> dict[str, float]:
        problem, axes = self.problem, "xyz"[: self.problem.dim]
        row: dict[str, float] = {"step": report.number, "t": report.t}
        for name in problem.mesh.boundaries:
            displacement = problem.mean_displacement_of(name)
            row |= {f"{name}.u{axis}": float(value) for axis, value in zip(axes, displacement, strict=True)}
        for name, held in problem.analysis.prescribed().items():
            reaction = problem.reaction_on(name)
            row |= {f"{name}.f{axes[axis]}": float(reaction[axis]) for axis in held}
            if self.case.output.error_bars:
                bars = problem.error_bars.of({f"{name}.f{axes[axis]}": ReactionOn(name, axis) for axis in held})
                row |= {f"{force}.error_bar": bar.width for force, bar in bars.items()}
        return row

    def _write_points(self) -> None:
        coordinates = self._gatherer.points(self.problem.quadrature.coordinates())
        fields = {name: self._gatherer.points(values) for name, values in self._point_fields()}

        def write() -> None:
            with writing(self.folder):
                write_points(self.folder / "points.vtp", coordinates, fields, remarks(self.case, self.problem))

        on_root(self.problem.comm, write)

    def _micro_points(self) -> list[_MicroPoint | None]:
        """Return the chosen points; None for points of other ranks."""
        problem, comm = self.problem, self.problem.comm
        if not self.case.output.micro:
            return []
        strain, x = problem.quadrature.strain(), problem.quadrature.coordinates()
        having = [region.points for region in problem.material.regions if isinstance(region.law, MicroscaleLaw)]
        points = np.concatenate([np.empty(0, dtype=np.int64), *having])
        chosen = []
        for wanted in self.case.output.micro:
            if wanted.at is not None:
                value, count = np.linalg.norm(x[points] - np.asarray(wanted.at), axis=1), 1
            else:
                value, count = -np.linalg.norm(strain[points], axis=1), wanted.count
            keys = _without_round_off(np.column_stack([value, x[points]]), comm)
            order = np.lexsort(keys.T[::-1])[:count]
            mine = [(tuple(keys[i]), comm.rank, int(points[i])) for i in order]
            best = sorted(one for part in comm.allgather(mine) for one in part)
            for _, owner, point in best[:count]:
                chosen.append(self._at_point(strain, x, point) if owner == comm.rank else None)
        return chosen

    def _at_point(self, strain: Array, x: Array, point: int) -> _MicroPoint:
        for region in self.problem.material.regions:
            position = np.flatnonzero(region.points == point)
            if len(position):
                return _MicroPoint(region, int(position[0]), strain[point], x[point])
        raise ValueError(f"point {point} has no law")

    def _write_all_micro(self, chosen: list[_MicroPoint | None]) -> list[tuple[int, dict[str, Any]]]:
        """Write the fields of the RVEs on this rank; return their numbers and descriptions."""
        mine = [(number, one) for number, one in enumerate(chosen) if one is not None]
        with writing(self.folder):
            return [(number, self._write_micro(number, *one)) for number, one in mine]

    def _write_micro(self, number: int, region: Region, position: int, strain: Array, at: Array) -> dict[str, Any]:
        """Write the fields of one RVE, consistent with the stored response."""
        law, state, solved = region.law, region.state[position], bool(region.reason[position])
        if solved and isinstance(law, ExactMicroscaleLaw):
            fields, source = law.exact_micro_fields(strain, state), _NESTED
        else:
            assert isinstance(law, MicroscaleLaw)  # other points are not chosen
            fields, source = law.micro_fields(strain, state), self._source(region)
            source += " (the point was solved exactly, its law has no fields of that)" if solved else ""
        rve = law.rve.discretisation
        phase = np.empty(len(rve.mesh.cells), dtype=np.int32)
        for position, cells in enumerate(rve.cells_of_phase):
            phase[cells] = position
        cell_data: dict[str, Any] = {
            "strain": tensor_components(fields.strain),
            "stress": tensor_components(fields.stress, fields.stress_33),
            "von_mises": notation.von_mises(fields.stress, fields.stress_33),
            "phase": phase,
        }
        nodal = {"displacement": fields.displacement, "fluctuation": fields.fluctuation}
        place = "_".join(f"{value:g}" for value in at)
        file, time = f"micro_{number}_at_{place}.vtkhdf", self.problem.analysis.steps.ends[-1]
        series = VtkHdfSeries(self.folder / file, Grid.from_mesh(rve.mesh), remarks={"source": source})
        series.append(time, nodal, cell_data)
        return {"file": file, "at": at, "source": source}

    def _source(self, region: Region) -> str:
        """Return the source of the RVE fields of a region's law."""
        parameters = self.case.laws()[region.name]
        if parameters.law == "nested":
            return _NESTED
        corrections = getattr(parameters, "corrections", None)
        return parameters.law if corrections is None else f"{parameters.law}, corrections: {corrections}"


def remarks(case: Case, problem: MacroProblem) -> dict[str, str]:
    """Return remarks on result fields, by field name."""
    shown = "von_mises" in case.output.fields and problem.dim == 2
    if shown and problem.material.statistics.certificate is not None:
        return {"von_mises": "uses stress_33, which the certificate does not cover"}
    return {}


def _without_round_off(columns: Array, comm: MPI.Comm) -> Array:
    """Return columns scaled and rounded, so that the order of symmetric points does not depend on the ranks."""
    largest = np.max(comm.allgather(np.abs(columns).max(axis=0, initial=0.0)), axis=0)
    return np.round(columns / np.where(largest > 0.0, largest, 1.0), 9)
