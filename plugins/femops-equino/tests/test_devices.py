"""EquiNO in batched torch gives what its kernels give; torch is imported only where there is an accelerator."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from equino_cases import RANGE, random_model

from femops import CaseError, devices, load_law
from femops.devices.torch_library import torch
from femops_equino import law
from femops_equino.kernels.torch_adjoint import TorchAdjoint
from femops_equino.kernels.torch_newton import TorchNewton
from femops_equino.networks.stored import stored
from femops_equino.networks.torch_networks import initial_weights
from femops_equino.reduced.adjoint import Adjoint
from femops_equino.reduced.model import ReducedModel

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def needs(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no accelerator")


def strains(n: int, dim: int = 2) -> Any:
    strain = np.random.default_rng(1).uniform(-RANGE, RANGE, (n, 3 if dim == 2 else 6))
    strain[0] = 0.0
    return strain


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("largest", [1, 3])
def test_corrections_in_torch_give_what_the_kernel_gives(device, dim, precision, tolerance, largest):
    needs(device)
    model, strain = random_model(dim), strains(150, dim)
    start = 0.3 * np.random.default_rng(2).uniform(-RANGE, RANGE, (150, model.n_modes))
    wanted = model.solve(strain, start, largest, 0.0, precision)
    found = TorchNewton(model, device, precision).solve(strain, start, largest, 0.0)
    for name in ("coefficients", "stress", "tangent", *(["stress_33", "tangent_33"] if dim == 2 else [])):
        expected = getattr(wanted, name)
        atol = tolerance * np.abs(expected).max()
        np.testing.assert_allclose(getattr(found, name), expected, rtol=0, atol=atol, err_msg=name)
    assert (found.stress_33 is None) == (dim == 3)
    if largest == 1:  # later decrements are the rounding errors of this one
        np.testing.assert_allclose(found.decrement[1:], wanted.decrement[1:], rtol=100 * tolerance)


@pytest.mark.parametrize("device", DEVICES)
def test_points_finish_one_by_one_as_in_the_kernel_and_in_chunks_of_any_size(device, monkeypatch):
    needs(device)
    model, strain = random_model(2), strains(150) * np.linspace(0.0, 3.0, 150)[:, None]
    start = np.zeros((150, model.n_modes))
    wanted = model.solve(strain, start, 12, 1e-6)
    assert 1.5 < wanted.evaluations < 11.0  # some points end earlier than others
    monkeypatch.setattr("femops_equino.kernels.torch_newton._BUDGET", 1e5)
    found = TorchNewton(model, device).solve(strain, start, 12, 1e-6)
    assert found.evaluations == wanted.evaluations
    np.testing.assert_allclose(found.coefficients, wanted.coefficients, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.stress, wanted.stress, rtol=0, atol=1e-10 * np.abs(wanted.stress).max())
    assert TorchNewton(model, device).solve(strain[:0], start[:0], 3, 0.0).stress.shape == (0, 3)


def test_an_energy_that_is_not_convex_is_no_answer():
    model = random_model(2)
    concave = ReducedModel(-1e3 * model.quadratic, model.projection, model.parameters)
    found = TorchNewton(concave, "cpu").solve(strains(3), np.zeros((3, model.n_modes)), 2, 0.0)
    assert np.isnan(found.stress).all() and np.isnan(found.decrement).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"corrections": 2, "start": "zero"},
        {"corrections": 2, "start": "last"},
        {"corrections": "adjoint"},
        {"corrections": 0},
    ],
)
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_the_law_on_a_device_is_the_law_of_the_kernels(plane, monkeypatch, device, parameters, precision, tolerance):
    needs(device)
    given = {"law": "equino", "model": str(plane.model), "precision": precision, **parameters}
    kernels = load_law({**given, "device": "cpu"})
    monkeypatch.setattr(law, "accelerator", lambda asked: torch.device(device))
    on_device = load_law(given)
    strain = strains(40)
    state = 1e-4 * np.random.default_rng(4).standard_normal((40, kernels.n_state))
    wanted, found = kernels.evaluate(strain, state, 1.0), on_device.evaluate(strain, state, 1.0)
    for name in ("stress", "tangent", "state", "stress_33"):
        expected, got = getattr(wanted, name), getattr(found, name)
        assert got.dtype == np.float64
        np.testing.assert_allclose(
            got, expected, rtol=0, atol=tolerance * np.abs(expected).max(initial=0.0), err_msg=name
        )


def test_networks_on_a_device_are_those_of_the_kernels(plane):
    arrays, strain = load_law(plane.model).trained.arrays, strains(20)
    kernels = stored(arrays, "float64")
    in_torch = stored(arrays, "float64", torch.device("cpu"))
    assert set(kernels) == set(in_torch) == {"potential", "coefficients", "normal"}
    pairs = [(in_torch["coefficients"](strain), kernels["coefficients"](strain))]
    pairs += zip(in_torch["normal"](strain), kernels["normal"](strain), strict=True)
    assert [expected.shape for _, expected in pairs[1:]] == [(20,), (20, 3)]
    for found, expected in pairs:
        atol = 1e-11 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_without_a_driver_auto_takes_the_kernels_and_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "_DRIVER", "libno_such_driver.so.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.accelerator("auto") is None
    assert devices.accelerator("cpu") is None
    with pytest.raises(CaseError, match="device: 'cuda' given, but torch finds no GPU"):
        devices.accelerator("cuda")


def test_with_a_driver_auto_takes_the_gpu_that_torch_finds(monkeypatch):
    monkeypatch.setattr(devices, "_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.accelerator("auto") == torch.device("cuda", 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # torch is not installed
    assert devices.accelerator("auto") is None
    monkeypatch.undo()
    monkeypatch.setattr(devices, "_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a driver of a machine without its GPU
    assert devices.accelerator("auto") is None


def test_the_law_on_the_cpu_imports_no_torch():
    program = (
        "import sys, femops, femops_equino.law, femops.devices as one\n"
        "one._driver = lambda: False\n"
        "assert one.accelerator('auto') is one.accelerator('cpu') is None\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 1e-4)])
def test_the_adjoint_in_torch_gives_what_the_kernel_gives(device, dim, precision, tolerance, monkeypatch):
    needs(device)
    monkeypatch.setattr("femops_equino.kernels.torch_adjoint._CHUNK", 64)
    model, strain = random_model(dim), 2.0 * strains(150, dim)
    inside = np.clip(strain, -RANGE, RANGE)
    rng, n_s = np.random.default_rng(5), strain.shape[1]
    linear = 0.1 * rng.standard_normal((model.n_modes, n_s))
    weights = initial_weights(linear, np.full(n_s, RANGE), np.full(model.n_modes, 0.01), 10, 2, seed=4)
    wanted = Adjoint(weights, model, precision).evaluate(strain, inside)
    found = TorchAdjoint(weights, model, device, precision).evaluate(strain, inside)
    for name in ("stress", "decrement", *(["stress_33"] if dim == 2 else [])):
        expected, got = getattr(wanted, name), getattr(found, name)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)
    assert found.stress_33 is None or dim == 2
