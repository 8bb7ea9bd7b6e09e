"""Studies that train the toy surrogate, shared by the tests."""

import sys
from pathlib import Path
from typing import Any

import yaml
from helpers import ELASTIC, SATURATING
from mpi4py import MPI

from femops.inputs.study import load_study
from femops.offline.train import TrainReport, train

BIN = Path(sys.executable).parent
J2 = {"law": "j2", "E": 4000.0, "nu": 0.35, "yield_stress": 30.0, "hardening": 200.0}
CIRCLE = {"circles": {"circles": [{"center": [0.1, 0.05], "radius": 0.3}], "mesh_size": 0.25, "cell": "triangle"}}
STUDY: dict[str, Any] = {
    "units": "mm, N, MPa",
    "kinematics": "plane_strain",
    "rve": {**CIRCLE, "phases": {"matrix": SATURATING, "fibre": ELASTIC}},
    "sampling": {"method": "sobol", "count": 32, "seed": 3, "range": 0.01},
    "surrogate": {"law": "toy", "seed": 1},
    "validation": {"method": "sobol", "count": 12, "seed": 4, "range": 0.01},
}


def study_file(changes: dict[str, Any] | None = None) -> Path:
    data = {**STUDY, **(changes or {})}
    Path("study.yaml").write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return Path("study.yaml")


def trained(folder: str | None = "out", **changes: Any) -> TrainReport:
    path = study_file(changes)
    return train(load_study(path), path, None if folder is None else Path(folder), MPI.COMM_SELF)


def arrays_of(report: TrainReport) -> bytes:
    return (report.model / "model.safetensors").read_bytes()
