"""Imports of compiled packages that bring a library which PETSc's wheel brings, too.

PETSc's wheel loads its OpenBLAS and METIS with symbols that are visible to all libraries loaded later. A package with
another build of such a library would call PETSc's under the same name, with other arguments, and crash.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_DEEPBIND = getattr(os, "RTLD_DEEPBIND", 0)  # systems without it do not mix symbols of libraries


@contextmanager
def own_symbols() -> Iterator[None]:
    """Let packages that are imported inside the block look for symbols in their own libraries first."""
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | _DEEPBIND)
    try:
        yield
    finally:
        sys.setdlopenflags(flags)
