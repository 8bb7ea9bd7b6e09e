"""Blocks of points: work on large arrays in parts that stay in the cache, so that temporary arrays stay small."""

_LARGEST = 2**14
"""Tangents of 4.7 MB in 3D."""


def blocks(n: int) -> list[slice]:
    """Return slices that cover n points; a single one, which may be empty, for small n."""
    return [slice(start, min(start + _LARGEST, n)) for start in range(0, max(n, 1), _LARGEST)]
