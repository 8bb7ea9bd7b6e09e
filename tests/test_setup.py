"""The set-up that the README promises."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_uv_and_pip_are_given_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["tool"]["uv"]["constraint-dependencies"]


def test_every_requirement_has_an_exact_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    assert {re.split(r"[<>=;\s]", one)[0] for one in wanted} <= pinned


def test_ci_runs_the_commands_of_the_readme() -> None:
    commands = re.findall(r"^    (uv run .*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    script = (ROOT / ".ci" / "run").read_text()
    assert commands[:2] == ["uv run femops run cases/cook_nested.yaml", "uv run pytest"]
    for command in commands[:2]:
        assert command in script


def test_no_file_names_a_registry() -> None:
    for name in ("pyproject.toml", "constraints.txt", ".ci/run", "README.md"):
        assert "index-url" not in (ROOT / name).read_text()
    assert not (ROOT / "uv.lock").exists() or "uv.lock" in (ROOT / ".gitignore").read_text()
