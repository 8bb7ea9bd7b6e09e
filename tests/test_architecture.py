"""Import rules of the architecture, checked in the syntax trees."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "femops"
MODULES = sorted(ROOT.rglob("*.py"))

# Rooms from the ground up: a module imports its own floor and those below it.
FLOORS = [
    {"devices", "errors", "notation", "packages", "parallel", "stack", "threads", "validation"},
    {"conversions", "law", "hookspecs", "contract", "checks"},
    {"plugins"},
    {"meshing", "phases"},
    {"output"},
    {"rve"},
    {"surrogate"},
    {"pde"},
    {"builtin", "loading", "hosts"},
    {"macro"},
    {"inputs"},
    {"offline", "export"},
    {"commands"},
    {"__main__"},
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

# Packages that only some rooms may know.
RESERVED = {
    "dolfinx": {"macro", "pde", "commands", "hosts/dolfinx.py"},
    "petsc4py": {"macro", "pde", "rve/linear.py", "rve/multigrid.py"},
    "mpi4py": {"macro", "pde", "commands"},
    "torch": {"devices"},
    "dolfinx_external_operator": {"hosts/dolfinx.py"},
    "skfem": {"hosts/scikit_fem.py"},
    "torchfem": {"hosts/torch_fem.py"},
}


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        return
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "femops" and len(parts) > 1 and parts[1] in FLOOR:
            assert FLOOR[parts[1]] <= FLOOR[room], f"{room} may not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_stay_in_their_rooms(path: Path) -> None:
    here = {_room(path), str(path.relative_to(ROOT))}
    for name in _imports(path):
        allowed = RESERVED.get(name.split(".")[0])
        assert allowed is None or here & allowed, f"{path.name} may not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_public_names_of_dolfinx_are_used(path: Path) -> None:
    hidden = [name for name in _imports(path) if name.startswith("dolfinx") and "._" in name]
    assert not hidden


@pytest.mark.parametrize("folder", ["femops", "plugins", "tests"])
def test_torch_is_imported_in_one_place(folder: str) -> None:
    direct = re.compile(r"""^\s*(import|from) torch\b|importorskip\(["']torch["']\)""", re.MULTILINE)
    files = [path for path in (ROOT.parent / folder).rglob("*.py") if direct.search(path.read_text())]
    assert files == [ROOT / "devices" / "torch_library.py"] * (folder == "femops")


def test_every_room_has_its_floor() -> None:
    rooms = {_room(path) for path in MODULES} - {"__init__"}
    assert rooms <= set(FLOOR)


PLUGINS = [*sorted(ROOT.parent.glob("plugins/femops-*/femops_*/**/*.py")), ROOT.parent / "tests" / "toy_fields.py"]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_plugins_import_only_what_is_public(path: Path) -> None:
    page = (
        (ROOT.parent / "plugins" / "README.md")
        .read_text()
        .partition("## Public modules")[2]
        .partition("\n**torch**")[0]
    )
    public = set(re.findall(r"`(femops[\w.]*)`", page))
    assert public
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(one.name.split(".")[0] == "femops" for one in node.names), "import names from public modules"
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "femops":
            for name in (one.name for one in node.names):
                whole = f"{node.module}.{name}"
                assert node.module in public or whole in public, f"{whole} is not public"
                assert not name.startswith("_"), f"{whole} is private"
