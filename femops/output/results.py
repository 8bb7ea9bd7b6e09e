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
from femops.output.gather import Gatherer
from femops.output.grid import Grid
from femops.output.points import write_points
from femops.output.tables import write_curves
from femops.output.vtkhdf import VtkHdfSeries, tensor_components
from femops.parallel import on_every_rank


class Results:
    """Writes what a run leaves behind; after every step all files are complete.

    Args:
        problem: The macroscale problem.
        folder: Where the files go.
        name: Stem of the file of fields.
    """

    def __init__(self, problem: MacroProblem, folder: Path, name: str) -> None:
        self.problem, self.folder = problem, folder
        self._gatherer = Gatherer(problem)
        self._root = problem.comm.rank == 0
        self._rows: list[dict[str, float]] = []
        self._states_error = problem.material.states_error
        self._series = None
        if self._gatherer.grid is not None:
            self._series = VtkHdfSeries(folder / f"{name}.vtkhdf", self._gatherer.grid)
        self._vtx = None
        if problem.case.output.vtx:
            self._vtx = VTXWriter(problem.comm, folder / f"{name}.bp", [problem.displacement], engine="BP4")

    def step(self, report: StepReport) -> None:
        """Write the fields and the curves of an accepted step; collective."""
        nodal, cells = self._nodal(), self._cells()
        if self._series is not None:
            self._series.append(report.t, nodal, cells)
        if self._vtx is not None:
            self._vtx.write(report.t)
        self._rows.append(self._row(report))
        if self._root:
            write_curves(self.folder / "curves.csv", self._rows)

    def finish(self) -> None:
        """Write what belongs to the last step only; collective."""
        if self._vtx is not None:
            self._vtx.close()
        if self.problem.case.output.points:
            self._write_points()
        chosen = self._micro_points()
        on_every_rank(self.problem.comm, lambda: self._write_all_micro(chosen))

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
        if self._root:
            write_points(self.folder / "points.vtp", coordinates, fields)

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
        time = self._rows[-1]["t"]
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
