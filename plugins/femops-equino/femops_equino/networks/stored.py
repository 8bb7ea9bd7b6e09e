"""Networks of a trained model as functions of the strain."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from femops.notation import Array
from femops.surrogate import CheckedArrays
from femops_equino.networks import evaluation

_NAMES = ("potential", "coefficients", "normal")


def stored(
    arrays: Mapping[str, Array] | CheckedArrays, precision: evaluation.Precision, device: Any = None
) -> dict[str, Callable[[Array], Any]]:
    """Return the networks of a trained model as functions of strains (n, n_s).

    `potential` returns energy, stress and tangent, `normal` the stress normal to the plane and its derivative, and
    `coefficients` its outputs (n, n_out), all in the given precision.

    Args:
        arrays: Arrays of the trained model.
        precision: Precision of the evaluation.
        device: A torch device; None selects the CPU kernels.
    """
    networks: dict[str, Callable[[Array], Any]] = {}
    for name in _NAMES:
        weights = stored_weights(arrays, name)
        if weights:
            networks[name] = _on_device(name, weights, precision, device)
    return networks


def stored_weights(arrays: Mapping[str, Array] | CheckedArrays, name: str) -> dict[str, Array]:
    """Return the weights of one network of a trained model, see `networks.evaluation`; empty if it was not trained."""
    own = CheckedArrays(arrays).part(f"{name}.")
    if not own.names():
        return {}
    scalar = name == "potential"
    weights = {"scale": own.take("scale", "n_s", positive=True), "metric": own.take("metric", "n_norms", "n_s", "n_s")}
    n_in = own.sizes["n_s"] + own.sizes["n_norms"]
    weights["weight_3"] = own.take("weight_3", 1 if name != "coefficients" else "n_out", "width")
    n_out = len(weights["weight_3"])
    own.check("weight_3", 0 < n_out <= own.sizes.get("r", n_out), "as many outputs as there are modes, or fewer")
    shapes: dict[str, tuple[int | str, ...]] = {
        "weight_1": ("width", n_in),
        "bias_1": ("width",),
        "weight_2": ("width", "width"),
        "bias_2": ("width",),
        "linear": ("n_s" if scalar else n_out, "n_s"),
        "unit": () if scalar else (n_out,),
    }
    own.no_others([*weights, *shapes])
    return weights | {key: own.take(key, *shape) for key, shape in shapes.items()}


def _on_device(
    name: str, weights: evaluation.Weights, precision: evaluation.Precision, device: Any
) -> Callable[[Array], Any]:
    if device is not None:
        from femops_equino.networks import torch_networks  # imports torch

        there = torch_networks.on_device(weights, device, precision)
        if name == "potential":
            return partial(torch_networks.evaluate_potential, *there)
        if name == "normal":
            return partial(torch_networks.evaluate_normal, *there)
        return partial(torch_networks.evaluate_coefficients, *there)
    ready = evaluation.prepare(weights, precision)
    if name == "potential":
        return partial(evaluation.evaluate_potential, ready)
    if name == "normal":
        return partial(evaluation.evaluate_normal, ready)
    return partial(evaluation.evaluate_coefficients, ready, n_out=len(weights["weight_3"]))
