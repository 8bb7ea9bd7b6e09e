"""Laws of third-party plugins are found and checked like built-in laws."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import Field
from toy_surrogate import ToyLaw, ToyOptions, ToyParameters

from femops import CaseError, load_law, plugins
from femops.checks import check_law
from femops.commands.cli import main
from femops.hookspecs import hookimpl
from femops.law import LawContext, LawParameters, LawResponse, LawSpec
from femops.phases.elastic import Elastic
from femops.phases.phase import PhaseLaw
from femops.plugins import installed, installed_laws, manager
from femops.surrogate import SurrogateSpec
from femops.surrogate.registry import surrogate_options

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
def spring() -> Iterator[None]:
    stranger = plugin("spring")
    manager().register(stranger, "stranger")
    yield
    manager().unregister(stranger)


@pytest.mark.usefixtures("spring")
def test_a_plugin_is_used_like_a_built_in_law() -> None:
    law = load_law({"law": "spring", "stiffness": 2.0}, dim=3)
    check_law(law)
    answer = law.evaluate(np.eye(6)[:1], np.zeros((1, 0)), 1.0)
    assert answer.stress[0, 1] == pytest.approx(2.0 - 2.0 * 2.0 / 3.0)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_law_on_the_page_of_plugins_keeps_the_contract(dim: int) -> None:
    page = (Path(__file__).parents[1] / "plugins" / "README.md").read_text()
    code = page.partition("`femops_mine/__init__.py`:\n")[2].partition("\nand its test:")[0]
    names: dict[str, Any] = {"__name__": "femops_mine"}
    exec(textwrap.dedent(code), names)
    manager().register(mine := SimpleNamespace(femops_laws=names["femops_laws"]))
    try:
        law = load_law({"law": "reinforced", "lame": 4.0, "shear": 2.0, "fibre": 30.0}, dim=dim)
        check_law(law)
    finally:
        manager().unregister(mine)
    strain = np.eye(1, {2: 3, 3: 6}[dim])
    assert law.evaluate(strain, np.zeros((1, 0)), 1.0).stress[0, 0] == pytest.approx(4.0 + 2.0 * 2.0 + 30.0)


@pytest.mark.usefixtures("spring")
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


@pytest.mark.usefixtures("spring")
def test_a_plugin_without_phase_is_no_constituent_of_an_rve() -> None:
    rve = {"homogeneous": {"phase": "matrix"}, "phases": {"matrix": {"law": "spring", "stiffness": 1.0}}}
    with pytest.raises(CaseError, match=r"'spring' cannot be a phase of an RVE; expected one of elastic"):
        load_law({"law": "nested", "rve": rve})


@pytest.mark.usefixtures("spring")
def test_a_name_that_is_taken_leaves_the_later_plugins_out_and_names_them() -> None:
    """femops' own laws stay; of two strangers nobody can tell which is meant, so neither is used."""
    thief, double = plugin("elastic"), plugin("spring")
    manager().register(thief, "thief")
    manager().register(double, "double")
    try:
        found = installed()
        assert found.broken == {
            "double": "its law 'spring' is also provided by stranger",
            "stranger": "its law 'spring' is also provided by double",
            "thief": "its law 'elastic' is also provided by femops",
        }
        assert "spring" not in found.laws and found.laws["elastic"].summary != "a test"
        with pytest.raises(CaseError, match=r"'spring' is not installed; .*the plugin double could not be loaded"):
            load_law({"law": "spring", "stiffness": 1.0})
    finally:
        manager().unregister(thief)
        manager().unregister(double)


def returning(value: Any, hook: str = "femops_laws") -> SimpleNamespace:
    def implementation() -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    implementation.__name__ = hook
    return SimpleNamespace(**{hook: hookimpl(implementation)})


class NoLaw:
    """Something that only looks like a surrogate."""

    def validate(self) -> None:
        pass

    def law(self) -> int:
        return 3


GOOD = LawSpec("odd", "a test", SpringParameters, _spring)
SURROGATE = SurrogateSpec("odd", "a test", ToyOptions, ToyParameters, None, ToyLaw)


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        (returning(RuntimeError("no\nlicence")), "RuntimeError: no licence"),
        (returning(None), "TypeError: femops_laws returns None, expected a list of LawSpec"),
        (returning([SURROGATE]), "TypeError: femops_laws returns .*, expected a list of LawSpec"),
        (returning([replace(GOOD, name=3)]), "TypeError: its law 3 has no valid name, expected text"),
        (returning([replace(GOOD, parameters=dict)]), "TypeError: its law 'odd' has no valid parameters"),
        (returning([replace(GOOD, build=None)]), "TypeError: its law 'odd' has no valid build, expected a function"),
        (returning([GOOD, GOOD]), "its law 'odd' is also provided by itself a second time"),
        (returning([SURROGATE], "femops_surrogates"), "TypeError: its law 'odd' has no valid fit, fit_family and"),
        (returning([NoLaw()], "femops_surrogates"), "TypeError: femops_surrogates returns .*, expected a list of Surr"),
        (returning([], "femops_lawz"), "TypeError: it has the unknown hook 'femops_lawz'"),
    ],
)
def test_a_plugin_that_breaks_the_contract_is_left_out_by_name(
    odd: Any, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manager().register(odd, "femops-odd")
    try:
        assert "odd" not in installed_laws()
        with pytest.raises(CaseError, match=f"'odd' is not installed; installed: .*; the plugin femops-odd .*: {why}"):
            load_law({"law": "odd"})
        with pytest.raises(SystemExit) as leave:
            main(["plugins"])
        printed = capsys.readouterr().out
        assert leave.value.code == 0 and "saturating" in printed
        assert re.search(f"^Broken: the plugin femops-odd could not be loaded: {why}", printed, re.MULTILINE)
    finally:
        manager().unregister(odd)


MODULES = {
    "import": (
        "import a_module_that_is_not",
        "ModuleNotFoundError: No module named 'a_module_that_is_not'",
    ),
    "syntax": ("def (:", "SyntaxError: invalid syntax"),
    "exit": ("raise SystemExit('not here')", "SystemExit: not here"),
    "hook": (
        "from femops.hookspecs import hookimpl\n@hookimpl\ndef femops_laws(colour): return []",
        "PluginValidationError",
    ),
}


@pytest.mark.parametrize("fault", MODULES)
def test_a_package_that_cannot_be_imported_stops_nobody_who_does_not_need_it(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, why = MODULES[fault]
    (tmp_path / f"femops_{fault}.py").write_text(source)
    info = tmp_path / f"femops_{fault}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: femops-{fault}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[femops]\nfault = femops_{fault}\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._loaded.cache_clear()
    try:
        assert installed().broken[f"femops-{fault}"].startswith(why)
        assert load_law({"law": "elastic", "K": 1.0, "G": 1.0}).dim == 2
        with pytest.raises(CaseError, match=f"'mine' is not installed; .*femops-{fault} could not be loaded: {why}"):
            load_law({"law": "mine"})
        with pytest.raises(CaseError, match=f"'mine' is no installed surrogate; .*femops-{fault} could not be"):
            surrogate_options({"law": "mine"})
    finally:
        plugins._loaded.cache_clear()


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
