"""Small studies of one RVE and their stores, shared by the tests."""

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from helpers import ELASTIC, SATURATING
from mpi4py import MPI

from femops.inputs.study import load_study
from femops.offline.sample import sample

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
