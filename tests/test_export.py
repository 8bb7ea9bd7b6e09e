"""Which models can be exported, to where, and what is refused."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import yaml
from helpers import ELASTIC, SATURATING, seal
from mpi4py import MPI
from toy_surrogate import ToyTraining, toy_spec

from femops import CaseError
from femops.commands import cli
from femops.export.model import Kind, export_model, law_mapping
from femops.export.tables import Tables, number, string
from femops.hookspecs import hookimpl
from femops.inputs.study import load_study
from femops.offline.train import train
from femops.plugins import manager
from femops.surrogate import SurrogateSpec

CIRCLE = {"circles": {"circles": [{"center": [0.1, 0.05], "radius": 0.3}], "mesh_size": 0.3, "cell": "triangle"}}
SAMPLING = {"method": "sobol", "count": 4, "seed": 3, "range": 0.01}
STUDY: dict[str, Any] = {
    "kinematics": "plane_strain",
    "rve": {**CIRCLE, "phases": {"matrix": SATURATING, "fibre": ELASTIC}},
    "sampling": SAMPLING,
    "surrogate": {"law": "toy", "degree": 1},
    "validation": {**SAMPLING, "count": 2, "seed": 4},
}
SOURCE = {"law.h": "enum { N_S = 3, CHUNK = 1 };\n"}


@pytest.fixture(scope="module")
def sources() -> list[Mapping[str, str] | None]:
    """What the plugin of the toy surrogate gives as its C source next; empty: it gives none."""
    return []


@pytest.fixture(scope="module", autouse=True)
def _toy(sources: list[Any]) -> Iterator[None]:
    spec = toy_spec(ToyTraining())

    @hookimpl
    def femops_surrogates() -> list[SurrogateSpec]:
        kinds = ("c", "torch", "onnx") if sources else ()
        return [replace(spec, exporters=dict.fromkeys(kinds, lambda law: sources[-1]))]

    plugin = SimpleNamespace(femops_surrogates=femops_surrogates)
    manager().register(plugin)
    yield
    manager().unregister(plugin)


@pytest.fixture(scope="module")
def trained(_toy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return train(load_study(path), path, folder / "out", MPI.COMM_SELF).model


@pytest.fixture
def model(trained: Path, tmp_path: Path, sources: list[Any]) -> Iterator[Path]:
    """A copy of the model, whose plugin gives C source."""
    shutil.copytree(trained, tmp_path / "model")
    sources.append(SOURCE)
    yield tmp_path / "model"
    sources.clear()


def _refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused; return its one line."""
    with pytest.raises(SystemExit) as leave:
        cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert leave.value.code == 2 and printed.out == "" and len(printed.err.splitlines()) == 1
    return printed.err


@pytest.mark.parametrize(("kind", "wrapper"), [("c", None), ("mgis", "mgis.c"), ("umat", "umat.c")])
def test_the_folder_has_the_source_of_the_plugin_and_the_interface(model: Path, kind: Any, wrapper: str | None) -> None:
    output = model.parent / "beam"
    for _ in range(2):  # it may replace its own
        export_model(law_mapping(str(model)), kind, output)
        expected = {"beam.c", "beam.h", "law.h", "femops_law.h", "Makefile", "CMakeLists.txt", wrapper}
        assert {file.name for file in output.iterdir()} == expected - {None}
    assert (output / "law.h").read_text() == SOURCE["law.h"]
    texts = [file.read_text() for file in output.iterdir()]
    assert not any(f"@{word}@" in text for text in texts for word in ("NAME", "DIM", "SOURCES", "HYPOTHESIS"))
    assert "beam_evaluate" in (output / "beam.c").read_text()
    assert [file.name for file in model.parent.iterdir() if "partial" in file.name] == []


@pytest.mark.parametrize(("kind", "file"), [("torch", "law.pt2"), ("onnx", "law.onnx")])
def test_a_program_has_a_page_beside_it(model: Path, sources: list[Any], kind: Any, file: str) -> None:
    sources.append({file: b"\x80program"})
    output = model.parent / "two-words"  # it names no function
    for _ in range(2):
        export_model(law_mapping(str(model)), kind, output)
        assert {one.name for one in output.iterdir()} == {file, "README.txt"}
    assert (output / file).read_bytes() == b"\x80program"
    text = (output / "README.txt").read_text()
    assert "toy" in text and "(n, 3, 3)" in text and f"{file} is a program" in text and "@" not in text


def test_the_command_exports_and_says_how_to_build(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        cli.main(["export", str(model), "--to", "c", "--output", str(model.parent / "beam")])
    printed = capsys.readouterr()
    assert (leave.value.code, printed.err) == (0, "")
    assert f"make -C {model.parent / 'beam'}" in printed.out


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "manifest.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        (lambda folder: _truncate(folder / "model.safetensors"), "is damaged"),
        (lambda folder: _edit(folder, units="kN"), "is damaged or was edited"),
        (lambda folder: (_edit(folder, law="another"), seal(folder)), "'another' is no installed surrogate"),
        (lambda folder: shutil.rmtree(folder), "does not exist, expected a model folder"),
    ],
)
def test_a_damaged_or_foreign_model_is_refused(
    model: Path, kind: str, damage: Any, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(model)
    output = model.parent / "beam"
    message = _refusal(capsys, "export", model, "--to", kind, "--output", output)
    assert expected in message and str(model) in message
    assert not output.exists()


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def _edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_a_law_without_c_source_is_refused(model: Path, sources: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    sources.clear()
    message = _refusal(capsys, "export", model, "--to", "umat", "--output", model.parent / "beam")
    assert "model: cannot be exported: its plugin gives no C source" in message
    message = _refusal(capsys, "export", model, "--to", "torch", "--output", model.parent / "beam")
    assert "model: cannot be exported: the plugin of 'toy' gives no program of torch, and its RVE has phases" in message
    assert "corrections" in _refusal(capsys, "export", model, "--to", "c", "--corrections", "1")
    message = _refusal(capsys, "export", "{law: elastic, E: 1.0, nu: 0.3}", "--to", "c")
    assert "law: 'elastic' is not trained" in message
    law = f"{{law: toy, model: {model}, precision: float32}}"
    assert "precision: float32 given, expected float64" in _refusal(capsys, "export", law, "--to", "c")
    assert "is no mapping" in _refusal(capsys, "export", "{law: [", "--to", "c")


@pytest.mark.parametrize("name", ["two-words", "2d", "ünits", "a b"])
def test_a_folder_that_names_no_function_is_refused(model: Path, name: str) -> None:
    with pytest.raises(CaseError, match="expected letters, digits and _ after a letter"):
        export_model(law_mapping(str(model)), "c", model.parent / name)


def test_files_that_are_not_of_an_export_are_kept(model: Path) -> None:
    mine = model.parent / "mine"
    mine.mkdir()
    export_model(law_mapping(str(model)), "c", mine)
    foreign = model.parent / "foreign"
    foreign.mkdir()
    (foreign / "foreign.h").write_text("int mine;")
    (model.parent / "file").write_text("text")
    for folder in (foreign, model.parent / "file", model):
        with pytest.raises(CaseError, match="exists and is no exported law"):
            export_model(law_mapping(str(model)), "c", folder)
    assert (foreign / "foreign.h").read_text() == "int mine;"


def test_a_failed_export_keeps_the_earlier_one(model: Path, sources: list[Any]) -> None:
    output = model.parent / "beam"
    export_model(law_mapping(str(model)), "c", output)
    before = {file.name: file.read_text() for file in output.iterdir()}
    sources.append({"law.h": "\udc80"})  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        export_model(law_mapping(str(model)), "c", output)
    assert {file.name: file.read_text() for file in output.iterdir()} == before
    sources.append({**SOURCE, "beam.c": ""})
    with pytest.raises(CaseError, match="is the name of one of its files"):
        export_model(law_mapping(str(model)), "c", output)
    assert {file.name: file.read_text() for file in output.iterdir()} == before


def test_constants_lose_no_precision() -> None:
    tables = Tables()
    values = [1.0 / 3.0, -5e-324, 1e308, 0.0, -0.0]
    tables.array("values", values)
    written = str(tables).partition("{")[2].partition("}")[0].split(",")
    assert [float.fromhex(one) for one in written] == values
    assert number(float("-inf")) == "-HUGE_VAL"
    assert string('"a" \\ ??/ é\n') == '"\\042a\\042 \\134 \\077\\077/ \\303\\251\\012"'
