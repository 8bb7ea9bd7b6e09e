"""A patch of distorted cells that is pulled and sheared: femops' displacement, and what every host has to find."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from helpers import SATURATING, box_problem
from scipy.spatial import cKDTree

from femops import MaterialLaw, load_law
from femops.macro.problem import MacroProblem
from femops.meshing.box import box
from femops.meshing.writing import write_mesh
from femops.notation import Array

PHASES = {"matrix": SATURATING, "fibre": {"law": "elastic", "K": 43452.381, "G": 29918.033}}
DISCS = [{"center": [-0.2, -0.2], "radius": 0.25}, {"center": [0.2, 0.05], "radius": 0.2}]
BALLS = [{"center": [x, y, 0.0], "radius": 0.2} for x, y in ((-0.3, -0.3), (0.0, 0.0), (0.0, 0.33))]
CELLS = {2: "quadrilateral", 3: "hexahedron"}
PULL = np.array([0.05, 0.03, -0.02])  # displacement of the right side, which stays plane
LAWS = ("saturating", "nested")
J2 = {"law": "j2", "E": 100.0, "nu": 0.3, "yield_stress": 0.4, "hardening": 2.0}


def material(name: str, dim: int) -> dict[str, Any]:
    """A closed-form law, or an RVE that is anisotropic, so that exchanged shears show."""
    if name == "saturating":
        return SATURATING
    voxels = {2: {"cells": [4, 4], "inclusions": DISCS}, 3: {"cells": [3, 3, 3], "inclusions": BALLS}}[dim]
    return {"law": "nested", "rve": {"voxels": voxels, "phases": PHASES}, "solver": {"rtol": 1e-12}}


@dataclass(frozen=True)
class Patch:
    """The patch and the solution of femops.

    Attributes:
        parameters: The law in the case.
        law: The law.
        points: Shape (n_points, dim).
        cells: Four or eight nodes of each cell, in the order of VTK.
        problem: The solved problem.
        displacement: Displacements after each step. Shape (n_points, dim) each.
        pull: Displacement of the right side, in the direction of each axis. Shape (dim,).
    """

    parameters: dict[str, Any]
    law: MaterialLaw
    points: Array
    cells: Any
    problem: MacroProblem
    displacement: list[Array]
    pull: Array

    @property
    def dim(self) -> int:
        return self.points.shape[1]

    @property
    def left(self) -> Any:
        return np.flatnonzero(self.points[:, 0] == 0.0)

    @property
    def right(self) -> Any:
        return np.flatnonzero(self.points[:, 0] == 1.0)

    def compare(self, displacement: Array, step: int = -1) -> None:
        """Check nodal displacements against femops."""
        expected = self.displacement[step]
        assert np.abs(displacement - expected).max() < 1e-9 * np.abs(expected).max()


def solved_patch(
    folder: Path, dim: int, law: dict[str, Any], factors: tuple[float, ...] = (1.0,), pull: Array = PULL
) -> Patch:
    """Solve the patch in femops, with the right side displaced by each factor times `pull` in turn."""
    mesh = box([1.0] * dim, [2] * dim, "quad" if dim == 2 else "hexahedron")
    points = mesh.points.copy()
    inside = ((points > 1e-9) & (points < 1 - 1e-9)).any(axis=1) & (points[:, 0] > 0.0) & (points[:, 0] < 1.0)
    points[inside] += np.random.default_rng(dim).uniform(-0.08, 0.08, (int(inside.sum()), dim))
    write_mesh(replace(mesh, points=points), folder / "distorted.msh")
    names = ("ux", "uy", "uz")[:dim]
    history = [[0.0, 0.0], *([float(i), factor] for i, factor in enumerate(factors, start=1))]
    pull = pull[:dim]
    moved = {name: [[t, factor * float(u)] for t, factor in history] for name, u in zip(names, pull, strict=True)}
    problem = box_problem(
        CELLS[dim],
        folder,
        mesh={"file": "distorted.msh"},
        material=law,
        supports={"left": dict.fromkeys(names, 0.0)},
        loads={"right": {"displacement": moved}},
        solver={"rtol": 1e-12},
    )
    displacement = []
    place = cKDTree(problem.displacement.function_space.tabulate_dof_coordinates()[:, :dim]).query(points)[1]
    for step in range(1, len(factors) + 1):
        problem.solve(float(step), 1.0)
        displacement.append(problem.displacement.x.array.reshape(-1, dim)[place])
    return Patch(law, load_law(law, dim=dim), points, mesh.cells, problem, displacement, pull)


def assert_quadratic(norms: Any) -> None:
    """Check that every residual is bounded by the square of the one before, down to round-off."""
    residuals = np.array(norms) / max(norms)
    assert len(residuals) >= 4
    assert residuals[-1] < 1e-12
    assert (residuals[1:] <= np.maximum(20.0 * residuals[:-1] ** 2, 1e-12)).all(), residuals
