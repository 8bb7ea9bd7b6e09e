"""Size of the blocks of points in which the kernels work."""

LARGEST = 128
"""Points per block, few enough for the hidden layers of networks to stay in the second-level cache."""
_VECTOR = 8  # doubles in the widest registers


def block_size(n: int) -> int:
    """Return the block size for n points: whole registers, no larger than needed."""
    return min(LARGEST, -(-max(n, 1) // _VECTOR) * _VECTOR)
