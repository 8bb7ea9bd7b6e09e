"""Laws of RVEs from a trained BENO, and homogenized stiffness of many RVEs at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from femops.devices import torch_device
from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.rve.spec import RVE
from femops.surrogate import TrainedModel
from femops.surrogate.exact import check_dimension
from femops.surrogate.fields.law import LinearFieldLaw
from femops.surrogate.fields.linear import LinearFields
from femops.surrogate.spec import Arrays
from femops.surrogate.store import of_arrays, read_family_fit
from femops_beno.network import BENO
from femops_beno.operator import Operator
from femops_beno.options import BENOParameters
from femops_beno.rve.correction import aggregation_multigrid
from femops_beno.rve.systems import predicted, rve_fields

_AT_ONCE = 32

Precision = Literal["float32", "float64"]


def beno_law(model: TrainedModel, parameters: BENOParameters) -> LinearFieldLaw:
    """Return the law of a trained model for its RVE of linear phases.

    Raises:
        CaseError: The RVE does not have kinematic conditions, linear phases and linear cells, or its dimension is not
            that of the model.
    """
    device = torch_device(parameters.device)
    network = _network(model.arrays, model.settings, device, parameters.precision)
    check_dimension(model.rve, network.architecture.dim)
    problem = rve_fields(model.rve, device)
    multigrid = aggregation_multigrid(problem)
    fields = torch.zeros_like(problem.load)
    if parameters.start == "network":
        (fields,) = predicted(network, [problem])
    if parameters.corrections:
        fields = problem.improve(fields, parameters.corrections, multigrid)
    return LinearFieldLaw(model.rve, problem, fields, multigrid)


def homogenized_stiffness(
    folder: Path, rves: Sequence[RVE], corrections: int = 2, device: Any = "auto", precision: Precision = "float64"
) -> Array:
    """Predict the homogenized stiffness of many RVEs of linear phases with a trained model.

    Args:
        folder: The model folder written by `femops train`.
        rves: The RVEs, each with a mesh of its own; the network is applied to many of them as one batch.
        corrections: Steps of preconditioned conjugate gradients after the prediction.
        device: `auto`, `cpu` or `cuda`.
        precision: Precision of the network.

    Returns:
        C̄, Mandel [stress], an upper bound of that of the nested solve. Shape (N, n_s, n_s).

    Raises:
        CaseError: The model is missing, damaged or not for these RVEs.
    """
    fit, place = read_family_fit(folder, "beno"), torch_device(device)
    with of_arrays(folder):
        network = _network(fit.arrays, fit.settings, place, precision)
    for rve in rves:
        check_dimension(rve, network.architecture.dim)
    return stiffnesses(network, rves, corrections)


def stiffnesses(network: BENO, rves: Sequence[RVE], corrections: int) -> Array:
    """Return C̄ of RVEs by a network, see `homogenized_stiffness`. Shape (N, n_s, n_s)."""
    found = []
    for start in range(0, len(rves), _AT_ONCE):
        problems = [rve_fields(rve, network.damping.device) for rve in rves[start : start + _AT_ONCE]]
        fields = predicted(network, problems)
        found += [_homogenized(*pair, corrections) for pair in zip(problems, fields, strict=True)]
    return np.stack(found)


def _homogenized(problem: LinearFields, fields: Tensor, corrections: int) -> Array:
    if corrections:
        fields = problem.improve(fields, corrections, aggregation_multigrid(problem))
    return np.asarray(problem.homogenized(fields)[0].cpu().numpy())


def _network(arrays: Arrays, settings: Any, device: torch.device, precision: Precision) -> BENO:
    return Operator.restored(arrays, settings).network.to(device, getattr(torch, precision)).eval()
