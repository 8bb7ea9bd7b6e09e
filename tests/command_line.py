"""A small case and what the tests of the command line share."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from femops.commands import cli
from femops.output.picture import read_step

BIN = Path(sys.executable).parent
ELASTIC = {"law": "elastic", "K": 10.0, "G": 5.0}
BLOCK: dict[str, Any] = {
    "title": "A block",
    "kinematics": "plane_strain",
    "mesh": {"box": {"size": [1.0, 1.0], "cells": [3, 3], "cell": "quadrilateral"}},
    "material": {"law": "saturating", "K": 10.0, "alpha1": 1.0, "alpha2": 0.1},
    "supports": {"left": {"ux": 0.0, "uy": 0.0}},
    "loads": {"right": {"traction": [0.0, "0.1 * t"]}},
    "steps": {"count": 2},
    "quantities": {
        "corner": {"displacement": "uy", "at": [1.0, 1.0]},
        "foot": {"reaction": "left", "component": "y", "expected": -0.1},
    },
}
LAYERS = {"phases": [["a", 0.5], ["b", 0.5]], "mesh_size": 0.25, "cell": "quad"}
NESTED = BLOCK | {
    "material": {"law": "nested", "rve": {"laminate": LAYERS, "phases": {"a": ELASTIC, "b": BLOCK["material"]}}},
    "output": {"micro": [{"at": [0.1, 0.9]}, {"most": "strained", "count": 2}], "points": True},
}
Femops = Callable[..., str]


def written(folder: Path, case: dict[str, Any]) -> Path:
    path = folder / "block.yaml"
    path.write_text(yaml.safe_dump(case))
    return path


def summary_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def n_steps(file: Path) -> int:
    return int(re.findall(r"step (\d+),", read_step(file)[1])[0]) + 1


def ended(*arguments: object) -> int:
    with pytest.raises(SystemExit) as leave:
        cli.main([str(argument) for argument in arguments])
    return int(leave.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def on_two_ranks(*arguments: object, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "mpirun"), "-n", "2", str(BIN / "femops"), *(str(argument) for argument in arguments)]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, check=False, stdin=subprocess.DEVNULL
    )
