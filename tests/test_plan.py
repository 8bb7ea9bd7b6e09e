"""What identifies a training, what it shares with its validation, and the time that it took."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from helpers import ELASTIC, SATURATING
from mpi4py import MPI
from toy_studies import STUDY, study_file

from femops.inputs.study import Study, load_study
from femops.offline import plan
from femops.offline.plan import study_hash
from femops.offline.strains import member_strains
from femops.offline.train import plan_training
from femops.offline.train_family import FamilyPlan
from femops.offline.train_problem import ProblemPlan
from femops.offline.train_rve import RVEPlan
from femops.rve.family import microstructure
from femops.surrogate.registry import SurrogateSpec, surrogate_spec

pytestmark = pytest.mark.usefixtures("toy")
FAMILY: dict[str, Any] = {
    "kinematics": "plane_strain",
    "family": {
        "count": 4,
        "validation": 3,
        "seed": 1,
        "mesh": {"cells": 8},
        "inclusions": {"shape": "circles", "number": [1, 3], "volume_fraction": [0.1, 0.4]},
        "phases": {"matrix": SATURATING, "fibre": ELASTIC},
    },
    "sampling": {"method": "sobol", "count": 2, "seed": 5, "range": 0.01},
}


def hash_of(changes: dict[str, Any], content: str = "rve", *arrays: Any, version: int = 1) -> str:
    spec = replace(surrogate_spec("toy"), version=version)
    return study_hash(load_study(study_file(changes)), spec, content, *arrays)


def test_the_hash_depends_on_all_that_changes_a_model_or_its_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    strain = np.arange(3.0)
    changes: list[dict[str, Any]] = [
        {},
        {"solver": {"rtol": 1e-9}},
        {"sampling": {**STUDY["sampling"], "count": 33}},
        {"surrogate": {**STUDY["surrogate"], "seed": 2}},
        {"validation": {**STUDY["validation"], "seed": 5}},
        {"validation": None},
    ]
    hashes = [hash_of(one) for one in changes]
    hashes += [hash_of({}, "another rve"), hash_of({}, version=2), hash_of({}, "rve", strain)]
    hashes.append(hash_of({}, "rve", strain[::-1]))
    monkeypatch.setattr(plan, "STORE_INTERFACE", plan.STORE_INTERFACE + 1)
    hashes.append(hash_of({}))
    assert len(set(hashes)) == len(hashes) == 11


def test_the_hash_depends_on_content_only() -> None:
    moved = {"title": "another", "units": "m, N, Pa", "rve": {**STUDY["rve"], "boundary": "kinematic"}}
    assert hash_of(moved) == hash_of({})  # the RVE counts by its content hash


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.5), (-1.0, -0.5)])
def test_the_range_of_the_strains_of_a_run_contains_zero_where_every_case_begins(
    monkeypatch: pytest.MonkeyPatch, low: float, high: float
) -> None:
    strain = 0.01 * np.random.default_rng(5).uniform(low, high, (40, 3))
    monkeypatch.setattr("femops.offline.strains.strains_of_run", lambda *_: strain)
    path = study_file({"sampling": {"method": "run", "run": "somewhere"}, "validation": None})
    whole = plan_training(load_study(path), path, None, MPI.COMM_SELF)
    assert isinstance(whole, RVEPlan)
    np.testing.assert_array_equal(whole.low, np.minimum(strain.min(0), 0.0))
    np.testing.assert_array_equal(whole.high, np.maximum(strain.max(0), 0.0))


def test_members_and_strains_of_the_validation_are_others_than_those_of_the_training(tmp_path: Path) -> None:
    study = Study.model_validate(FAMILY)
    assert study.family is not None
    whole = FamilyPlan(study, tmp_path, cast(SurrogateSpec, None), "", tmp_path, np.zeros(3), np.zeros(3))
    assert whole.unseen.count == 3
    fractions = [microstructure(one, i).volume_fraction for one in (study.family, whole.unseen) for i in range(3)]
    assert len(set(fractions)) == 6
    seen, unseen = (member_strains(study, study.family, unseen=one) for one in (False, True))
    assert seen is not None and unseen is not None and seen.shape == unseen.shape == (4, 2, 3)
    assert not (seen.reshape(-1, 1, 3) == unseen.reshape(1, -1, 3)).all(axis=2).any()


def test_the_sampling_time_of_an_interrupted_training_is_that_of_all_snapshots(tmp_path: Path) -> None:
    whole = ProblemPlan(Study.model_validate(FAMILY), tmp_path, cast(SurrogateSpec, None), "study", tmp_path)
    assert np.isnan(whole.noted_seconds("sampling", 0.5, solved=0, found=16))
    assert whole.noted_seconds("sampling", 2.0, solved=4, found=12) == 8.0
    assert whole.noted_seconds("sampling", 0.5, solved=0, found=16) == 8.0
    assert np.isnan(whole.noted_seconds("validation", 0.5, solved=0, found=16))
