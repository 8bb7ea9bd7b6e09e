"""Networks of the certified mode: training on labels of the reduced model, and evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from femops.notation import Array
from femops.surrogate import CheckedArrays, FitTask
from femops_equino.networks import evaluation
from femops_equino.offline import Offline, converged, strains_to_learn
from femops_equino.options import NetworkBlock
from femops_equino.reduced.model import ReducedModel

_RATE, _SAVE_EVERY = 3e-3, 100
_NAMES = ("potential", "coefficients", "normal")


def train(task: FitTask, reduced: Offline) -> tuple[dict[str, Array], dict[str, Array]]:
    """Train all networks; return their weights by `network.weight`, and their losses by network.

    potential      W(E), for `corrections` 0
    coefficients   a(E), the initial guess of the corrections
    normal         stress normal to the plane, for `corrections` 0 in plane strain
    """
    from femops.surrogate import torch_device  # torch takes seconds to import: only for training
    from femops.surrogate.learning.loop import Schedule
    from femops_equino.networks.training import (
        CoefficientLabels,
        PotentialLabels,
        TrainingOptions,
        train_coefficients,
        train_potential,
    )

    block: NetworkBlock = task.options.networks
    device = str(torch_device("auto", 0))
    schedule = Schedule(block.adam_steps, _RATE, _SAVE_EVERY, lbfgs_steps=block.lbfgs_steps, seed=task.options.seed)
    options = TrainingOptions(schedule, block.width, device=device)
    strain = strains_to_learn(task, block.labels, task.options.seed + 3)
    labels = _labels(reduced.model, strain, converged(reduced.model, reduced.basis, strain))
    zero = _labels(reduced.model, np.zeros((1, strain.shape[1])), np.zeros((1, reduced.model.n_modes)))

    reported = task.checkpoint, task.progress
    of_potential = PotentialLabels(strain, labels["energy"], labels["stress"], labels["tangent"])
    of_coefficients = CoefficientLabels(strain, labels["a"], labels["sensitivity"], np.eye(reduced.model.n_modes))
    trained = {
        "potential": train_potential(zero["tangent"][0], of_potential, options, "potential", *reported),
        "coefficients": train_coefficients(reduced.basis.elastic, of_coefficients, options, "coefficients", *reported),
    }
    if "normal" in labels:
        of_normal = CoefficientLabels(strain, labels["normal"], labels["normal_slope"], np.eye(1))
        half = replace(options, width=-(-options.width // 2))  # one smooth output, used in no iteration
        trained["normal"] = train_coefficients(zero["normal_slope"][0], of_normal, half, "normal", *reported)
    weights = {f"{name}.{part}": one for name, net in trained.items() for part, one in net.weights.items()}
    return weights, {name: net.losses for name, net in trained.items()}


def stored(
    arrays: Mapping[str, Array] | CheckedArrays, precision: evaluation.Precision, device: Any = None
) -> dict[str, Callable[[Array], Any]]:
    """Return the networks of a trained model as functions of strains (n, n_s).

    `potential` returns energy, stress and tangent, the others their outputs (n, n_out), all in the given precision.

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
    """Return the weights of one network of a trained model, see `potential`; empty if it was not trained."""
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
        return partial(torch_networks.evaluate_coefficients, *there)
    ready = evaluation.prepare(weights, precision)
    if name == "potential":
        return partial(evaluation.evaluate_potential, ready)
    return partial(evaluation.evaluate_coefficients, ready, n_out=len(weights["weight_3"]))


def _labels(model: ReducedModel, strain: Array, a: Array) -> dict[str, Array]:
    """Return coefficients, energy, stress, tangent and sensitivities at minima of the reduced energy."""
    n_s, n_e = strain.shape[1], model.n_e
    z = model.extended(strain, a)
    gradient, hessian = model.derivatives(z)
    sensitivity = -np.linalg.solve(hessian[:, n_e:, n_e:], hessian[:, n_e:, :n_e])
    tangent = hessian[:, :n_e, :n_e] + np.einsum("nri,nrj->nij", hessian[:, n_e:, :n_e], sensitivity)
    labels = {
        "a": a,
        "energy": model.energy(z),
        "stress": gradient[:, :n_s],
        "tangent": 0.5 * (tangent + tangent.transpose(0, 2, 1))[:, :n_s, :n_s],
        "sensitivity": sensitivity[:, :, :n_s],
    }
    if n_e > n_s:
        labels |= {"normal": gradient[:, n_s:n_e], "normal_slope": tangent[:, n_s:n_e, :n_s]}
    return labels
