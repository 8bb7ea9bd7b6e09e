"""Laws of strangers are found and checked like the built-in ones."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import Field

from femops import CaseError, load_law
from femops.checks import check_law
from femops.cli import main
from femops.hookspecs import hookimpl
from femops.law import LawContext, LawParameters, LawResponse, LawSpec
from femops.phases.elastic import Elastic
from femops.phases.phase import PhaseLaw
from femops.plugins import installed_laws, manager

CASE = """
kinematics: plane_strain
mesh: {box: {size: [1, 1], cells: [1, 1], cell: triangle}}
material: {law: spring, stiffness: 1.0}
supports: {left: {ux: 0, uy: 0}}
loads: {right: {traction: [1.0, 0]}}
"""


class SpringParameters(LawParameters):
    law: Literal["spring"] = "spring"
    stiffness: float = Field(gt=0)


def _spring(parameters: SpringParameters, context: LawContext) -> PhaseLaw:
    return PhaseLaw(Elastic(parameters.stiffness, parameters.stiffness), context.dim)


def plugin(name: str) -> SimpleNamespace:
    @hookimpl
    def femops_laws() -> list[LawSpec]:
        return [LawSpec(name, "a test", SpringParameters, _spring)]

    return SimpleNamespace(femops_laws=femops_laws)


@pytest.fixture
def installed() -> Iterator[None]:
    stranger = plugin("spring")
    manager().register(stranger, "stranger")
    yield
    manager().unregister(stranger)


@pytest.mark.usefixtures("installed")
def test_a_plugin_is_used_like_a_built_in_law() -> None:
    law = load_law({"law": "spring", "stiffness": 2.0}, dim=3)
    check_law(law)
    answer = law.evaluate(np.eye(6)[:1], np.zeros((1, 0)), 1.0)
    assert answer.stress[0, 1] == pytest.approx(2.0 - 2.0 * 2.0 / 3.0)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_plugin_with_a_wrong_answer_is_named_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = PhaseLaw.evaluate

    def wrong(self: PhaseLaw, strain: Any, state: Any, dt: float) -> LawResponse:
        answer = right(self, strain, state, dt)
        return replace(answer, stress=answer.stress * 1j)

    monkeypatch.setattr(PhaseLaw, "evaluate", wrong)
    case = tmp_path / "case.yaml"
    case.write_text(CASE)
    with pytest.raises(SystemExit) as leave:
        main([command, str(case), *(["--output", str(tmp_path / "results")] if command == "run" else [])])
    assert leave.value.code == 2
    problem = "law of everywhere ('spring'): stress has the type complex128, expected float64"
    assert capsys.readouterr().err == f"femops: {case}: material: {problem}\n"


@pytest.mark.usefixtures("installed")
def test_a_plugin_without_phase_is_no_constituent_of_an_rve() -> None:
    rve = {"homogeneous": {"phase": "matrix"}, "phases": {"matrix": {"law": "spring", "stiffness": 1.0}}}
    with pytest.raises(CaseError, match=r"'spring' cannot be a phase of an RVE; expected one of elastic"):
        load_law({"law": "nested", "rve": rve})


@pytest.mark.usefixtures("installed")
def test_a_name_that_is_taken_is_refused() -> None:
    thief = plugin("elastic")
    manager().register(thief)
    try:
        with pytest.raises(CaseError, match="two installed plugins provide the law 'elastic'"):
            installed_laws()
    finally:
        manager().unregister(thief)


def test_unknown_hooks_are_refused() -> None:
    @hookimpl
    def femops_lawz() -> list[LawSpec]:
        return []

    stranger = SimpleNamespace(femops_lawz=femops_lawz)
    manager().register(stranger)
    try:
        with pytest.raises(Exception, match="unknown hook 'femops_lawz'"):
            manager().check_pending()
    finally:
        manager().unregister(stranger)
