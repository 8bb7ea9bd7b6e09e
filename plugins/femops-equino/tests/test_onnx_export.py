"""The law as a program of ONNX: equal to femops' in a process that has ONNX Runtime and numpy alone."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from compiled import exported
from equino_cases import RANGE, answer_of

from femops import CaseError, load_law
from femops.commands.cli import main
from femops.rve.sampling import sobol
from femops_equino.surrogate import onnx_program

FOREIGN = """
import sys
import numpy as np, onnxruntime
folder = sys.argv[1]
session = onnxruntime.InferenceSession(folder + "/law.onnx", providers=["CPUExecutionProvider"])
names = [one.name for one in session.get_outputs()]
found = {}
for batch, strain in np.load(folder + "/strains.npz").items():
    answer = session.run(names, {"strain": strain})
    found |= {batch + "-" + name: one for name, one in zip(names, answer)}
assert not [name for name in sys.modules if name.split(".")[0] in ("femops", "torch", "onnx", "numba", "scipy")]
np.savez(folder + "/answers.npz", **found)
"""
STEP = 1e-6


@pytest.fixture(scope="module", params=[2, 3])
def dim(request):
    return request.param


@pytest.fixture(scope="module", params=[0, 1])
def both(request, anisotropic, dim, tmp_path_factory):
    """The law in femops, and strains with the responses of the program by batch."""
    folder = exported(anisotropic[dim], tmp_path_factory.mktemp("export") / "law", "onnx", request.param)
    strains = _batches(dim)
    law = load_law({"law": "equino", "model": str(anisotropic[dim]), "corrections": request.param}, dim=dim)
    return SimpleNamespace(law=law, strains=strains, responses=_run(folder, strains), folder=folder)


def _batches(dim):
    """Return strains by batch; the last of the many are outside the range, small, zero and not a number."""
    corner = np.full(3 * dim - 3, RANGE)
    batches = {str(n): sobol(-corner, corner, n, 3) for n in (1, 7, 1000)}
    batches["1000"][-100:-20] *= 2.5
    batches["1000"][-20:-2] *= 1e-4
    batches["1000"][-2], batches["1000"][-1] = 0.0, np.nan
    steps = STEP * np.eye(len(corner))
    return (
        batches
        | {"0": np.zeros((0, len(corner)))}
        | {
            sign: np.concatenate([batches["7"] + factor * one for one in steps])
            for sign, factor in (("up", 1.0), ("down", -1.0))
        }
    )


def _run(folder, strains):
    np.savez(folder / "strains.npz", **strains)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-I", "-c", FOREIGN, str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = np.load(folder / "answers.npz")
    names = {name.partition("-")[2] for name in found}
    return {batch: SimpleNamespace(**{name: found[f"{batch}-{name}"] for name in names}) for batch in strains}


def _largest_difference(mine, theirs):
    return np.abs(mine - theirs).max() / np.abs(theirs).max()


def test_the_response_is_that_of_femops(both, dim):
    for batch in ("1", "7", "1000"):
        strain, mine = both.strains[batch], both.responses[batch]
        theirs, number = answer_of(both.law, strain), ~np.isnan(strain).any(axis=1)
        parts = {2: ("stress", "tangent", "stress_33", "tangent_33"), 3: ("stress", "tangent")}[dim]
        corrected = both.law.parameters.corrections == 1
        assert set(vars(mine)) == {*parts, "valid", *(["decrement"] if corrected else [])}
        for name in parts:
            found, expected = getattr(mine, name), getattr(theirs, name)
            assert found.dtype == np.float64
            if name != "tangent_33" or corrected:  # femops states none of the potential
                assert found.shape == expected.shape
                assert _largest_difference(found[number], expected[number]) < 1e-12
        np.testing.assert_array_equal(mine.valid, theirs.valid)
        if corrected:
            loaded = number & (np.abs(strain).max(axis=1) > 0.0)  # without load, it is round-off over nothing
            np.testing.assert_allclose(mine.decrement[loaded], theirs.solver_residual[loaded], rtol=1e-6, atol=1e-12)
    valid = both.responses["1000"].valid
    assert valid[:900].all() and not valid[-100:-20].all() and not valid[-1]
    assert both.responses["0"].tangent.shape == (0, 3 * dim - 3, 3 * dim - 3)


def test_the_tangent_is_the_derivative_of_the_exported_stress(both, dim):
    up, down, mine = (both.responses[batch] for batch in ("up", "down", "7"))
    corrected = both.law.parameters.corrections == 1
    n_s, bound = 3 * dim - 3, 5e-3 if corrected else 1e-7  # the condensed tangent is exact at the minimum only
    slope = (up.stress - down.stress).reshape(n_s, 7, n_s).transpose(1, 2, 0) / (2.0 * STEP)
    assert _largest_difference(mine.tangent, slope) < bound
    if dim == 2:
        slope = (up.stress_33 - down.stress_33).reshape(n_s, 7).T / (2.0 * STEP)
        assert _largest_difference(mine.tangent_33, slope) < bound


def test_the_folder_says_what_the_law_is_and_nothing_of_this_machine(both):
    text = (both.folder / "README.txt").read_text()
    assert "MPa" in text and "LGPL" in text and "-0.03 to 0.03" in text and "onnxruntime" in text and "@" not in text
    program = (both.folder / "law.onnx").read_bytes()
    assert b".py" not in program and b"femops" not in program


def test_corrections_may_start_from_elasticity(anisotropic, dim, tmp_path):
    law = load_law({"law": "equino", "model": str(anisotropic[dim]), "corrections": 1, "start": "zero"}, dim=dim)
    (tmp_path / "law.onnx").write_bytes(onnx_program(law)["law.onnx"])
    strains = {"7": _batches(dim)["7"]}
    expected = answer_of(law, strains["7"])
    assert _largest_difference(_run(tmp_path, strains)["7"].stress, expected.stress) < 1e-12


@pytest.mark.parametrize("corrections", ["auto", "2", "adjoint"])
def test_other_corrections_are_refused(corrections, anisotropic, tmp_path, capsys):
    output = tmp_path / "law"
    with pytest.raises(SystemExit) as leave:
        main(["export", str(anisotropic[2]), "--to", "onnx", "--corrections", corrections, "--output", str(output)])
    printed = capsys.readouterr().err
    assert leave.value.code == 2 and len(printed.splitlines()) == 1 and not output.exists()
    assert f"corrections: {corrections} given, expected 0 or 1 for onnx, which has no loop" in printed


def test_what_has_no_program_is_refused(anisotropic):
    with pytest.raises(CaseError, match="mode original, expected a model of mode certified"):
        onnx_program(SimpleNamespace())
    law = copy.copy(load_law(anisotropic[2]))
    law.parameters = law.parameters.model_copy(update={"corrections": 0, "potential": "spline"})
    with pytest.raises(CaseError, match="potential: spline given, expected network for onnx"):
        onnx_program(law)
