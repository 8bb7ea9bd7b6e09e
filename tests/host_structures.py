"""Structures that every host has to solve as femops does: a patch of distorted cells, and a cantilever."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from helpers import SATURATING, box_problem
from scipy.spatial import cKDTree

from femops import MaterialLaw, load_law
from femops.macro.problem import MacroProblem
from femops.meshing.box import box
from femops.meshing.tagged import TaggedMesh
from femops.meshing.writing import write_mesh
from femops.notation import Array

PHASES = {"matrix": SATURATING, "fibre": {"law": "elastic", "K": 43452.381, "G": 29918.033}}
DISCS = [{"center": [-0.2, -0.2], "radius": 0.25}, {"center": [0.2, 0.05], "radius": 0.2}]
BALLS = [{"center": [x, y, 0.0], "radius": 0.2} for x, y in ((-0.3, -0.3), (0.0, 0.0), (0.0, 0.33))]
CELLS = {2: "quadrilateral", 3: "hexahedron"}
AXES = ("ux", "uy", "uz")
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
class Structure:
    """A structure that is clamped on the left, and the solution of femops.

    Attributes:
        parameters: The law in the case.
        law: The law.
        points: Shape (n_points, dim).
        cells: Four or eight nodes of each cell, in the order of VTK.
        problem: The solved problem.
        displacement: Displacements after each step. Shape (n_points, dim) each.
        pull: Displacement of the right side, in the direction of each axis; None: it is free. Shape (dim,).
        force: Forces at the nodes; None: there are none. Shape (n_points, dim).
    """

    parameters: dict[str, Any]
    law: MaterialLaw
    points: Array
    cells: Any
    problem: MacroProblem
    displacement: list[Array]
    pull: Array | None = None
    force: Array | None = None

    @property
    def dim(self) -> int:
        return self.points.shape[1]

    @property
    def left(self) -> Any:
        return np.flatnonzero(self.points[:, 0] == 0.0)

    @property
    def right(self) -> Any:
        return np.flatnonzero(self.points[:, 0] == self.points[:, 0].max())

    @property
    def held(self) -> Any:
        """Nodes whose displacements are prescribed."""
        return self.left if self.pull is None else np.concatenate([self.left, self.right])

    @property
    def nodal_force(self) -> Array:
        return np.zeros_like(self.points) if self.force is None else self.force

    def prescribed(self, factor: float = 1.0) -> Array:
        """Displacements of the nodes `held`, where the right side is displaced by `factor` times `pull`."""
        values = np.zeros((len(self.held), self.dim))
        if self.pull is not None:
            values[len(self.left) :] = factor * self.pull
        return values

    def compare(self, displacement: Array, step: int = -1, rtol: float = 1e-9) -> None:
        """Check nodal displacements against femops."""
        expected = self.displacement[step]
        assert np.abs(displacement - expected).max() < rtol * np.abs(expected).max()


def solved_patch(
    folder: Path, dim: int, law: dict[str, Any], factors: tuple[float, ...] = (1.0,), pull: Array = PULL
) -> Structure:
    """Solve the patch in femops, with the right side displaced by each factor times `pull` in turn."""
    mesh = _box([1.0] * dim, [2] * dim)
    points = mesh.points.copy()
    inside = ((points > 1e-9) & (points < 1 - 1e-9)).any(axis=1) & (points[:, 0] > 0.0) & (points[:, 0] < 1.0)
    points[inside] += np.random.default_rng(dim).uniform(-0.08, 0.08, (int(inside.sum()), dim))
    history = [[0.0, 0.0], *([float(i), factor] for i, factor in enumerate(factors, start=1))]
    pull = pull[:dim]
    moved = {name: [[t, factor * float(u)] for t, factor in history] for name, u in zip(AXES, pull, strict=False)}
    mesh, load = replace(mesh, points=points), {"displacement": moved}
    return replace(_solved(folder, law, mesh, load, len(factors)), pull=pull)


def solved_cantilever(
    folder: Path, law: dict[str, Any], size: Sequence[float], cells: Sequence[int], traction: Sequence[float]
) -> Structure:
    """Solve a box in femops that is clamped on the left and loaded by a traction on the right."""
    mesh = _box(size, cells)
    widths = [_widths(length, n) for length, n in zip(size[1:], cells[1:], strict=True)]
    right = np.flatnonzero(mesh.points[:, 0] == size[0])
    places = np.rint(mesh.points[right, 1:] / np.divide(size[1:], cells[1:])).astype(int)
    area = reduce(np.multiply, (width[place] for width, place in zip(widths, places.T, strict=True)))
    force = np.zeros_like(mesh.points)
    force[right] = area[:, None] * np.asarray(traction)
    load = {"traction": [f"{value!r} * t" for value in traction]}
    return replace(_solved(folder, law, mesh, load), force=force)


def _box(size: Sequence[float], cells: Sequence[int]) -> TaggedMesh:
    return box(list(size), list(cells), "quad" if len(size) == 2 else "hexahedron")


def _widths(length: float, n: int) -> Array:
    """Parts of a side of n linear cells that belong to its nodes."""
    widths = np.full(n + 1, length / n)
    widths[[0, -1]] /= 2.0
    return widths


def _solved(folder: Path, law: dict[str, Any], mesh: TaggedMesh, load: dict[str, Any], steps: int = 1) -> Structure:
    dim = mesh.points.shape[1]
    write_mesh(mesh, folder / "structure.msh")
    problem = box_problem(
        CELLS[dim],
        folder,
        mesh={"file": "structure.msh"},
        material=law,
        supports={"left": dict.fromkeys(AXES[:dim], 0.0)},
        loads={"right": load},
        solver={"rtol": 1e-12},
    )
    displacement = []
    places = problem.displacement.function_space.tabulate_dof_coordinates()[:, :dim]
    place = cKDTree(places).query(mesh.points)[1]
    for step in range(1, steps + 1):
        problem.solve(float(step), 1.0)
        displacement.append(problem.displacement.x.array.reshape(-1, dim)[place])
    return Structure(law, load_law(law, dim=dim), mesh.points, mesh.cells, problem, displacement)


def assert_quadratic(norms: Any, round_off: float = 1e-12) -> None:
    """Check that every residual is bounded by the square of the one before, down to round-off."""
    residuals = np.array(norms) / max(norms)
    assert len(residuals) >= 4
    assert residuals[-1] < round_off
    assert (residuals[1:] <= np.maximum(20.0 * residuals[:-1] ** 2, round_off)).all(), residuals
