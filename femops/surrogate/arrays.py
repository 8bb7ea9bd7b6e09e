"""Validation of the arrays of a stored model before use."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from femops.errors import CaseError
from femops.surrogate.spec import Arrays

Size = int | str
"""Length of an axis, or a name that stands for the same length in several arrays."""


class StoredArrayError(CaseError):
    """An array of a stored model is missing or invalid."""


class CheckedArrays:
    """The arrays of a stored model, checked for shape, type and finiteness when taken.

    A named size is bound by the first array taken with it and must agree in all later ones.

    Args:
        arrays: Arrays by name; from another `CheckedArrays`, its bound sizes are copied.
        sizes: Known sizes by name.
    """

    def __init__(self, arrays: "Arrays | CheckedArrays", **sizes: int) -> None:
        other = isinstance(arrays, CheckedArrays)
        self._arrays: Arrays = arrays._arrays if isinstance(arrays, CheckedArrays) else arrays
        self._prefix: str = arrays._prefix if isinstance(arrays, CheckedArrays) else ""
        self.sizes: dict[str, int] = {**(arrays.sizes if other else {}), **sizes}  # type: ignore[union-attr]

    def part(self, prefix: str, **sizes: int) -> "CheckedArrays":
        """Return the arrays with a prefix, under names without it; sizes bound in the part are not bound here."""
        found = CheckedArrays(self, **sizes)
        found._prefix = self._prefix + prefix
        return found

    def names(self) -> list[str]:
        """Return the names of the arrays."""
        return [name.removeprefix(self._prefix) for name in self._arrays if name.startswith(self._prefix)]

    def take(self, name: str, *shape: Size, dtype: Any = np.float64, positive: bool = False) -> npt.NDArray[Any]:
        """Return an array after checking it.

        Args:
            name: Name of the array.
            shape: Expected shape.
            dtype: Expected dtype, or an abstract type such as `numpy.integer`.
            positive: Whether all values must be positive.

        Raises:
            StoredArrayError: The array is missing, has another shape or dtype, or holds invalid values.
        """
        values = self._arrays.get(self._prefix + name)
        if values is None:
            raise self._refused(name, "missing")
        values = np.asarray(values)
        wanted = tuple(self.sizes.get(one, one) if isinstance(one, str) else one for one in shape)
        fits = len(wanted) == values.ndim and all(
            one == length for one, length in zip(wanted, values.shape, strict=True) if isinstance(one, int)
        )
        if not fits or not np.issubdtype(values.dtype, dtype):
            expected = ", ".join(_axis(one, length) for one, length in zip(shape, wanted, strict=True))
            kind = "whole numbers" if dtype is np.integer else np.dtype(dtype).name
            raise self._refused(name, f"{values.shape} {values.dtype} found, expected ({expected}) {kind}")
        for one, length in zip(shape, values.shape, strict=True):
            if isinstance(one, str) and self.sizes.setdefault(one, length) != length:  # twice in one shape
                raise self._refused(name, f"{values.shape} found, expected the same {one} twice")
        if not np.isfinite(values).all():
            raise self._refused(name, "holds values that are no finite numbers")
        if positive and not (values > 0).all():
            raise self._refused(name, "holds values that are not positive, expected positive ones")
        return values

    def indices(self, name: str, *shape: Size, below: int) -> npt.NDArray[np.int64]:
        """Return an array of integers in 0 ≤ i < `below`; see `take`."""
        values = self.take(name, *shape, dtype=np.integer)
        if values.size and not (values.min() >= 0 and values.max() < below):
            raise self._refused(name, f"holds {values.min()} to {values.max()}, expected 0 to {below - 1}")
        return np.asarray(values, dtype=np.int64)

    def stops(self, name: str, *shape: Size, last: int) -> list[int]:
        """Return the ends of consecutive ranges: non-decreasing integers of which the final one is `last`."""
        values = self.indices(name, *shape, below=last + 1)
        found = [int(one) for one in values]
        if sorted(found) != found or (found or [0])[-1] != last:
            raise self._refused(name, f"holds {found}, expected ends of ranges up to {last}")
        return found

    def check(self, name: str, good: Any, expected: str) -> None:
        """Check a further condition on an array.

        Raises:
            StoredArrayError: `good` is false.
        """
        if not good:
            raise self._refused(name, f"expected {expected}")

    def no_others(self, names: Iterable[str]) -> None:
        """Refuse arrays with other names than these."""
        others = sorted(set(self.names()) - set(names))
        if others:
            raise self._refused(others[0], "unknown array")

    def _refused(self, name: str, problem: str) -> StoredArrayError:
        return StoredArrayError(f"array {self._prefix + name!r}: {problem}; train the model again")


def _axis(one: Size, length: Size) -> str:
    return str(one) if one == length else f"{one} = {length}"


def finite_range(low: Any, high: Any, n_s: int) -> bool:
    """Return whether two corners span a finite range of strains: shape (n_s,) each and low ≤ high."""
    low, high = np.asarray(low), np.asarray(high)
    return low.shape == high.shape == (n_s,) and bool(np.isfinite([low, high]).all() and (low <= high).all())


def state_dict(arrays: CheckedArrays, expected: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return the state dict of a torch module as arrays.

    Args:
        arrays: Stored arrays; unexpected names are refused.
        expected: State dict of the module, for names, shapes and dtypes.
    """
    arrays.no_others(expected)
    return {
        name: arrays.take(name, *tensor.shape, dtype=str(tensor.dtype).rpartition(".")[2])
        for name, tensor in expected.items()
    }


def packed(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return arrays as the content of a safetensors file, in C order."""
    plain = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    return bytes(safetensors.numpy.save(plain, dict(metadata or {})))
