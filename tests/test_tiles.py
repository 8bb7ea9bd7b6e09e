"""RVEs composed of components."""

import numpy as np
import pytest
from helpers import ELASTIC, SATURATING

from femops import CaseError, load_law
from femops.law import LawContext
from femops.rve.spec import RVEParameters

PHASES = {"matrix": SATURATING, "fibre": ELASTIC}


def _circle(x, y, radius, mesh_size=0.25, size=1.0):
    circle = {"center": [x, y], "radius": radius}
    return {"circles": {"size": size, "circles": [circle], "mesh_size": mesh_size, "cell": "quad8"}}


COMPONENTS = {"a": _circle(0.0, 0.0, 0.3), "b": _circle(0.1, 0.05, 0.2)}


def _rve(rows, **components):
    return {"tiles": {"components": {**COMPONENTS, **components}, "rows": rows}, "phases": PHASES}


def _mesh(rows, **components):
    return RVEParameters.model_validate(_rve(rows, **components)).tagged_mesh(LawContext(2))


def test_equal_components_respond_like_one_of_them():
    strain = np.array([[0.02, -0.01, 0.015], [0.0, 0.01, -0.02]])
    answers = []
    for rve in ({**COMPONENTS["b"], "phases": PHASES}, _rve([["b", "b"], ["b", "b"], ["b", "b"]])):
        law = load_law({"law": "nested", "rve": rve, "solver": {"rtol": 1e-11}}, dim=2)
        answers.append(law.evaluate(strain, np.zeros((2, law.n_state)), 1.0))
    for name in ("stress", "tangent", "stress_33"):
        one, six = (getattr(answer, name) for answer in answers)
        assert np.allclose(one, six, rtol=0.0, atol=1e-8 * np.abs(one).max())


def test_each_component_is_at_its_place_and_shares_the_nodes_of_its_faces():
    rows = [["a", "b", "b"], ["b", "b", "a"]]
    mesh = _mesh(rows)
    fibre = mesh.cells[mesh.regions["fibre"]]
    centre = mesh.points[fibre].mean(axis=1)
    for row, y in enumerate((0.5, -0.5)):
        for column, x in enumerate((-1.0, 0.0, 1.0)):
            inside = (np.abs(centre - [x, y]) < 0.5).all(axis=1)
            alone = _mesh([[rows[row][column]]])
            expected = alone.points[alone.cells[alone.regions["fibre"]]].mean(axis=1)
            assert inside.sum() == len(expected)
            assert np.allclose(np.sort(centre[inside] - [x, y], axis=0), np.sort(expected, axis=0), atol=1e-12)
    assert len(np.unique(mesh.points.round(6), axis=0)) == len(mesh.points)
    assert (mesh.periods == np.diag([3.0, 2.0])).all()


def _voxels(*center):
    return {"voxels": {"cells": [3, 2, 3], "inclusions": [{"center": list(center), "radius": 0.3}]}}


def test_components_in_3d_are_at_their_places():
    components = {"a": _voxels(-0.3, 0.2, 0.1), "b": _voxels(0.3, 0.2, -0.2)}
    layers = [[["a", "b", "b"], ["b", "b", "a"]], [["b", "b", "b"], ["a", "b", "a"]]]
    rve = {"tiles": {"components": components, "layers": layers}, "phases": PHASES}
    mesh = RVEParameters.model_validate(rve).tagged_mesh(LawContext(3))
    assert (mesh.periods == np.diag([3.0, 2.0, 2.0])).all()
    assert len(mesh.points) == 10 * 5 * 7
    assert len(np.unique(mesh.points.round(6), axis=0)) == len(mesh.points)
    fibre = mesh.points[mesh.cells[mesh.regions["fibre"]]].mean(axis=1)
    for z, layer in zip((-0.5, 0.5), layers, strict=True):
        for y, row in zip((0.5, -0.5), layer, strict=True):
            for x, name in zip((-1.0, 0.0, 1.0), row, strict=True):
                inside = fibre[(np.abs(fibre - [x, y, z]) < 0.5).all(axis=1)] - [x, y, z]
                alone = _mesh_3d(components[name])
                assert np.allclose(np.sort(inside, axis=0), np.sort(alone, axis=0), atol=1e-12)


def _mesh_3d(component):
    mesh = RVEParameters.model_validate({**component, "phases": PHASES}).tagged_mesh(LawContext(3))
    return mesh.points[mesh.cells[mesh.regions["fibre"]]].mean(axis=1)


@pytest.mark.parametrize(
    ("tiles", "problem"),
    [
        ({"layers": [[["a"]], [["a"], ["a"]]]}, "tiles.layers: layers of 1, 2 rows given, expected equal layers"),
        ({"layers": [[["a"]]], "rows": [["a"]]}, "tiles: expected either rows or, in 3D, layers of rows"),
        ({"layers": [[["a"]]]}, "tiles.components.a: is two-dimensional, expected a component in 3D"),
    ],
)
def test_layers_that_do_not_fit_are_refused(tiles, problem):
    with pytest.raises(CaseError, match=problem):
        load_law({"law": "nested", "rve": {"tiles": {"components": COMPONENTS, **tiles}, "phases": PHASES}}, dim=3)


@pytest.mark.parametrize(
    ("rows", "components", "problem"),
    [
        ([["a", "b"], ["a"]], {}, "tiles.rows: rows of 2, 1 components given, expected equal rows"),
        ([["a", "c"]], {}, "tiles.rows: 'c' given, expected one of a, b"),
        ([["a", "c"]], {"c": _circle(0.0, 0.0, 0.3, 0.05)}, "tiles.components: number 2 has 41 nodes on a face where"),
        ([["a", "c"]], {"c": _circle(0.0, 0.0, 0.6, 0.5, 2.0)}, r"tiles.components.c: has edges of \[2.0, 2.0\]"),
        ([["c"]], {"c": {"homogeneous": {"dim": 3}}}, "tiles.components.c: is three-dimensional"),
        ([["c"]], {"c": {"voxels": {"cells": 4, "inclusions": [{"center": [0, 0], "radius": 1}]}, **COMPONENTS["a"]}},
         "tiles.components.c: expected exactly one of circles, "),
    ],
)  # fmt: skip
def test_components_that_do_not_fit_are_refused(rows, components, problem):
    with pytest.raises(CaseError, match=problem):
        load_law({"law": "nested", "rve": _rve(rows, **components)}, dim=2)
