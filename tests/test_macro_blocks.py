"""Large bodies: laws answer block by block, into the arrays from which the weak form is assembled."""

from typing import Any

import numpy as np
import pytest
from dolfinx import fem
from helpers import SATURATING, box_problem

from femops.contract import check_response
from femops.macro import blocks, region
from femops.macro.problem import MacroProblem
from femops.macro.stepping import run_steps

SHEAR: dict[str, Any] = {
    "cells": 2,
    "material": SATURATING,
    "supports": {"left": {"ux": 0.0, "uy": 0.0, "uz": 0.0}},
    "loads": {"right": {"traction": [0.5, 0.3, -0.2]}},
    "steps": {"count": 2},
}


def _solved(**changes: Any) -> MacroProblem:
    problem = box_problem("hexahedron", **{**SHEAR, **changes})
    list(run_steps(problem))
    return problem


def _sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of points of every later evaluation."""
    sizes: list[int] = []

    def noted(law: Any, response: Any, strain: Any, *rest: Any, **more: Any) -> None:
        sizes.append(len(strain))
        check_response(law, response, strain, *rest, **more)

    monkeypatch.setattr(region, "check_response", noted)
    return sizes


@pytest.mark.parametrize("name", ["everywhere", "domain"])
def test_blocks_of_points_change_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    material = {name: {"law": "j2", "K": 4780.0, "G": 400.0, "yield_stress": 1.0, "hardening": 90.0}}
    at_once = _solved(material=material)
    monkeypatch.setattr(blocks, "_LARGEST", 7)
    sizes = _sizes(monkeypatch)
    in_blocks = _solved(material=material)
    assert set(sizes) == {1, 7}  # 64 points; one for the warm-up
    one, other = at_once.material, in_blocks.material
    assert 0 < (one.state_fields()["equivalent_plastic_strain"] > 0).sum() < 64
    assert np.abs(in_blocks.displacement.x.array - at_once.displacement.x.array).max() < 1e-14
    for field in ("stress", "tangent"):
        expected = getattr(one, field)
        assert np.abs(getattr(other, field) - expected).max() <= 1e-12 * np.abs(expected).max()


def test_responses_of_large_bodies_exist_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_LARGEST", 7)
    problem = _solved()
    trial = problem.material.regions[0].trial
    assert trial is not None
    for name in ("stress", "tangent"):
        in_form = getattr(problem.quadrature, name).x.array
        assert np.shares_memory(getattr(trial, name), in_form)
        assert np.shares_memory(getattr(problem.material, name), in_form)


def test_an_increment_that_failed_leaves_the_response_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_LARGEST", 7)
    problem = _solved()
    before = [one.copy() for one in (problem.material.stress, problem.material.tangent)]
    problem.displacement.x.array[:] *= 2.0
    problem.evaluate(1.0)
    assert np.abs(problem.material.stress - before[0]).max() > 0.1
    problem._restore()
    assert (problem.material.stress == before[0]).all()
    assert (problem.material.tangent == before[1]).all()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("cell", ["triangle", "quadrilateral", "tetrahedron", "hexahedron"])
def test_coefficients_of_forms_are_those_that_dolfinx_packs(cell: str, order: int) -> None:
    problem = box_problem(cell, order=order)
    rng, quadrature = np.random.default_rng(0), problem.quadrature
    for function, form in ((quadrature.stress, problem._internal), (quadrature.tangent, problem._jacobian)):
        function.x.array[:] = rng.normal(size=len(function.x.array))
        ours, theirs = quadrature.packed(function), fem.pack_coefficients(form)
        assert list(ours) == list(theirs)
        assert all((ours[key] == theirs[key]).all() for key in ours)
        assert all(np.shares_memory(values, function.x.array) for values in ours.values())
