"""The examples of `femops/hosts/README.md` run as they stand, and all find the deflection that femops finds."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import SATURATING, box_problem

PAGE = Path(__file__).parents[1] / "femops" / "hosts" / "README.md"
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S))
PLATES = ("FElupe", "scikit-fem", "torch-fem", "DOLFINx")


def run(code: str, folder: Path) -> str:
    """Run code as a program of its own and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deflection() -> float:
    """The deflection at (1, 0.5) of the plate of the page, by femops."""
    problem = box_problem(
        "quadrilateral",
        mesh={"box": {"size": [2.0, 1.0], "cells": [8, 4], "cell": "quadrilateral"}},
        material=SATURATING,
        supports={"left": {"ux": 0.0, "uy": 0.0}},
        loads={"right": {"displacement": {"ux": 0.0, "uy": 0.1}}},
        solver={"rtol": 1e-12},
    )
    problem.solve(1.0, 1.0)
    u = problem.displacement
    place = np.isclose(u.function_space.tabulate_dof_coordinates()[:, :2], [1.0, 0.5]).all(axis=1)
    return float(u.x.array[1::2][place].item())


def test_every_host_has_an_example() -> None:
    assert set(EXAMPLES) == {*PLATES, "preCICE Micro Manager"}


@pytest.mark.parametrize("host", PLATES)
def test_the_example_finds_the_deflection_of_femops(host: str, deflection: float, tmp_path: Path) -> None:
    assert float(run(EXAMPLES[host], tmp_path)) == pytest.approx(deflection, rel=1e-8)


@pytest.mark.parametrize("host", EXAMPLES)
def test_a_folder_that_is_no_model_ends_the_example_with_the_reason(host: str, tmp_path: Path) -> None:
    (tmp_path / "micro_manager.py").write_text("class MicroSimulationInterface: pass\n")
    (tmp_path / "models" / "rve3").mkdir(parents=True)
    (tmp_path / "models" / "rve3" / "notes.txt").write_text("foreign")
    code, changed = re.subn(r"load_law\(\s*\{.*?\}", 'load_law("models/rve3"', EXAMPLES[host], flags=re.DOTALL)
    assert changed == 1
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    reason = "models/rve3: has no manifest.json, expected a model folder that femops train wrote"
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == f"femops.errors.CaseError: {reason}"


def test_the_example_of_the_micro_manager_is_a_micro_simulation(tmp_path: Path) -> None:
    (tmp_path / "micro_manager.py").write_text("class MicroSimulationInterface: pass\n")
    code = EXAMPLES["preCICE Micro Manager"] + (
        "data = MicroSimulation(0).solve({'strains1to3': [0.01, 0.0, 0.0], 'strains4to6': [0.0, 0.02, 0.0]}, 1.0)\n"
        "print(data['stresses1to3'][0], data['stresses4to6'][1], switching_function(0, None, 0.0, {}, data))\n"
    )
    normal, shear, change = map(float, run(code, tmp_path).split())
    norm = np.sqrt(0.01**2 * 2.0 / 3.0 + 2 * 0.01**2)  # γ13 = 0.02 is ε13 = 0.01
    secant = SATURATING["alpha1"] / (SATURATING["alpha2"] + norm)
    assert normal == pytest.approx(SATURATING["K"] * 0.01 + secant * 0.02 / 3.0, rel=1e-12)
    assert shear == pytest.approx(secant * 0.01, rel=1e-12)
    assert change == 1.0
