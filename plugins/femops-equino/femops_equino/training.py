"""Training of EquiNO on one RVE."""

import time
from functools import partial
from typing import Any

import numpy as np

from femops.errors import CaseError
from femops.notation import Array
from femops.rve.spec import RVE
from femops.surrogate import Fit, FitTask
from femops_equino.networks import fit as networks
from femops_equino.networks import spline
from femops_equino.offline import converged, offline
from femops_equino.options import EquiNOOptions
from femops_equino.reduced.model import check_phases

_NOTHING = 1e-9  # relative to the macroscale displacement


def fit(task: FitTask) -> Fit:
    """Train the surrogate; see `EquiNOOptions`.

    Raises:
        CaseError: The RVE has no fluctuations; see also `check`.
    """
    _check_fluctuation(task)
    options: EquiNOOptions = task.options
    if options.mode == "original":
        from femops_equino.original.law import fit_original

        return fit_original(task)
    begin = time.perf_counter()
    reduced = offline(task)
    seconds = {"seconds_reduction": time.perf_counter() - begin}
    weights: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    if options.networks is not None:
        weights, losses = networks.train(task, reduced)
        seconds["seconds_networks"] = time.perf_counter() - begin - seconds["seconds_reduction"]
    arrays = {**reduced.to_arrays(), **weights}
    if options.spline is not None:
        coefficients = partial(converged, reduced.model, reduced.basis)
        arrays |= spline.interpolate(reduced.model, coefficients, task.low, task.high, options.spline)
    metrics = {
        "displacement_modes": reduced.basis.displacement.shape[1],
        "stress_modes": reduced.basis.stress.shape[1],
        "cubature_points": len(reduced.model.projection),
        "indicator_points": len(reduced.points.model.projection),
        "cubature_stress_error": min(reduced.errors.values(), default=0.0),
        **seconds,
    }
    curves = {
        "Lost by the modes": reduced.lost,
        "Stress error of the cubature": {"median": list(reduced.errors.values())},
        **({"Loss": losses} if losses else {}),
    }
    over = {"Lost by the modes": "number of modes", "Stress error of the cubature": "trial number of points"}
    return Fit(arrays, {"mode": options.mode, "options": options.model_dump(mode="json")}, metrics, curves, over)


def check(rve: RVE, options: EquiNOOptions, low: Array, high: Array) -> None:
    """Refuse an RVE, options or a range that `fit` does not support.

    Raises:
        CaseError: A phase is neither linear nor `saturating`, or a requested spline is not possible.
    """
    if options.mode == "original":
        return
    check_phases(rve)
    if options.spline is not None:
        spline.check(rve.discretisation.dim, low, high)


def _check_fluctuation(task: FitTask) -> None:
    """Refuse a homogeneous RVE, whose modes would be round-off."""
    lower, upper = task.rve.discretisation.mesh.bounds
    size = np.abs(task.snapshots["strain"]).max() * (upper - lower).max()
    if np.abs(task.snapshots["fluctuation"]).max() <= _NOTHING * size:
        raise CaseError("is homogeneous, expected fluctuations to learn; use the law of its phase instead", key="rve")
