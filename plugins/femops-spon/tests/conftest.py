"""One small SPON, trained on a family of RVEs, for all tests."""

from types import SimpleNamespace

import pytest
import yaml
from mpi4py import MPI

import femops
from femops.study import load_study
from femops.training import train

SOFT = {"law": "elastic", "K": 4.0, "G": 2.0}
STUDY = {
    "kinematics": "plane_strain",
    "family": {
        "count": 12,
        "validation": 6,
        "seed": 3,
        "mesh": {"cells": 8},
        "inclusions": {"shape": "circles", "number": [1, 2], "volume_fraction": [0.2, 0.4]},
        "phases": {"matrix": SOFT, "fibre": SOFT},
        "contrast": {"fibre": [10, 100]},
    },
    "surrogate": {"law": "spon", "widths": [6, 8], "layers": [1, 1], "steps": 40, "batch": 6, "learning_rate": 1e-2},
}


def _trained(folder, study):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    report = train(load_study(path), path, folder / "out", MPI.COMM_SELF)
    return SimpleNamespace(path=path, model=report.model, metrics=report.metrics)


@pytest.fixture(scope="session")
def linear(tmp_path_factory):
    """A model of RVEs with linear phases."""
    assert femops.__version__  # DOLFINx from wheels needs femops imported before it
    return _trained(tmp_path_factory.mktemp("linear"), STUDY)


@pytest.fixture(scope="session")
def hyperelastic(tmp_path_factory):
    """A model of RVEs with a nonlinear matrix."""
    hard = {"law": "elastic", "K": 4780.0, "G": 2200.0}
    matrix = {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06}
    limits = {name: [-0.05, 0.05] for name in ("11", "22", "12")}
    family = {
        **STUDY["family"],
        "count": 8,
        "phases": {"matrix": matrix, "fibre": hard},
        "contrast": {"fibre": [5, 15]},
    }
    sampling = {"method": "sobol", "count": 2, "seed": 1, "range": limits}
    return _trained(tmp_path_factory.mktemp("hyperelastic"), {**STUDY, "family": family, "sampling": sampling})
