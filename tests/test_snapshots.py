"""Snapshots agree with the nested law, use reproducible strains, and survive interruption at any time."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import pyvista
import yaml
from helpers import ELASTIC, SATURATING
from mpi4py import MPI

from femops import CaseError, load_law, notation
from femops.commands import cli
from femops.commands.results import tensor_components
from femops.inputs.study import load_study
from femops.offline.filling import batch_of
from femops.offline.sample import sample
from femops.offline.snapshot_store import SnapshotStore
from femops.offline.strains import strains_of_run
from femops.output.points import write_points
from femops.rve.sampling import Sampling, load_paths
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import RVESolver, SolverOptions

STUDIES = sorted((Path(__file__).parents[1] / "cases" / "studies").glob("*.yaml"))
BIN = Path(sys.executable).parent
J2 = {"law": "j2", "E": 4000.0, "nu": 0.35, "yield_stress": 30.0, "hardening": 200.0}
CIRCLE = {"circles": {"circles": [{"center": [0.1, 0.05], "radius": 0.3}], "mesh_size": 0.2, "cell": "triangle6"}}
SPHERE = {"spheres": {"spheres": [{"center": [0.1, 0.0, 0.05], "radius": 0.3}], "mesh_size": 0.5, "cell": "tetra"}}
SOBOL = {"method": "sobol", "count": 6, "seed": 3, "range": 0.03}
PATHS = {"method": "random_paths", "count": 3, "steps": 4, "turns": 2, "seed": 1, "range": 0.03}
STUDY: dict[str, Any] = {
    "kinematics": "plane_strain",
    "rve": {**CIRCLE, "phases": {"matrix": SATURATING, "fibre": ELASTIC}},
    "sampling": SOBOL,
}
PLASTIC = {**STUDY, "rve": {**CIRCLE, "phases": {"matrix": J2, "fibre": ELASTIC}}, "sampling": PATHS}
BLOCK: dict[str, Any] = {
    "kinematics": "plane_strain",
    "mesh": {"box": {"size": [1.0, 1.0], "cells": [2, 2], "cell": "quadrilateral"}},
    "material": SATURATING,
    "supports": {"left": {"ux": 0.0, "uy": 0.0}},
    "loads": {"right": {"displacement": {"ux": 0.02, "uy": 0.01}}},
    "output": {"points": True, "picture": None},
}


def written(folder: Path, data: dict[str, Any], name: str = "study.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(data))
    return path


def sampled(folder: Path, data: dict[str, Any], output: str = "out") -> tuple[Any, dict[str, Any]]:
    """Run a study in this process; return the report and the fields of its store."""
    path = written(folder, data)
    report = sample(load_study(path), path, folder / output, MPI.COMM_SELF)
    return report, fields_of(report.file)


def fields_of(file: Path) -> dict[str, Any]:
    found = {}
    with h5py.File(file) as store:
        store.visititems(lambda name, one: found.update({name: one[...]}) if isinstance(one, h5py.Dataset) else None)
    assert found.pop("check").shape == (len(found["strain"]),)
    return found


def assert_same(one: dict[str, Any], two: dict[str, Any], tolerance: float = 1e-9) -> None:
    assert set(one) == set(two)
    for name, values in one.items():
        assert values.shape == two[name].shape, name
        assert np.abs(values - two[name]).max() <= tolerance * np.abs(values).max(), name


@pytest.fixture
def solves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the RVEs that are solved."""
    counts: list[int] = []
    solve = RVESolver.solve

    def counting(self: RVESolver, strain: Any, *rest: Any) -> Any:
        counts.append(strain.shape[1])
        return solve(self, strain, *rest)

    monkeypatch.setattr(RVESolver, "solve", counting)
    return counts


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
    engineering = notation.strain_to_abaqus(paths).reshape(-1, paths.shape[2])
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
    if load_study(study).rve is None:
        pytest.skip("no study of one RVE")
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


KILLED = """
import os, signal, sys
from femops.commands import cli
replace = os.replace
left = int(sys.argv[1])
def killing(old, new):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)
os.replace = killing
cli.main(sys.argv[2:])
"""


@pytest.mark.parametrize(("study", "commits"), [(STUDY, 4), (PLASTIC, 6)], ids=["samples", "middle of paths"])
def test_a_killed_run_goes_on_without_solving_anything_twice(
    tmp_path: Path, solves: list[int], study: dict[str, Any], commits: int
) -> None:
    path = written(tmp_path, study)
    command = [sys.executable, "-c", KILLED, str(commits), "sample", str(path), "--output", str(tmp_path / "killed")]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == -signal.SIGKILL
    found = len(list((tmp_path / "killed").glob("snapshots-*.h5")))
    assert found == commits - 1
    report, resumed = sampled(tmp_path, study, "killed")
    total = len(resumed["strain"])
    assert (report.found, report.solved, sum(solves)) == (found, total - found, total - found)
    assert_same(sampled(tmp_path, study, "uninterrupted")[1], resumed)
    assert [file.name for file in (tmp_path / "killed").iterdir()] == ["snapshots.h5"]


MORTAL = """
import os, pathlib, shutil, signal, sys
import numpy as np
from femops.offline import snapshot_store as snapshots
folder = pathlib.Path(sys.argv[1])
os.fsync = lambda _: None  # the system survives these kills
def work(store):
    while store.count < 8:
        rows = np.arange(store.count, store.count + 2)
        store.append({"strain": rows[:, None] * np.ones(3), "history/matrix": rows[:, None, None] * np.ones((2, 4))})
        if store.count == 4:
            store.fold()
    store.fold()
def mortal(life):
    def counted(function):
        def call(*arguments, **keywords):
            nonlocal life
            life -= 1
            if life == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)
        return call
    for owner, name in ((os, "replace"), (os, "fsync"), (pathlib.Path, "unlink"), (shutil, "copyfile"),
                        (snapshots.h5py.File, "__exit__"), (snapshots.h5py.Group, "create_dataset"),
                        (snapshots, "_extend"), (snapshots.h5py.Dataset, "resize")):
        setattr(owner, name, counted(getattr(owner, name)))
for life in range(1, 1000):
    child = os.fork()
    if child == 0:
        mortal(life)
        work(snapshots.SnapshotStore(folder, "rve"))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    committed = [f for f in folder.glob("snapshots-*.h5")]
    store = snapshots.SnapshotStore(folder, "rve")
    if store.count:
        assert np.array_equal(store.read("strain")[:, 1], np.arange(store.count)), life
        assert np.array_equal(store.read("history/matrix")[:, 1, 3], np.arange(store.count)), life
    work(store)
    assert [f.name for f in folder.iterdir()] == ["snapshots.h5"], life
    assert np.array_equal(store.read("strain")[:, 2], np.arange(8)), life
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
    shutil.rmtree(folder)
print(life)
"""


def test_a_kill_at_any_file_operation_leaves_a_sound_store(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", MORTAL, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def emptied(file: Path, row: int, *, checks: bool) -> None:
    """Make a row as it is before it is written; without checks, as in stores of earlier versions."""
    with h5py.File(file, "r+") as store:
        for name in fields_of(file):
            store[name][row] = 0
        if not checks:
            del store["check"]


@pytest.mark.parametrize("checks", [True, False], ids=["checked", "written before there were checks"])
@pytest.mark.parametrize(("dim", "row"), [(2, 3), (2, 0), (3, 1)])
def test_rows_that_were_never_written_are_solved_anew(
    tmp_path: Path, solves: list[int], capsys: pytest.CaptureFixture[str], dim: int, row: int, checks: bool
) -> None:
    solid = {"kinematics": "solid", "rve": {**SPHERE, "phases": STUDY["rve"]["phases"]}}
    study = {**STUDY, **(solid if dim == 3 else {}), "sampling": {**SOBOL, "count": 4}}
    report, whole = sampled(tmp_path, study)
    emptied(report.file, row, checks=checks)
    solves.clear()
    again, mended = sampled(tmp_path, study)
    assert (again.found, again.solved, sum(solves)) == (row, 4 - row, 4 - row)
    assert f"are solved anew: from number {row + 1} on, {4 - row} in all" in capsys.readouterr().err
    assert_same(whole, mended)
    assert sampled(tmp_path, study)[0].solved == 0


@pytest.mark.parametrize("field", ["stress", "phase_stress_sensitivity", "path"])
def test_a_changed_number_is_found_in_every_field(tmp_path: Path, field: str) -> None:
    report, whole = sampled(tmp_path, STUDY)
    with h5py.File(report.file, "r+") as store:
        values = store[field][...]
        values.reshape(6, -1)[4, -1] += 1 if field == "path" else 1e-12 * np.abs(whole[field]).max()
        store[field][...] = values
        rve = str(store.attrs["rve"])
    assert SnapshotStore(report.file.parent, rve).sound_count() == 4


def test_rows_in_another_order_are_unsound(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "rve")
    store.append({"strain": np.arange(12.0).reshape(4, 3), "tangent": np.ones((4, 3, 3))})
    store.fold()
    assert store.sound_count() == 4
    with h5py.File(store.file, "r+") as file:  # each row with its own checksum
        for name in ("strain", "tangent", "check"):
            file[name][1:3] = file[name][1:3][::-1]
    assert store.sound_count() == 1


def test_a_sound_store_of_an_earlier_version_is_kept_and_gets_its_checks_when_it_grows(
    tmp_path: Path, solves: list[int]
) -> None:
    report, whole = sampled(tmp_path, STUDY)
    with h5py.File(report.file, "r+") as store:
        checks = store["check"][...]
        del store["check"]
    solves.clear()
    more = written(tmp_path, {**STUDY, "sampling": {**SOBOL, "count": 8}})
    assert sample(load_study(more), more, tmp_path / "out", MPI.COMM_SELF).found == 6
    assert sum(solves) == 2
    with h5py.File(report.file) as store:
        np.testing.assert_array_equal(store["check"][:6], checks)
        assert len(store["check"]) == 8
    assert_same(whole, {name: values[:6] for name, values in fields_of(report.file).items()}, 0.0)


def test_a_second_sampling_waits_for_the_first_and_finds_its_snapshots(
    tmp_path: Path, solves: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, STUDY)
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, "sample", str(path), "--output", str(tmp_path / "out")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None and child.stdin is not None and child.stdout.readline() == "solving\n"
        threading.Timer(1.0, child.stdin.close).start()
        report = sample(load_study(path), path, tmp_path / "out", MPI.COMM_SELF)
        assert child.wait(60) == 0
    assert (report.found, report.solved, solves) == (6, 0, [])
    assert f"pid {child.pid}" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["snapshots.h5"]


SLOW = """
import sys
from femops.commands import cli
from femops.offline import sample
fill = sample.fill
def slow(*arguments):
    print("solving", flush=True)
    sys.stdin.read()
    return fill(*arguments)
sample.fill = slow
cli.main(sys.argv[1:])
"""


def test_batches_end_with_their_step() -> None:
    assert batch_of(0, 4, 6) == (slice(0, 4), None)
    assert batch_of(4, 4, 6) == (slice(4, 6), None)
    assert batch_of(6, 4, 6) == (slice(6, 10), slice(0, 4))


Femops = Callable[..., tuple[int, str, str]]


@pytest.fixture
def femops(capsys: pytest.CaptureFixture[str]) -> Femops:
    """Run a command; return its exit code and what it prints."""

    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leave:
            cli.main([str(argument) for argument in arguments])
        return (int(leave.value.code or 0), *capsys.readouterr())

    return command


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rve.phases.matrix.K=4781.0", "holds snapshots of another RVE"),
        ("rve.boundary=kinematic", "holds snapshots of another RVE"),
        ("rve.circles.circles=[{center: [0.1, 0.06], radius: 0.3}]", "holds snapshots of another RVE"),
        ("sampling.seed=4", "snapshots of another sampling are there"),
        ("sampling.count=0", "sampling.count: 0 given, expected greater than 0"),
        ("sampling.cuont=4", "sampling.cuont: unknown key; did you mean 'count'?"),
        ("sampling.steps=4", "sampling: steps given, but method sobol takes only count, range, seed, shear"),
        ("sampling.range={33: [0, 1]}", "sampling.range: component 33 given, expected some of 11, 22, 12"),
        ("sampling.range={11: [1, 0]}", "sampling.range: [1, 0] given for component 11, expected [lowest, highest]"),
        ("sampling.range=-1", "sampling.range: -1 given, expected a positive number"),
        ("sampling={method: run, run: nowhere}", "run the case with --set output.points=true"),
        ("sampling={method: run}", "sampling: run missing, expected with method run"),
        ("rve.phases.matrix.K=.inf", "rve.phases.matrix.K: inf given, expected a finite number"),
        ("kinematics=solid", "rve.circles: the RVE is 2D, expected 3D"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, femops: Femops, change: str, said: str) -> None:
    path = written(tmp_path, {**STUDY, "sampling": {**SOBOL, "count": 2}})
    assert femops("sample", path, "--output", tmp_path / "out")[0] == 0
    before = (tmp_path / "out" / "snapshots.h5").read_bytes()
    code, _, error = femops("sample", path, "--output", tmp_path / "out", "--set", change)
    assert (code, error.count("\n")) == (cli.INPUT_ERROR, 1)
    assert said in error
    assert (tmp_path / "out" / "snapshots.h5").read_bytes() == before


def test_a_strain_that_does_not_converge_is_told_and_keeps_what_is_stored(tmp_path: Path, femops: Femops) -> None:
    path = written(tmp_path, STUDY)
    assert femops("sample", path, "--output", tmp_path, "--set", "sampling.count=2")[0] == 0
    code, _, error = femops("sample", path, "--output", tmp_path, "--set", "solver.max_iter=1")
    assert (code, error.count("\n")) == (cli.NOT_CONVERGED, 1)
    assert "snapshots 3 to 3: 1 of 1 RVEs did not converge in 1 iterations" in error
    assert len(fields_of(tmp_path / "snapshots.h5")["strain"]) == 2


def test_a_file_that_is_no_store_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "snapshots.h5").write_text("mine")
    with pytest.raises(CaseError, match="is not a file of snapshots"):
        SnapshotStore(tmp_path, "rve")
    assert (tmp_path / "snapshots.h5").read_text() == "mine"


def test_strains_of_a_finished_run_are_sampled(tmp_path: Path, femops: Femops) -> None:
    case = written(tmp_path, BLOCK, "block.yaml")
    assert femops("run", case, "--output", tmp_path / "run")[0] == 0
    study = written(tmp_path, {**STUDY, "sampling": {"method": "run", "run": "run"}})
    code, printed, error = femops("sample", study, "--output", tmp_path / "all")
    assert (code, error) == (0, "")
    assert "snapshots" in printed and "16/16" in printed
    assert "16 snapshots solved in" in printed
    tensor = np.asarray(pyvista.read(tmp_path / "run" / "points.vtp").point_data["strain"])
    expected = tensor[:, [0, 1, 3]] * [1, 1, np.sqrt(2)]
    stored = fields_of(tmp_path / "all" / "snapshots.h5")["strain"]
    np.testing.assert_array_equal(stored, expected)
    some = {**STUDY, "sampling": {"method": "run", "run": "run/points.vtp", "count": 5}}
    picked = sampled(tmp_path, some)[1]["strain"]
    assert len(np.unique(picked, axis=0)) == 5
    assert all((expected == one).all(axis=1).any() for one in picked)


def test_component_order_of_result_files_is_undone(tmp_path: Path) -> None:
    strain = np.random.default_rng(0).normal(size=(7, 6))
    write_points(tmp_path / "points.vtp", np.zeros((7, 3)), {"strain": tensor_components(strain)})
    np.testing.assert_allclose(strains_of_run(tmp_path, 3), strain, rtol=1e-14)
    with pytest.raises(CaseError, match="out of the plane"):
        strains_of_run(tmp_path, 2)


@pytest.mark.mpi
def test_two_ranks_store_what_one_stores_and_print_once(tmp_path: Path) -> None:
    path = written(tmp_path, PLASTIC)
    command = [str(BIN / "mpirun"), "-n", "2", str(BIN / "femops"), "sample", str(path), "--output"]
    done = subprocess.run(
        [*command, str(tmp_path / "two")], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"COLUMNS": "200"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("they are in") == done.stdout.count("/snapshots.h5") == 1
    assert_same(sampled(tmp_path, PLASTIC)[1], fields_of(tmp_path / "two" / "snapshots.h5"))
