"""Texts on which YAML or Python would fail are refused in one line."""

import math
from pathlib import Path

import pytest
import yaml

from femops.commands.cli import main
from femops.errors import CaseError
from femops.inputs.expressions import value_at
from femops.inputs.reading import read_yaml
from femops.inputs.study import load_study

TEXTS = {
    "no date": ("title: 2026-02-30", "line 1: '2026-02-30' is not a valid timestamp"),
    "no time": ("a: 1\nb: 2001-01-01 25:00:00", "line 2: '2001-01-01 25:00:00' is not a valid timestamp"),
    "no integer": ("a: !!int abc", "line 1: 'abc' is not a valid int"),
    "empty integer": ("a: !!int ''", "line 1: '' is not a valid int"),
    "no float": ("a: [1, !!float x]", "line 1: 'x' is not a valid float"),
    "no boolean": ("a: !!bool perhaps", "line 1: 'perhaps' is not a valid bool"),
    "list as mapping": ("a: !!map [b]", "line 1: expected a mapping node"),
    "list as set": ("a: !!set [b]", "line 1: expected a mapping node"),
    "deep lists": ("a: " + 65 * "[" + 65 * "]", "blocks and lists nested deeper than 64 levels"),
    "deep blocks": (
        "\n".join(" " * level + "a:" for level in range(2000)),
        "blocks and lists nested deeper than 64 levels",
    ),
    "long integer": ("a: " + 309 * "9", "line 1: a number of 309 digits"),
    "longer integer": ("a: -" + 5000 * "9", "is not a valid int"),
    "list of itself": ("a: &a [1, *a]", "line 1: an alias refers to a block that contains it"),
    "merged with itself": ("a: &a {<<: *a}", "line 1: an alias refers to a block that contains it"),
    "key with aliases": (
        "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\n? [*c]\n: 1",
        "found unhashable key",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_values_that_yaml_cannot_make_are_told_with_their_line(name: str, tmp_path: Path) -> None:
    text, message = TEXTS[name]
    (tmp_path / "case.yaml").write_text(text)
    with pytest.raises(CaseError) as caught:
        read_yaml(tmp_path / "case.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/case.yaml: is not valid YAML at line ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("item", ["[{0}]", "{{<<: [{0}]}}"], ids=["lists", "merged blocks"])
def test_aliases_count_as_what_they_stand_for(item: str, tmp_path: Path) -> None:
    """Eight levels of nine stand for 9⁸ values; three, with 3 · 9³ and what holds them, are welcome."""
    first = "x0: &x0 {a: 1, b: 2}" if "<<" in item else "x0: &x0 [a, b]"
    lines = [f"x{k}: &x{k} {item.format(', '.join([f'*x{k - 1}'] * 9))}" for k in range(1, 9)]
    (tmp_path / "bomb.yaml").write_text("\n".join([first, *lines]))
    with pytest.raises(CaseError, match="more than 1000000 values, counting those of every alias"):
        read_yaml(tmp_path / "bomb.yaml")
    (tmp_path / "few.yaml").write_text("\n".join([first, *lines[:3]]))
    assert set(read_yaml(tmp_path / "few.yaml")) == {"x0", "x1", "x2", "x3"}


def test_lists_as_deep_and_numbers_as_large_as_allowed_are_read(tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text("a: " + 63 * "[" + 63 * "]" + "\nb: 1" + 308 * "0" + "\nc: &c 2\nd: [*c, *c]")
    data = read_yaml(tmp_path / "case.yaml")
    assert (data["b"], data["d"]) == (10**308, [2, 2])


def test_a_file_of_another_size_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "case.yaml").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk
    with pytest.raises(CaseError, match=r"case\.yaml: is larger than 16777216 bytes"):
        read_yaml(tmp_path / "case.yaml")


@pytest.mark.parametrize("text", ["-" * 8000 + "t", "(" * 300 + "t" + ")" * 300, "sin(" * 201 + "t" + ")" * 201])
def test_expressions_that_could_use_up_the_stack_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="given, expected an expression in t"):
        value_at(text, 1.0)


def test_long_sums_are_expressions() -> None:
    terms = "+".join(f"sin({k} * t)" for k in range(1, 151))
    assert value_at(terms, 0.3) == pytest.approx(sum(math.sin(0.3 * k) for k in range(1, 151)), rel=1e-13)


PHASES = {"matrix": {"law": "elastic", "K": 1.0, "G": 1.0}, "fibre": {"law": "saturating", "K": 1, "alpha": 1}}
FAMILY = {
    "count": 2,
    "mesh": {"cells": 8},
    "inclusions": {"shape": "circles", "number": [1, 2], "volume_fraction": [0.1, 0.2]},
    "phases": PHASES,
}


@pytest.mark.parametrize(
    ("subject", "known"), [("family", FAMILY), ("rve", {"homogeneous": {"phase": "matrix"}, "phases": PHASES})]
)
def test_a_typo_in_a_phase_is_told_wherever_phases_stand(
    subject: str, known: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"kinematics": "plane_strain", subject: known}))
    with pytest.raises(CaseError, match=f"{subject}.phases.fibre.alpha: unknown key; did you mean 'alpha[12]'"):
        load_study(path)
    with pytest.raises(SystemExit) as leave:
        main(["sample", str(path)])
    assert leave.value.code == 2 and capsys.readouterr().err.count("\n") == 1
