"""Result files are complete or absent, and VTK reads them exactly as written."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvista
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from PIL import Image
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOHDF import vtkHDFReader

from femops.errors import CaseError
from femops.meshing.cells import CELLS
from femops.meshing.tagged import TaggedMesh
from femops.output.atomic import atomic_path, shielded, write_text
from femops.output.comparison import Curve, draw_comparison
from femops.output.grid import Grid
from femops.output.picture import picture, read_step, view
from femops.output.points import write_points
from femops.output.tables import append_curve, write_curves, write_json
from femops.output.training_plots import draw_certificates, draw_curves, draw_errors
from femops.output.vtkhdf import VtkHdfSeries, tensor_components


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


@pytest.mark.parametrize("kind", ["quad", "triangle6", "quad9", "tetra10", "hexahedron20"])
def test_vtk_reads_every_step_exactly(tmp_path: Path, kind: str) -> None:
    path, grid = tmp_path / "macro.vtkhdf", two_cells(kind)
    written = series(path, grid)
    for step in (2, 0, 1):
        time, body = read(path, step)
        assert time == 0.25 * step
        assert np.array_equal(body.points, grid.points) and (body.celltypes == grid.cell_type).all()
        assert np.array_equal(vtk_to_numpy(body.GetCells().GetConnectivityArray()).reshape(2, -1), grid.cells)
        assert np.array_equal(body.point_data["displacement"][:, :2], written[step]["displacement"])
        assert not body.point_data["displacement"][:, 2].any()
        assert np.array_equal(body.point_data["error"], written[step]["error"])
        for name in ("stress", "von_mises", "phase"):
            assert np.array_equal(body.cell_data[name], written[step][name])


@pytest.mark.parametrize("broken", ["pwrite", "fdatasync"])
def test_interrupted_append_leaves_the_complete_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path, grid = tmp_path / "macro.vtkhdf", two_cells("quad")
    file = VtkHdfSeries(path, grid, 2)
    file.append(0.5, {"u": np.arange(8.0)})

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(OSError, match="disk full"):
            file.append(1.0, {"u": np.ones(8)})
    assert list(tmp_path.iterdir()) == [path]
    assert read_step(path)[1].endswith("step 0, t = 0.5")
    file.append(2.0, {"u": 2 * np.arange(8.0)})
    time, body = read(path, 1)
    assert time == 2.0 and np.array_equal(body.point_data["u"], 2 * np.arange(8.0))
    assert np.array_equal(read(path, 0)[1].point_data["u"], np.arange(8.0))


def test_a_failed_first_step_leaves_the_file_of_an_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, grid = tmp_path / "macro.vtkhdf", two_cells("quad")
    VtkHdfSeries(path, grid).append(0.5, {"u": np.arange(8.0)})
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            VtkHdfSeries(path, grid).append(1.0, {"u": np.ones(8)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


KILLED = """
import fcntl, os, random, signal, sys, time
from pathlib import Path
import h5py
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_output import read, two_cells
from femops.output.picture import read_step
from femops.output.vtkhdf import VtkHdfSeries

path, grid = Path(sys.argv[1]), two_cells("quad")

def work(n_steps):
    file = VtkHdfSeries(path, grid, n_steps)
    for step in range(1, n_steps + 1):
        file.append(0.5 * step, {"u": step * np.ones(8)}, {"stress": -step * np.ones((2, 6))})

def mortal(life):
    def counted(function):
        def call(*arguments, **keywords):
            nonlocal life
            life -= 1
            if life == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)
        return call
    for owner, name in ((os, "pwrite"), (os, "fdatasync"), (os, "replace"), (fcntl, "flock"), (h5py.File, "flush"),
                        (h5py.File, "__exit__"), (h5py.AttributeManager, "modify")):
        setattr(owner, name, counted(getattr(owner, name)))

def sound():
    if not path.exists():
        return 0
    heading = read_step(path)[1]
    count = int(heading.split("step ")[1].split(",")[0]) + 1
    assert heading.endswith(f"t = {0.5 * count:g}"), heading
    for step in {0, count // 2, count - 1}:
        time, body = read(path, step)
        assert count == 1 or time == 0.5 * (step + 1), (time, step, count)  # VTK knows no time of a single step
        assert (body.point_data["u"] == step + 1).all() and (body.cell_data["stress"] == -step - 1).all()
    return count

def killed(begin, seconds):
    path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        begin()
        os._exit(0)
    time.sleep(seconds)
    if seconds:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WIFEXITED(status), sound()

life, reached = 1, []
while True:
    ended, count = killed(lambda: (mortal(life), work(4)), 0.0)
    reached.append(count)
    if ended:
        break
    life += 1
assert sorted(reached) == reached and set(reached) == {0, 1, 2, 3, 4}, reached
random.seed(1)
print(life, *(killed(lambda: work(100_000), random.uniform(0.02, 0.25))[1] for _ in range(8)))
"""


def test_a_kill_at_any_moment_leaves_the_steps_that_were_complete(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "macro.vtkhdf"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    life, *reached = (int(word) for word in done.stdout.split())
    assert life > 30 and max(reached) > 4


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count what is written")
def test_every_step_costs_its_own_bytes_and_no_others(tmp_path: Path) -> None:
    def written_bytes() -> int:
        return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["wchar"])

    file, costs = VtkHdfSeries(tmp_path / "macro.vtkhdf", two_cells("quad"), 400), []
    for step in range(400):
        before = written_bytes()
        file.append(step, {"u": np.ones(8)}, {"stress": np.ones((2, 6))})
        costs.append(written_bytes() - before)
    own = 8 * (8 + 2 * 6 + 1)
    assert len(set(costs[1:])) == 1  # the first one makes the file
    assert own < costs[1] < own + 1024
    assert read_step(file.path)[1].endswith("step 399, t = 399")


def test_a_file_that_somebody_reads_is_written_all_the_same(tmp_path: Path) -> None:
    file = VtkHdfSeries(tmp_path / "macro.vtkhdf", two_cells("quad"), 3)
    file.append(0.0, {"u": np.ones(8)})
    with file.path.open("rb") as open_elsewhere:
        fcntl.flock(open_elsewhere, fcntl.LOCK_SH)  # as HDF5 does while it reads
        file.append(1.0, {"u": np.ones(8)})
    assert read_step(file.path)[1].endswith("step 1, t = 1")


def test_append_refuses_wrong_shapes_and_changed_fields(tmp_path: Path) -> None:
    file = VtkHdfSeries(tmp_path / "macro.vtkhdf", two_cells("quad"))
    with pytest.raises(ValueError, match=r"'u' has shape \(7,\), expected \(8,\)"):
        file.append(0.0, {"u": np.ones(7)})
    file.append(0.0, {"u": np.ones(8)})
    with pytest.raises(ValueError, match="fields of step 1"):
        file.append(1.0, {"v": np.ones(8)})
    with pytest.raises(ValueError, match="room for 1 steps"):
        file.append(1.0, {"u": np.ones(8)})


def test_ctrl_c_waits_for_the_end_of_a_shielded_block() -> None:
    reached = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with shielded():
            with shielded():
                signal.raise_signal(signal.SIGINT)
                reached.append("inner")
            reached.append("outer")
    assert reached == ["inner", "outer"] and signal.getsignal(signal.SIGINT) is before


def test_failed_write_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "σ₁₂\n")
    with pytest.raises(RuntimeError):
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert path.read_text(encoding="utf-8") == "σ₁₂\n" and list(path.parent.iterdir()) == [path]


def test_tensor_components_are_true_components_in_vtk_order() -> None:
    root2 = np.sqrt(2.0)
    solid = tensor_components([[1.0, 2.0, 3.0, 4.0 * root2, 5.0 * root2, 6.0 * root2]])
    assert np.allclose(solid, [[1, 2, 3, 6, 4, 5]], rtol=1e-15)
    plane = [[1.0, 2.0, 6.0 * root2], [7.0, 8.0, 9.0 * root2]]
    assert np.allclose(tensor_components(plane, [3.0, 4.0]), [[1, 2, 3, 6, 0, 0], [7, 8, 4, 9, 0, 0]], rtol=1e-15)
    assert (tensor_components(plane)[:, 2] == 0.0).all()
    with pytest.raises(ValueError, match="3D"):
        tensor_components(np.ones((1, 6)), [1.0])


def test_points_are_read_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    points, stress, error = rng.random((5, 2)), rng.random((5, 6)), rng.random(5)
    write_points(tmp_path / "points.vtp", points, {"stress": stress, "error": error}, {"error": "an estimate"})
    cloud = pyvista.read(tmp_path / "points.vtp")
    assert np.array_equal(cloud.points[:, :2], points) and cloud.n_verts == 5
    assert list(cloud.field_data["error"]) == ["an estimate"]
    assert np.array_equal(cloud.point_data["stress"], stress) and np.array_equal(cloud.point_data["error"], error)


def test_curves_have_the_union_of_columns_and_full_precision(tmp_path: Path) -> None:
    write_curves(tmp_path / "c.csv", [{"t": 0.0, "u": np.float64(0.1) + 0.2}, {"t": 1.0, "f": 1e-17}])
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["t", "u", "f"] and float(rows[0]["u"]) == 0.1 + 0.2
    assert rows[1]["u"] == "" and float(rows[1]["f"]) == 1e-17


def test_a_curve_grows_by_whole_lines(tmp_path: Path) -> None:
    rows = [{"step": 1, "u": 0.1 + 0.2}, {"step": 2, "u": -1e-17}]
    write_curves(tmp_path / "c.csv", rows[:1])
    append_curve(tmp_path / "c.csv", rows[1])
    write_curves(tmp_path / "at once.csv", rows)
    assert (tmp_path / "c.csv").read_bytes() == (tmp_path / "at once.csv").read_bytes()


AXES = {
    "loss.png": ("number of modes [-]", "loss [-]"),
    "error_over_strain.png": ("norm of the strain |E| [-]", "relative error [-]"),
    "bound_against_error.png": ("relative error of the stress [-]", "certificate [-]"),
    "compare.png": ("displacement [length]", "reaction [force]", "load step [-]", "relative difference [-]"),
    "field.png": ("x [length]", "y [length]", "von_mises [stress]"),
}


def test_axes_of_all_pictures_name_quantity_and_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, tuple[str, ...]] = {}
    save = Figure.savefig

    def noted(self: Figure, path: Path, **options: object) -> None:
        labels = [label for axes in self.axes for label in (axes.get_xlabel(), axes.get_ylabel()) if label]
        names[path.name.removeprefix(".partial-")] = tuple(labels)
        save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
    ones = np.linspace(0.1, 1.0, 4)
    draw_curves(tmp_path, "Loss", {"a": ones}, "number of modes")
    draw_errors(tmp_path, "strain", ones, {"stress": ones})
    draw_certificates(tmp_path, ones, {"bound": ones})
    curve = Curve("right, x", "reaction [force]", np.array([ones, ones]), np.array([ones, ones]))
    draw_comparison(tmp_path / "compare.png", [curve], {"stress": ones}, ("law", "reference"))
    picture(two_cells("quad").to_pyvista(cell_data={"von_mises": ones[:2]}), "von_mises", tmp_path / "field.png")
    assert names == AXES


def test_json_takes_numpy_values_and_writes_nan_as_null(tmp_path: Path) -> None:
    data = {"a": np.float32(0.5), "b": np.array([[1, 2]]), "c": [np.nan, np.inf], "d": Path("x"), "e": np.bool_(True)}
    write_json(tmp_path / "s.json", data)
    expected = {"a": 0.5, "b": [[1, 2]], "c": [None, None], "d": "x", "e": True}
    assert json.loads((tmp_path / "s.json").read_text()) == expected
    with pytest.raises(TypeError):
        write_json(tmp_path / "s.json", {"a": object()})
    assert json.loads((tmp_path / "s.json").read_text()) == expected


@pytest.mark.parametrize("kind", ["quad", "tetra10"])
def test_picture_shows_the_body_without_warnings(tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    grid = two_cells(kind)
    body = grid.to_pyvista({"displacement": 1e-3 * grid.points[:, ::-1]}, {"stress": np.arange(12.0).reshape(2, 6)})
    picture(body, "stress", tmp_path / "stress.png", title=kind)
    image = np.asarray(Image.open(tmp_path / "stress.png").convert("RGB"), dtype=float)
    assert image.shape[0] > 300 and (image == 255).all(-1).mean() < 0.95
    # The left cell carries the low end of the colour map (violet), the right cell the high end (yellow).
    yellow = np.argwhere((image[..., 0] > 150) & (image[..., 2] < 90))[:, 1].mean()
    violet = np.argwhere((image[..., 2] > 60) & (image[..., 1] < 45))[:, 1].mean()
    assert violet < yellow
    assert "stress" in body.cell_data and "WARN" not in "".join(capfd.readouterr())


def test_plane_bodies_have_the_colours_of_the_colour_bar(tmp_path: Path) -> None:
    body = two_cells("quad").to_pyvista(cell_data={"error": np.array([1.0, 2.0])})
    picture(body, "error", tmp_path / "error.png")
    image = np.asarray(Image.open(tmp_path / "error.png").convert("RGB"), dtype=float)
    for value in (0.0, 1.0):
        colour = 255 * np.array(colormaps["viridis"](value)[:3])
        # A cell is far larger than the end of the colour bar of the same colour.
        assert (np.abs(image - colour).max(-1) < 3).mean() > 0.1


@pytest.mark.parametrize("values", [np.zeros(2), np.full(2, 3.5), np.array([np.nan, 1.0]), np.full(2, np.nan)])
def test_picture_takes_constant_and_missing_values(tmp_path: Path, values: np.ndarray) -> None:
    picture(two_cells("quad").to_pyvista(cell_data={"error": values}), "error", tmp_path / "error.png")
    assert (tmp_path / "error.png").stat().st_size > 1000


def test_view_draws_each_field_once(tmp_path: Path) -> None:
    series(tmp_path / "macro.vtkhdf", two_cells("quad"))
    names = ["macro_displacement.png", "macro_error.png", "macro_phase.png", "macro_von_mises.png"]
    assert sorted(path.name for path in view(tmp_path)) == names
    assert view(tmp_path, ["stress"], step=0) == [tmp_path / "pictures" / "macro_stress.png"]


def test_view_says_what_is_missing_and_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="no results here"):
        view(tmp_path)
    series(tmp_path / "macro.vtkhdf", two_cells("quad"))
    with pytest.raises(CaseError, match="no field 'strian'; fields: displacement, error, phase, stress, von_mises"):
        view(tmp_path, ["strian"])
    with pytest.raises(CaseError, match="no step 3; the file has 3 steps"):
        view(tmp_path, step=3)


def test_a_single_step_keeps_its_time(tmp_path: Path) -> None:
    grid = two_cells("quad")
    VtkHdfSeries(tmp_path / "one.vtkhdf", grid).append(0.75, {}, {"phase": np.arange(2.0)})
    assert read_step(tmp_path / "one.vtkhdf")[1].endswith("step 0, t = 0.75")


@pytest.mark.parametrize("n_steps", [1, 3])
def test_vtk_reads_remarks_and_pictures_show_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_steps: int
) -> None:
    remarks = {"source": "nested solve", "von_mises": "not certified"}
    file = VtkHdfSeries(tmp_path / "one.vtkhdf", two_cells("quad"), n_steps, remarks)
    for step in range(n_steps):
        file.append(float(step), {}, {"von_mises": np.arange(2.0), "law_error": np.array([1.0, np.inf])})
    for step in range(n_steps):
        _, body = read(tmp_path / "one.vtkhdf", step)
        assert {name: list(body.field_data[name]) for name in remarks} == {
            name: [text] for name, text in remarks.items()
        }
    labels: list[str] = []
    titles: list[str] = []
    monkeypatch.setattr(Colorbar, "set_label", lambda self, label, **_: labels.extend([label] if label else []))
    monkeypatch.setattr(Axes, "set_title", lambda self, label, **_: titles.append(label))
    for name in ("von_mises", "law_error"):
        dataset, heading = read_step(tmp_path / "one.vtkhdf")
        picture(dataset, name, tmp_path / "picture.png")
        assert heading.endswith("nested solve")
    assert labels == ["von_mises [stress]", "law_error [-], infinite at 1 of 2"]
    assert [title.partition("\n")[2] for title in titles] == ["von_mises not certified", ""]
