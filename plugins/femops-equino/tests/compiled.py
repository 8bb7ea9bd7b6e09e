"""Exported laws, compiled and called through ctypes."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from femops.export.model import export_model

STRICT = "-O1 -Werror -Wshadow"
# Clang comes with the package ziglang, whose defaults are the processor of this machine and a sanitizer.
CLANG = [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline", "-fno-sanitize=undefined"]
COMPILERS = {"gcc": ["gcc"], "clang": CLANG}


class Info(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("abi", "dim", "n_s", "n_state")),
        *((name, ctypes.POINTER(ctypes.c_double)) for name in ("low", "high")),
        *((name, ctypes.c_char_p) for name in ("name", "law", "corrections", "title", "units", "model", "licence")),
    ]


def pointer(array):
    """Return the address of an array, or of nothing."""
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


def exported(model, folder: Path, kind="c", corrections="auto"):
    """Export a model and return the folder."""
    export_model({"law": "equino", "model": str(model), "corrections": corrections}, kind, folder)
    return folder


def ran(*command, cwd):
    """Return what a command prints; without the libraries that this environment loads into every program."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        pytest.fail(f"{command[0]} is missing, and the tests of exported C source need it", pytrace=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(folder: Path, flags=STRICT, compiler="gcc"):
    """Compile an exported folder, without warnings, and load the library."""
    ran("make", "-B", "-s", f"CC={' '.join(COMPILERS[compiler])}", f"CFLAGS={flags}", cwd=folder)
    return ctypes.CDLL(str(folder / f"lib{folder.name}.so"))


def symbols(folder: Path, file: str, compiler):
    """Return the names of the variables that a C file may write to, and of what it needs from elsewhere."""
    ran(*COMPILERS[compiler], "-std=c99", "-O1", "-fPIC", "-c", "-o", "symbols.o", file, cwd=folder)
    lines = [line.split("|") for line in ran("nm", "--format=sysv", "symbols.o", cwd=folder).splitlines()]
    sections = {line[0].strip(): line[6].strip() for line in lines if len(line) == 7}
    constant = ("*UND*", "*ABS*", ".text", ".rodata", ".data.rel.ro")  # the last one holds pointers
    writable = {name for name, section in sections.items() if not section.startswith(constant)}
    return writable, {name for name, section in sections.items() if section == "*UND*"}


class CLaw:
    """An exported law."""

    def __init__(self, folder: Path, compiler="gcc"):
        library = built(folder, compiler=compiler)
        self.evaluate_in_c = getattr(library, f"{folder.name}_evaluate")
        info = getattr(library, f"{folder.name}_info")
        info.restype = ctypes.POINTER(Info)
        self.info = info().contents

    def __call__(self, strain, **without):
        """Return the response at strains (n, n_s); outputs given as None are not asked for."""
        n, n_s = strain.shape
        shapes = {
            "stress": (n, n_s),
            "tangent": (n, n_s, n_s),
            "stress_33": (n,),
            "tangent_33": (n, n_s),
            "error": (n,),
        }
        found = {name: None if name in without else np.full(shape, -7.0) for name, shape in shapes.items()}
        status = np.full(n, -7, np.int32)
        worst = self.evaluate_in_c(
            ctypes.c_size_t(n),
            pointer(np.ascontiguousarray(strain)),
            None,
            ctypes.c_double(1.0),
            *map(pointer, found.values()),
            pointer(status),
        )
        return SimpleNamespace(worst=worst, status=status, **found)
