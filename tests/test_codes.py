"""Exported laws inside OpenGeoSys, Kratos and CalculiX: what femops finds, quadratic convergence, the range."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from codes import calculix, kratos, opengeosys
from codes.answer import Answer, Points
from host_structures import Structure, assert_quadratic, material, solved_cantilever, solved_patch
from mpi4py import MPI

from femops.inputs.study import load_study
from femops.law import CertifiedLaw
from femops.offline.train import train

RANGE = 0.05
PULL = np.array([0.012, 0.008, -0.006])
NEAR, MIDDLE = 1.0, 2.5  # times the pull: Newton's method in Kratos stays inside the range; only its solution does
FAR = 4.0  # some points of the solution are outside, some inside
KIND = {2: "plane_strain", 3: "solid"}
NETWORKS = {"labels": 100, "width": 8, "adam_steps": 20, "lbfgs_steps": 20}
OPTIONS = {"modes": 10, "points": 40, "certificate_points": 40, "states": 16, "networks": NETWORKS}
BEAM = {2: ([8.0, 1.0], [16, 2], [0.1, 0.8]), 3: ([8.0, 1.0, 1.0], [8, 2, 2], [0.1, 0.8, -0.5])}
BENDING = 1e-10  # round-off of residuals of slender beams, relative to those of their loads

ccx = pytest.mark.skipif(
    "FEMOPS_CCX" not in os.environ,
    reason="FEMOPS_CCX does not name a CalculiX with external behaviours, which tests/codes/build_calculix.sh builds",
)
CCX = os.environ.get("FEMOPS_CCX", "")


@pytest.fixture(scope="module", params=[2, 3], ids=["2D", "3D"])
def law(request: Any, tmp_path_factory: Any) -> tuple[int, dict[str, Any]]:
    """Dimension and law: a trained EquiNO of an RVE without symmetries."""
    folder, dim = tmp_path_factory.mktemp("law"), request.param
    sampling = {"method": "sobol", "count": 8, "seed": 1, "range": RANGE}
    study = {"kinematics": KIND[dim], "rve": material("nested", dim)["rve"], "sampling": sampling}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "surrogate": {"law": "equino", **OPTIONS}}))
    return dim, {"law": "equino", "model": str(train(load_study(path), path, folder / "out", MPI.COMM_SELF).model)}


@pytest.fixture(scope="module")
def patch(law: Any, tmp_path_factory: Any) -> Structure:
    """The patch that femops has solved."""
    return solved_patch(tmp_path_factory.mktemp("patch"), *law, (NEAR, MIDDLE), PULL)


@pytest.fixture(scope="module")
def cantilever(law: Any, tmp_path_factory: Any) -> Structure:
    """The cantilever that femops has solved."""
    dim, parameters = law
    return solved_cantilever(tmp_path_factory.mktemp("cantilever"), parameters, *BEAM[dim])


@pytest.fixture
def library(law: Any, run: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """Export the law and compile it."""

    def compiled(kind: str, *flags: str, name: str = "rve") -> Path:
        run("export", law[1]["model"], "--to", kind, "--output", tmp_path / name)
        subprocess.run(["make", "-s", *flags], cwd=tmp_path / name, check=True)
        return tmp_path / name / f"lib{name}.so"

    return compiled


def assert_indicator(structure: Structure, points: Points | None, rtol: float = 1e-7) -> None:
    """Check what a host keeps as state at its integration points against femops at their strains.

    Errors of 1e-6 are differences of energies, in which the round-off of strains is seen.
    Where the error is large, femops looks for a smaller one; the exported law does not.
    """
    assert points is not None and isinstance(structure.law, CertifiedLaw)
    n = len(points.strain)
    assert n == len(structure.cells) * 2**structure.dim
    response = structure.law.evaluate(points.strain, np.zeros((n, structure.law.n_state)), 1.0)
    assert response.valid is not None
    np.testing.assert_array_equal(points.out_of_range, ~response.valid)
    expected = structure.law.certify(points.strain, response, "indicator")
    assert (points.error >= expected * (1.0 - rtol)).all()
    if response.valid.all():
        np.testing.assert_allclose(points.error, expected, rtol=rtol)
    else:
        assert response.valid.any(), "expected points on both sides of the range"


def assert_solved(structure: Structure, answer: Answer, round_off: float = 1e-12) -> None:
    """Check displacements, convergence and state variables of a host against femops."""
    assert answer.status == 0, answer.text
    structure.compare(answer.displacement, 0)
    assert_quadratic(answer.norms, round_off)
    assert_indicator(structure, answer.points)


# -- OpenGeoSys ---------------------------------------------------------------------------------------------------


def test_opengeosys_solves_the_patch_as_femops(patch: Structure, library: Callable[..., Path], tmp_path: Path) -> None:
    assert_solved(patch, opengeosys.solve(patch, library("mgis"), tmp_path))


def test_opengeosys_solves_the_cantilever_as_femops(
    cantilever: Structure, library: Callable[..., Path], tmp_path: Path
) -> None:
    assert_solved(cantilever, opengeosys.solve(cantilever, library("mgis"), tmp_path), BENDING)


def test_opengeosys_halves_steps_that_leave_the_range_and_ends_at_its_smallest(
    patch: Structure, library: Callable[..., Path], tmp_path: Path
) -> None:
    answer = opengeosys.solve(patch, library("mgis"), tmp_path, 2.0 * MIDDLE)
    assert answer.status != 0
    assert (
        "Repeating timestep. Reason: Error in process' assembly: MFront: integration failed with status 0"
        in answer.text
    )
    assert "The new step size of 0.2" in answer.text
    patch.compare(answer.displacement, 1)  # half of the first step


def test_opengeosys_extrapolates_where_a_program_sets_the_parameter(
    patch: Structure, library: Callable[..., Path], tmp_path: Path
) -> None:
    answer = opengeosys.solve(patch, library("mgis"), tmp_path, FAR, extrapolate=True)
    assert answer.status == 0, answer.text
    assert_indicator(patch, answer.points)


# -- Kratos -------------------------------------------------------------------------------------------------------


def test_kratos_solves_the_patch_as_femops(patch: Structure, library: Callable[..., Path], tmp_path: Path) -> None:
    assert_solved(patch, kratos.solve(patch, library("umat", kratos.FLAGS), tmp_path))


def test_kratos_solves_the_cantilever_as_femops(
    cantilever: Structure, library: Callable[..., Path], tmp_path: Path
) -> None:
    assert_solved(cantilever, kratos.solve(cantilever, library("umat", kratos.FLAGS), tmp_path), BENDING)


def test_kratos_does_not_converge_outside_the_range_unless_it_may_extrapolate(
    patch: Structure, library: Callable[..., Path], tmp_path: Path
) -> None:
    compiled = library("umat", kratos.FLAGS)
    refused = kratos.solve(patch, compiled, tmp_path, MIDDLE)
    assert refused.status != 0 and "the strain is outside the range of the training" in refused.text
    extrapolated = kratos.solve(patch, compiled, tmp_path, MIDDLE, props=(1.0,))
    assert extrapolated.status == 0, extrapolated.text
    patch.compare(extrapolated.displacement, 1)
    far = kratos.solve(patch, compiled, tmp_path, FAR, props=(1.0,))
    assert_indicator(patch, far.points)


# -- CalculiX -----------------------------------------------------------------------------------------------------


def assert_solved_by_calculix(structure: Structure, answer: Answer) -> None:
    """As `assert_solved`, to the digits that CalculiX prints; it prints corrections, but residuals above 1e-6 only."""
    assert answer.status == 0, answer.text
    structure.compare(answer.displacement, 0, calculix.DIGITS)
    corrections = np.array(answer.norms) / 100.0  # percent
    assert len(corrections) >= 3
    assert (corrections[1:] <= 0.3 * corrections[:-1] ** 2).all(), corrections
    assert_indicator(structure, answer.points, 1e-4)


@ccx
def test_calculix_solves_the_patch_as_femops(patch: Structure, library: Callable[..., Path], tmp_path: Path) -> None:
    assert_solved_by_calculix(patch, calculix.solve(patch, library("umat", name="RVE"), tmp_path, CCX))


@ccx
def test_calculix_solves_the_cantilever_as_femops(
    cantilever: Structure, library: Callable[..., Path], tmp_path: Path
) -> None:
    assert_solved_by_calculix(cantilever, calculix.solve(cantilever, library("umat", name="RVE"), tmp_path, CCX))


@ccx
def test_calculix_halves_steps_that_leave_the_range_and_ends_at_its_smallest_unless_it_may_extrapolate(
    patch: Structure, library: Callable[..., Path], tmp_path: Path
) -> None:
    compiled = library("umat", name="RVE")
    refused = calculix.solve(patch, compiled, tmp_path, CCX, 2.0 * MIDDLE, static=calculix.AUTOMATIC)
    assert refused.status != 0
    assert "increment size decrease requested by a material user routine" in refused.text
    assert "increment size smaller than minimum" in refused.text
    patch.compare(refused.displacement, 1, calculix.DIGITS)  # half of the first step
    fixed = calculix.solve(patch, compiled, tmp_path, CCX, 2.0 * MIDDLE)
    assert fixed.status != 0 and fixed.displacement is None and "solution seems to diverge" in fixed.text
    extrapolated = calculix.solve(patch, compiled, tmp_path, CCX, FAR, extrapolate=True)
    assert extrapolated.status == 0, extrapolated.text
    assert_indicator(patch, extrapolated.points, 1e-4)
