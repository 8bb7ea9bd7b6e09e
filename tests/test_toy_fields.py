"""A field surrogate that knows the public modules only is trained, used in a case and certified by the shared parts."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toy_fields
import yaml

from femops import load_law
from femops.checks import check_law
from femops.commands import cli
from femops.law import LawResponse
from femops.plugins import manager

SOFT, STIFF = {"law": "elastic", "K": 4.0, "G": 2.0}, {"law": "elastic", "K": 120.0, "G": 60.0}
STUDY = {
    "kinematics": "plane_strain",
    "family": {
        "count": 3,
        "validation": 2,
        "seed": 3,
        "mesh": {"cells": 6},
        "inclusions": {"shape": "circles", "number": [1, 2], "volume_fraction": [0.2, 0.4]},
        "phases": {"matrix": SOFT, "fibre": SOFT},
        "contrast": {"fibre": [10, 100]},
    },
    "surrogate": {"law": "toy_fields"},
}
RVE = {
    "voxels": {"cells": 6, "inclusions": [{"center": [0.3, 0.4], "radius": 0.3}]},
    "phases": {"matrix": SOFT, "fibre": STIFF},
}
CASE: dict[str, Any] = {
    "kinematics": "plane_strain",
    "mesh": {"box": {"size": [2.0, 1.0], "cells": [2, 1], "cell": "quadrilateral"}},
    "supports": {"left": {"ux": 0.0, "uy": 0.0}},
    "loads": {"right": {"displacement": {"ux": 0.01}}},
    "steps": {"count": 1, "end": 1.0},
    "output": {"picture": None},
    "quantities": {"force": {"reaction": "right", "component": "x"}},
}
STRAIN = 0.01 * np.random.default_rng(0).normal(size=(20, 3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The surrogate, installed and trained by the command line."""
    folder = tmp_path_factory.mktemp("toy_fields")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    manager().register(toy_fields)
    try:
        femops("train", str(folder / "study.yaml"), "--output", str(folder / "out"))
        yield SimpleNamespace(folder=folder, law={"law": "toy_fields", "model": str(folder / "out/model"), "rve": RVE})
    finally:
        manager().unregister(toy_fields)


def femops(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert not ended.value.code


def response(law: Any) -> LawResponse:
    answer: LawResponse = law.evaluate(STRAIN, np.zeros((len(STRAIN), law.n_state)), 1.0)
    return answer


def test_the_law_keeps_the_contract(trained: SimpleNamespace) -> None:
    check_law(load_law(trained.law, dim=2))


def test_validation_finds_no_violated_bound(trained: SimpleNamespace) -> None:
    validation = json.loads((trained.folder / "out/metrics.json").read_text())["validation"]
    assert validation["count"] == 2
    assert validation["bound"]["violations"] == 0


def test_the_tangent_lies_between_the_exact_one_and_the_mean_of_the_phases(trained: SimpleNamespace) -> None:
    law, exact = load_law(trained.law, dim=2), load_law({"law": "nested", "rve": RVE}, dim=2)
    tangent, lower = response(law).tangent[0], response(exact).tangent[0]
    fraction = law.rve.discretisation.volume_fraction(law.rve.discretisation.phases.index("fibre"))
    laws = (load_law(phase, dim=2) for phase in (SOFT, STIFF))
    upper = sum(share * response(one).tangent[0] for share, one in zip((1 - fraction, fraction), laws, strict=True))
    assert np.linalg.eigvalsh(tangent - lower).min() > 1e-3 * np.abs(lower).max()
    assert np.linalg.eigvalsh(upper - tangent).min() > 1e-3 * np.abs(lower).max()


def test_the_bound_is_not_below_the_error_and_not_far_above_it(trained: SimpleNamespace) -> None:
    law = load_law(trained.law, dim=2)
    given = response(law)
    difference = given.stress - response(load_law({"law": "nested", "rve": RVE}, dim=2)).stress
    error, size = (np.sqrt(np.einsum("ns,st,nt->n", one, law.metric, one)) for one in (difference, given.stress))
    bound = law.certify(STRAIN, given, "bound")
    assert (bound >= error / size).all() and (bound < 30.0 * error / size).all()  # the contrast, about
    np.testing.assert_array_equal(bound, given.error)


def test_a_body_is_not_softer_than_with_the_nested_law_and_exact_where_it_is_not_trusted(
    trained: SimpleNamespace,
) -> None:
    def force(name: str, material: dict[str, Any], **more: Any) -> float:
        path = trained.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**CASE, "material": material, **more}))
        femops("run", str(path), "--output", str(trained.folder / name))
        return float(json.loads((trained.folder / name / "summary.json").read_text())["quantities"]["force"])

    nested, surrogate = force("nested", {"law": "nested", "rve": RVE}), force("surrogate", trained.law)
    assert surrogate > 1.01 * nested > 0.0
    trust = {"tolerance": 1e-9, "on_violation": "solve", "certificate": "bound"}
    assert force("trusted", trained.law, trust=trust) == pytest.approx(nested, rel=1e-8)
