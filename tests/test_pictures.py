"""Pictures show what the files contain, with names and units."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from result_files import series, two_cells

from femops.errors import CaseError
from femops.output.comparison import Curve, draw_comparison
from femops.output.picture import picture, view
from femops.output.training_plots import draw_certificates, draw_curves, draw_errors

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


def test_curves_of_a_comparison_carry_the_name_of_their_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, np.ndarray] = {}

    def noted(self: Figure, path: Path, **options: object) -> None:
        drawn.update({str(line.get_label()): line.get_xydata().T for axes in self.axes for line in axes.lines})
        path.touch()

    monkeypatch.setattr(Figure, "savefig", noted)
    law, reference = np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([[0.0, 1.5], [0.0, 3.0]])
    curve = Curve("right, x", "reaction [force]", law, reference)
    draw_comparison(tmp_path / "compare.png", [curve], {"stress": [0.1, 0.2]}, ("spon", "nested"))
    assert set(drawn) == {"right, x, spon", "right, x, nested", "stress"}
    np.testing.assert_array_equal(drawn["right, x, spon"], law)
    np.testing.assert_array_equal(drawn["right, x, nested"], reference)
    np.testing.assert_array_equal(drawn["stress"], [[1, 2], [0.1, 0.2]])


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


def test_the_compiler_of_torch_loads_after_a_picture(tmp_path: Path) -> None:
    """The renderer of pictures and Triton bring different versions of LLVM."""
    program = (
        "import femops.stack, pyvista\n"
        "plotter = pyvista.Plotter(off_screen=True)\n"
        "plotter.add_mesh(pyvista.Sphere())\n"
        "plotter.screenshot('sphere.png')\n"
        "from femops.devices.torch_library import torch\n"
        "import importlib.util\n"
        "importlib.util.find_spec('triton') and importlib.import_module('triton._C.libtriton')\n"
        "print('loaded')\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "loaded\n", done.stderr


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
