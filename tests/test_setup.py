"""Installation as described in the README."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_uv_and_pip_are_given_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["tool"]["uv"]["constraint-dependencies"]


def _name(requirement: str) -> str:
    return re.split(r"[<>=;\s]", requirement)[0]


def test_every_requirement_has_an_exact_version() -> None:
    projects = [
        tomllib.loads(file.read_text()) for file in (ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml"))
    ]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = {_name(one) for project in projects for one in project["project"]["dependencies"]}
    wanted |= {_name(one) for group in projects[0]["dependency-groups"].values() for one in group}
    assert wanted - {project["project"]["name"] for project in projects} <= pinned


def test_a_clone_is_installed_with_its_plugins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    plugins = {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")}
    assert plugins <= set(project["dependency-groups"]["dev"])
    assert {name: {"workspace": True} for name in plugins} == project["tool"]["uv"]["sources"]
    assert all(f"plugins/{name}" in (ROOT / "README.md").read_text() for name in plugins)


def test_femops_itself_needs_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch" not in {_name(one) for one in project["dependencies"]}


def test_ci_runs_the_commands_of_the_readme() -> None:
    start = (ROOT / "README.md").read_text().partition("## Start")[2]
    commands = re.findall(r"^    (uv run .*)$", start, flags=re.MULTILINE)[:3]
    runs = ["uv run femops run cases/cook_nested.yaml", "uv run femops run cases/cook_equino.yaml"]
    assert commands == [*runs, "uv run pytest"]
    script = (ROOT / ".ci" / "run").read_text()
    assert all(command in script for command in commands)


def test_no_file_names_a_registry() -> None:
    for name in ("pyproject.toml", "constraints.txt", ".ci/run", "README.md"):
        assert "index-url" not in (ROOT / name).read_text()
    assert not (ROOT / "uv.lock").exists() or "uv.lock" in (ROOT / ".gitignore").read_text()
