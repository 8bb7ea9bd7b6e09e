"""Arrays of a stored model, each checked against what the model needs before anything computes with it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from femops.errors import CaseError
from femops.surrogate.spec import Arrays

Size = int | str
"""A length, or the name of one that other arrays have as well."""


class StoredArrayError(CaseError):
    """An array of a stored model is not what the model needs."""


class CheckedArrays:
    """The arrays of a model; a law takes from it what it needs and says what that has to be.

    A size that has a name is bound by the array that is taken first and has to be the same in all others.

    Args:
        arrays: Arrays by name; those of another object of this class keep the sizes that are bound there.
        sizes: Sizes that are known already, by name.
    """

    def __init__(self, arrays: "Arrays | CheckedArrays", **sizes: int) -> None:
        other = isinstance(arrays, CheckedArrays)
        self._arrays: Arrays = arrays._arrays if isinstance(arrays, CheckedArrays) else arrays
        self._prefix: str = arrays._prefix if isinstance(arrays, CheckedArrays) else ""
        self.sizes: dict[str, int] = {**(arrays.sizes if other else {}), **sizes}  # type: ignore[union-attr]

    def part(self, prefix: str, **sizes: int) -> "CheckedArrays":
        """Return those whose names begin with a prefix, without it; sizes bound there are not bound here."""
        found = CheckedArrays(self, **sizes)
        found._prefix = self._prefix + prefix
        return found

    def names(self) -> list[str]:
        """Return the names of the arrays."""
        return [name.removeprefix(self._prefix) for name in self._arrays if name.startswith(self._prefix)]

    def take(self, name: str, *shape: Size, dtype: Any = np.float64, positive: bool = False) -> npt.NDArray[Any]:
        """Return an array of finite numbers.

        Args:
            name: Its name.
            shape: Its shape.
            dtype: Its type, or a kind of types such as `numpy.integer`.
            positive: Whether all numbers have to be positive.

        Raises:
            StoredArrayError: There is none, or it is another one.
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
            expected = ", ".join(_told(one, length) for one, length in zip(shape, wanted, strict=True))
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
        """Return an array of whole numbers from 0 to less than `below`; see `take`."""
        values = self.take(name, *shape, dtype=np.integer)
        if values.size and not (values.min() >= 0 and values.max() < below):
            raise self._refused(name, f"holds {values.min()} to {values.max()}, expected 0 to {below - 1}")
        return np.asarray(values, dtype=np.int64)

    def stops(self, name: str, *shape: Size, last: int) -> list[int]:
        """Return the ends of consecutive ranges: they do not decrease, and end with `last`."""
        values = self.indices(name, *shape, below=last + 1)
        found = [int(one) for one in values]
        if sorted(found) != found or (found or [0])[-1] != last:
            raise self._refused(name, f"holds {found}, expected ends of ranges up to {last}")
        return found

    def check(self, name: str, good: Any, expected: str) -> None:
        """Refuse an array that has been taken and lacks something else.

        Raises:
            StoredArrayError: Not `good`.
        """
        if not good:
            raise self._refused(name, f"expected {expected}")

    def no_others(self, names: Iterable[str]) -> None:
        """Refuse arrays that the model does not know."""
        others = sorted(set(self.names()) - set(names))
        if others:
            raise self._refused(others[0], "unknown, expected no such array")

    def _refused(self, name: str, problem: str) -> StoredArrayError:
        return StoredArrayError(f"array {self._prefix + name!r}: {problem}; train the model again")


def _told(one: Size, length: Size) -> str:
    return str(one) if one == length else f"{one} = {length}"


def finite_range(low: Any, high: Any, n_s: int) -> bool:
    """Return whether two corners are those of a range of strains."""
    low, high = np.asarray(low), np.asarray(high)
    return low.shape == high.shape == (n_s,) and bool(np.isfinite([low, high]).all() and (low <= high).all())


def state_dict(arrays: CheckedArrays, expected: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a torch module.

    Args:
        arrays: Where they are; others than those expected are refused.
        expected: The tensors that the module has, by name.
    """
    arrays.no_others(expected)
    return {
        name: arrays.take(name, *tensor.shape, dtype=str(tensor.dtype).rpartition(".")[2])
        for name, tensor in expected.items()
    }


def packed(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return arrays as the content of a safetensors file; strides are lost, shapes and types are kept."""
    plain = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    return bytes(safetensors.numpy.save(plain, dict(metadata or {})))
