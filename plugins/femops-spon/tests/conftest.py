"""One small SPON, trained on a family of RVEs, for all tests."""

from types import SimpleNamespace

import pytest
import yaml
from mpi4py import MPI
from small_family import STUDY

import femops
from femops.inputs.study import load_study
from femops.offline.train import train


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
