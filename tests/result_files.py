"""Small result files shared by the tests."""

from pathlib import Path

import numpy as np
import pyvista
from vtkmodules.vtkIOHDF import vtkHDFReader

from femops.meshing.cells import CELLS
from femops.meshing.tagged import TaggedMesh
from femops.output.grid import Grid
from femops.output.vtkhdf import VtkHdfSeries


def two_cells(kind: str) -> Grid:
    """Return two separate cells of a kind side by side."""
    cell = CELLS[kind]
    nodes = np.vstack([cell.nodes, cell.nodes + 1.5 * np.eye(cell.dim)[0]])
    return Grid.from_mesh(TaggedMesh(nodes, np.arange(2 * cell.n_nodes).reshape(2, -1), cell))


def series(path: Path, grid: Grid, n_steps: int = 3) -> list[dict[str, np.ndarray]]:
    """Write steps of random fields and return them."""
    rng = np.random.default_rng(7)
    file, written = VtkHdfSeries(path, grid, n_steps), []
    for step in range(n_steps):
        point = {
            "displacement": 0.1 * rng.normal(size=(len(grid.points), 2)),
            "error": rng.normal(size=len(grid.points)),
        }
        cell = {"stress": rng.normal(size=(2, 6)), "von_mises": rng.random(2), "phase": np.array([step, 4])}
        file.append(0.25 * step, point, cell)
        written.append(point | cell)
    return written


def read(path: Path, step: int) -> tuple[float, pyvista.UnstructuredGrid]:
    """Read a step with VTK's own reader."""
    reader = vtkHDFReader()
    reader.SetFileName(str(path))
    reader.UpdateInformation()
    reader.SetStep(step)
    reader.Update()
    return reader.GetTimeValue(), pyvista.wrap(reader.GetOutput())
