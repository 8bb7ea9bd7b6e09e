"""Batches of points in blocks, so that temporary arrays stay small and in the cache, and joining of their responses."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from femops.errors import CaseError
from femops.law import LawResponse
from femops.notation import Array

_LARGEST = 2**14
"""Number of points; tangents of 4.7 MB in 3D."""


def blocks(n: int) -> list[slice]:
    """Return slices that cover n points; a single one, which may be empty, for small n."""
    return [slice(start, min(start + _LARGEST, n)) for start in range(0, max(n, 1), _LARGEST)]


def joined(n: int, parts: Iterable[tuple[Any, LawResponse]], storage: Mapping[str, Array]) -> LawResponse:
    """Return the response at n points from responses of one law at parts of them.

    Args:
        n: Number of points.
        parts: Indices or slice of the points, and the response there; together they cover all points.
        storage: Arrays to be written into, by field; others are created.

    Raises:
        CaseError: The law returns a field for some parts only.
    """
    whole: dict[str, Any] = dict(storage)
    names: set[str] | None = None
    for part, response in parts:
        found = {one.name: value for one in fields(response) if (value := getattr(response, one.name)) is not None}
        if names is not None and set(found) != names:
            raise CaseError(
                f"a law returns {', '.join(sorted(names ^ set(found)))} at some points only", key="material"
            )
        names = set(found)
        for name, values in found.items():
            if name not in whole:
                whole[name] = np.empty((n, *values.shape[1:]), values.dtype)
            whole[name][part] = values
    return LawResponse(**whole)
