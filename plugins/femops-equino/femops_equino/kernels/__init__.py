"""The same computations as compiled loops on the CPU (numba) and as batched products on a GPU (torch)."""
