"""Training of the networks of the certified mode on labels of the reduced model."""

from dataclasses import replace

import numpy as np

from femops.notation import Array
from femops.surrogate import FitTask
from femops_equino.offline import Offline, converged, strains_to_learn
from femops_equino.options import NetworkBlock
from femops_equino.reduced.model import ReducedModel

_RATE, _SAVE_EVERY = 3e-3, 100
# Potential networks of RVE1 are better by 19 % with 200 than with 60, by 11 % with 100 (500 labels, three seeds).
_LBFGS_MEMORY = 200
_OTHERS = 0.5  # L-BFGS steps of the other networks; their errors are corrected, or those of stress_33 only


def train(task: FitTask, reduced: Offline) -> tuple[dict[str, Array], dict[str, Array]]:
    """Train all networks; return their weights under `network.weight`, and their losses by network.

    potential      W(E), for `corrections` 0
    coefficients   a(E), the initial guess of the corrections
    normal         stress normal to the plane, for `corrections` 0 in plane strain
    """
    from femops.devices import torch_device  # torch takes seconds to import: only for training
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
    schedule = Schedule(
        block.adam_steps,
        _RATE,
        _SAVE_EVERY,
        lbfgs_steps=block.lbfgs_steps,
        lbfgs_memory=_LBFGS_MEMORY,
        seed=task.options.seed,
    )
    options = TrainingOptions(schedule, block.width, device=device)
    fewer = replace(options, schedule=replace(schedule, lbfgs_steps=int(_OTHERS * block.lbfgs_steps)))
    strain = strains_to_learn(task, block.labels, task.options.seed + 3)
    labels = _labels(reduced.model, strain, converged(reduced.model, reduced.basis, strain))
    zero = _labels(reduced.model, np.zeros((1, strain.shape[1])), np.zeros((1, reduced.model.n_modes)))

    reported = task.checkpoint, task.progress
    of_potential = PotentialLabels(strain, labels["energy"], labels["stress"], labels["tangent"])
    of_coefficients = CoefficientLabels(strain, labels["a"], labels["sensitivity"], np.eye(reduced.model.n_modes))
    trained = {
        "potential": train_potential(zero["tangent"][0], of_potential, options, "potential", *reported),
        "coefficients": train_coefficients(reduced.basis.elastic, of_coefficients, fewer, "coefficients", *reported),
    }
    if "normal" in labels:
        of_normal = CoefficientLabels(strain, labels["normal"], labels["normal_slope"], np.eye(1))
        half = replace(fewer, width=-(-options.width // 2))  # one smooth output, used in no iteration
        trained["normal"] = train_coefficients(zero["normal_slope"][0], of_normal, half, "normal", *reported)
    weights = {f"{name}.{part}": one for name, net in trained.items() for part, one in net.weights.items()}
    return weights, {name: net.losses for name, net in trained.items()}


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
