"""Splitting of large batches into chunks that fit into memory."""

from collections.abc import Iterator

_BUDGET = 256e6


def chunks(n: int, bytes_of_one: float, budget: float = _BUDGET) -> Iterator[slice]:
    """Yield the slices that split a batch into chunks.

    Args:
        n: Size of the batch; an empty batch has no chunks.
        bytes_of_one: Memory per item [bytes].
        budget: Memory per chunk [bytes]; a chunk holds at least one item.
    """
    size = max(1, int(budget // max(bytes_of_one, 1.0)))
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
