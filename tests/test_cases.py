"""Every shipped case gives its pinned results on any number of ranks."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from femops.commands.run import run_case
from femops.inputs.case import Case, load_case
from femops.inputs.study import load_study
from femops.surrogate import FamilyParameters

ROOT = Path(__file__).parents[1]
CASES = sorted((ROOT / "cases").glob("*.yaml"))


def _twin(path: Path) -> Path:
    return path.with_stem(re.sub("equino|beno|spon|moe", "nested", path.stem))


# Minutes each: `femops compare cases/large_rve_moe.yaml` solves both, and fails where a number is missed.
QUICK = [path for path in CASES if not path.stem.startswith("large_")]
TWINS = [path for path in CASES if _twin(path) != path and _twin(path).exists()]

# Largest width of a bar over the true error: twice what is measured, as the latter depends on the training.
MOST = {"indicator": 30.0, "bound": 100.0}
# Here the indicator is seven times the error of a stress, and contributions of both signs cancel.
WIDE = {"cube_equino_3d": 10.0, "plate_hole_equino": 10.0}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run in, so that the model of a study is there for all its cases once it is trained."""
    return tmp_path_factory.mktemp("trained")


@pytest.mark.parametrize("path", QUICK, ids=lambda path: path.stem)
def test_case_gives_its_pinned_numbers(
    path: Path, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    case = load_case(path)
    assert case.quantities, "a shipped case pins at least one number"
    summary = run_case(case, path, tmp_path, MPI.COMM_WORLD)
    assert summary["finished"]
    for name, quantity in case.quantities.items():
        assert quantity.expected is not None
        assert summary["quantities"][name] == pytest.approx(quantity.expected, rel=quantity.rtol), name
    if path in TWINS:
        _check_error_bars(summary, load_case(_twin(path)), WIDE.get(path.stem, 1.0))


def _check_error_bars(summary: dict[str, Any], nested: Case, wide: float) -> None:
    """Check that the error bars contain the nested values, are not much wider, and say of what kind they are."""
    for name, bar in summary["error_bars"].items():
        exact = nested.quantities[name].expected
        assert exact is not None
        missed = abs(summary["quantities"][name] - exact)
        assert missed < bar["width"] < min(MOST[bar["kind"]] * wide * missed, 1e-2 * abs(exact)), name
        assert bar["kind"] == summary["law_statistics"]["certificate"]
    assert set(summary["error_bars"]) == set(summary["quantities"])


@pytest.mark.parametrize("path", TWINS, ids=lambda path: path.stem)
def test_surrogate_and_nested_law_solve_the_same_case_and_pin_the_same_number(path: Path) -> None:
    case, twin = load_case(path), load_case(_twin(path))
    for region, parameters in case.laws().items():
        own = parameters.rve if isinstance(parameters, FamilyParameters) else None
        assert (own or load_study(path.parent / parameters.study).rve) == twin.laws()[region].rve
    for name in ("kinematics", "mesh", "order", "supports", "loads"):
        assert getattr(case, name) == getattr(twin, name), name
    assert case.steps.ends()[-1] == twin.steps.ends()[-1]
    assert set(case.quantities) == set(twin.quantities)
    for name, quantity in case.quantities.items():
        assert quantity.expected == pytest.approx(twin.quantities[name].expected, rel=1e-4), name


def test_cases_leave_the_training_range_and_learn_on_the_way(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    solved = {}
    for enrich in (True, False):
        path = ROOT / "cases" / "l_profile_equino.yaml"
        case = load_case(path, (f"trust.enrich={str(enrich).lower()}",))
        statistics = run_case(case, path, tmp_path / str(enrich), MPI.COMM_WORLD)["law_statistics"]
        assert statistics["points_out_of_range"] > 0
        assert bool(statistics["enrichments"]) == enrich
        solved[enrich] = statistics["points_solved_exactly"]
    assert solved[True] < 0.9 * solved[False]


PARALLEL = {
    "plane": [
        "kinematics=plane_strain",
        "mesh={box: {size: [2, 1], cells: [4, 3], cell: triangle}}",
        "order=2",
        "material={law: j2, E: 100.0, nu: 0.3, yield_stress: 0.5, hardening: 5.0}",
        "supports={left: {ux: 0, uy: 0}}",
        'loads={right: {displacement: {uy: "0.05 * t"}}, top: {pressure: 0.1}}',
        "output={vtx: true}",
    ],
    "solid": [
        "kinematics=solid",
        "mesh={box: {size: [1, 1, 1], cells: [2, 2, 2], cell: hexahedron}}",
        "material={law: nested, rve: {"
        " spheres: {spheres: [{center: [0, 0, 0], radius: 0.3}], mesh_size: 0.4, cell: tetra},"
        " phases: {matrix: {law: saturating, K: 4780.0, alpha1: 50.0, alpha2: 0.06},"
        " fibre: {law: elastic, E: 70000.0, nu: 0.2}}}}",
        "supports={left: {ux: 0, uy: 0, uz: 0}}",
        'loads={right: {traction: [0.0, "2.0 * t", 1.0]}}',
        "output={micro: [{most: strained}], points: true}",
    ],
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", list(PARALLEL))
def test_two_ranks_give_what_one_gives(name: str, tmp_path: Path) -> None:
    case = tmp_path / "case.yaml"
    lines = [line.replace("=", ": ", 1) for line in PARALLEL[name]]
    case.write_text("\n".join([*lines, "steps: {count: 2, end: 1.0}", ""]))
    files = {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        command = [
            str(Path(sys.executable).parent / "mpirun"),
            "-n",
            str(ranks),
            sys.executable,
            "-m",
            "femops.commands.cli",
        ]
        subprocess.run([*command, "run", str(case), "--output", str(folder)], check=True, capture_output=True)
        files[ranks] = folder
        assert json.loads((folder / "summary.json").read_text())["ranks"] == ranks
    assert {one.name for one in files[1].iterdir()} == {one.name for one in files[2].iterdir()}
    curves = [np.genfromtxt(files[ranks] / "curves.csv", delimiter=",", skip_header=1) for ranks in (1, 2)]
    assert np.abs(curves[0] - curves[1]).max() <= 1e-10 * np.abs(curves[0]).max()
    for one in sorted(files[1].glob("*.vtkhdf")):
        _same(one, files[2] / one.name)


def _same(first: Path, second: Path) -> None:
    with h5py.File(first) as a, h5py.File(second) as b:
        names: list[str] = []
        a.visit(names.append)
        arrays = [name for name in names if isinstance(a[name], h5py.Dataset)]
        assert any("displacement" in name for name in arrays)
        for name in arrays:
            if a[name].dtype.kind == "O":  # texts
                assert list(a[name]) == list(b[name]), name
                continue
            x, y = np.asarray(a[name], dtype=float), np.asarray(b[name], dtype=float)
            scale = np.abs(x).max(initial=1e-300)
            assert np.abs(x - y).max(initial=0.0) <= 1e-10 * scale, name
