"""Installation as described in the README."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_uv_and_pip_are_given_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["tool"]["uv"]["constraint-dependencies"]


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=;\s]", requirement)[0]


def test_every_requirement_has_an_exact_version() -> None:
    projects = [
        tomllib.loads(file.read_text()) for file in (ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml"))
    ]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    of_all = [project["project"] for project in projects]
    extras = [one for project in of_all for extra in project.get("optional-dependencies", {}).values() for one in extra]
    wanted = {_name(one) for project in of_all for one in [*project["dependencies"], *extras]}
    wanted |= {_name(one) for group in projects[0]["dependency-groups"].values() for one in group}
    assert wanted - {project["project"]["name"] for project in projects} <= pinned


def test_a_clone_is_installed_with_its_plugins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    plugins = {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")}
    assert plugins <= {_name(one) for one in project["dependency-groups"]["dev"]}
    assert {name: {"workspace": True} for name in plugins} == project["tool"]["uv"]["sources"]
    assert all(f"plugins/{name}" in (ROOT / "README.md").read_text() for name in plugins)


def test_femops_itself_needs_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch" not in {_name(one) for one in project["dependencies"]}


def test_ci_runs_the_commands_of_the_readme() -> None:
    start = (ROOT / "README.md").read_text().partition("## Start")[2]
    commands = re.findall(r"^    (uv run .*)$", start, flags=re.MULTILINE)[:3]
    runs = ["uv run femops run cases/cook_nested.yaml", "uv run femops run cases/cook_equino.yaml"]
    assert commands == [*runs, "uv run pytest -n auto --dist loadfile"]
    script = (ROOT / ".ci" / "run").read_text()
    assert all(command in script for command in commands)


def test_no_file_names_a_registry() -> None:
    for name in ("pyproject.toml", "constraints.txt", ".ci/run", "README.md"):
        assert "index-url" not in (ROOT / name).read_text()
    assert not (ROOT / "uv.lock").exists() or "uv.lock" in (ROOT / ".gitignore").read_text()


def test_the_number_of_threads_is_set_before_numpy_reads_it() -> None:
    code = (
        "import os, sys\n"
        "class Spy:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'numpy':\n"
        "            print(os.environ.get('OPENBLAS_NUM_THREADS'), os.environ.get('OMP_NUM_THREADS'))\n"
        "sys.meta_path.insert(0, Spy())\n"
        "import femops.commands.cli\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_mumps_is_loaded_in_a_program_that_has_nothing_but_the_nested_law() -> None:
    """Without its plugins, which may load the libraries in their order by chance."""
    phases = {"matrix": {"law": "elastic", "K": 1.0, "G": 1.0}, "fibre": {"law": "elastic", "K": 2.0, "G": 3.0}}
    circle = {"circles": [{"center": [0.0, 0.0], "radius": 0.3}], "mesh_size": 0.3, "cell": "triangle6"}
    law = {"law": "nested", "rve": {"circles": circle, "phases": phases}, "solver": {"linear": "mumps"}}
    code = (
        "import importlib.metadata as metadata\n"
        "every = metadata.entry_points\n"
        "def fewer(**given):\n"
        "    mine = given.get('group') == 'femops'\n"
        "    return [one for one in every(**given) if one.name == 'builtin'] if mine else every(**given)\n"
        "metadata.entry_points = fewer\n"
        "import numpy, sys\n"
        "from femops import load_law\n"
        "assert 'mpi4py' not in sys.modules\n"
        f"law = load_law({law!r})\n"
        "assert 'femops_spon' not in sys.modules\n"
        "print(law.evaluate(numpy.full((1, 3), 1e-3), numpy.zeros((1, law.n_state)), 1.0).stress.shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "(1, 3)\n", done.stderr


def test_the_mkl_is_found_without_a_search_through_the_environment() -> None:
    code = "import ctypes.util, glob\nctypes.util.find_library = glob.glob = None\n"
    code += "from femops.rve.linear import _mkl\nprint(_mkl()['pardiso'])\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "_FuncPtr" in done.stdout, done.stderr
