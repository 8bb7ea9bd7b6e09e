"""Evaluation of the original networks in numpy: coefficients, stress and tangent."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from femops.notation import Array
from femops.surrogate import CheckedArrays
from femops_equino.networks.evaluation import Weights, swish


@dataclass(frozen=True)
class OriginalResponse:
    """Response of the networks.

    Attributes:
        displacement: a. Shape (n, n_displacement_modes).
        stress_coefficients: b. Shape (n, n_stress_modes).
        stress_slopes: db/dE. Shape (n, n_s, n_stress_modes).
        stress: Homogenized stress ⟨Φ_σ⟩ b [stress]. Shape (n, n_s).
        tangent: Derivative of the stress, in general not symmetric [stress]. Shape (n, n_s, n_s).
    """

    displacement: Array
    stress_coefficients: Array
    stress_slopes: Array
    stress: Array
    tangent: Array


def evaluate_original(weights: Weights, strain: Array) -> OriginalResponse:
    """Evaluate trained networks.

    Args:
        weights: Weights from `femops_equino.original.training.train_original`.
        strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
    """
    displacement, _ = _network(weights, "displacement", strain)
    coefficients, slopes = _network(weights, "stress", strain)
    mean = weights["mean_stress_modes"]
    tangent = np.einsum("sm,ntm->nst", mean, slopes, optimize=True)
    return OriginalResponse(displacement, coefficients, slopes, coefficients @ mean.T, tangent)


def stored_weights(arrays: CheckedArrays) -> dict[str, Array]:
    """Return the weights of both networks of a trained model; `arrays` must bind n_s and the numbers of modes."""
    weights = {
        "scale": arrays.take("scale", "n_s", positive=True),
        "mean_stress_modes": arrays.take("mean_stress_modes", "n_s", "n_stress"),
    }
    for name in ("displacement", "stress"):
        n_out = f"n_{name}"
        weights[f"{name}/unit"] = arrays.take(f"{name}/unit", n_out)
        depth = network_depth(dict.fromkeys(arrays.names()), name)
        widths = ["n_s", *(f"width_{k}" for k in range(depth - 1)), n_out]
        own = CheckedArrays(arrays)
        for k, (before, after) in enumerate(pairwise(widths)):
            for key, shape in ((f"{name}/weight_{k}", (after, before)), (f"{name}/bias_{k}", (after,))):
                weights[key] = own.take(key, *shape)
    arrays.no_others(weights)
    return weights


def network_depth(weights: Mapping[str, Any], name: str) -> int:
    """Return the number of layers of a network."""
    return sum(key.startswith(f"{name}/weight_") for key in weights)


def _network(weights: Weights, name: str, strain: Array) -> tuple[Array, Array]:
    """Return the outputs (n, n_out) and their derivatives (n, n_s, n_out)."""
    x, depth = strain / weights["scale"], network_depth(weights, name)
    x = np.concatenate([x, np.zeros_like(x, shape=(1, x.shape[1]))])
    along = np.broadcast_to(np.diag(1.0 / weights["scale"]), (len(x), *[x.shape[1]] * 2))
    for k in range(depth):
        weight = weights[f"{name}/weight_{k}"]
        x, along = x @ weight.T + weights[f"{name}/bias_{k}"], along @ weight.T
        if k < depth - 1:
            x, slope, _ = swish(x)
            along = along * slope[:, None]
    return (x[:-1] - x[-1]) * weights[f"{name}/unit"], along[:-1] * weights[f"{name}/unit"]
