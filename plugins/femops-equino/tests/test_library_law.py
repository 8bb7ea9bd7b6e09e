"""Exported C source as a law of femops again, in a process without numba."""

import subprocess
import sys

import numpy as np
import pytest
from compiled import built, exported
from equino_cases import RANGE, answer_of

from femops import CaseError, load_law
from femops.checks import check_law
from femops.export.library import LibraryLaw
from femops.rve.sampling import sobol

MEMORY = """
import pathlib, re, sys
import numpy as np
from femops.export.library import LibraryLaw
law = LibraryLaw(sys.argv[1])
assert law.evaluate(np.full((1000, len(law.low)), 1e-3), np.zeros((1000, 0)), 1.0).valid.all()
assert not {"numba", "scipy", "torch", "femops_equino"} & set(sys.modules)
print(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture(scope="module", params=[2, 3])
def both(request, anisotropic, tmp_path_factory):
    """The trained law, and its library."""
    folder = exported(anisotropic[request.param], tmp_path_factory.mktemp("library") / "beam")
    built(folder)
    return load_law(anisotropic[request.param]), folder / "libbeam.so"


def test_a_library_is_a_law(both):
    law, library = both
    mine = LibraryLaw(library)
    check_law(mine, strain_scale=RANGE, rtol_tangent=1e-3)  # of the tolerance of `auto`
    np.testing.assert_array_equal(mine.low, law.low)
    np.testing.assert_array_equal(mine.high, law.high)
    corner = np.full(len(law.low), RANGE)
    strain = np.concatenate([sobol(-corner, corner, 100, 1), sobol(-9.0 * corner, 9.0 * corner, 20, 2)])
    found, expected = answer_of(mine, strain), answer_of(law, strain)
    for name in ("stress", "tangent", *(["stress_33", "tangent_33"] if law.dim == 2 else [])):
        theirs = getattr(expected, name)
        assert np.abs(getattr(found, name) - theirs).max() < 1e-12 * np.abs(theirs).max()
    np.testing.assert_array_equal(found.valid, expected.valid)
    assert found.error is None and not found.valid.all()
    error = answer_of(LibraryLaw(library, with_error=True), strain[:100]).error
    indicator = law.certify(strain[:100], answer_of(law, strain[:100]), "indicator")
    same = np.isclose(error, indicator, rtol=1e-6)  # or larger, where femops looks for a better stress field
    assert same.mean() > 0.5 and (same | (error > indicator)).all()


def test_a_library_takes_little_memory(both):
    done = subprocess.run([sys.executable, "-c", MEMORY, str(both[1])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 80_000  # kB


def test_another_file_is_no_law(both, tmp_path):
    (tmp_path / "libmine.so").write_text("text")
    (tmp_path / "libother.so").write_bytes(both[1].read_bytes())
    for name in ("libmine.so", "libother.so", "libmissing.so"):
        with pytest.raises(CaseError, match=rf"{name}: is no library of an exported law \("):
            LibraryLaw(tmp_path / name)
