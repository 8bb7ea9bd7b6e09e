"""The law as C source: equal to femops', from anisotropic RVEs, so that exchanged shears cannot hide."""

import copy
import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from compiled import COMPILERS, STRICT, CLaw, built, exported, ran, symbols
from equino_cases import HOSTILE, RANGE

from femops import CaseError, load_law
from femops.rve.sampling import sobol
from femops_equino.export import c_source

PATHS = ["auto", 0, 1, 4, "adjoint"]
EVERY_FUNCTION = ["auto", "adjoint"]  # paths that use them together
SANITIZERS = {"gcc": "address,undefined", "clang": "undefined"}  # ziglang has no runtime for the other
_POOR = 9e-3  # above, femops may find a better stress


@pytest.fixture(scope="module", params=[2, 3])
def dim(request):
    return request.param


@pytest.fixture(scope="module")
def model(anisotropic, dim):
    return anisotropic[dim]


@pytest.fixture(scope="module", params=PATHS)
def both(request, model, dim, compiler, tmp_path_factory):
    """The law in femops and in C."""
    corrections = request.param
    law = load_law({"law": "equino", "model": str(model), "corrections": corrections, "device": "cpu"}, dim=dim)
    folder = exported(model, tmp_path_factory.mktemp("export") / f"law_{corrections}", corrections=corrections)
    return SimpleNamespace(law=law, c=CLaw(folder, compiler), corrections=corrections, folder=folder)


def _strains(dim):
    """Return strains in the range, far outside it, very small, zero and not a number. Shape (131, n_s)."""
    corner = np.full(3 * dim - 3, RANGE)
    inside, outside = sobol(-corner, corner, 80, 3), sobol(-2.5 * corner, 2.5 * corner, 40, 4)
    return np.concatenate([inside, outside, 1e-4 * inside[:9], 0.0 * inside[:1], np.nan * inside[:1]])


def _evaluate(law, strain):
    return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)


def test_the_response_is_that_of_femops(both, dim):
    strain = _strains(dim)
    mine, theirs = both.c(strain), _evaluate(both.law, strain)
    number = ~np.isnan(strain).any(axis=1)
    for name in ("stress", "tangent", *(["stress_33", "tangent_33"] if dim == 2 else [])):
        expected = getattr(theirs, name)[number]
        np.testing.assert_allclose(getattr(mine, name)[number], expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_array_equal(mine.status == 0, theirs.valid)
    outside = np.abs(strain).max(axis=1) > 1.5 * RANGE
    assert (mine.status[outside] >= 1).all() and outside.any()
    assert mine.worst == mine.status.max()
    if both.corrections != 0:
        assert mine.status[-1] == 2  # what is not a number cannot converge
    if dim == 3:
        assert (mine.stress_33 == -7.0).all() and (mine.tangent_33 == -7.0).all()


def test_the_error_is_the_indicator_of_femops(both, dim):
    strain = _strains(dim)
    mine = both.c(strain).error
    if both.corrections == 0:
        assert np.isnan(mine).all()
        return
    theirs = both.law.certify(strain[:-1], _evaluate(both.law, strain[:-1]), "indicator")
    mine, last = mine[:-1], mine[-1]
    good = mine < _POOR
    np.testing.assert_allclose(mine[good], theirs[good], rtol=0, atol=1e-12)
    assert good.sum() > 30 and np.median(theirs) > 1e-6
    assert (mine[~good] >= theirs[~good] - 1e-12).all()
    assert last == np.inf


@pytest.mark.parametrize("both", [0, 4], indirect=True)  # the others' tangents are those of other stresses
def test_the_tangents_are_the_derivatives_of_the_stresses(both, dim):
    strain, step = _strains(dim)[:30], 1e-6
    answer = both.c(strain)
    slopes = {"stress": answer.tangent, **({"stress_33": answer.tangent_33[:, None]} if dim == 2 else {})}
    for k, one in enumerate(step * np.eye(strain.shape[1])):
        up, down = both.c(strain + one), both.c(strain - one)
        for name, slope in slopes.items():
            found = (getattr(up, name) - getattr(down, name)).reshape(30, -1) / (2.0 * step)
            assert np.abs(found - slope[:, :, k]).max() < 1e-5 * np.abs(slope).max()


def test_a_point_has_the_same_response_alone_and_in_a_batch(both, dim):
    strain = _strains(dim)[:-1]
    all_at_once = both.c(strain)
    for n in (1, 2, 5, 8, 9):
        few = both.c(strain[:n])
        for name in ("stress", "tangent", "error"):
            expected = getattr(all_at_once, name)[:n]
            np.testing.assert_allclose(getattr(few, name), expected, rtol=1e-11, atol=1e-9)


def test_outputs_may_be_left_out(both, dim):
    strain = _strains(dim)[:20]
    whole = both.c(strain)
    for name in ("stress", "tangent", "stress_33", "tangent_33", "error"):
        rest = both.c(strain, **{name: None})
        assert rest.worst == whole.worst
        for other in {"stress", "tangent", "error"} - {name}:
            np.testing.assert_array_equal(getattr(rest, other), getattr(whole, other))
    assert both.c.evaluate_in_c(ctypes.c_size_t(1), *[None] * 2, ctypes.c_double(1.0), *[None] * 6) == -1
    assert both.c(strain[:0]).worst == 0


def test_threads_get_the_same_answers(both, dim):
    strain = _strains(dim)
    whole = both.c(strain)
    with ThreadPoolExecutor(4) as threads:
        for one in threads.map(both.c, [strain] * 12):
            for name in ("stress", "tangent", "error"):
                np.testing.assert_array_equal(getattr(one, name), getattr(whole, name))


def test_the_law_says_what_it_is(both, model, dim):
    info = both.c.info
    assert (info.abi, info.dim, info.n_s, info.n_state) == (1, dim, 3 * dim - 3, 0)
    np.testing.assert_array_equal(np.ctypeslib.as_array(info.low, (info.n_s,)), both.law.low)
    np.testing.assert_array_equal(np.ctypeslib.as_array(info.high, (info.n_s,)), both.law.high)
    assert info.name.decode() == both.folder.name and info.corrections.decode() == str(both.corrections)
    assert info.title.decode() == HOSTILE and info.units == b"MPa"
    assert info.model.decode() == yaml.safe_load((model / "manifest.json").read_text())["sha256"]


_DRIVER = """
#include <limits.h>
#include <stdlib.h>
#include "NAME.h"
int main(int count, char **given) {
  const int n_s = NAME_info()->n_s;
  if (count > 1) return INT_MAX + given[0][0]; /* which sanitizers have to find */
  const size_t sizes[] = {1, 2, 7, 64, 65, 131};
  for (int k = 0; k < 6; k++) {
    const size_t n = sizes[k], m = (size_t)n_s;
    double *all = malloc(n * (3 * m + m * m + 2) * sizeof *all), *strain = all, *stress = strain + n * m;
    double *tangent = stress + n * m, *row = tangent + n * m * m, *normal = row + n * m, *error = normal + n;
    int *status = malloc(n * sizeof *status);
    for (size_t i = 0; i < n * m; i++) strain[i] = 0.05 * ((double)(i * 37 % 101) / 50.0 - 1.0);
    if (k == 5) strain[0] = 1e300, strain[m] = 0.0 / (double)(k - 5);
    if (NAME_evaluate(n, strain, 0, 1.0, stress, tangent, normal, row, error, status) < 0) return 1;
    free(all), free(status);
  }
  return 0;
}
"""


@pytest.mark.parametrize("both", EVERY_FUNCTION, indirect=True)
def test_sanitizers_find_nothing(both, compiler):
    name = both.folder.name
    (both.folder / "driver.c").write_text(_DRIVER.replace("NAME", name))
    flags = ["-g", "-std=c99", f"-fsanitize={SANITIZERS[compiler]}", "-fno-sanitize-recover=all"]
    ran(*COMPILERS[compiler], *flags, "-o", "driver", "driver.c", f"{name}.c", "-lm", cwd=both.folder)
    ran("./driver", cwd=both.folder)
    with pytest.raises(AssertionError, match="overflow"):
        ran("./driver", "overflow", cwd=both.folder)


@pytest.mark.parametrize("both", EVERY_FUNCTION, indirect=True)
def test_optimising_compilers_have_no_warnings(both, compiler):
    built(both.folder, f"{STRICT} -O3 -Wstrict-prototypes -Wmissing-prototypes", compiler)


def test_there_is_neither_state_nor_allocation(both, compiler):
    writable, needed = symbols(both.folder, f"{both.folder.name}.c", compiler)
    assert writable == set()
    assert needed <= {"fmax", "log1p", "sqrt", "memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}


def test_without_networks_the_corrections_start_from_elasticity(solid, tmp_path):
    law = load_law({"law": "equino", "model": str(solid.model), "device": "cpu"}, dim=3)
    strain = _strains(3)[:-1]
    mine, theirs = CLaw(exported(solid.model, tmp_path / "bare"))(strain), _evaluate(law, strain)
    np.testing.assert_allclose(mine.stress, theirs.stress, rtol=0, atol=1e-12 * np.abs(theirs.stress).max())
    np.testing.assert_array_equal(mine.status == 0, theirs.valid)


def test_the_example_of_the_page_compiles_and_runs(anisotropic, tmp_path):
    page = (Path(__file__).parents[1] / "EXPORT.md").read_text()
    include, *lines = page.partition("## C\n")[2].strip().splitlines()[:4]
    folder = exported(anisotropic[2], tmp_path / "rve3")
    printed = 'printf("%.17g %d", stress[0], status);'
    program = ["#include <stdio.h>", include.strip(), "int main(void) {", *lines, printed, "return 0;", "}"]
    (folder / "example.c").write_text("\n".join(program))
    ran("cc", "-std=c99", "-o", "example", "example.c", "rve3.c", "-lm", cwd=folder)
    stress, status = ran("./example", cwd=folder).split()
    expected = _evaluate(load_law(anisotropic[2]), np.array([[0.01, -0.004, 0.007]]))
    assert float(stress) == pytest.approx(expected.stress[0, 0], rel=1e-12) and status == "0"


def test_what_has_no_c_source_is_refused(anisotropic, solid, tmp_path):
    with pytest.raises(CaseError, match="mode original, expected a model of mode certified"):
        c_source(SimpleNamespace())
    law = copy.copy(load_law(anisotropic[2]))
    law.parameters = law.parameters.model_copy(update={"corrections": 0, "potential": "spline"})
    with pytest.raises(CaseError, match="potential: spline given, expected network"):
        c_source(law)
    for corrections in (0, "adjoint"):
        with pytest.raises(CaseError, match="the model has no networks"):
            exported(solid.model, tmp_path / "bare", corrections=corrections)
    assert list(tmp_path.iterdir()) == []
