"""Training of the original EquiNO: two networks for displacement and stress coefficients, without labels.

Eivazi, Tröger, Wittek, Hartmann, Rausch, J. Comput. Phys. 554 (2026) 114745, arXiv 2504.07976. The fluctuation is
Φ_u a(E) and the stress Φ_σ b(E), which is in equilibrium for any b; the loss is the constitutive mismatch,

    ∫ |σ(E + BΦ_u a) − Φ_σ b|² dV, in the norm of the phases' elastic compliance or as a plain square.

The mismatch of linear phases is an exact quadratic form of (E, a, b). That of other phases is integrated by importance
sampling: points are drawn once, with higher probability where modes are large, and unbiased weights. Unlike in the
publication, the networks' values at zero strain are subtracted, so that zero strain gives zero stress.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.phases import Phase
from femops.surrogate import Checkpoint, Progress
from femops.surrogate.learning.loop import Schedule, Training
from femops_equino.networks.torch_networks import strain_scale
from femops_equino.networks.training import Loss, TrainedNetwork, minimise
from femops_equino.original.networks import network_depth

_NETWORKS = ("displacement", "stress")


@dataclass(frozen=True)
class OriginalProblem:
    """Training problem of the networks.

    Attributes:
        strain_modes: BΦ_u [-]. Shape (n_s, n_points, n_displacement_modes).
        stress_modes: Φ_σ [stress]. Shape (n_s, n_points, n_stress_modes).
        weight: Quadrature weights [volume]. Shape (n_points,).
        volume: Volume of the RVE.
        phases: Elastic phases.
        points_of_phase: Points of each phase.
        strain: Collocation strains, Mandel [-]. Shape (n, n_s).
        displacement_unit: Typical size of each displacement coefficient. Shape (n_displacement_modes,).
        stress_unit: Typical size of each stress coefficient. Shape (n_stress_modes,).
    """

    strain_modes: Array
    stress_modes: Array
    weight: Array
    volume: float
    phases: tuple[Phase, ...]
    points_of_phase: tuple[slice, ...]
    strain: Array
    displacement_unit: Array
    stress_unit: Array


@dataclass(frozen=True)
class OriginalOptions:
    """Options of the networks and their training.

    Attributes:
        schedule: See `Schedule`; its seed also draws initial weights and points.
        width: Units per hidden layer.
        depth: Number of hidden layers.
        n_points: Points drawn in each nonlinear phase.
        batch: Strains of a step of Adam.
        norm: Norm of the mismatch: `energy` (elastic compliance) or `plain`.
        device: Device of the training.
    """

    schedule: Schedule
    width: int = 64
    depth: int = 4
    n_points: int = 300
    batch: int = 32
    norm: Literal["energy", "plain"] = "energy"
    device: torch.device | str = "cpu"


class _Part(NamedTuple):
    """Sampled points of a phase; `root` is a root of the norm, `weight` of the weights; both scale `stress_modes`."""

    phase: Phase
    strain_modes: Tensor
    stress_modes: Tensor
    root: Tensor
    weight: Tensor


class _Stress(torch.autograd.Function):
    """The stress of a phase, differentiated by the phase's own tangent."""

    @staticmethod
    def forward(ctx: Any, strain: Tensor, phase: Phase) -> Tensor:
        answer = phase.evaluate(strain, strain.new_zeros(0, *strain.shape[1:]))
        ctx.save_for_backward(answer.tangent)
        return answer.stress

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (tangent,) = ctx.saved_tensors
        return (tangent * gradient[:, None]).sum(0), None


def train_original(
    problem: OriginalProblem, options: OriginalOptions, name: str, checkpoint: Checkpoint, progress: Progress
) -> TrainedNetwork:
    """Train both networks on the constitutive mismatch; a loss of 1 is the square of the elastic stress.

    Args:
        problem: See `OriginalProblem`.
        options: See `OriginalOptions`.
        name: Name of the checkpoint and of the reported stage.
        checkpoint: Stores the state of the training.
        progress: Progress callback.
    """
    rng = np.random.default_rng(options.schedule.seed)
    fixed: dict[str, Array] = {
        "scale": strain_scale(problem.strain),
        "displacement/unit": problem.displacement_unit,
        "stress/unit": problem.stress_unit,
        "mean_stress_modes": np.einsum("g,sgm->sm", problem.weight, problem.stress_modes) / problem.volume,
    }
    start = {
        f"{network}/{key}": one
        for network in _NETWORKS
        for key, one in _initial(rng, len(fixed["scale"]), len(fixed[f"{network}/unit"]), options).items()
    }
    weights = {key: torch.as_tensor(one).to(options.device) for key, one in (fixed | start).items()}
    trained = {key: weights[key].requires_grad_() for key in start}
    loss = _mismatch(problem, options, rng, weights)
    training = Training(trained, options.schedule, name, checkpoint, progress)
    return minimise(training, loss, len(problem.strain), options.batch, weights)


def _initial(rng: np.random.Generator, n_in: int, n_out: int, options: OriginalOptions) -> dict[str, Array]:
    sizes = [n_in, *[options.width] * options.depth, n_out]
    weights = {}
    for k, (before, after) in enumerate(pairwise(sizes)):
        weights[f"weight_{k}"] = rng.standard_normal((after, before)) * np.sqrt(2.0 / before)
        weights[f"bias_{k}"] = np.zeros(after)
    return weights


def _values(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    depth = network_depth(weights, name)
    x = torch.cat([x, torch.zeros_like(x[:1])])
    for k in range(depth):
        x = x @ weights[f"{name}/weight_{k}"].T + weights[f"{name}/bias_{k}"]
        x = torch.nn.functional.silu(x) if k < depth - 1 else x
    return (x[:-1] - x[-1]) * weights[f"{name}/unit"]


def _mismatch(
    problem: OriginalProblem, options: OriginalOptions, rng: np.random.Generator, weights: Mapping[str, Tensor]
) -> Loss:
    n_s, size = problem.strain.shape[1], sum(len(weights[f"{name}/unit"]) for name in _NETWORKS)
    quadratic, parts, elastic = np.zeros((n_s + size, n_s + size)), [], 0.0
    for phase, points in zip(problem.phases, problem.points_of_phase, strict=True):
        tangent = np.asarray(phase.evaluate(np.zeros((n_s, 1)), np.zeros((0, 1))).tangent)[:, :, 0]
        root = np.linalg.inv(np.linalg.cholesky(tangent)) if options.norm == "energy" else np.eye(n_s)
        weight = problem.weight[points]
        elastic += float(weight.sum() * ((problem.strain @ (root @ tangent).T) ** 2).sum(1).mean())
        if phase.linear:
            quadratic += _quadratic(problem, points, tangent, root)
        else:
            parts.append(_drawn(problem, points, phase, (tangent, root), options, rng))
    form, strains = (torch.as_tensor(one).to(options.device) for one in (quadratic, problem.strain))

    def loss(rows: Tensor | slice) -> Tensor:
        strain = strains[rows]
        a, b = (_values(weights, name, strain / weights["scale"]) for name in _NETWORKS)
        every = torch.cat([strain, a, b], dim=1)
        total = ((every @ form) * every).sum()
        for part in parts:
            total = total + _sampled(part, strain, a, b)
        return total / (len(strain) * elastic)

    return loss


def _quadratic(problem: OriginalProblem, points: slice, tangent: Array, root: Array) -> Array:
    """Return the mismatch of a linear phase as a quadratic form of (E, a, b)."""
    strain, stress = problem.strain_modes[:, points], problem.stress_modes[:, points]
    n_s, n_points, _ = strain.shape
    identity = np.broadcast_to(np.eye(n_s)[:, None], (n_s, n_points, n_s))
    of_strain = np.tensordot(root @ tangent, np.concatenate([identity, strain], axis=2), axes=1)
    whole = np.concatenate([of_strain, -np.tensordot(root, stress, axes=1)], axis=2)
    whole = whole * np.sqrt(problem.weight[points])[None, :, None]
    flat = whole.reshape(n_s * n_points, -1)
    return np.asarray(flat.T @ flat)


def _drawn(
    problem: OriginalProblem,
    points: slice,
    phase: Phase,
    norm: tuple[Array, Array],
    options: OriginalOptions,
    rng: np.random.Generator,
) -> _Part:
    """Sample points of a phase by equal shares of quadrature weight and leverage score of the modes."""
    tangent, root = norm
    strain, stress = problem.strain_modes[:, points], problem.stress_modes[:, points]
    weight = problem.weight[points]
    whole = np.concatenate([np.tensordot(root @ tangent, strain, axes=1), np.tensordot(root, stress, axes=1)], axis=2)
    flat = (whole * np.sqrt(weight)[None, :, None]).reshape(-1, whole.shape[2])
    sizes = np.linalg.norm(flat, axis=0)
    left, values, _ = np.linalg.svd(flat[:, sizes > 0.0] / sizes[sizes > 0.0], full_matrices=False)
    kept = left[:, values > 1e-8 * values[0]].reshape(*whole.shape[:2], -1)
    leverage = (kept**2).sum((0, 2))
    chance = 0.5 * (weight / weight.sum() + leverage / leverage.sum())
    n_points = min(options.n_points, len(weight))
    rows = rng.choice(len(weight), n_points, p=chance / chance.sum())
    share = np.sqrt(weight[rows] / (n_points * chance[rows]))
    arrays = strain[:, rows], np.tensordot(root, stress[:, rows], axes=1) * share[:, None], root, share
    return _Part(phase, *(torch.as_tensor(np.ascontiguousarray(one)).to(options.device) for one in arrays))


def _sampled(part: _Part, strain: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the weighted sum of the squared mismatch over sampled points and strains."""
    n_s, n_points, _ = part.strain_modes.shape
    local = (part.strain_modes.reshape(n_s * n_points, -1) @ a.T).view(n_s, n_points, -1) + strain.T[:, None]
    stress = _Stress.apply(local, part.phase)
    of_law = (part.root @ stress.reshape(n_s, -1)).view(n_s, n_points, -1) * part.weight[:, None]
    of_modes = (part.stress_modes.reshape(n_s * n_points, -1) @ b.T).view(n_s, n_points, -1)
    return ((of_law - of_modes) ** 2).sum()
