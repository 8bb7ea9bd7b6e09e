"""Laws from the libraries that `femops export --to c` leads to, in a process without any compiler."""

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from femops.errors import CaseError
from femops.law import LawResponse, StrainMeasure
from femops.notation import Array, n_strain

_ABI = 1


class _Info(ctypes.Structure):
    """The beginning of `femops_law_info`; see `templates/femops_law.h`."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("abi", "dim", "n_s", "n_state")),
        *((name, ctypes.POINTER(ctypes.c_double)) for name in ("low", "high")),
    )


class LibraryLaw:
    """A law in a library that was built from exported C source.

    Args:
        library: The library, libNAME.so.
        with_error: Whether responses state their error, which takes several times as long for most laws.

    Attributes:
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).

    Raises:
        CaseError: The file is no library of an exported law.
    """

    strain_measure = StrainMeasure.SMALL_STRAIN
    n_state = 0

    def __init__(self, library: Path | str, *, with_error: bool = False) -> None:
        file = Path(library).absolute()
        name = file.name.partition(".")[0].removeprefix("lib")
        try:
            loaded = ctypes.CDLL(str(file))
            info, self._evaluate = loaded[f"{name}_info"], loaded[f"{name}_evaluate"]
        except (OSError, AttributeError) as error:
            raise CaseError(f"is no library of an exported law ({' '.join(str(error).split())})", file=file) from error
        info.restype = ctypes.POINTER(_Info)
        law = info().contents
        if (law.abi, law.n_state) != (_ABI, 0):
            raise CaseError(f"has the interface {law.abi}, expected {_ABI}; export the law again", file=file)
        self.dim, self._with_error = law.dim, with_error
        self.state_fields: Mapping[str, slice] = {}
        self.low, self.high = (np.array(corner[: law.n_s]) for corner in (law.low, law.high))

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response; see `MaterialLaw.evaluate`."""
        n, n_s = len(strain), n_strain(self.dim)
        strain, status = np.ascontiguousarray(strain, dtype=np.float64), np.zeros(n, np.intc)
        stress, tangent = np.empty((n, n_s)), np.empty((n, n_s, n_s))
        normal = (np.empty(n), np.empty((n, n_s))) if self.dim == 2 else (None, None)
        error = np.empty(n) if self._with_error else None
        outputs = (_pointer(one) for one in (stress, tangent, *normal, error, status))
        self._evaluate(ctypes.c_size_t(n), _pointer(strain), None, ctypes.c_double(dt), *outputs)
        return LawResponse(stress, tangent, np.empty((n, 0)), normal[0], error, valid=status == 0, tangent_33=normal[1])


def _pointer(array: Array | None) -> ctypes.c_void_p | None:
    return None if array is None else ctypes.c_void_p(array.ctypes.data)
