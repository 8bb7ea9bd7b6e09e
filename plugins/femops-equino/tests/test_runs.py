"""Runs with EquiNO: which errors they state, and what the fields inside RVEs are."""

import io

import numpy as np
import pytest
import pyvista
import yaml
from mpi4py import MPI
from rich.console import Console

from femops import load_law
from femops.commands.prepare import prepare
from femops.commands.reports import report_trust
from femops.commands.run import solve
from femops.inputs.case import load_case
from femops.output.picture import read_step

SOLVE = {"tolerance": 0.1, "on_violation": "solve"}


def solved(folder, trained, dim, bend, **changes):
    """Bend a cantilever of RVEs; return problem, summary and the folder of the results."""
    along = ["ux", "uy", "uz"][:dim]
    case = {
        "kinematics": "plane_strain" if dim == 2 else "solid",
        "mesh": {
            "box": {
                "size": [3.0, *[1.0] * (dim - 1)],
                "cells": [3, *[1] * (dim - 1)],
                "cell": "quadrilateral" if dim == 2 else "hexahedron",
            }
        },
        "material": {"law": "equino", "model": str(trained.model)},
        "supports": {"left": dict.fromkeys(along, 0.0)},
        "loads": {"right": {"displacement": {"uy": f"{bend} * t"}}},
        "steps": {"count": 1, "end": 1.0},
        "output": {"micro": [{"most": "strained"}, {"at": [2.9, *[0.5] * (dim - 1)]}]},
        **changes,
    }
    path = folder / "block.yaml"
    path.write_text(yaml.safe_dump(case))
    run = prepare(load_case(path), path, MPI.COMM_SELF)
    return run.problem, solve(run, path, folder / "out"), folder / "out"


def stresses(dim, tensors):
    """Return VTK's XX, YY, ZZ, XY, YZ, XZ as Mandel vectors, those of the plane or all."""
    return tensors[:, [0, 1, 3] if dim == 2 else [0, 1, 2, 4, 5, 3]] * np.sqrt(
        [1, 1, 2] if dim == 2 else [1, 1, 1, 2, 2, 2]
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_fields_of_points_that_were_solved_exactly_are_those_of_the_nested_solve(plane, solid, tmp_path, dim):
    trained = plane if dim == 2 else solid
    problem, summary, folder = solved(tmp_path, trained, dim, 0.45 if dim == 2 else 0.7, trust=SOLVE)
    assert summary["law_statistics"]["solved_because"]["out_of_range"] > 0
    nested = load_law({"law": "nested", "rve": trained.rve, "solver": {"rtol": 1e-10}}, dim=dim)
    strain, x = problem.quadrature.strain(), problem.quadrature.coordinates()
    exact = problem.material.regions[0].reason > 0
    for entry in summary["micro"]:
        point = int(np.linalg.norm(x - entry["at"], axis=1).argmin())
        body, heading = read_step(folder / entry["file"])
        source = "nested solve" if exact[point] else "equino, corrections: auto"
        assert [entry["source"], *body.field_data["source"]] == [source] * 2 and heading.endswith(source)
        theirs = nested.micro_fields(strain[point], np.zeros(nested.n_state))
        ours = stresses(dim, np.asarray(body.cell_data["stress"]))
        size = np.linalg.norm(theirs.stress)
        assert (np.linalg.norm(ours - theirs.stress) < 1e-6 * size) == exact[point]
        if exact[point]:
            volume = nested.rve.discretisation.weight.sum(axis=1)
            mean = volume @ ours / volume.sum()
            macro = problem.material.stress[point]
            np.testing.assert_allclose(mean, macro, rtol=0, atol=1e-6 * np.abs(macro).max())
    assert {entry["source"] for entry in summary["micro"]} == {"nested solve", "equino, corrections: auto"}


def test_without_trust_a_run_states_no_error_but_the_residual_of_the_solver(plane, tmp_path):
    problem, summary, folder = solved(tmp_path, plane, 2, 0.2)
    found = summary["law_statistics"]
    assert (found["largest_error"], found["points_judged"], found["can_certify"]) == (None, 0, True)
    assert "law_error" not in read_step(folder / "block.vtkhdf")[0].cell_data
    assert not any("certificate" in note for note in summary["notes"])
    strain = problem.quadrature.strain()
    law = problem.material.regions[0].law
    answer = law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)
    assert answer.error is None
    assert 0.0 < found["largest_solver_residual"] <= law.parameters.tolerance
    console = Console(file=io.StringIO(), width=200)
    report_trust(console, found)
    printed = console.file.getvalue()
    assert "No error of the answers was estimated; trust: {on_violation: warn} in the case does that." in printed
    assert "Largest solver residual" in printed and "Largest error" not in printed


def test_with_trust_the_error_is_that_of_the_certificate_and_what_it_does_not_cover_is_said(plane, tmp_path):
    trust = {"on_violation": "warn", "certificate": "bound"}
    problem, summary, folder = solved(tmp_path, plane, 2, 0.2, trust=trust, output={"points": True})
    found = summary["law_statistics"]
    strain, law = problem.quadrature.strain(), problem.material.regions[0].law
    answer = law.evaluate(strain, problem.material.regions[0].state, 1.0)
    bound = law.certify(strain, answer, "bound")
    assert found["largest_error"] == pytest.approx(bound.max(), rel=1e-2)
    assert (found["points_judged"], found["points_infinite"]) == (len(strain), 0)
    note = "uses stress_33, which the certificate does not cover"
    assert f"von_mises {note}" in summary["notes"]
    for body in (read_step(folder / "block.vtkhdf")[0], pyvista.read(folder / "points.vtp")):
        assert "von_mises" in [*body.cell_data, *body.point_data] and list(body.field_data["von_mises"]) == [note]
