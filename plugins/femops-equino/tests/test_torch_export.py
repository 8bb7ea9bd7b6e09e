"""The law as a program of torch: equal to femops' in a process that has torch and numpy alone."""

import copy
import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from compiled import exported
from equino_cases import RANGE

from femops import CaseError, load_law
from femops.devices.torch_library import torch
from femops.export.model import export_model
from femops.rve.sampling import sobol
from femops_equino.export.torch_program import torch_program

PATHS = ["auto", 0, 1, 4, "adjoint"]
BATCHES = [1, 1000, 7]
FOREIGN = """
import sys
import numpy as np, torch
folder, answers = sys.argv[1:]
law = torch.export.load(folder + "/law.pt2").module()
found = {}
for batch, values in np.load(folder + "/strains.npz").items():
    strain = torch.tensor(values, requires_grad=True)
    response = law(strain)
    found |= {batch + name: one.detach().numpy() for name, one in response.items()}
    rows = [torch.autograd.grad(row.sum(), strain, retain_graph=True)[0] for row in response["stress"].T]
    found[batch + "gradient"] = torch.stack(rows, 1).numpy()
    if "tangent_33" in response:
        found[batch + "gradient_33"] = torch.autograd.grad(response["stress_33"].sum(), strain)[0].numpy()
assert not [name for name in sys.modules if name.split(".")[0] in ("femops", "femops_equino", "numba", "dolfinx")]
np.savez(answers, **found)
"""


@pytest.fixture(scope="module", params=[2, 3])
def dim(request):
    return request.param


@pytest.fixture(scope="module", params=PATHS)
def both(request, anisotropic, dim, tmp_path_factory):
    """The law in femops, and strains with the responses of the program by batch."""
    parameters = {"law": "equino", "model": str(anisotropic[dim]), "corrections": request.param, "device": "cpu"}
    folder = exported(anisotropic[dim], tmp_path_factory.mktemp("export") / "law", "torch", request.param)
    strains = {str(n): _strains(dim, n) for n in BATCHES}
    np.savez(folder / "strains.npz", **strains)
    command = [sys.executable, "-W", "error", "-I", "-c", FOREIGN, str(folder), str(folder / "answers.npz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(folder / "answers.npz")
    names = {name.lstrip("0123456789") for name in found}
    responses = {n: SimpleNamespace(**{name: found[n + name] for name in names}) for n in strains}
    law = load_law(parameters, dim=dim)
    return SimpleNamespace(law=law, corrections=request.param, strains=strains, responses=responses, folder=folder)


def _strains(dim, n):
    """Return n strains in the range; the last of many are outside it, small, zero and not a number."""
    corner = np.full(3 * dim - 3, RANGE)
    strain = sobol(-corner, corner, n, 3)
    if n > 100:
        strain[-100:-20] *= 2.5
        strain[-20:-2] *= 1e-4
        strain[-2], strain[-1] = 0.0, np.nan
    return strain


def _evaluate(law, strain):
    return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)


def test_the_response_is_that_of_femops(both, dim):
    for batch, strain in both.strains.items():
        mine, theirs, number = both.responses[batch], _evaluate(both.law, strain), ~np.isnan(strain).any(axis=1)
        for name in ("stress", "tangent", *(["stress_33", "tangent_33"] if dim == 2 else [])):
            expected, found = getattr(theirs, name), getattr(mine, name)
            if name == "tangent_33" and both.corrections in (0, "adjoint"):  # femops states none of the networks
                continue
            assert found.shape == expected.shape and found.dtype == np.float64
            error = np.abs(found[number] - expected[number]).max()
            assert error <= 1e-12 * np.abs(expected[number]).max()
        np.testing.assert_array_equal(mine.valid, theirs.valid)
        assert hasattr(mine, "stress_33") == (dim == 2) and hasattr(mine, "decrement") == (both.corrections != 0)
        if both.corrections != 0:
            loaded = number & (np.abs(strain).max(axis=1) > 0.0)  # without load, it is round-off over nothing
            np.testing.assert_allclose(mine.decrement[loaded], theirs.solver_residual[loaded], rtol=1e-6, atol=1e-12)
        assert hasattr(mine, "tangent_33") == (dim == 2)
    valid = both.responses["1000"].valid
    assert valid[:900].all() and not valid[-100:-20].all() and not valid[-1]


def test_the_stress_can_be_differentiated(both):
    strain, mine, step = both.strains["7"], both.responses["7"], 1e-6
    if both.corrections != "adjoint":
        assert np.abs(mine.gradient - mine.tangent).max() <= 1e-8 * np.abs(mine.tangent).max()
        if both.law.dim == 2:
            assert np.abs(mine.gradient_33 - mine.tangent_33).max() <= 1e-8 * np.abs(mine.tangent_33).max()
        return
    for k, one in enumerate(step * np.eye(strain.shape[1])):  # its tangent is that of the potential network
        up, down = _evaluate(both.law, strain + one).stress, _evaluate(both.law, strain - one).stress
        assert np.abs((up - down) / (2.0 * step) - mine.gradient[:, :, k]).max() < 1e-6 * np.abs(mine.gradient).max()


def test_the_folder_says_what_the_law_is(both):
    text = (both.folder / "README.txt").read_text()
    assert "MPa" in text and "LGPL" in text and "-0.03 to 0.03" in text and str(both.corrections) in text
    assert "@" not in text and f"(n, {len(both.law.low)})" in text


def test_corrections_may_start_from_elasticity(anisotropic, dim):
    law = load_law({"law": "equino", "model": str(anisotropic[dim]), "corrections": 2, "start": "zero"}, dim=dim)
    program = torch.export.load(io.BytesIO(torch_program(law)["law.pt2"])).module()
    strain = _strains(dim, 7)
    expected = _evaluate(law, strain).stress
    assert np.abs(program(torch.tensor(strain))["stress"].numpy() - expected).max() < 1e-12 * np.abs(expected).max()


def test_what_has_not_converged_is_not_valid(anisotropic):
    law = load_law({"law": "equino", "model": str(anisotropic[2]), "corrections": "auto", "tolerance": 1e-60})
    program = torch.export.load(io.BytesIO(torch_program(law)["law.pt2"])).module()
    strain = _strains(2, 7)
    assert not _evaluate(law, strain).valid.any() and not program(torch.tensor(strain))["valid"].any()


def test_what_has_no_program_is_refused(anisotropic, tmp_path):
    with pytest.raises(CaseError, match="mode original, expected a model of mode certified"):
        torch_program(SimpleNamespace())
    law = copy.copy(load_law(anisotropic[2]))
    law.parameters = law.parameters.model_copy(update={"corrections": 0, "potential": "spline"})
    with pytest.raises(CaseError, match="potential: spline given, expected network for torch"):
        torch_program(law)
    single = {"law": "equino", "model": str(anisotropic[2]), "precision": "float32"}
    with pytest.raises(CaseError, match="float32 given, expected float64"):
        export_model(single, "torch", tmp_path / "single")
