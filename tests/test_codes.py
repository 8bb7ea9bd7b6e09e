"""Exported laws inside OpenGeoSys and Kratos: the patch of femops, quadratic convergence, strains out of the range."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import meshio
import numpy as np
import pytest
import yaml
from host_patch import Patch, assert_quadratic, material, solved_patch
from mpi4py import MPI

from femops.inputs.study import load_study
from femops.offline.train import train

HERE = Path(__file__).parent
RANGE = 0.05
PULL = np.array([0.012, 0.008, -0.006])
NEAR, MIDDLE = 1.0, 2.5  # times the pull: Newton's method in Kratos stays inside the range; only its solution does
KRATOS = "CFLAGS=-O3 -DSHEAR_12_23_13"
KIND = {2: "plane_strain", 3: "solid"}
NETWORKS = {"labels": 100, "width": 8, "adam_steps": 20, "lbfgs_steps": 20}
OPTIONS = {"modes": 10, "points": 40, "certificate_points": 40, "states": 16, "networks": NETWORKS}


@dataclass(frozen=True)
class Answer:
    """What a code prints, its exit status, and the residual norms among what it prints."""

    text: str
    status: int
    norms: list[float]


@pytest.fixture(scope="module", params=[2, 3], ids=["2D", "3D"])
def patch(request: Any, tmp_path_factory: Any) -> Patch:
    """The patch that femops has solved with a trained EquiNO of an RVE without symmetries."""
    folder, dim = tmp_path_factory.mktemp("patch"), request.param
    sampling = {"method": "sobol", "count": 8, "seed": 1, "range": RANGE}
    study = {"kinematics": KIND[dim], "rve": material("nested", dim)["rve"], "sampling": sampling}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "surrogate": {"law": "equino", **OPTIONS}}))
    model = train(load_study(path), path, folder / "out", MPI.COMM_SELF).model
    return solved_patch(folder, dim, {"law": "equino", "model": str(model)}, (NEAR, MIDDLE), PULL)


@pytest.fixture
def library(patch: Patch, run: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """Export the law and compile it."""

    def compiled(kind: str, *flags: str) -> Path:
        run("export", patch.parameters["model"], "--to", kind, "--output", tmp_path / "rve")
        subprocess.run(["make", "-s", *flags], cwd=tmp_path / "rve", check=True)
        return tmp_path / "rve" / "librve.so"

    return compiled


def ran(command: list[str], folder: Path, norm: str) -> Answer:
    """Run a code without the libraries that femops loads into every program."""
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "PYTHONPATH")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120)
    text = done.stdout + done.stderr
    return Answer(text, done.returncode, [float(value) for value in re.findall(norm, text)])


def ogs(patch: Patch, library: Path, folder: Path, factor: float = 1.0) -> Answer:
    """Solve the patch by OpenGeoSys with a behaviour of MFront."""
    points = np.pad(patch.points, ((0, 0), (0, 3 - patch.dim)))
    kind = "quad" if patch.dim == 2 else "hexahedron"
    meshio.write(folder / "bulk.vtu", meshio.Mesh(points, [(kind, patch.cells)]))
    for side in ("left", "right"):
        nodes = getattr(patch, side)
        ids = {"bulk_node_ids": nodes.astype(np.uint64)}
        mesh = meshio.Mesh(points[nodes], [("vertex", np.arange(len(nodes))[:, None])], point_data=ids)
        meshio.write(folder / f"{side}.vtu", mesh)
    condition = (
        "<boundary_condition><mesh>{}</mesh><type>Dirichlet</type><component>{}</component><parameter>{}</parameter>"
        "</boundary_condition>"
    )
    pulls, conditions = "", ""
    for axis, pull in enumerate(factor * patch.pull):
        pulls += f"<parameter><name>pull{axis}</name><type>Function</type>"
        pulls += f"<expression>{pull} * t</expression></parameter>"
        conditions += condition.format("left", axis, "zero") + condition.format("right", axis, f"pull{axis}")
    project = Template((HERE / "ogs_patch.prj").read_text()).substitute(
        library=library, behaviour="rve", dim=patch.dim, zeros=" ".join("0" * patch.dim), pulls=pulls,
        conditions=conditions,
    )  # fmt: skip
    (folder / "patch.prj").write_text(project)
    return ran([str(Path(sys.executable).with_name("ogs")), "patch.prj"], folder, r"\|r\|=(\S+)")


def ogs_displacement(patch: Patch, file: Path) -> np.ndarray:
    """Nodal displacements."""
    return meshio.read(file).point_data["displacement"].reshape(-1, patch.dim)


def kratos(patch: Patch, library: Path, folder: Path, factor: float = 1.0, props: tuple[float, ...] = ()) -> Answer:
    """Solve the patch by Kratos with a UMAT."""
    sides = {"left": patch.left, "right": patch.right, "pull": factor * patch.pull}
    np.savez(folder / "patch.npz", points=patch.points, cells=patch.cells, **sides)
    command = [sys.executable, str(HERE / "kratos_patch.py"), str(folder), str(library), *map(str, props)]
    return ran(command, folder, r"Absolute norm = ([^;]+);")


def test_opengeosys_finds_the_displacement_of_femops(
    patch: Patch, library: Callable[..., Path], tmp_path: Path
) -> None:
    answer = ogs(patch, library("mgis"), tmp_path)
    assert answer.status == 0, answer.text
    patch.compare(ogs_displacement(patch, tmp_path / "out_1.vtu"), 0)
    assert_quadratic(answer.norms)


def test_opengeosys_halves_steps_that_leave_the_range_and_ends_at_its_smallest(
    patch: Patch, library: Callable[..., Path], tmp_path: Path
) -> None:
    answer = ogs(patch, library("mgis"), tmp_path, 2.0 * MIDDLE)
    assert answer.status != 0
    assert (
        "Repeating timestep. Reason: Error in process' assembly: MFront: integration failed with status 0"
        in answer.text
    )
    assert "The new step size of 0.2" in answer.text
    patch.compare(ogs_displacement(patch, tmp_path / "out_1.vtu"), 1)  # half of the first step


def test_kratos_finds_the_displacement_of_femops(patch: Patch, library: Callable[..., Path], tmp_path: Path) -> None:
    answer = kratos(patch, library("umat", KRATOS), tmp_path)
    assert answer.status == 0, answer.text
    patch.compare(np.load(tmp_path / "displacement.npy"), 0)
    assert_quadratic(answer.norms)


def test_kratos_does_not_converge_outside_the_range_unless_it_may_extrapolate(
    patch: Patch, library: Callable[..., Path], tmp_path: Path
) -> None:
    compiled = library("umat", KRATOS)
    refused = kratos(patch, compiled, tmp_path, MIDDLE)
    assert refused.status != 0 and "the strain is outside the range of the training" in refused.text
    extrapolated = kratos(patch, compiled, tmp_path, MIDDLE, (1.0,))
    assert extrapolated.status == 0, extrapolated.text
    patch.compare(np.load(tmp_path / "displacement.npy"), 1)
