"""The files of a run: fields of every step, curves, summary, and RVE fields of chosen points."""

from pathlib import Path
from typing import Any

import numpy as np
from dolfinx.io import VTXWriter
from mpi4py import MPI

from femops import notation
from femops.errors import CaseError
from femops.macro.problem import MacroProblem
from femops.macro.stepping import StepReport
from femops.notation import Array
from femops.output.atomic import shielded
from femops.output.folder import CURVES, writing
from femops.output.gather import Gatherer
from femops.output.grid import Grid
from femops.output.points import write_points
from femops.output.tables import append_curve, write_curves
from femops.output.vtkhdf import VtkHdfSeries, tensor_components
from femops.parallel import on_every_rank, on_root


class Results:
    """Writes what a run leaves behind; after every step its files are complete.

    Fields are written at every `output.every`-th step and at the last one, which is the last accepted one where a run
    ends early; curves at every step.

    Args:
        problem: The macroscale problem.
        folder: Where the files go at first; see `settle`.
        name: Stem of the file of fields.
    """

    def __init__(self, problem: MacroProblem, folder: Path, name: str) -> None:
        self.problem, self.folder, self._name = problem, folder, name
        self._gatherer = Gatherer(problem)
        self._states_error = problem.material.states_error
        self._last, self._every = len(problem.case.steps.ends()), problem.case.output.every
        self._series = None
        if self._gatherer.grid is not None:
            room = -(-self._last // self._every)
            self._series = VtkHdfSeries(folder / f"{name}.vtkhdf", self._gatherer.grid, room)
        self._waiting: tuple[float, dict[str, Any], dict[str, Any]] | None = None
        self._begun = False
        self._vtx: VTXWriter | None = None

    def step(self, report: StepReport) -> None:
        """Write what is due of an accepted step; collective.

        Raises:
            CaseError: It cannot be written.
        """
        self._waiting = report.t, self._nodal(), self._cells()
        row, due = self._row(report), self.is_due(report)
        on_root(self.problem.comm, lambda: self._write_step(row, due))
        if self._vtx is not None and due:
            self._vtx.write(report.t)

    def is_due(self, report: StepReport) -> bool:
        """Tell whether the fields of a step are to be written."""
        return report.number % self._every == 0 or report.number == self._last

    def settle(self, folder: Path, t: float) -> None:
        """Go on in the folder that the files of the steps so far were moved to; collective.

        Args:
            folder: The folder.
            t: Time of the last step.
        """
        self.folder = folder
        if self._series is not None:
            self._series.path = folder / f"{self._name}.vtkhdf"
        if self.problem.case.output.vtx:
            # ADIOS2 comes back to a path, which therefore must not move.
            self._vtx = VTXWriter(
                self.problem.comm, folder / f"{self._name}.bp", [self.problem.displacement], engine="BP4"
            )
            self._vtx.write(t)

    def finish(self) -> None:
        """Write what belongs to the last step only; collective.

        Raises:
            CaseError: It cannot be written.
        """
        if self._vtx is not None:
            self._vtx.close()
        if self.problem.case.output.points:
            self._write_points()
        chosen = self._micro_points()
        on_every_rank(self.problem.comm, lambda: self._write_all_micro(chosen))

    def write_waiting(self) -> None:
        """Write the fields of the last accepted step, if they are not there yet; on the first rank, not collective."""
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
        wanted = self.problem.case.output.fields
        return {name: self._gatherer.nodes(function) for name, function in functions.items() if name in wanted}

    def _cells(self) -> dict[str, Any]:
        return {name: self._gatherer.cell_means(values) for name, values in self._point_fields().items()}

    def _point_fields(self) -> dict[str, Any]:
        """Return the wanted fields at the quadrature points of this rank."""
        problem = self.problem
        material, wanted = problem.material, problem.case.output.fields
        stress_33 = material.stress_33 if problem.case.dim == 2 else None
        fields: dict[str, Any] = {}
        if "strain" in wanted:
            fields["strain"] = tensor_components(problem.quadrature.strain())
        if "stress" in wanted:
            fields["stress"] = tensor_components(material.stress, stress_33)
        if "von_mises" in wanted:
            fields["von_mises"] = notation.von_mises(material.stress, stress_33)
        if "state" in wanted:
            for name, values in material.state_fields().items():
                one = values.shape[1] == 1
                fields[name] = values[:, 0] if one else values
        if "error" in wanted and self._states_error:
            fields["law_error"] = material.error
        return fields

    def _row(self, report: StepReport) -> dict[str, float]:
        problem, axes = self.problem, "xyz"[: self.problem.case.dim]
        row: dict[str, float] = {"step": report.number, "t": report.t}
        for name in problem.mesh.boundaries:
            displacement = problem.mean_displacement_of(name)
            row |= {f"{name}.u{axis}": float(value) for axis, value in zip(axes, displacement, strict=True)}
        for name, held in problem.case.prescribed().items():
            reaction = problem.reaction_on(name)
            row |= {f"{name}.f{axes[axis]}": float(reaction[axis]) for axis in held}
        return row

    def _write_points(self) -> None:
        coordinates = self._gatherer.points(self.problem.quadrature.coordinates())
        fields = {name: self._gatherer.points(values) for name, values in self._point_fields().items()}

        def write() -> None:
            with writing(self.folder):
                write_points(self.folder / "points.vtp", coordinates, fields)

        on_root(self.problem.comm, write)

    def _micro_points(self) -> list[tuple[Any, Any, Any, Any]]:
        """Return law, strain, state and coordinates of the chosen points; None where another rank has the point."""
        problem, comm = self.problem, self.problem.comm
        strain, x = problem.quadrature.strain(), problem.quadrature.coordinates()
        having = [region.points for region in problem.material.regions if hasattr(region.law, "micro_fields")]
        points = np.concatenate([np.empty(0, dtype=np.int64), *having])
        chosen = []
        for wanted in problem.case.output.micro:
            if wanted.at is not None:
                value, count = np.linalg.norm(x[points] - np.asarray(wanted.at), axis=1), 1
            else:
                value, count = -np.linalg.norm(strain[points], axis=1), wanted.count
            keys = _without_round_off(np.column_stack([value, x[points]]), comm)
            order = np.lexsort(keys.T[::-1])[:count]
            mine = [(tuple(keys[i]), comm.rank, int(points[i])) for i in order]
            best = sorted(one for part in comm.allgather(mine) for one in part)
            for _, owner, point in best[:count]:
                chosen.append(self._at_point(strain, x, point) if owner == comm.rank else (None,) * 4)
        return chosen

    def _at_point(self, strain: Any, x: Any, point: int) -> tuple[Any, Any, Any, Any]:
        for region in self.problem.material.regions:
            position = np.flatnonzero(region.points == point)
            if len(position):
                return region.law, strain[point], region.state[position[0]], x[point]
        raise ValueError(f"point {point} has no law")

    def _write_all_micro(self, chosen: list[tuple[Any, Any, Any, Any]]) -> None:
        with writing(self.folder):
            for number, point in enumerate(chosen):
                self._write_micro(number, *point)

    def _write_micro(self, number: int, law: Any, strain: Any, state: Any, at: Any) -> None:
        """Write the fields of one RVE, from the rank that has it."""
        if law is None:
            return
        fields = law.micro_fields(strain, state)
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
        time = self.problem.case.steps.ends()[-1]
        VtkHdfSeries(self.folder / f"micro_{number}_at_{place}.vtkhdf", Grid.from_mesh(rve.mesh)).append(
            time, nodal, cell_data
        )


def _without_round_off(columns: Array, comm: MPI.Comm) -> Array:
    """Return columns scaled and rounded, so that points tied by symmetry sort alike on any number of ranks."""
    largest = np.max(comm.allgather(np.abs(columns).max(axis=0, initial=0.0)), axis=0)
    return np.round(columns / np.where(largest > 0.0, largest, 1.0), 9)


def check_output(problem: MacroProblem) -> None:
    """Refuse output that a case asks for and that its laws and fields do not have.

    Raises:
        CaseError: No law has RVEs whose fields could be written, or there is no field for the picture.
    """
    wanted, regions = problem.case.output, problem.material.regions
    if wanted.micro and not any(hasattr(region.law, "micro_fields") for region in regions):
        laws = ", ".join(parameters.law for parameters in problem.case.laws().values())
        raise CaseError(f"no law of the case has RVEs whose fields could be written; laws: {laws}", key="output.micro")
    known = {"error": "law_error"}
    fields = [known.get(name, name) for name in wanted.fields if name != "state"]
    if "state" in wanted.fields:
        fields += [name for region in regions for name in region.law.state_fields]
    if wanted.picture is not None and wanted.picture not in fields:
        raise CaseError(f"no field {wanted.picture!r}; fields: {', '.join(fields)}", key="output.picture")
