"""Files of arrays that are either complete or absent, whatever stops the program while they are written."""

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from femops.surrogate.base import Arrays

_NEW, _OLD = ".partial-", ".replaced-"


def packed(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return arrays as the content of a safetensors file; strides are lost, shapes and types are kept."""
    plain = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    return bytes(safetensors.numpy.save(plain, dict(metadata or {})))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one piece; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_NEW + path.name)
    _flushed(temporary, data)
    os.replace(temporary, path)


def plain(value: Any) -> Any:
    """Return nested values as JSON has them; NaN and infinities become None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends, and is removed when it fails.

    A folder cannot replace another one in one go. The old one is moved aside first; a kill between the two moves
    leaves it there, where `present` finds it.

    Args:
        folder: The folder to write; files in it are to be written by `write_bytes`.
    """
    new, old = folder.with_name(_NEW + folder.name), folder.with_name(_OLD + folder.name)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def present(folder: Path) -> Path:
    """Return a folder that `new_folder` writes, or the old one of it if a kill left only that."""
    old = folder.with_name(_OLD + folder.name)
    return old if old.is_dir() and not folder.exists() else folder


def _flushed(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
