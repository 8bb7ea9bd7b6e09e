"""Packages that femops needs for more than a trained law, which are installed as extras."""

_EXTRAS = {"torch": "femops-equino[train]", "onnx": "femops[onnx]", "onnxscript": "femops[onnx]"}
_OF_SOLVER = [
    "basix", "dolfinx", "gmsh", "h5py", "matplotlib", "meshio", "mpi4py", "petsc4py", "pypardiso", "pyvista", "rich",
    "scipy", "typer", "ufl", "vtkmodules",
]  # fmt: skip
EXTRAS = {**dict.fromkeys(_OF_SOLVER, "femops[solver]"), **_EXTRAS}
"""What to install for a package, by the name of its import."""


def remedy(error: BaseException) -> str | None:
    """Return in a line which package is missing and how to install it; None for other errors."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return f"the package {name!r} is not installed; pip install '{EXTRAS[name]}'" if name in EXTRAS else None
