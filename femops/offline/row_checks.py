"""Checksums of the rows of a snapshot store."""

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

CHECK = "check"
"""Name of the data set of checksums."""

_BYTES_OF_BLOCK = 2**26


def field_names(file: h5py.File) -> list[str]:
    """Return the names of all fields, without the checksums."""
    names: list[str] = []
    file.visititems(lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None)
    return [name for name in names if name != CHECK]


def checks_of(fields: Mapping[str, npt.NDArray[Any]], start: int) -> npt.NDArray[np.uint64]:
    """Return a checksum of each row: the sum modulo 2^64 of its words with odd weights, and of the row number.

    Any change of a single word is detected, as is a row of zeros.

    Args:
        fields: Arrays with one row per snapshot.
        start: Number of the first row.
    """
    rows = len(next(iter(fields.values())))
    total = np.arange(start + 1, start + rows + 1, dtype=np.uint64) * _weights(0, 1)
    place = 1
    for name in sorted(fields):
        values = fields[name] if fields[name].dtype.itemsize == 8 else fields[name].astype(np.float64)
        words = np.ascontiguousarray(values).reshape(rows, -1).view(np.uint64)
        total += words @ _weights(place, words.shape[1])
        place += words.shape[1]
    return total


def _weights(first: int, count: int) -> npt.NDArray[np.uint64]:
    """Return odd pseudo-random numbers: SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195)."""
    x = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)


def sound_rows(file: h5py.File, start: int) -> int:
    """Return the number of rows before the first one whose checksum does not match."""
    names = field_names(file)
    rows = len(file[names[0]])
    size = sum(file[name].dtype.itemsize * int(np.prod(file[name].shape[1:])) for name in names)
    step = max(1, _BYTES_OF_BLOCK // max(1, size))
    for first in range(0, rows, step):
        block = {name: file[name][first : first + step] for name in names}
        if any(len(values) != len(block[names[0]]) for values in block.values()):
            return first
        if CHECK in file:
            checks = file[CHECK][first : first + step]
            wanted = checks_of(block, start + first)
            sound = checks == wanted if checks.shape == wanted.shape else np.zeros(len(wanted), dtype=bool)
        else:
            sound = block["tangent"].reshape(len(block["tangent"]), -1).any(axis=1)
        if not sound.all():
            return first + int(np.argmin(sound))
    return rows
