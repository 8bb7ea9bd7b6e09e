"""Stored surrogates are loaded unchanged or refused in one line; parts common to all surrogates."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from helpers import ELASTIC, SATURATING, seal
from toy_surrogate import ToyLaw, ToyTraining, installed_toy

from femops import CaseError, load_law
from femops.checks import check_law
from femops.devices import local_rank, torch_device
from femops.devices.torch_library import torch
from femops.output.atomic import new_folder, present
from femops.plugins import installed_laws, law_parameters
from femops.rve.law import NestedLaw
from femops.rve.snapshots import content_hash
from femops.rve.solver import Solution
from femops.rve.spec import RVEParameters
from femops.surrogate import ExactRVE, TrainedModel, chunks
from femops.surrogate.learning.checkpoint import FileCheckpoint
from femops.surrogate.store import Manifest, Origin, read_manifest, write_model
from femops.surrogate.stored_rve import model_rve

CIRCLE = {"circles": {"circles": [{"center": [0.1, 0.05], "radius": 0.3}], "mesh_size": 0.25, "cell": "triangle"}}
RVE = {**CIRCLE, "phases": {"matrix": SATURATING, "fibre": ELASTIC}}
J2 = {"law": "j2", "E": 4000.0, "nu": 0.35, "yield_stress": 30.0, "hardening": 200.0}
STRAIN = 0.02 * np.random.default_rng(0).uniform(-1, 1, (7, 3))


@pytest.fixture(autouse=True)
def toy() -> Iterator[ToyTraining]:
    with installed_toy() as training:
        yield training


@pytest.fixture(scope="module")
def nested() -> NestedLaw:
    law = load_law({"law": "nested", "rve": RVE, "solver": {"rtol": 1e-11}})
    assert isinstance(law, NestedLaw)
    return law


@pytest.fixture
def model(nested: NestedLaw) -> TrainedModel:
    weights = 1e3 * np.random.default_rng(1).normal(size=(9, 4))
    settings = {"degree": 2, "scale": np.float64(0.02), "names": ("a", "b")}
    low, high = np.full(3, -0.02), np.array([0.01, 0.02, 0.1 + 0.2])
    return TrainedModel({"weights": weights}, settings, nested.rve, low, high)


@pytest.fixture
def folder(model: TrainedModel, tmp_path: Path) -> Path:
    written(tmp_path / "model", model)
    return tmp_path / "model"


def written(folder: Path, model: TrainedModel) -> None:
    phases = {name: law_parameters(one) for name, one in RVE["phases"].items()}
    write_model(folder, Origin("toy", "0123", units="mm, N, MPa", metrics={"ratio": float("inf")}), model, phases)


def test_a_stored_surrogate_comes_back_bit_by_bit(folder: Path, model: TrainedModel) -> None:
    law = load_law(folder)
    assert isinstance(law, ToyLaw)
    ours, theirs = law.model, model
    np.testing.assert_array_equal(ours.arrays["weights"], theirs.arrays["weights"])
    assert ours.settings == {"degree": 2, "scale": 0.02, "names": ["a", "b"]}
    for name in ("low", "high"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in ("strain_operator", "weight", "points"):
        values = getattr(ours.rve.discretisation, name)
        np.testing.assert_array_equal(values, getattr(theirs.rve.discretisation, name))
    assert ours.rve.discretisation.cells_of_phase == theirs.rve.discretisation.cells_of_phase
    assert ours.rve.phases == theirs.rve.phases
    state = np.zeros((7, 0))
    expected = ToyLaw(model, law.parameters).evaluate(STRAIN, state, 1.0)
    np.testing.assert_array_equal(law.evaluate(STRAIN, state, 1.0).stress, expected.stress)
    check_law(law, strain_scale=0.01)


def test_the_stored_rve_has_the_content_hash_of_the_study_and_solves_alike(folder: Path, nested: NestedLaw) -> None:
    parameters = RVEParameters.model_validate(RVE)
    assert read_manifest(folder).rve.hash == content_hash(nested.rve, parameters)
    stored = NestedLaw(model_rve(folder))
    one, two = (law.evaluate(STRAIN, np.zeros((7, law.n_state)), 1.0).stress for law in (nested, stored))
    np.testing.assert_allclose(one, two, rtol=1e-7, atol=1e-7 * np.abs(one).max())


def test_a_mapping_and_a_folder_give_the_same_law(folder: Path) -> None:
    mapping = {"law": "toy", "model": "model", "device": "cpu"}
    laws = [load_law(mapping, base=folder.parent), load_law("model", base=folder.parent), load_law(str(folder))]
    answers = [law.evaluate(STRAIN, np.zeros((7, 0)), 1.0).stress for law in laws]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])
    assert "toy" in installed_laws()


def edit(key: str, value: Any, sealed: bool) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        *parents, last = key.split(".")
        block = manifest
        for parent in parents:
            block = block[parent]
        block[last] = value
        (folder / "manifest.json").write_text(json.dumps(manifest))
        if sealed:
            seal(folder)

    return apply


def edited(key: str, value: Any) -> Callable[[Path], None]:
    """Edit a manifest and leave its checksum as it was."""
    return edit(key, value, sealed=False)


def change(key: str, value: Any) -> Callable[[Path], None]:
    """Edit a manifest with its checksum."""
    return edit(key, value, sealed=True)


def rearranged(work: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the arrays of a model with its checksums."""

    def apply(folder: Path) -> None:
        arrays = safetensors.numpy.load_file(folder / "model.safetensors")
        work(arrays)
        safetensors.numpy.save_file(arrays, folder / "model.safetensors")
        seal(folder)

    return apply


def setting(name: str, index: Any, value: Any) -> Callable[[Path], None]:
    return rearranged(lambda arrays: arrays[name].__setitem__(index, value))


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def flip(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


EDITED = r"manifest\.json: is damaged or was edited \(its checksum is another one\); train the model again"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (lambda folder: folder.rename(folder.with_name("other")), "model: does not exist, expected a model folder"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), r"model: has no manifest\.json"),
    "no json": (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json: is not readable as JSON"),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[]"), "interface None given, this femops reads 2"),
    "interface": (change("interface", 7), "interface 7 given, this femops reads 2"),
    "unknown key": (change("colour", "red"), r"manifest\.json: colour: unknown key"),
    "not installed": (change("law", "gone"), r"model: law: 'gone' is no installed surrogate; installed:.* toy"),
    "truncated": (truncate, r"model\.safetensors: is damaged"),
    "one bit": (flip, r"model\.safetensors: is damaged"),
    "no arrays": (lambda folder: (folder / "model.safetensors").unlink(), r"safetensors: cannot be read"),
    "another rve": (change("rve.phases.matrix.alpha1", 51.0), r"rve\.hash: the RVE is another one"),
    "another boundary": (change("rve.boundary", "kinematic"), r"rve\.hash: the RVE is another one"),
    "unknown phase law": (
        change("rve.phases.fibre.law", "steel"),
        r"rve\.phases\.fibre\.law: 'steel' is not installed",
    ),
    "no phases": (change("rve.phases", {}), "rve: describes no RVE"),
    "lower end": (edited("low", [-1.0, -1.0, -1.0]), EDITED),
    "upper end": (edited("high", [1.0, 1.0, 1.0]), EDITED),
    "settings": (edited("settings.degree", 3), EDITED),
    "seed": (edited("seed", 1), EDITED),
    "checksum": (edited("sha256", 64 * "0"), EDITED),
    "arrays of another model": (edited("arrays_sha256", 64 * "0"), EDITED),
    "older": (edited("interface", 1), r"interface 1 given, this femops reads 2; train the model again"),
    "deep": (lambda folder: (folder / "manifest.json").write_text("[" * 100000), "is not readable as JSON"),
    "two strains": (change("low", [-1.0, -1.0]), r"manifest\.json: low: \[-1.0, -1.0\] to .* is no range of 3 strains"),
    "range": (change("low", [1.0, 1.0, 1.0]), "is no range of 3 strains"),
    "no cells": (rearranged(lambda arrays: arrays.pop("rve/cells")), "array 'rve/cells': missing"),
    "no such node": (setting("rve/cells", 0, 10**6), "array 'rve/cells': holds 0 to 1000000, expected 0 to"),
    "negative node": (setting("rve/cells", 0, -1), "array 'rve/cells': holds -1 to"),
    "nowhere": (setting("rve/points", 0, np.nan), "'rve/points': holds values that are no finite numbers"),
    "real cells": (
        rearranged(lambda arrays: arrays.update({"rve/cells": arrays["rve/cells"].astype(float)})),
        r"model\.safetensors: array 'rve/cells': \(.*, 3\) float64 found, expected \(n_cells, 3\) whole numbers",
    ),
    "points in space": (
        rearranged(lambda arrays: arrays.update({"rve/points": np.zeros((9, 3))})),
        r"'rve/points': \(9, 3\) float64 found, expected \(n_points, dim = 2\) float64",
    ),
    "cells of a phase": (change("rve.cells_of_phase.fibre", [0, 10**12]), "rve: describes no RVE"),
    "no safetensors": (
        lambda folder: ((folder / "model.safetensors").write_bytes(b"{}"), seal(folder)),
        r"model\.safetensors: holds no arrays",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_no_such_model_is_refused_in_one_line(damage: str, folder: Path) -> None:
    apply, message = DAMAGES[damage]
    apply(folder)
    with pytest.raises(CaseError, match=message) as caught:
        load_law(folder)
    assert caught.value.file is not None
    assert "\n" not in str(caught.value)


def test_a_model_of_another_surrogate_or_dimension_is_refused(folder: Path) -> None:
    with pytest.raises(CaseError, match=r"model: the model is 2D \(plane_strain\), expected 3D"):
        load_law({"law": "toy", "model": str(folder)}, dim=3)
    change("law", "other")(folder)
    with pytest.raises(CaseError, match="model: holds a model of 'other', expected one of 'toy'"):
        load_law({"law": "toy", "model": str(folder)})


def test_the_folder_of_a_model_tells_its_dimension(tmp_path: Path) -> None:
    block = {"homogeneous": {"phase": "matrix", "dim": 3}, "phases": {"matrix": SATURATING}}
    cube = load_law({"law": "nested", "rve": block}, dim=3)
    assert isinstance(cube, NestedLaw)
    low, high = -np.ones(6), np.ones(6)
    model = TrainedModel({"weights": np.zeros((6, 7))}, {"degree": 1, "scale": 1.0}, cube.rve, low, high)
    phases = {"matrix": law_parameters(SATURATING)}
    write_model(tmp_path / "model", Origin("toy", "0123"), model, phases)
    assert load_law(tmp_path / "model").dim == 3
    with pytest.raises(CaseError, match=r"the model is 3D \(solid\), expected 2D"):
        load_law(tmp_path / "model", dim=2)


@pytest.mark.parametrize("given", [{}, {"model": "m", "study": "s.yaml"}])
def test_a_surrogate_in_a_case_needs_one_source(given: dict[str, str]) -> None:
    with pytest.raises(CaseError, match="exactly one of model"):
        load_law({"law": "toy", **given})


def test_only_what_can_train_takes_a_study(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"study: s\.yaml given, but only cases train; run femops train"):
        load_law({"law": "toy", "study": "s.yaml"}, base=tmp_path)


def test_a_kill_while_a_model_is_written_leaves_the_old_or_the_new_one(
    folder: Path, model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power goes off at each file operation in turn."""
    newer = dataclasses.replace(model, arrays={"weights": 2.0 * model.arrays["weights"]})
    old, new = (float(one.arrays["weights"][0, 0]) for one in (model, newer))
    seen, replace = set(), os.replace
    for allowed in range(6):
        written(folder, model)
        left = [allowed]

        def failing(*paths: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                raise SystemExit
            left[0] -= 1
            replace(*paths)

        monkeypatch.setattr(os, "replace", failing)
        with contextlib.suppress(SystemExit):
            written(folder, newer)
        monkeypatch.setattr(os, "replace", replace)
        law = load_law(folder)
        assert isinstance(law, ToyLaw)
        seen.add(float(law.model.arrays["weights"][0, 0]))
        assert float(law.model.arrays["weights"][0, 0]) == (new if left[0] or allowed >= 4 else old)
    assert seen == {old, new}
    assert [one.name for one in folder.parent.iterdir()] == ["model"]


def test_a_folder_that_fails_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    assert present(tmp_path / "a") == tmp_path / "a"


def test_the_exact_rve_is_the_nested_law_from_any_first_guess(
    nested: NestedLaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = ExactRVE(nested.rve, nested.solver.options)
    expected = nested.evaluate(STRAIN, np.zeros((7, nested.n_state)), 1.0)
    found: list[Solution] = []
    solve = exact.solver.solve

    def kept(*given: Any) -> Solution:
        found.append(solve(*given))
        return found[-1]

    monkeypatch.setattr(exact.solver, "solve", kept)
    cold = exact.solve(STRAIN)
    first = found.copy()
    fluctuation = np.concatenate([one.fluctuation.T for one in first])
    sensitivity = np.concatenate([np.moveaxis(one.sensitivity, -1, 0) for one in first])
    warm = exact.solve(STRAIN, fluctuation, lambda part: sensitivity[part])
    for answer in (cold, warm):
        for name in ("stress", "tangent", "stress_33", "tangent_33"):
            values, truth = getattr(answer, name), getattr(expected, name)
            np.testing.assert_allclose(values, truth, rtol=1e-6, atol=1e-7 * np.abs(truth).max())
    iterations = [sum(int(one.iterations.sum()) for one in several) for several in (first, found[len(first) :])]
    assert iterations[1] <= 7 < iterations[0]


def test_the_row_33_of_the_exact_rve_is_that_of_central_differences(nested: NestedLaw) -> None:
    exact, step = ExactRVE(nested.rve, nested.solver.options), 1e-6
    ahead, behind = (
        np.stack([exact.solve(STRAIN + side * step * one).stress_33 for one in np.eye(3)], axis=1) for side in (1, -1)
    )
    row = exact.solve(STRAIN).tangent_33
    np.testing.assert_allclose(row, (ahead - behind) / (2.0 * step), rtol=0.0, atol=1e-5 * np.abs(row).max())


def test_the_exact_rve_refuses_phases_with_a_memory() -> None:
    law = load_law({"law": "nested", "rve": {**CIRCLE, "phases": {"matrix": J2, "fibre": ELASTIC}}})
    assert isinstance(law, NestedLaw)
    with pytest.raises(CaseError, match=r"rve\.phases\.matrix: has a memory"):
        ExactRVE(law.rve)


def test_a_checkpoint_keeps_arrays_of_its_study_only(tmp_path: Path) -> None:
    one = FileCheckpoint(tmp_path / "checkpoint", "one")
    assert one.load("weights") is None
    arrays = {"step": np.array(3), "w": np.arange(6.0).reshape(2, 3).T, "rng": np.arange(4, dtype=np.uint8)}
    one.save("weights", arrays)
    again = FileCheckpoint(tmp_path / "checkpoint", "one")
    loaded = again.load("weights")
    assert loaded is not None
    for name, values in arrays.items():
        np.testing.assert_array_equal(loaded[name], values)
        assert loaded[name].shape == values.shape and loaded[name].dtype == values.dtype
    assert again.seconds > 0.0
    assert FileCheckpoint(tmp_path / "checkpoint", "two").load("weights") is None
    (tmp_path / "checkpoint" / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(CaseError, match=r"weights\.safetensors: is damaged"):
        again.load("weights")
    with pytest.raises(ValueError, match="no name of a file"):
        again.save("../weights", arrays)


def test_chunks_cover_a_batch_and_keep_to_their_budget() -> None:
    for n, bytes_of_one, budget in ((10, 3.0, 10.0), (9, 3.0, 9.0), (4, 100.0, 10.0), (0, 1.0, 1.0)):
        parts = list(chunks(n, bytes_of_one, budget))
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
        assert all((part.stop - part.start) * bytes_of_one <= max(budget, bytes_of_one) for part in parts)


def test_ranks_take_the_gpus_in_turn_and_a_missing_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [torch_device("auto", rank).index for rank in range(4)] == [0, 1, 0, 1]
    assert torch_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto").type == "cpu"
    with pytest.raises(CaseError, match="device: 'cuda' given, but torch finds no GPU"):
        torch_device("cuda")
    assert local_rank({"OMPI_COMM_WORLD_LOCAL_RANK": "3"}) == 3
    assert local_rank({}) == 0


def test_a_law_that_needs_no_torch_never_imports_it(folder: Path) -> None:
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import femops, femops.commands.cli, femops.commands.run, femops.offline.train\n"
        "from toy_surrogate import installed_toy\n"
        "with installed_toy():\n"
        f"    femops.load_law({str(folder)!r})\n"
        "assert 'safetensors' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_manifest_tells_what_a_reader_needs(folder: Path) -> None:
    data = json.loads((folder / "manifest.json").read_text())
    written = dict(data)
    seal(folder)  # by the test's own formula
    assert json.loads((folder / "manifest.json").read_text()) == written
    assert set(data) == set(Manifest.model_fields) - {"family", "problem"}
    assert (data["notation"], data["kinematics"], data["units"]) == ("mandel", "plane_strain", "mm, N, MPa")
    assert data["metrics"] == {"ratio": None}
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    assert {"model/weights", "rve/points", "rve/cells"} <= set(arrays)
