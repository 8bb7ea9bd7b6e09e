"""One small trained EquiNO for all tests, and the nested solve that it stands in for."""

from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from compiled import COMPILERS
from equino_cases import ANISOTROPIC, HOSTILE, PHASES, RANGE, RVE, SPHERE
from mpi4py import MPI

from femops import load_law
from femops.inputs.study import load_study
from femops.offline.train import train
from femops.rve.sampling import sobol


def _trained(folder, kinematics, rve, count, surrogate, **notes):
    """Train, and return study file, model folder and metrics."""
    sampling = {"method": "sobol", "count": count, "seed": 1, "range": RANGE}
    study = {"kinematics": kinematics, "rve": rve, "sampling": sampling, "surrogate": {"law": "equino", **surrogate}}
    study |= notes
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "validation": {**sampling, "count": 8, "seed": 2}}))
    report = train(load_study(path), path, folder / "out", MPI.COMM_SELF)
    return SimpleNamespace(path=path, model=report.model, metrics=report.metrics, rve=rve)


@pytest.fixture(scope="session")
def plane(tmp_path_factory):
    """A trained model in plane strain, with networks."""
    networks = {"labels": 200, "width": 8, "adam_steps": 80, "lbfgs_steps": 80}
    options = {"modes": 12, "points": 140, "certificate_points": 120, "states": 32, "networks": networks}
    return _trained(tmp_path_factory.mktemp("plane"), "plane_strain", RVE, 16, options)


@pytest.fixture(scope="session")
def solid(tmp_path_factory):
    """A trained model in 3D, without networks."""
    options = {"modes": 24, "points": 120, "certificate_points": 120, "states": 16, "networks": None}
    rve = {"spheres": SPHERE, "phases": PHASES}
    return _trained(tmp_path_factory.mktemp("solid"), "solid", rve, 12, options)


@pytest.fixture(scope="session")
def anisotropic(tmp_path_factory):
    """Model folders of RVEs without symmetries by dimension, with networks; their sizes fill no block of a kernel."""
    networks = {"labels": 150, "width": 10, "adam_steps": 40, "lbfgs_steps": 40}
    options = {"modes": 13, "points": 42, "certificate_points": 41, "states": 16, "networks": networks}
    notes = {"title": HOSTILE, "units": "MPa"}
    return {
        dim: _trained(tmp_path_factory.mktemp(name), name, ANISOTROPIC[dim], 8, options, **notes).model
        for dim, name in {2: "plane_strain", 3: "solid"}.items()
    }


@pytest.fixture(scope="module", params=COMPILERS)
def compiler(request):
    """Name of a compiler for exported C source."""
    return request.param


@pytest.fixture(scope="session")
def law(plane):
    """The trained law with its default parameters."""
    return load_law(plane.model)


def _judge(rve, dim, n, seed):
    """Return unseen strains inside the range and as many outside it, with the answer of the nested solve."""
    nested = load_law({"law": "nested", "rve": rve, "solver": {"rtol": 1e-11}}, dim=dim)
    corner = np.full(3 if dim == 2 else 6, RANGE)
    far = sobol(-0.1 / RANGE * corner, 0.1 / RANGE * corner, n, seed + 1)
    strain = np.concatenate([sobol(-corner, corner, n, seed), far])
    return SimpleNamespace(
        nested=nested,
        strain=strain,
        inside=slice(0, n),
        answer=nested.evaluate(strain, np.zeros((2 * n, nested.n_state)), 1.0),
    )


@pytest.fixture(scope="session")
def reference():
    """200 unseen strains and their nested solutions, half of them beyond the training range."""
    return _judge(RVE, 2, 100, 11)


@pytest.fixture(scope="session")
def solid_reference(solid):
    """20 unseen strains in 3D and their nested solutions."""
    return _judge(solid.rve, 3, 10, 11)
