"""Checkpoints of a training, in memory and in files."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from femops.errors import CaseError
from femops.output.atomic import write_bytes
from femops.output.tables import plain
from femops.surrogate.arrays import packed
from femops.surrogate.spec import Arrays, Fit

_ARRAYS, _METADATA = "arrays/", "metadata"


class MemoryCheckpoint:
    """Checkpoint in memory; see `femops.surrogate.Checkpoint`.

    Attributes:
        kept: Saved arrays by name.
    """

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, npt.NDArray[Any]]] = {}

    def load(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays saved under a name, or None."""
        return self.kept.get(name)

    def save(self, name: str, arrays: Arrays) -> None:
        """Save copies of arrays under a name."""
        self.kept[name] = {key: np.array(values) for key, values in arrays.items()}


class FileCheckpoint:
    """Checkpoint in a folder, one safetensors file per name; see `femops.surrogate.Checkpoint`.

    Files of another study are ignored.

    Args:
        folder: Folder of the files; created on the first save.
        study: Content hash of the study.
    """

    def __init__(self, folder: Path, study: str) -> None:
        self.folder, self.study = folder, study
        self._since = time.perf_counter()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Time since this object was created, plus the time spent before on what it has loaded [s]."""
        return self._before + time.perf_counter() - self._since

    def load(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays saved under a name, or None.

        Raises:
            CaseError: The file is damaged.
        """
        file = self._file(name)
        if not file.exists():
            return None
        try:
            with safetensors.safe_open(file, "numpy") as opened:
                metadata = opened.metadata()
            if metadata.get("study") != self.study:
                return None
            arrays = safetensors.numpy.load_file(file)
        except (safetensors.SafetensorError, OSError) as error:
            raise CaseError("is damaged; remove it, and the training starts anew", file=file) from error
        self._before = max(self._before, float(metadata["seconds"]))
        return dict(arrays)

    def save(self, name: str, arrays: Arrays) -> None:
        """Save arrays under a name, atomically.

        Raises:
            CaseError: The file cannot be written.
        """
        file, metadata = self._file(name), {"study": self.study, "seconds": repr(self.seconds)}
        try:
            write_bytes(file, packed(arrays, metadata))
        except OSError as error:
            raise CaseError(f"cannot be written ({error.strerror or error})", file=file) from error

    def clear(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, name: str) -> Path:
        if not name or "/" in name or name.startswith("."):
            raise ValueError(f"{name!r} is no name of a file")
        return self.folder / f"{name}.safetensors"


def packed_fit(fit: Fit) -> dict[str, npt.NDArray[Any]]:
    """Return a fit as arrays; the inverse of `unpacked_fit`."""
    entries = {"settings": fit.settings, "metrics": fit.metrics, "curves": fit.curves, "over": dict(fit.over)}
    arrays = {_ARRAYS + name: np.array(values, order="C") for name, values in fit.arrays.items()}
    return {**arrays, _METADATA: np.frombuffer(json.dumps(plain(entries)).encode(), dtype=np.uint8)}


def is_packed_fit(arrays: Arrays) -> bool:
    """Return whether arrays were made by `packed_fit`; those of earlier versions were not."""
    return _METADATA in arrays


def unpacked_fit(arrays: Arrays) -> Fit:
    """Return the fit from arrays made by `packed_fit`."""
    entries = json.loads(arrays[_METADATA].tobytes())
    own = {name.removeprefix(_ARRAYS): values for name, values in arrays.items() if name != _METADATA}
    curves = {
        title: {name: np.array(values, dtype=np.float64) for name, values in curve.items()}
        for title, curve in entries["curves"].items()
    }
    return Fit(own, entries["settings"], entries["metrics"], curves, entries["over"])
