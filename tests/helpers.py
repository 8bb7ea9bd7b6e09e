"""Small cases and problems shared by the tests."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mpi4py import MPI

from femops.commands.prepare import prepare
from femops.inputs.case import Case
from femops.macro.problem import MacroProblem

SATURATING = {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06}
ELASTIC = {"law": "elastic", "K": 43452.381, "G": 29918.033}
BOXES = {2: ("triangle", "quadrilateral"), 3: ("tetrahedron", "hexahedron")}


def box_case(cell: str, *, cells: int = 3, **changes: Any) -> Case:
    """Return the case of a unit box under prescribed extension along x, with sliding left, bottom and back faces."""
    dim = 2 if cell in BOXES[2] else 3
    supports: dict[str, Any] = {"left": {"ux": 0.0}, "bottom": {"uy": 0.0}}
    if dim == 3:
        supports["back"] = {"uz": 0.0}
    data = {
        "kinematics": "plane_strain" if dim == 2 else "solid",
        "mesh": {"box": {"size": [1.0] * dim, "cells": [cells] * dim, "cell": cell}},
        "material": ELASTIC,
        "supports": supports,
        "loads": {"right": {"displacement": {"ux": "0.01 * t"}}},
        **changes,
    }
    return Case.model_validate(data)


def box_problem(cell: str, base: Path = Path(), **changes: Any) -> MacroProblem:
    """Return the unsolved problem of `box_case`."""
    return prepare(box_case(cell, **changes), base / "box.yaml", MPI.COMM_WORLD).problem


def seal(folder: Path) -> None:
    """Update the checksums of a model folder to its current arrays and manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["arrays_sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    plain = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    manifest["sha256"] = hashlib.sha256(plain.encode("ascii")).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
