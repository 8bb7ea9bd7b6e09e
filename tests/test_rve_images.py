"""RVEs from images: every reader gives the same mesh, and bad images are refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pyvista
import tifffile
from command_line import NESTED, written
from PIL import Image

from femops import CaseError
from femops.law import LawContext
from femops.rve.solver import RVESolver, SolverOptions
from femops.rve.spec import RVE, RVEParameters, build_rve

Labels = npt.NDArray[np.uint8]
PHASES = {"matrix": {"law": "elastic", "K": 10.0, "G": 5.0}, "fibre": {"law": "elastic", "K": 90.0, "G": 40.0}}
LABELS = {"matrix": 0, "fibre": 255}


def labels(*shape: int) -> Labels:
    """Return a random image without symmetries."""
    return np.where(np.random.default_rng(1).random(shape) < 0.3, 255, 0).astype(np.uint8)


def write(path: Path, image: Labels) -> Path:
    """Write an image in the format of the suffix, without suffix as a folder of slices."""
    if not path.suffix:
        path.mkdir()
        for number, one in enumerate(image):
            Image.fromarray(one).save(path / f"slice_{number}.png")
    elif path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, image)
    elif path.suffix == ".nrrd":
        sizes = " ".join(map(str, image.shape[::-1]))
        head = f"NRRD0004\ntype: uint8\ndimension: {image.ndim}\nsizes: {sizes}\nencoding: raw\n\n"
        path.write_bytes(head.encode() + image.tobytes())
    elif path.suffix == ".vti":
        grid = pyvista.ImageData(dimensions=np.array([*image.shape[::-1], 0])[:3] + 1)
        grid.cell_data["label"] = image.ravel()
        grid.save(path)
    else:
        Image.fromarray(image).save(path)
    return path


def rve(file: Path, dim: int, **options: Any) -> RVE:
    block = {"image": {"file": str(file), "phases": LABELS, **options}, "phases": PHASES}
    return build_rve(RVEParameters.model_validate(block), LawContext(dim, file.parent))


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.vti", "a.nrrd", "a"])
def test_every_format_of_a_volume_has_its_phases_where_they_are(name: str, tmp_path: Path) -> None:
    image = labels(11, 4, 5)  # more than ten slices: slice 10 comes after slice 9
    found = rve(write(tmp_path / name, image), 3, spacing=[1.0, 2.0, 0.5]).discretisation
    lower, upper = found.mesh.bounds
    np.testing.assert_allclose(upper - lower, [5.0, 8.0, 5.5])
    for phase, label in LABELS.items():
        cells = found.mesh.cells[found.mesh.regions[phase]]
        places = (found.mesh.points[cells].mean(axis=1) - lower) / [1.0, 2.0, 0.5]
        x, y, z = np.floor(places).astype(int).T
        assert (image[z, y, x] == label).all()
        assert found.volume_fraction(found.phases.index(phase)) == pytest.approx((image == label).mean())


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.vti", "a.png", "a.bmp"])
def test_a_picture_is_a_plane_rve(name: str, tmp_path: Path) -> None:
    image = labels(5, 4)
    found = rve(write(tmp_path / name, image), 2, crop=[[1, 4], [0, 5]]).discretisation
    cropped = image[:, 1:4]
    centres = found.mesh.points[found.mesh.cells[found.mesh.regions["fibre"]]].mean(axis=1) - found.mesh.bounds[0]
    x, y = np.floor(centres).astype(int).T
    assert len(x) == (cropped == 255).sum() > 0
    assert (cropped[y, x] == 255).all()


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)])
def test_both_solvers_agree_on_images_of_odd_and_even_sizes(shape: tuple[int, ...], tmp_path: Path) -> None:
    one = rve(write(tmp_path / "a.npy", labels(*shape)), len(shape))
    sides = []
    for linear in ("fft", "pardiso"):
        solver = RVESolver(one.discretisation, one.phases, one.boundary, SolverOptions(1e-10, linear=linear))  # type: ignore[arg-type]
        strain = np.full((one.discretisation.n_s, 1), 0.01)
        sides.append(solver.solve(strain, solver.virgin_state(1)).stress)
    np.testing.assert_allclose(*sides, rtol=1e-12)


def test_pores_are_left_out_and_belong_to_the_volume(tmp_path: Path) -> None:
    image = np.zeros((6, 6), dtype=np.uint8)
    image[0, 0], image[2:4, 2:4], image[5, 3] = 99, 99, 255  # one pore at a corner of the cell
    file = write(tmp_path / "a.npy", image)
    found = rve(file, 2, phases=LABELS | {"void": 99})
    assert len(found.discretisation.mesh.cells) == 31
    assert found.discretisation.volume == 36.0
    solver = RVESolver(found.discretisation, found.phases)
    assert not solver.iterative
    stiffness = solver.solve(np.zeros((3, 1)), solver.virgin_state(1)).tangent[..., 0]
    soft = PHASES | {"soft": {"law": "elastic", "K": 1e-7, "G": 1e-7}}
    block = {"image": {"file": str(file), "phases": LABELS | {"soft": 99}}, "phases": soft}
    filled = build_rve(RVEParameters.model_validate(block), LawContext(2))
    with_soft = RVESolver(filled.discretisation, filled.phases)
    expected = with_soft.solve(np.zeros((3, 1)), with_soft.virgin_state(1)).tangent[..., 0]
    np.testing.assert_allclose(stiffness, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("a.npy", {"phases": {"matrix": 0}}, "phases: the image has the labels 255 without a phase; expected only 0"),
        ("a.npy", {"phases": LABELS | {"rim": 7}}, "phases: no pixel has a label of 'rim': [7]"),
        ("a.npy", {"crop": [[0, 3], [2, 9]]}, "crop: [2, 9] given, expected a range within [0, 5]"),
        ("a.npy", {"crop": [[0, 3]]}, "crop: 1 ranges for a 2D image; expected 2"),
        ("a.npy", {"spacing": [1.0]}, "spacing: 1 lengths for a 2D cell; expected one number or 2"),
        ("b.npy", {}, "no such file"),
        ("c.jpg", {}, "'.jpg' is no known image; expected .npy, .tif, .tiff, .png, .bmp, .vti, .nrrd or a folder"),
        ("d.tif", {}, "cannot be read as an image: "),
        ("e.npy", {}, "an array of 5 × 4 × 3 × 3 uint8 values; expected one number per pixel, in 2D or 3D"),
        ("f", {}, "the folder has no slices (.tif, .tiff, .png, .bmp)"),
    ],
)
def test_bad_images_are_refused_in_one_line(name: str, options: Any, problem: str, tmp_path: Path) -> None:
    write(tmp_path / "a.npy", labels(5, 4))
    write(tmp_path / "e.npy", labels(5, 4, 3, 3))
    (tmp_path / "f").mkdir()
    for empty in ("c.jpg", "d.tif"):
        (tmp_path / empty).write_bytes(b"nothing")
    with pytest.raises(CaseError) as error:
        rve(tmp_path / name, 2, **options)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("image") or name in str(error.value)


def test_a_case_reads_its_image_and_shows_its_phases(run: Callable[..., str], tmp_path: Path) -> None:
    image = labels(5, 4)
    write(tmp_path / "scan.tif", image)
    block = {"image": {"file": "scan.tif", "phases": LABELS}, "phases": PHASES}
    path = written(tmp_path, NESTED | {"material": {"law": "nested", "rve": block}})
    printed = " ".join(run("mesh", path, "--output", tmp_path / "meshes").split())
    assert f"({(image == 255).mean():.3f})" in printed
    picture = np.asarray(Image.open(tmp_path / "meshes" / "rve.png").convert("RGB")).reshape(-1, 3)
    blue, orange = ((picture == colour).all(axis=1).sum() for colour in ([31, 119, 180], [255, 127, 14]))
    assert blue / (blue + orange) == pytest.approx((image == 255).mean(), abs=0.03)


def test_pores_that_cover_opposite_faces_are_refused(tmp_path: Path) -> None:
    image = labels(6, 5)
    image[[0, -1]] = 99
    file = write(tmp_path / "a.npy", image)
    with pytest.raises(CaseError, match=r"image\.phases: void covers both faces normal to y, expected solid on one"):
        rve(file, 2, phases=LABELS | {"void": 99})
    assert len(rve(file, 2, phases=LABELS | {"void": 99}, crop=[[0, 5], [0, 5]]).discretisation.mesh.cells) == 20
