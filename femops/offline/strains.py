"""Strains at which a study is solved: those of its sampling or validation, of the members of a family, or of a run."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from femops import notation
from femops.errors import CaseError
from femops.inputs.study import Study
from femops.notation import Array
from femops.offline import family_store
from femops.output.vtkhdf import tensors
from femops.parallel import on_root
from femops.rve.family import Family
from femops.rve.sampling import Sampling, bounds, chosen, load_paths, sobol


def study_paths(study: Study, path: Path, comm: Any, key: Literal["sampling", "validation"] = "sampling") -> Array:
    """Return the strains of a study's sampling or validation, Mandel [-]; collective. Shape (n_paths, n_steps, n_s).

    Raises:
        CaseError: The strains cannot be read from the run that the study names.
    """
    block = dict(study.samplings())[key]
    try:
        return on_root(comm, lambda: _paths(block, study.dim, path.parent, key))
    except CaseError as error:
        raise error.within(file=path) from error


def member_strains(study: Study, family: Family, *, unseen: bool = False) -> Array | None:
    """Return the strains of each member of a family, Mandel [-]; None if all phases are linear. Shape (count, n, n_s).

    Raises:
        CaseError: Strains are given for linear phases or missing for nonlinear ones, or the method is not `sobol`.
    """
    sampling = study.sampling
    linear = family_store.is_linear(family)
    if linear != (sampling is None):
        problem = "given, but all phases are linear" if linear else "missing, expected strains for a nonlinear phase"
        raise CaseError(problem, key="sampling")
    if sampling is None:
        return None
    if sampling.method != "sobol":
        raise CaseError(f"{sampling.method!r} given, expected 'sobol' with a family", key="sampling.method")
    low, high = bounds(sampling, study.dim)
    n = sampling.count or 0
    return sobol(low, high, family.count * n, sampling.seed + unseen).reshape(family.count, n, -1)


def strains_of_run(path: Path, dim: int) -> Array:
    """Return the macroscale strains at the quadrature points of a run's last step.

    Args:
        path: Results folder of a run with `output.points: true`, or the `.vtp` file in it.
        dim: 2 (plane strain) or 3.

    Returns:
        Strains, Mandel [-]. Shape (n_qp, n_s).

    Raises:
        CaseError: The file does not exist, has no strains, or has strains of another dimension.
    """
    import pyvista

    file = path / "points.vtp" if path.is_dir() else path
    if not file.is_file():
        raise CaseError("does not exist; run the case with --set output.points=true", file=file)
    try:
        data = pyvista.read(file).point_data
        components = np.asarray(data["strain"], dtype=np.float64)
    except (KeyError, ValueError, OSError) as error:
        raise CaseError("has no strains; is strain among output.fields of the run?", file=file) from error
    if components.ndim != 2 or components.shape[1] != 6:
        raise CaseError(f"strain has shape {components.shape}, expected ({len(components)}, 6)", file=file)
    tensor = tensors(components)
    if dim == 2 and tensor[:, 2].any():
        raise CaseError("has strains out of the plane, expected a run in plane strain", file=file)
    return notation.from_tensor(tensor[:, :dim, :dim])


def _paths(sampling: Sampling, dim: int, base: Path, key: str) -> Array:
    """Return the strains of a sampling. Shape (n_paths, n_steps, n_s)."""
    if sampling.run is None:
        return load_paths(sampling, dim)
    try:
        return chosen(strains_of_run(base / sampling.run, dim), sampling)
    except CaseError as error:
        error = CaseError(error.problem, error.file, error.key.replace("sampling", key, 1))
        raise error if error.file or error.key else error.within(key=f"{key}.run") from error
