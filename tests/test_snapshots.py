"""Snapshots agree with the nested law and use reproducible strains."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import ELASTIC, SATURATING
from mpi4py import MPI
from small_studies import CIRCLE, J2, PATHS, PLASTIC, SOBOL, SPHERE, STUDY, fields_of, sampled

from femops import load_law, notation
from femops.conversions import ABAQUS
from femops.inputs.study import load_study
from femops.offline.sample import sample
from femops.rve.sampling import Sampling, load_paths
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions

SHIPPED = sorted((Path(__file__).parents[1] / "cases" / "studies").glob("*.yaml"))
STUDIES = [path for path in SHIPPED if "rve" in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("method", ["sobol", "latin_hypercube", "proportional", "random_paths"])
def test_strains_are_reproducible_and_in_range(method: str, dim: int) -> None:
    steps = {"steps": 8} if method in ("proportional", "random_paths") else {}
    limits = {"11": [-0.01, 0.02], "22": [0.0, 0.03], "12": [-0.04, 0.01]}
    block = {"method": method, "count": 50, "seed": 5, "range": limits, "shear": "engineering", **steps}
    paths = load_paths(Sampling.model_validate(block), dim)
    assert paths.shape == (50, steps.get("steps", 1), notation.n_strain(dim))
    np.testing.assert_array_equal(paths, load_paths(Sampling.model_validate(block), dim))
    assert not np.array_equal(paths, load_paths(Sampling.model_validate({**block, "seed": 6}), dim))
    engineering = ABAQUS.strain_from_mandel(paths).reshape(-1, paths.shape[2])
    names = {2: ("11", "22", "12"), 3: ("11", "22", "33", "12", "13", "23")}[dim]
    for values, name in zip(engineering.T, names, strict=True):
        low, high = limits.get(name, [0.0, 0.0])
        assert low - 1e-15 <= values.min() <= low + 0.15 * (high - low)
        assert high - 0.15 * (high - low) <= values.max() <= high + 1e-15


def test_one_number_is_a_range_and_shears_are_tensor_components_unless_told() -> None:
    tensor, engineering = (
        load_paths(Sampling.model_validate({**SOBOL, "count": 64, "shear": shear}), 2)[:, 0]
        for shear in ("tensor", "engineering")
    )
    np.testing.assert_allclose(np.abs(tensor).max(axis=0), 0.03 * np.array([1, 1, np.sqrt(2)]), rtol=0.05)
    np.testing.assert_allclose(engineering, tensor * [1, 1, 0.5], rtol=1e-14)


def test_paths_start_near_zero_and_proportional_ones_are_straight_and_end_on_the_surface() -> None:
    block = {"method": "proportional", "count": 20, "steps": 4, "range": 0.03}
    straight = load_paths(Sampling.model_validate(block), 2)
    np.testing.assert_allclose(straight, straight[:, -1:] * np.arange(1, 5)[:, None] / 4, rtol=1e-14)
    np.testing.assert_allclose(np.abs(straight[:, -1] / notation.weights(2)).max(axis=1), 0.03, rtol=1e-12)
    bent = load_paths(Sampling.model_validate(PATHS), 2)
    np.testing.assert_allclose(bent[:, 0], bent[:, 1] / 2, rtol=1e-14)
    np.testing.assert_allclose(bent[:, 2], (bent[:, 1] + bent[:, 3]) / 2, rtol=1e-14)


def test_more_sobol_points_keep_those_that_are_solved(tmp_path: Path, solves: list[int]) -> None:
    _, first = sampled(tmp_path, STUDY)
    solves.clear()
    report, more = sampled(tmp_path, {**STUDY, "sampling": {**SOBOL, "count": 9}})
    assert (report.found, report.solved, sum(solves)) == (6, 3, 3)
    for name, values in first.items():
        np.testing.assert_array_equal(more[name][:6], values)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_snapshots_of_the_shipped_studies_are_those_of_the_nested_law(study: Path, tmp_path: Path) -> None:
    loaded = load_study(study, ("sampling.count=3",))
    stored = fields_of(sample(loaded, study, tmp_path, MPI.COMM_SELF).file)
    rve = yaml.safe_load(study.read_text())["rve"]
    law = load_law({"law": "nested", "rve": rve, "solver": {"rtol": 1e-12}}, dim=loaded.dim, base=study.parent)
    fresh = law.evaluate(stored["strain"], np.zeros((3, law.n_state)), 1.0)
    np.testing.assert_allclose(stored["stress"], fresh.stress, rtol=1e-8, atol=1e-8)
    assert ("stress_33" in stored) == (loaded.dim == 2)
    if fresh.stress_33 is not None:
        np.testing.assert_allclose(stored["stress_33"], fresh.stress_33, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(stored["tangent"], fresh.tangent, rtol=1e-7, atol=1e-5)


@pytest.mark.parametrize(("source", "matrix"), [(CIRCLE, SATURATING), (CIRCLE, J2), (SPHERE, J2)])
def test_sensitivities_are_central_differences(source: dict[str, Any], matrix: dict[str, Any]) -> None:
    dim = 2 if source is CIRCLE else 3
    law: Any = load_law({"law": "nested", "rve": {**source, "phases": {"matrix": matrix, "fibre": ELASTIC}}}, dim=dim)
    solver = SnapshotSolver(law.rve, SolverOptions(rtol=1e-12))
    before, strain = np.random.default_rng(2).uniform(-0.02, 0.02, (2, 2, notation.n_strain(dim)))
    previous = solver.solve(before)
    centre, step = solver.solve(strain, previous), 1e-6
    weight = law.rve.discretisation.weight.ravel() / law.rve.discretisation.volume
    np.testing.assert_allclose(np.einsum("g,nsg->ns", weight, centre["phase_stress"]), centre["stress"], atol=1e-7)
    for column, direction in enumerate(np.eye(strain.shape[1])):
        ahead, behind = (solver.solve(strain + side * step * direction, previous) for side in (1, -1))
        for values, derivative in (
            ("stress", "tangent"), ("fluctuation", "sensitivity"), ("phase_stress", "phase_stress_sensitivity"),
        ):  # fmt: skip
            difference = (ahead[values] - behind[values]) / (2 * step)
            error = np.abs(difference - centre[derivative][..., column])
            # a point where yielding starts within the step has no derivative
            kinks = 0.001 if matrix is J2 and values == "phase_stress" else 0.0
            assert np.quantile(error, 1.0 - kinks) < 1e-4 * np.abs(centre[derivative]).max(), values


def test_path_snapshots_carry_the_history_of_the_nested_law(tmp_path: Path) -> None:
    _, stored = sampled(tmp_path, PLASTIC)
    law: Any = load_law({"law": "nested", "rve": PLASTIC["rve"], "solver": {"rtol": 1e-12}})
    paths = load_paths(Sampling.model_validate(PATHS), 2)
    state = np.zeros((3, law.n_state))
    for step in range(4):
        rows = np.flatnonzero(stored["step"] == step)
        np.testing.assert_array_equal(stored["path"][rows], range(3))
        np.testing.assert_array_equal(stored["strain"][rows], paths[:, step])
        answer = law.evaluate(paths[:, step], state, 1.0)
        np.testing.assert_allclose(stored["stress"][rows], answer.stress, rtol=1e-7, atol=1e-7)
        state = answer.state
        history = stored["history/matrix"][rows]
        weight = law.rve.discretisation.weight[law.rve.discretisation.cells_of_phase[1]].ravel()
        mean = np.einsum("g,nsg->ns", weight / weight.sum(), history)
        np.testing.assert_allclose(mean[:, 3], state[:, law.state_fields["matrix_equivalent_plastic_strain"]][:, 0])
    assert mean[:, 3].min() > 1e-3
