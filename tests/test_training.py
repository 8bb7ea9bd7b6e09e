"""Training is reproducible, resumable and not repeated, and is evaluated at unseen strains."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from command_line import Femops, ended
from helpers import ELASTIC, SATURATING
from mpi4py import MPI
from rich.console import Console
from toy_studies import BIN, STUDY, arrays_of, study_file, trained
from toy_surrogate import ToyLaw, ToyTraining

from femops import CaseError, load_law, notation
from femops.commands.reports import report_training
from femops.inputs.study import load_study, study_schema
from femops.offline.sample import sample
from femops.offline.train import default_validation, plan_training, silent
from femops.output import training_plots
from femops.rve.sampling import bounds
from femops.surrogate.accuracy import Accuracy
from femops.surrogate.learning.checkpoint import FileCheckpoint

pytestmark = pytest.mark.usefixtures("toy")


def test_a_damaged_model_is_trained_again_instead_of_found(toy: ToyTraining) -> None:
    first = trained()
    (first.model / "model.safetensors").write_bytes(b"damaged")
    again = trained()
    assert not again.found
    assert load_law(again.model).dim == 2


def test_a_training_leaves_model_metrics_and_pictures(toy: ToyTraining) -> None:
    report = trained()
    names = {path.name for path in report.folder.iterdir()}
    pictures = {"loss.png", "error_over_strain.png", "bound_against_error.png"}
    assert names == {"model", "metrics.json", "snapshots.h5", "validation", *pictures}
    metrics = json.loads((report.folder / "metrics.json").read_text())
    assert metrics == report.metrics
    manifest = json.loads((report.model / "manifest.json").read_text())
    assert manifest["metrics"] == metrics
    assert (manifest["seed"], manifest["units"], manifest["study"]) == (1, "mm, N, MPa", metrics["study"])
    np.testing.assert_allclose(manifest["high"], [0.01, 0.01, 0.01 * np.sqrt(2)])
    assert metrics["snapshots"] == 32
    assert metrics["offline_seconds"] == pytest.approx(metrics["seconds"]["sampling"] + metrics["seconds"]["fit"])
    figures = metrics["validation"]
    assert figures["count"] == 12
    assert 0 < figures["stress"]["median"] <= figures["stress"]["p95"] <= figures["stress"]["max"] < 0.05
    assert figures["tangent"]["max"] < 0.3
    assert figures["bound"]["effectivity"]["median"] == pytest.approx(2.0, rel=1e-3)
    assert figures["indicator"]["effectivity"]["max"] == pytest.approx(0.5, rel=1e-3)
    assert figures["bound"]["violations"] == 0
    assert metrics["seconds_per_point"]["ratio"] > 1.0


def test_the_errors_are_those_against_the_nested_law() -> None:
    report = trained()
    law = load_law(report.model)
    nested = load_law({"law": "nested", "rve": STUDY["rve"], "solver": {"rtol": 1e-10}})
    from femops.rve.sampling import Sampling, load_paths

    strain = load_paths(Sampling.model_validate(STUDY["validation"]), 2)[:, 0]
    ours, truth = (one.evaluate(strain, np.zeros((12, one.n_state)), 1.0) for one in (law, nested))
    for name, axes in (("stress", (1,)), ("tangent", (1, 2))):
        values, true = getattr(ours, name), getattr(truth, name)
        error = np.sqrt(((values - true) ** 2).sum(axes) / (true**2).sum(axes))
        figures = report.metrics["validation"][name]
        expected = [np.median(error), np.quantile(error, 0.95), error.max()]
        np.testing.assert_allclose([figures["median"], figures["p95"], figures["max"]], expected, rtol=1e-4)


def test_the_same_seed_gives_the_same_model_and_another_one_does_not() -> None:
    noisy = {"law": "toy", "seed": 1, "noise": 0.1}
    one, two = trained("one", surrogate=noisy), trained("two", surrogate=noisy)
    assert arrays_of(one) == arrays_of(two)
    assert arrays_of(trained("three", surrogate={**noisy, "seed": 2})) != arrays_of(one)


def test_an_interrupted_training_goes_on_and_ends_in_the_same_model(toy: ToyTraining, solved: list[int]) -> None:
    expected = arrays_of(trained("whole"))
    assert toy.parts == list(range(8))
    toy.parts.clear()
    solved.clear()
    toy.interrupt_at = 5
    with pytest.raises(KeyboardInterrupt):
        trained()
    assert not Path("out/model").exists()
    toy.interrupt_at = None
    assert arrays_of(trained()) == expected
    assert toy.parts == list(range(8))
    assert sum(solved) == 32 + 12
    assert not Path("out/checkpoint").exists()


def test_what_is_interrupted_after_the_fit_is_not_fitted_again(
    toy: ToyTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ToyLaw, "evaluate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained()
    report = trained()
    assert toy.begun == 1
    assert arrays_of(report) == arrays_of(trained("whole"))
    assert report.metrics["offline_seconds"] > 0.0


def test_a_finished_fit_that_another_version_saved_is_not_used(
    toy: ToyTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = arrays_of(trained("whole"))
    saved = {"finished_fit": {"rest": np.zeros(1)}}
    monkeypatch.setattr(FileCheckpoint, "load", lambda self, name: saved.get(name))
    assert arrays_of(trained()) == expected
    assert toy.begun == 2


def test_a_checkpoint_of_another_study_is_not_used(toy: ToyTraining) -> None:
    toy.interrupt_at = 5
    with pytest.raises(KeyboardInterrupt):
        trained()
    toy.interrupt_at = None
    toy.parts.clear()
    assert arrays_of(trained(surrogate={"law": "toy", "degree": 2})) != arrays_of(trained("whole"))
    assert toy.parts[:8] == list(range(8))


def test_a_finished_model_is_found_by_the_content_of_its_study(toy: ToyTraining, solved: list[int]) -> None:
    first = trained(None)
    assert first.folder.parent == Path("results") and first.folder.name.startswith("study-")
    toy.parts.clear()
    solved.clear()
    again = trained(None, title="another title")
    assert again.found and not first.found
    assert again.metrics == first.metrics and again.folder == first.folder
    assert toy.parts == [] and solved == []
    for changes in (
        {"surrogate": {"law": "toy", "seed": 2}},
        {"sampling": {**STUDY["sampling"], "range": 0.011}},
        {"rve": {**STUDY["rve"], "phases": {"matrix": {**SATURATING, "K": 4781.0}, "fibre": ELASTIC}}},
    ):
        other = trained(None, **changes)
        assert not other.found and other.folder != first.folder


def test_a_missing_package_stops_a_training_before_it_begins_but_not_the_use_of_its_model(solved: list[int]) -> None:
    path = study_file()
    plan = plan_training(load_study(path), path, Path("out"), MPI.COMM_SELF)
    without = replace(plan, spec=replace(plan.spec, packages=lambda options: ("numpy", "nowhere")))
    with pytest.raises(ModuleNotFoundError, match="'nowhere'") as missing:
        without.carry_out(MPI.COMM_SELF, silent)
    assert (missing.value.name, solved, Path("out").exists()) == ("nowhere", [], False)
    plan.carry_out(MPI.COMM_SELF, silent)
    assert without.carry_out(MPI.COMM_SELF, silent).found


def test_another_surrogate_in_the_same_folder_uses_its_snapshots_and_replaces_the_model(solved: list[int]) -> None:
    first = trained()
    before = arrays_of(first)
    metrics = first.folder / "metrics.json"  # as if the first one had drawn another plot
    metrics.write_text(metrics.read_text().replace('"loss.png"', '"loss.png", "old_loss.png"'))
    for name in ("old_loss.png", "mine.png"):
        (first.folder / name).touch()
    solved.clear()
    second = trained(surrogate={"law": "toy", "degree": 2})
    assert not second.found and second.folder == first.folder
    assert solved == []
    assert arrays_of(second) != before
    assert (second.folder / "loss.png").exists() and (second.folder / "mine.png").exists()
    assert not (second.folder / "old_loss.png").exists()
    assert load_law(second.model).evaluate(np.zeros((1, 3)), np.zeros((1, 0)), 1.0).stress.shape == (1, 3)


def test_the_validation_is_another_seed_of_the_same_range_and_never_seen_before() -> None:
    study = load_study(study_file({"validation": None}))
    low, high = bounds(study.sampling, 2)
    block = default_validation(study, low, high)
    assert (block.count, block.seed) == (100, 4)
    np.testing.assert_allclose(bounds(block, 2), [low, high], rtol=1e-15)
    report = trained(validation={**STUDY["sampling"], "method": "latin_hypercube", "seed": 3})
    assert report.metrics["validation"]["count"] == 32
    with pytest.raises(CaseError, match=r"study\.yaml: validation: all its strains are among those of sampling"):
        trained("other", validation=STUDY["sampling"])


def test_a_study_to_train_can_be_sampled_and_its_snapshots_are_used(solved: list[int]) -> None:
    path = study_file()
    sample(load_study(path), path, Path("out"), MPI.COMM_SELF)
    assert sum(solved) == 32
    report = trained()
    assert sum(solved) == 32 + 12
    assert report.metrics["seconds"]["sampling"] is None


def test_the_command_that_sample_suggests_trains_on_its_snapshots(run: Femops, solved: list[int]) -> None:
    study_file()
    fewer = ("--set", "sampling.count=16")
    suggested = re.search(r"Train on them with: femops (.*) and the same --set\n", run("sample", "study.yaml", *fewer))
    assert suggested and sum(solved) == 16
    run(*suggested[1].split(), *fewer)
    assert sum(solved) == 16 + 12


def test_the_command_trains_and_tells_what_came_out(capsys: pytest.CaptureFixture[str]) -> None:
    study_file()
    assert ended("train", "study.yaml", "--set", "surrogate.degree=2") == 0
    printed = capsys.readouterr().out
    for text in ("sampling", "fitting", "validation", "at 12 unseen strains", "bound / error of stress", "ratio"):
        assert text in printed
    assert ended("train", "study.yaml", "--set", "surrogate.degree=2") == 0
    assert "Already trained: results/study-" in capsys.readouterr().out
    assert ended("train", "study.yaml", "--set", "surrogate.deg=2") == 2
    assert "surrogate.deg: unknown key; did you mean 'degree'?" in capsys.readouterr().err
    assert ended("schema", "--study") == 0
    assert json.loads(capsys.readouterr().out) == study_schema()


def test_training_on_the_strains_of_a_run_takes_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    strain = 0.01 * np.random.default_rng(5).uniform(-1, 0.5, (40, 3))
    monkeypatch.setattr("femops.offline.strains.strains_of_run", lambda *_: strain)
    report = trained(sampling={"method": "run", "run": "somewhere"}, validation=None)
    manifest = json.loads((report.model / "manifest.json").read_text())
    np.testing.assert_array_equal(manifest["low"], strain.min(0))
    np.testing.assert_array_equal(manifest["high"], strain.max(0))
    assert notation.n_strain(2) == len(manifest["low"])


@pytest.mark.mpi
def test_two_ranks_train_the_model_of_one(tmp_path: Path) -> None:
    path = study_file()
    script = tmp_path / "both.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "import femops\nfrom mpi4py import MPI\n"
        "from toy_surrogate import installed_toy\n"
        "from femops import load_law\nfrom femops.inputs.study import load_study\n"
        "from femops.offline.train import train\n"
        "with installed_toy() as toy:\n"
        f"    path = Path({str(path)!r})\n"
        "    report = train(load_study(path), path, Path('two'), MPI.COMM_WORLD)\n"
        "    assert bool(toy.parts) == (MPI.COMM_WORLD.rank == 0)\n"
        "    load_law(report.model, comm=MPI.COMM_WORLD)\n"
    )
    subprocess.run([str(BIN / "mpirun"), "-n", "2", sys.executable, str(script)], check=True, timeout=120)
    one = safetensors.numpy.load(arrays_of(trained("one")))
    two = safetensors.numpy.load(Path("two/model/model.safetensors").read_bytes())
    np.testing.assert_allclose(two["model/weights"], one["model/weights"], rtol=1e-6, atol=1e-6)


def test_infinite_certificates_are_counted_wherever_they_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = np.full(8, 1e-3)
    bound = np.where(np.arange(8) < 3, np.inf, 4e-3)
    judged = Accuracy(np.ones(8), error, error, bound, np.full(8, np.inf), error)
    figures = judged.figures()
    assert (figures["bound"]["infinite"], figures["bound"]["of"]) == (3, 8)
    assert figures["bound"]["effectivity"]["max"] == pytest.approx(4.0)
    console = Console(file=io.StringIO(), width=160)
    report_training(console, {"validation": figures, "fit": {}, "seconds": {}})
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "bound / error of stress, infinite at 3 of 8" in printed
    (row,) = [line for line in printed.splitlines() if "indicator / error of stress, infinite at 8 of 8" in line]
    assert row.count("infinite") == 4  # no cell is empty
    legends: list[str] = []

    def saved(figure: Any, axes: Any, path: Path) -> Path:
        legends.extend(axes.get_legend_handles_labels()[1])
        return path

    monkeypatch.setattr(training_plots, "_saved", saved)
    training_plots.draw_certificates(tmp_path, error, {"bound": bound, "indicator": np.full(8, 1e-3)})
    assert legends == ["equal", "bound, infinite at 3 of 8", "indicator"]
