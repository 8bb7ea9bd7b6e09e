"""Packages that femops needs for more than a trained law, which are installed as extras."""

import importlib.util
from collections.abc import Iterable

_EXTRAS = {"torch": "femops-equino[train]", "onnx": "femops[onnx]", "onnxscript": "femops[onnx]"}
_OF_SOLVER = [
    "PIL", "basix", "dolfinx", "gmsh", "h5py", "matplotlib", "meshio", "mpi4py", "petsc4py", "pypardiso", "pyvista",
    "rich", "scipy", "tifffile", "typer", "ufl", "vtkmodules",
]  # fmt: skip
EXTRAS = {**dict.fromkeys(_OF_SOLVER, "femops[solver]"), **_EXTRAS}
"""What to install for a package, by the name of its import."""


def require(names: Iterable[str]) -> None:
    """Look for packages without importing them.

    Raises:
        ModuleNotFoundError: One is not installed; see `remedy`.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def remedy(error: BaseException) -> str | None:
    """Return in a line which package is missing and how to install it; None for other errors."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return f"the package {name!r} is not installed; pip install '{EXTRAS[name]}'" if name in EXTRAS else None
