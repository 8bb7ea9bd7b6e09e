"""A trained law needs the packages that femops and femops-equino require without their extras, and no others."""

import importlib.metadata as metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from equino_cases import RANGE, answer_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from femops import load_law
from femops.rve.sampling import sobol

ROOT = Path(__file__).parents[3]
PROJECTS = [ROOT / "pyproject.toml", ROOT / "plugins" / "femops-equino" / "pyproject.toml"]
ALONE = """
import json, sys
forbidden, parameters, dim, files = json.loads(sys.argv[1])
class Without:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
import numpy as np
from femops import load_law
law, strain = load_law(parameters, dim=dim), np.load(files + ".npy")
answer = law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)
np.savez(files + ".npz", **{name: one for name, one in vars(answer).items() if one is not None})
"""


def _required(requirements):
    """Return the names of packages and of what they require."""
    waiting, found = list(requirements), set()
    while waiting:
        one = Requirement(waiting.pop())
        if one.name.startswith("femops") or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        if canonicalize_name(one.name) not in found:
            found.add(canonicalize_name(one.name))
            waiting += metadata.requires(one.name) or []
    return found


@pytest.fixture(scope="module")
def forbidden():
    """The importable names of all installed packages that are not required."""
    projects = [tomllib.loads(file.read_text())["project"] for file in PROJECTS]
    required = _required([one for project in projects for one in project["dependencies"]])
    assert {"numpy", "numba", "llvmlite"} <= required and not required & {"scipy", "torch", "h5py", "gmsh"}
    own = {*required, "femops", "femops-equino"}
    owners = metadata.packages_distributions()
    names = [name for name, packages in owners.items() if not own & set(map(canonicalize_name, packages))]
    assert {"scipy", "torch", "h5py", "gmsh", "mpi4py", "basix", "typer"} <= set(names)
    return names


@pytest.mark.parametrize(("dim", "corrections"), [(2, "auto"), (2, 0), (2, "adjoint"), (3, "auto"), (3, 0)])
def test_a_law_answers_with_the_same_bits_without_the_extras(forbidden, anisotropic, dim, corrections, tmp_path):
    parameters = {"law": "equino", "model": str(anisotropic[dim]), "corrections": corrections}
    corner = np.full(3 * dim - 3, RANGE)
    strain = sobol(-corner, corner, 100, 1)
    np.save(tmp_path / "law.npy", strain)
    given = str(anisotropic[dim]) if corrections == "auto" else parameters
    command = [sys.executable, "-c", ALONE, json.dumps([forbidden, given, dim, str(tmp_path / "law")])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = answer_of(load_law(parameters, dim=dim), strain)
    found = np.load(tmp_path / "law.npz")
    assert {"stress", "tangent", "state", "valid"} <= set(found)
    for name, values in found.items():
        np.testing.assert_array_equal(values, getattr(expected, name))
