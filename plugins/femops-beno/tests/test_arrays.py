"""The published array layout: what is written is read again, exchanged coordinates, and damaged files."""

import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spl

from femops.errors import CaseError
from femops_beno.poisson.arrays import at_centres, read_samples, write_samples
from femops_beno.poisson.generate import random_sample
from femops_beno.poisson.options import PoissonShapes, Shape
from femops_beno.poisson.shapes import cut_square

PARTS = ("RHS", "SOL", "BC")
SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))


def samples(count, length=0.3, corners=4, **changes):
    block = PoissonShapes(shapes=(Shape(corners=corners),), length=length, resolution=24, **changes)
    return [random_sample(block.shapes[0], block, 1, i) for i in range(count)]


def relative(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def finite_differences(m, number, n_cuts=3):
    """Return arrays in the published layout, of Δu = f by finite differences at the centres of cells."""
    inside = cut_square(np.random.default_rng(number), n_cuts, m)
    centres = (np.stack(np.divmod(np.arange(m * m), m), axis=1) + 0.5) / m

    def exact_boundary(x, y):
        return np.sin(3.0 * x + y) + y**2

    source = np.cos(4.0 * centres[:, 0]) * (1.0 + centres[:, 1])
    index = np.full((m, m), -1)
    index[inside] = np.arange(inside.sum())
    entries, load, boundary = [], source.reshape(m, m)[inside] / m**2, []
    for a, b in np.argwhere(inside):
        i = index[a, b]
        for dx, dy in SIDES:
            p, q = a + dx, b + dy
            if 0 <= p < m and 0 <= q < m and inside[p, q]:
                entries += [(i, i, -1.0), (i, index[p, q], 1.0)]
            else:
                x, y = (a + 0.5 + dx / 2) / m, (b + 0.5 + dy / 2) / m
                entries.append((i, i, -2.0))
                load[i] -= 2.0 * exact_boundary(x, y)
                boundary.append((x, y, exact_boundary(x, y), np.nan))
    rows, columns, values = zip(*entries, strict=True)
    solution = np.zeros((m, m))
    solution[inside] = spl.spsolve(sp.coo_array((values, (rows, columns))).tocsr(), load)
    rhs = np.column_stack([centres, source, np.where(inside.ravel(), 0, 1)])
    return rhs[None], solution.reshape(1, -1, 1), np.array(boundary)[None]


def stored(folder, arrays, name="x"):
    for part, array in zip(PARTS, arrays, strict=True):
        np.save(folder / f"{part}_{name}.npy", array)
    return folder / f"SOL_{name}.npy"


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize(("n_cuts", "rate"), [(0, 2.0), (3, 4 / 3)], ids=["square", "re-entrant corners"])
def test_given_solutions_by_finite_differences_are_met_with_the_rate_of_theory(tmp_path, exchanged, n_cuts, rate):
    errors, sizes = [], (16, 32, 64)
    for m in sizes:
        rhs, solution, boundary = finite_differences(m, 5, n_cuts)
        order = [1, 0, 2, 3] if exchanged else [0, 1, 2, 3]
        (sample,) = read_samples(stored(tmp_path, (rhs, solution, boundary[:, :, order])))
        assert sample.shape == f"corners {n_cuts}"
        errors.append(relative(at_centres(sample.system.mesh, sample.system.solution), sample.given))
    assert errors[0] < 0.01
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(-rate, abs=0.1)


def test_exchanged_coordinates_are_found_on_a_whole_square_too(tmp_path):
    given = samples(2, corners=0)
    file = tmp_path / "RHS_x.npy"
    write_samples(file, given)
    boundary = np.load(tmp_path / "BC_x.npy")
    expected = read_samples(file)[1].system.lifting
    np.save(tmp_path / "BC_x.npy", boundary[:, :, [1, 0, 2, 3]])
    np.testing.assert_array_equal(read_samples(file)[1].system.lifting, expected)


@pytest.mark.parametrize("name", ["RHS_x.npy", "BC_x.npy", "x.npz", "x.zip"])
def test_written_samples_are_read_again(tmp_path, name):
    given = samples(3)
    write_samples(tmp_path / name, given)
    for one, other in zip(given, read_samples(tmp_path / name), strict=True):
        assert one.shape == other.shape
        np.testing.assert_array_equal(one.system.mesh.points, other.system.mesh.points)
        np.testing.assert_allclose(one.source[one.system.mesh.cells].mean(axis=1), other.source, atol=1e-12)
        np.testing.assert_allclose(at_centres(one.system.mesh, one.system.solution), other.given, atol=1e-14)
        assert relative(other.system.solution, one.system.solution) < 0.03


def test_what_was_read_is_written_without_loss_but_for_the_boundary_values(tmp_path):
    arrays = finite_differences(16, 2)
    write_samples(tmp_path / "again.npz", read_samples(stored(tmp_path, arrays)))
    with np.load(tmp_path / "again.npz") as again:
        inside = arrays[0][0, :, 3] == 0
        np.testing.assert_allclose(again["RHS"][0, inside], arrays[0][0, inside], atol=1e-14)
        np.testing.assert_allclose(again["SOL"], arrays[1], atol=1e-14)
        assert again["BC"].shape == arrays[2].shape


def test_cells_outside_have_the_number_of_their_corner(tmp_path):
    write_samples(tmp_path / "x.npz", samples(2))
    with np.load(tmp_path / "x.npz") as arrays:
        for state in arrays["RHS"][:, :, 3].reshape(2, 24, 24):
            assert state[[0, -1, 0, -1], [0, 0, -1, -1]].tolist() == [1, 2, 3, 4]
            assert state[12, 12] == 0


def test_an_archive_may_hold_several_triples_and_other_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, name in enumerate(("N16_3c", "N16_x")):
            stored(tmp_path, finite_differences(16, number), name)
            for part in PARTS:
                archive.write(tmp_path / f"{part}_{name}.npy", f"data/{part}_{name}.npy")
                archive.writestr(f"__MACOSX/data/._{part}_{name}.npy", b"no array")
        archive.writestr("data/readme.txt", "text")
    assert len(read_samples(tmp_path / "all.zip")) == 2


def damage(folder, how):
    rhs, solution, boundary = finite_differences(16, 1)
    file = stored(folder, (rhs, solution, boundary))
    path = folder / "RHS_x.npy"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "text":
        path.write_text("no array")
    elif how == "missing":
        path.unlink()
    elif how == "pickled":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif how == "complex":
        np.save(path, rhs.astype(complex))
    elif how == "short":
        np.save(path, rhs[:, :-1])
    elif how == "columns":
        np.save(folder / "SOL_x.npy", solution[:, :, 0])
    elif how == "count":
        np.save(folder / "BC_x.npy", np.repeat(boundary, 2, axis=0))
    elif how == "nan":
        solution[0, 3] = np.nan
        np.save(folder / "SOL_x.npy", solution)
    elif how == "off":
        rhs[0, 7, 0] += 0.3 / 16
        np.save(path, rhs)
    elif how == "twice":
        rhs[0, 7, :2] = rhs[0, 8, :2]
        np.save(path, rhs)
    elif how == "gap":
        boundary[0, 0] = boundary[0, 1]
        np.save(folder / "BC_x.npy", boundary)
    elif how == "outside":
        rhs[:, :, 3] = 1.0
        np.save(path, rhs)
    return file


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "RHS_x.npy: cannot be read"),
        ("text", "RHS_x.npy: cannot be read"),
        ("missing", "RHS_x.npy: does not exist"),
        ("pickled", "RHS_x.npy: cannot be read"),
        ("complex", "RHS_x.npy: an array of complex128 given, expected numbers"),
        ("short", "RHS: shape (1, 255, 4) given, expected (n, m², 4)"),
        ("columns", "SOL: shape (1, 256) given, expected (1, 256, 1)"),
        ("count", "BC: shape (2, 64, 4) given, expected (1, n_b, 4)"),
        ("nan", "SOL: NaN or infinite in sample 0"),
        ("off", "sample 0.RHS: point"),
        ("twice", "sample 0.RHS: points given that are not the centres of all cells of a 16 × 16 grid"),
        ("gap", "sample 0.BC: no value at"),
        ("outside", "sample 0.RHS: no cell is inside the domain"),
    ],
)
def test_damaged_data_are_refused_in_one_line(tmp_path, how, message):
    file = damage(tmp_path, how)
    with pytest.raises(CaseError) as caught:
        read_samples(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_archives_that_are_none_or_hold_no_triple_are_refused_in_one_line(tmp_path):
    write_samples(tmp_path / "good.npz", samples(1))
    content = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    middle = len(content) // 3
    (tmp_path / "flipped.npz").write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "two.npz", RHS=np.zeros(3), SOL=np.zeros(3))
    (tmp_path / "data.txt").write_text("")
    expected = {"cut.npz": "cannot be read", "other.npz": "holds no arrays", "two.npz": "no BC beside"}
    expected |= {"flipped.npz": "cannot be read", "data.txt": "is named data.txt, expected RHS_NAME.npy"}
    for name, message in expected.items():
        with pytest.raises(CaseError) as caught:
            read_samples(tmp_path / name)
        assert message in str(caught.value) and str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("boundary", ["mixed", "neumann"])
def test_problems_that_the_layout_cannot_hold_are_not_written(tmp_path, boundary):
    with pytest.raises(CaseError, match="expected quadrilaterals and u on the boundary"):
        write_samples(tmp_path / "x.npz", samples(1, boundary=boundary))
    assert not list(tmp_path.iterdir())
