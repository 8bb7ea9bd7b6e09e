"""Large batches in parts that fit into memory."""

from collections.abc import Iterator

_BUDGET = 256e6


def chunks(n: int, bytes_of_one: float, budget: float = _BUDGET) -> Iterator[slice]:
    """Yield the slices that cut a batch into parts.

    Args:
        n: Size of the batch; an empty one has no parts.
        bytes_of_one: Memory that one of it needs.
        budget: Memory that a part may need; a part holds at least one.
    """
    size = max(1, int(budget // max(bytes_of_one, 1.0)))
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
