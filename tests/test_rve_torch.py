"""RVEs on uniform grids on a torch device: the answers are those of the compiled solver."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers import ELASTIC, SATURATING
from test_rve_fft import J2, assert_same, dimension, grid, pierced, solver, strains

from femops import CaseError, NotConverged, load_law
from femops.devices.torch_library import torch
from femops.rve import conjugate_gradients as cg
from femops.rve import iterative, methods
from femops.rve.fft import torch_systems

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
VOXELS = {"cells": 4, "inclusions": [{"center": [0, 0], "radius": 0.3}]}
LAW = {"law": "nested", "rve": {"voxels": VOXELS, "phases": {"matrix": SATURATING, "fibre": ELASTIC}}}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The torch device that the solver takes for the GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no accelerator")
    found = torch.device(request.param)
    monkeypatch.setattr(methods, "accelerator", lambda asked: None if asked == "cpu" else found)
    return found


@pytest.mark.parametrize(
    ("cell", "matrix", "pore"),
    [
        ("quad", ELASTIC | {"K": 4000.0}, False),
        ("quad", SATURATING, False),
        ("triangle", J2, True),
        ("hexahedron", ELASTIC | {"K": 4000.0}, True),
        ("hexahedron", J2, True),
        ("hexahedron20", J2, False),
        ("tetra10", SATURATING, True),
    ],
)
def test_stress_tangent_and_state_are_those_of_the_compiled_solver(
    device: Any, cell: str, matrix: dict[str, Any], pore: bool
) -> None:
    rve = pierced(grid(cell, matrix)) if pore else grid(cell, matrix)
    both = [solver(rve, rtol=1e-11, linear="fft", device=one) for one in ("cpu", "cuda")]
    strain, states, starts = strains(dimension(cell), 2), [one.virgin_state(2) for one in both], [None, None]
    for factor in (1.0, 1.5):  # the second step starts with plastic strains, from the fluctuation of the first
        answers = [one.solve(factor * strain, *rest) for one, *rest in zip(both, states, starts, strict=True)]
        assert_same(answers[1], answers[0], 1e-9)
        states, starts = [one.state for one in answers], [one.fluctuation for one in answers]
        for one, other in zip(*states, strict=True):
            np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-10)


def test_columns_are_solved_in_blocks_that_fit_into_memory(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, strain, widths = solver(grid("quad", J2), linear="fft", device="cuda"), strains(2, 2), []

    def recorded(multiply: Any, precondition: Any, residual: Any, accuracy: Any) -> Any:
        widths.append(len(residual))
        return cg.conjugate_gradients(multiply, precondition, residual, accuracy)

    monkeypatch.setattr(torch_systems, "conjugate_gradients", recorded)
    together = one.solve(strain, one.virgin_state(2))
    assert max(widths) == 3  # the load cases of one RVE
    widths.clear()
    monkeypatch.setattr(torch_systems, "_SHARE", 1e-12)
    assert_same(one.solve(strain, one.virgin_state(2)), together, 1e-12)
    assert set(widths) == {1}


def test_the_number_of_iterations_is_that_of_the_compiled_solver(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rve, strain, counts = pierced(grid("quad8", J2)), strains(2, 1), {"cpu": [], "cuda": []}
    monkeypatch.setattr(methods, "SinglePrecisionSystems", iterative.HostSystems)
    for module, of_module in ((iterative, counts["cpu"]), (torch_systems, counts["cuda"])):

        def counted(*given: Any, found: list[int] = of_module) -> Any:
            answer = cg.conjugate_gradients(*given)
            found.append(int(max(answer[2])))
            return answer

        monkeypatch.setattr(module, "conjugate_gradients", counted)
    for one in (solver(rve, linear="fft", device=name) for name in counts):
        one.solve(strain, one.virgin_state(1))
    assert len(counts["cpu"]) == len(counts["cuda"]) > 3
    np.testing.assert_allclose(counts["cuda"], counts["cpu"], atol=1)


def test_the_same_strain_gives_the_same_answer(device: Any) -> None:
    one, strain = solver(grid("triangle", J2), linear="fft", device="cuda"), strains(2, 2)
    first, second = (one.solve(strain, one.virgin_state(2)) for _ in range(2))
    for name in ("stress", "tangent", "fluctuation"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_an_rve_that_cannot_be_solved_is_reported(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, strain = solver(grid("quad"), linear="fft", device="cuda"), strains(2, 2) * [1e-9, 10.0]
    few = one.attempt(strain, one.virgin_state(2))
    assert not few.failures
    monkeypatch.setattr(cg, "_MOST_ITERATIONS", 3)
    found = one.attempt(strain, one.virgin_state(2), few.fluctuation)
    assert found.failures[1] == "the conjugate gradients did not converge at the solution; linear: pardiso does without"
    with pytest.raises(NotConverged, match="did not converge; expected a direct solver"):
        _ = solver(grid("quad"), linear="fft", device="cuda").elastic_sensitivity


def test_an_rve_larger_than_the_memory_is_refused(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_systems, "_free_memory", lambda device: 1e4)
    with pytest.raises(CaseError, match=r"device: the RVE needs 0\.0 GB on the GPU, which has 0\.0 GB free; expected"):
        solver(grid("quad"), linear="fft", device="cuda")


def test_auto_takes_a_gpu_for_large_grids_and_says_so(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    note = "54 unknowns on a uniform grid; solved by conjugate gradients with the FFT"
    assert solver(grid("quad"), linear="fft", device="auto").notes == (note,)
    monkeypatch.setattr(methods, "_GPU_FROM", 54)
    why = "(device: auto takes a GPU from 54 unknowns on, a number not measured)"
    assert solver(grid("quad"), linear="fft", device="auto").notes == (f"{note} on {device} {why}",)
    assert solver(grid("quad"), linear="fft", device="cuda").notes == (f"{note} on {device}",)
    assert solver(grid("quad"), device="auto").notes == ()  # the direct solver is faster


def test_a_gpu_that_cannot_be_used_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    circles = {"circles": [{"center": [0, 0], "radius": 0.3}], "mesh_size": 0.3}
    for change, problem in (
        ({}, "'cuda' given, but torch finds no GPU; expected auto or cpu"),
        ({"solver": {"linear": "pardiso"}}, "'cuda' given, but 'pardiso' as linear solver; expected cpu, or fft on it"),
        ({"rve": LAW["rve"] | {"voxels": None, "circles": circles}},
         "'cuda' given, but the RVE is not a periodic box of equal grid cells; expected auto or cpu"),
    ):  # fmt: skip
        law = LAW | change
        law |= {"solver": law.get("solver", {}) | {"device": "cuda"}}
        with pytest.raises(CaseError) as error:
            load_law(law, dim=2)
        assert (error.value.key, error.value.problem) == ("solver.device", problem)


def test_without_a_gpu_torch_is_not_imported() -> None:
    program = (
        "import sys, femops, femops.devices, femops.rve.methods as one\n"
        "femops.devices._driver, one._GPU_FROM = (lambda: False), 0\n"
        f"law = femops.load_law({LAW | {'solver': {'linear': 'fft'}}!r}, dim=2)\n"
        "assert law.solver.notes and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
