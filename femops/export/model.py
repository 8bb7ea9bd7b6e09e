"""Export of a trained law as a folder of C99 source or a program of torch or ONNX."""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from femops.errors import CaseError
from femops.export.linear import LinearLaw, linear_program, linear_source
from femops.export.tables import number, string
from femops.law import LawContext, MaterialLaw, MicroscaleLaw
from femops.notation import n_strain
from femops.output.atomic import new_folder, write_bytes
from femops.output.folder import writing
from femops.output.versions import versions
from femops.plugins import get_law, law_parameters
from femops.surrogate.law import model_folder
from femops.surrogate.registry import surrogate_spec
from femops.surrogate.spec import SurrogateParameters
from femops.surrogate.store import Manifest, read_manifest

Kind = Literal["c", "mgis", "umat", "torch", "onnx"]

_MARK = "Exported by femops"
_LICENCE = "LGPL-3.0-or-later"
_TORCH = """law.pt2 is a program of torch.export, which needs torch alone:

    law = torch.export.load("law.pt2").module()
    response = law(strain)"""
_ONNX = """law.onnx is a program of ONNX, which needs ONNX Runtime alone:

    session = onnxruntime.InferenceSession("law.onnx")
    names = [one.name for one in session.get_outputs()]
    response = dict(zip(names, session.run(names, {"strain": strain})))"""
_PROGRAMS = {"torch": _TORCH, "onnx": _ONNX}
_TEMPLATES = ("femops_law.h", "NAME.h", "NAME.c", "Makefile", "CMakeLists.txt")


def export_model(law: Mapping[str, Any], kind: Kind, output: Path) -> None:
    """Write a trained law, atomically: as C source of a library without dependencies, or as a program.

    Args:
        law: A mapping as under `material` in a case file; see `law_mapping`.
        kind: `c` is the law alone (see `templates/femops_law.h`), `mgis` adds the generic behaviour of MFront, `umat`
            the user material of Abaqus. `torch` and `onnx` are programs instead (see `templates/README.txt`).
        output: The folder to write; its name becomes the prefix of the functions in C.

    Raises:
        CaseError: The model is missing, damaged or cannot be exported, or the folder is not one to write.
    """
    _check_output(output, kind)
    name = output.name
    parameters = law_parameters(law)
    if not isinstance(parameters, SurrogateParameters):
        raise CaseError(f"{parameters.law!r} is not trained, expected the law of a trained surrogate", key="law")
    if parameters.in_single_precision:
        raise CaseError(f"{parameters.precision} given, expected float64", key="precision")
    folder = model_folder(parameters, LawContext(2))
    manifest = read_manifest(folder)
    built = get_law(parameters, LawContext(manifest.dim))
    if isinstance(built, MicroscaleLaw):
        _ = built.rve  # which checks the parts of the model that evaluation does not need
    try:
        written = dict(_law_files(built, parameters.law, kind))
    except CaseError as error:
        raise error.within(file=folder) from error
    wrappers = (kind,) if kind in ("mgis", "umat") else ()
    values = _values(name, manifest, parameters, built, wrappers) | {"PROGRAM": _PROGRAMS.get(kind, "")}
    templates = ("README.txt",) if kind in _PROGRAMS else (*_TEMPLATES, *(f"{wrapper}.c" for wrapper in wrappers))
    for template in templates:
        own = template.replace("NAME", name)
        if own in written:
            raise CaseError(f"{name!r} is the name of one of its files; choose another folder", file=output)
        written[own] = _filled(template, values)
    with writing(output), new_folder(output) as new:
        for file, content in written.items():
            write_bytes(new / file, content.encode() if isinstance(content, str) else content)


def law_mapping(text: str) -> dict[str, Any]:
    """Return a trained law as a mapping, from that mapping in YAML or from its model folder.

    Raises:
        CaseError: It is neither.
    """
    if text.lstrip().startswith("{"):
        try:
            return dict(yaml.safe_load(text))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise CaseError(f"{text!r} is no mapping, expected '{{law: ..., model: FOLDER}}'", key="MODEL") from error
    folder = Path(text)
    manifest = read_manifest(folder)
    try:
        name = surrogate_spec(manifest.law).name
    except CaseError as error:
        raise error.within(file=folder) from error
    return {"law": name, "model": text, "device": "cpu"}


def _law_files(law: MaterialLaw, surrogate: str, kind: Kind) -> Mapping[str, str | bytes]:
    """Return the files that the plugin of a law gives; laws of linear phases need none.

    Raises:
        CaseError: The law cannot be exported.
    """
    exporter = surrogate_spec(surrogate).exporters.get(kind if kind in _PROGRAMS else "c")
    if exporter is not None:
        return exporter(law)
    if kind == "torch" or kind == "onnx":
        return linear_program(LinearLaw.of(law, f"the plugin of {surrogate!r} gives no program of {kind}"), kind)
    return linear_source(LinearLaw.of(law, "its plugin gives no C source"))


def _check_output(output: Path, kind: Kind) -> None:
    """Check the folder of an exported law.

    Raises:
        CaseError: Its name is none in C, or it has other files than those of an exported law.
    """
    if kind not in _PROGRAMS and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", output.name):
        raise CaseError(
            f"{output.name!r} names the functions of the law, expected letters, digits and _ after a letter",
            file=output,
        )
    with writing(output):
        foreign = output.exists() and (not output.is_dir() or any(output.iterdir()))
        if foreign and not any(_marked(output / file) for file in (f"{output.name}.h", "README.txt")):
            raise CaseError("exists and is no exported law, expected a new folder", file=output)


def _marked(file: Path) -> bool:
    return file.is_file() and _MARK in file.read_text(encoding="utf-8", errors="replace")[:100]


def _values(
    name: str, manifest: Manifest, parameters: SurrogateParameters, law: MaterialLaw, wrappers: tuple[str, ...]
) -> dict[str, str]:
    """Return the values of the placeholders in the templates."""
    unlimited = np.full(n_strain(law.dim), np.inf)
    low, high = np.asarray(getattr(law, "low", -unlimited)), np.asarray(getattr(law, "high", unlimited))
    corrections = str(getattr(parameters, "corrections", ""))
    about = {
        "title": manifest.title,
        "units": manifest.units,
        "kinematics": str(manifest.kinematics),
        "range": ", ".join(f"{a:.6g} to {b:.6g}" for a, b in zip(low, high, strict=True)),
        "corrections": corrections,
        "model": manifest.sha256,
        "licence": _LICENCE,
    }
    return {
        "MARK": _MARK,
        "VERSION": versions(["femops"]).get("femops", ""),
        "NAME": name,
        "LAW": _comment(manifest.law),
        "ABOUT": "\n".join(f" *   {key:<12}{_comment(text)}".rstrip() for key, text in about.items()),
        "DIM": str(law.dim),
        "N_S": str(n_strain(law.dim)),
        "HYPOTHESIS": {2: "PlaneStrain", 3: "Tridimensional"}[law.dim],
        "LOW": ", ".join(map(number, low)),
        "HIGH": ", ".join(map(number, high)),
        "LAW_TEXT": string(manifest.law),
        "CORRECTIONS": string(corrections),
        "TITLE": string(manifest.title),
        "UNITS": string(manifest.units),
        "MODEL": manifest.sha256,
        "LICENCE": _LICENCE,
        "NTENS": {2: "3, 4 or 6", 3: "6"}[law.dim],
        "SOURCES": " ".join(f"{one}.c" for one in (name, *wrappers)),
    }


def _comment(text: str) -> str:
    """Return text for a comment in C, in one line of ASCII."""
    plain = "".join(one if one.isascii() and one.isprintable() and one not in "\\?" else "_" for one in text)
    return plain.replace("*/", "*_").replace("/*", "_*")


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its placeholders, @LIKE_THIS@, replaced."""
    text = files("femops.export").joinpath("templates", template).read_text(encoding="utf-8")
    return re.sub("@([A-Z_]+)@", lambda found: values[found[1]], text)
