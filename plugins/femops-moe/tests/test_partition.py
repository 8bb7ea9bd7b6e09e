"""Partitions of RVEs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from moe_cases import PHASES, problem

from femops import load_law
from femops.errors import CaseError
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops_moe.partition import Partition, _dual_graph, bisection, grid


@pytest.mark.parametrize("dim", [2, 3])
def test_the_interface_separates_the_experts_across_the_faces_of_the_rve_too(dim):
    space = problem(dim).space
    partition = grid(space, 2)
    assert partition.n_experts == 2**dim
    centre = space.discretisation.mesh.points[space.cells].mean(axis=1) if dim == 2 else None
    for cell, nodes in enumerate(space.cells):
        assert set(partition.owner[nodes]) <= {-1, partition.expert[cell]}
    for node in np.flatnonzero(partition.owner < 0):
        assert len(set(partition.expert[(space.cells == node).any(axis=1)])) > 1
    assert centre is None or len(centre) == len(partition.expert)
    mesh = space.discretisation.mesh
    corners = (np.abs(mesh.points) == 0.5).all(axis=1)  # one node, with cells of all experts
    assert (partition.owner[space.node_of[corners]] == -1).all()


def test_grid_cells_belong_to_the_part_of_their_centre():
    mesh = problem(2).space.discretisation.mesh
    partition = grid(problem(2).space, 2)
    left = mesh.points[mesh.cells].mean(axis=1) < 0.0
    assert (partition.expert == 2 * ~left[:, 0] + ~left[:, 1]).all()


@pytest.mark.parametrize("count", [3, 7])
@pytest.mark.parametrize("dim", [2, 3])
def test_bisection_is_balanced_and_cuts_few_facets(dim, count):
    space = problem(dim).space
    partition = bisection(space, count)
    sizes = np.bincount(partition.expert, minlength=count)
    assert partition.n_experts == count
    assert sizes.max() - sizes.min() <= 0.1 * sizes.mean() + 2
    scattered = Partition.of_cells(space, np.random.default_rng(0).permutation(np.arange(len(space.cells)) % count))
    assert (partition.owner < 0).sum() < 0.7 * (scattered.owner < 0).sum()


def test_one_expert_has_no_interface():
    assert (grid(problem(2).space, 1).owner == 0).all()
    assert (bisection(problem(2).space, 1).owner == 0).all()


def test_more_experts_than_cells_are_refused():
    space = problem(3).space
    with pytest.raises(CaseError, match=r"experts: 100000 given, but the RVE has \d+ cells"):
        bisection(space, 100000)


@pytest.mark.parametrize("dim", [2, 3])
def test_every_cell_of_a_periodic_grid_has_a_neighbour_on_each_side(dim):
    voxels = {"cells": 4, "inclusions": [{"center": [0.5] * dim, "radius": 0.3}]}
    space = FluctuationSpace(load_law({"law": "nested", "rve": {"voxels": voxels, "phases": PHASES}}, dim=dim).rve)
    starts, neighbours = _dual_graph(space)
    assert (np.diff(starts) == 2 * dim).all()
    for cell in range(len(space.cells)):
        around = neighbours[starts[cell] : starts[cell + 1]]
        assert all(len(np.intersect1d(space.cells[cell], space.cells[one])) == 2 ** (dim - 1) for one in around)


def test_bisection_calls_its_own_metis_beside_petsc():
    """DOLFINx makes METIS of PETSc's wheel visible to later libraries; its integers have another width."""
    program = (
        "import dolfinx_solver, dolfinx.fem.petsc\n"
        "from moe_cases import problem\n"
        "from femops_moe.partition import bisection\n"
        "print(bisection(problem(2).space, 4).n_experts)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.stdout == "4\n", done.stderr
