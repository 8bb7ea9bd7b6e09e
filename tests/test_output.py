"""Files are complete or absent; tables and JSON keep every digit."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import pyvista

from femops.output.atomic import atomic_path, shielded, write_text
from femops.output.points import write_points
from femops.output.tables import append_curve, write_curves, write_json


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


def test_the_content_is_on_disk_before_it_replaces_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    replace = os.replace

    def replaced(old: Path, new: Path) -> None:
        calls.append(("replace", os.stat(old).st_ino))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(("fsync", os.fstat(handle).st_ino)))
    monkeypatch.setattr(os, "replace", replaced)
    write_text(tmp_path / "a.txt", "text")
    inode = (tmp_path / "a.txt").stat().st_ino
    assert calls == [("fsync", inode), ("replace", inode)]


def test_failed_write_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "σ₁₂\n")
    with pytest.raises(RuntimeError):
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert path.read_text(encoding="utf-8") == "σ₁₂\n" and list(path.parent.iterdir()) == [path]


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


def test_json_takes_numpy_values_and_writes_nan_as_null(tmp_path: Path) -> None:
    data = {"a": np.float32(0.5), "b": np.array([[1, 2]]), "c": [np.nan, np.inf], "d": Path("x"), "e": np.bool_(True)}
    write_json(tmp_path / "s.json", data)
    expected = {"a": 0.5, "b": [[1, 2]], "c": [None, None], "d": "x", "e": True}
    assert json.loads((tmp_path / "s.json").read_text()) == expected
    with pytest.raises(TypeError):
        write_json(tmp_path / "s.json", {"a": object()})
    assert json.loads((tmp_path / "s.json").read_text()) == expected
