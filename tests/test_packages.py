"""Packages that are installed as extras: what needs them says so in one line."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from femops.packages import EXTRAS, remedy

ROOT = Path(__file__).parents[1]
WITHOUT = """
import sys
class Without:
    def find_spec(self, name, *rest):
        if name == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
from femops.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("typer", ["--help"]), ("h5py", ["plugins"]), ("rich", ["--version"]), ("pyvista", ["view", "nowhere"])],
)
def test_a_command_without_its_package_says_in_one_line_what_to_install(
    package: str, arguments: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", WITHOUT.format(package=package), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    expected = f"femops: the package '{package}' is not installed; pip install 'femops[solver]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert list(tmp_path.iterdir()) == []


STUDY = """
kinematics: plane_strain
rve:
  voxels: {cells: 4, inclusions: [{center: [0.3, 0.4], radius: 0.3}]}
  phases:
    matrix: {law: saturating, K: 4780.0, alpha1: 50.0, alpha2: 0.06}
    fibre: {law: elastic, K: 40000.0, G: 20000.0}
sampling: {method: sobol, count: 2, range: 0.01}
validation: {method: sobol, count: 2, range: 0.01, seed: 1}
"""
SMALL = "modes: 3, points: 20, certificate_points: 20, states: 8"


@pytest.mark.parametrize(
    ("surrogate", "needed"),
    [("law: equino", True), ("law: equino, mode: original", True), (f"law: equino, networks: null, {SMALL}", False)],
)
def test_a_training_without_torch_says_so_before_anything_is_solved(
    surrogate: str, needed: bool, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(f"{STUDY}surrogate: {{{surrogate}}}")
    command = [sys.executable, "-c", WITHOUT.format(package="torch"), "train", "study.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    told = "femops: the package 'torch' is not installed; pip install 'femops-equino[train]'\n"
    assert (done.returncode, done.stderr) == ((2, told) if needed else (0, "")), done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["study.yaml"] if needed else (tmp_path / "results").exists()


def test_only_packages_of_an_extra_have_a_remedy() -> None:
    assert remedy(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")) == (
        "the package 'torch' is not installed; pip install 'femops-equino[train]'"
    )
    for other in (ModuleNotFoundError("mine", name="mine"), ModuleNotFoundError("mine"), ImportError(name="torch")):
        assert remedy(other) is None


def _third_party(file: Path) -> set[str]:
    """Return the packages that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return {name for name in found - sys.stdlib_module_names if not name.startswith("femops")}


def test_whatever_femops_imports_is_required_or_in_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[<>=;\s]", one)[0].replace("-", "_") for one in project["dependencies"]}
    required = {{"pyyaml": "yaml"}.get(name, name) for name in required}
    files = [file for file in (ROOT / "femops").rglob("*.py") if file.parent.name != "hosts"]
    unknown = set().union(*map(_third_party, files)) - required - EXTRAS.keys() - {"dolfinx_solver"}
    assert not unknown, "neither in dependencies nor in femops.packages"
    assert not required & EXTRAS.keys()


def test_every_remedy_is_an_extra() -> None:
    files = [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    projects = [tomllib.loads(file.read_text())["project"] for file in files]
    extras = {f"{one['name']}[{extra}]" for one in projects for extra in one.get("optional-dependencies", {})}
    assert set(EXTRAS.values()) <= extras
