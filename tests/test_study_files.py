"""Study files: what they must contain, and what cannot be trained."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from helpers import ELASTIC
from toy_studies import CIRCLE, J2, STUDY, study_file, trained

from femops import CaseError
from femops.inputs.case import load_case
from femops.inputs.study import load_study, study_schema

pytestmark = pytest.mark.usefixtures("toy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"surrogate": {"law": "toy", "degre": 3}},
            r"study\.yaml: surrogate\.degre: unknown key; did you mean 'degree'",
        ),
        ({"surrogate": {"law": "toy", "degree": 0}}, r"surrogate\.degree: 0 given, expected greater than 0"),
        ({"surrogate": {"law": "elastic"}}, r"surrogate\.law: 'elastic' is no installed surrogate; installed:.* toy"),
        ({"surrogate": {"degree": 2}}, r"surrogate\.law: missing; expected one of .*toy"),
        ({"surrogate": 3}, "surrogate: 3 given, expected a surrogate with its options"),
        ({"validation": {"method": "sobol", "count": 3}}, "validation: range missing"),
        ({"validation": {"method": "sobol", "count": 3, "range": {33: [0, 1]}}}, r"validation\.range: component 33"),
        ({"validation": {"method": "run", "run": "nowhere"}}, r"nowhere/points\.vtp: does not exist|nowhere"),
        ({"surrogate": None}, r"study\.yaml: surrogate: missing, expected the surrogate to train"),
        (
            {"rve": {**CIRCLE, "phases": {"matrix": J2, "fibre": ELASTIC}}},
            r"study\.yaml: rve\.phases\.matrix: has a memory",
        ),
    ],
)
def test_a_study_that_cannot_be_trained_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CaseError, match=message) as caught:
        trained(**changes)
    assert "\n" not in str(caught.value)


def test_the_schema_of_studies_knows_the_options_of_surrogates() -> None:
    validator = jsonschema.Draft202012Validator(study_schema())
    assert not list(validator.iter_errors(STUDY))
    for bad in ({"law": "toy", "degre": 1}, {"degree": 1}, {"law": "toy", "degree": "two"}):
        assert list(validator.iter_errors({**STUDY, "surrogate": bad})), bad


def test_a_study_is_told_from_a_case() -> None:
    cases = Path(__file__).parents[1] / "cases"
    with pytest.raises(CaseError, match="is a study; use it with: femops train STUDY"):
        load_case(cases / "studies" / "rve3_equino.yaml")
    with pytest.raises(CaseError, match="is a case; use it with: femops run CASE"):
        load_study(cases / "cook_nested.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rve": None}, "expected exactly one of rve, family, problem; given: none"),
        ({"problem": {}}, "problem: given, but 'toy' brings no problems along; expected rve"),
        ({"sampling": None}, "sampling: missing, expected the strains to solve the RVE at"),
        ({"kinematics": None}, "kinematics: missing"),
    ],
)
def test_a_study_has_one_subject_and_all_that_belongs_to_it(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CaseError, match=message):
        load_study(study_file(changes))
