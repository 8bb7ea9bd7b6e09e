"""VTK reads result files exactly as written; they are complete or absent after an interruption."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from result_files import read, series, two_cells
from vtkmodules.util.numpy_support import vtk_to_numpy

from femops.output.picture import picture, read_step
from femops.output.vtkhdf import VtkHdfSeries, tensor_components


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
from result_files import read, two_cells
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


def test_tensor_components_are_true_components_in_vtk_order() -> None:
    root2 = np.sqrt(2.0)
    solid = tensor_components([[1.0, 2.0, 3.0, 4.0 * root2, 5.0 * root2, 6.0 * root2]])
    assert np.allclose(solid, [[1, 2, 3, 6, 4, 5]], rtol=1e-15)
    plane = [[1.0, 2.0, 6.0 * root2], [7.0, 8.0, 9.0 * root2]]
    assert np.allclose(tensor_components(plane, [3.0, 4.0]), [[1, 2, 3, 6, 0, 0], [7, 8, 4, 9, 0, 0]], rtol=1e-15)
    assert (tensor_components(plane)[:, 2] == 0.0).all()
    with pytest.raises(ValueError, match="3D"):
        tensor_components(np.ones((1, 6)), [1.0])


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
