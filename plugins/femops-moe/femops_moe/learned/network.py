"""The network that computes the modes of an RVE.

Mode i is, approximately, the nonlinear part of the fluctuation at a learned strain E_i. From w_i = W̄ E_i on, each pass
takes

    w_i ← w_i − K̄⁻¹ Σ w Bᵀ (σ(ε_i) + D₀ η_i),      ε_i = E_i + B w_i,

a step of Newton's method with the mean stiffness K̄ for stresses that the network corrects: η is a function of the local
strains 1 + B W₀, 1 + B W̄ and, from the second pass on, ε_1, ε_2, …, the same at all points of nonlinear phases. Without
η the passes would converge to the exact fluctuations; the network is to be ahead of them.
"""

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.rve.sampling import sobol
from femops_moe.learned.linearised import LinearisedRVE

PASSES = 3
_SMALL_START = 0.1
_SEED = 3


class ModeNetwork(torch.nn.Module):
    """Modes of any RVE of a dimension; the same function acts at all points.

    Args:
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
        n_modes: Number of modes.
        width: Width of the hidden layers.
        seed: Seed of the initial weights.

    Attributes:
        scale: Largest strain of the range [-].
        strains: E_i, relative to `scale`. Shape (n_modes, n_s).
    """

    def __init__(self, low: Array, high: Array, n_modes: int, width: int, seed: int = 0) -> None:
        super().__init__()
        n_s = len(low)
        self.scale = float(np.abs([low, high]).max())
        self.strains = torch.nn.Parameter(torch.as_tensor(sobol(low, high, n_modes, _SEED) / self.scale).float())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [2 * n_s * n_s + (number > 0) * n_s * n_modes for number in range(PASSES)]
            self.passes = torch.nn.ModuleList(_layers(size, width, n_s * n_modes) for size in sizes)

    def forward(self, problem: LinearisedRVE) -> Tensor:
        """Return the modes of an RVE [length]. Shape (n_dofs, n_modes)."""
        n_s, points = problem.n_s, torch.as_tensor(np.flatnonzero(problem.nonlinear))
        strains = self.scale * self.strains.double()
        tangent = torch.as_tensor(problem.tangent)[points]
        units = np.concatenate([problem.strain(problem.elastic), problem.strain(problem.softened)], axis=2)
        seen = elastic = torch.as_tensor(units)[:, points].permute(1, 2, 0).flatten(1).float()
        found = torch.as_tensor(problem.softened) @ strains.T
        for network in self.passes:
            local = problem.strain_of(found) + strains.T[:, None]
            if network is not self.passes[0]:
                own = local[:, points].permute(1, 2, 0).flatten(1) / self.scale
                seen = torch.cat([elastic, own.float()], 1)
            change = self.scale * network(seen).unflatten(1, (-1, n_s)).double()
            stress = problem.stress_at(local).index_add(1, points, torch.einsum("pst,pkt->spk", tangent, change))
            found = found + problem.response(stress)
        return found - torch.as_tensor(problem.elastic) @ strains.T


def _layers(inputs: int, width: int, outputs: int) -> torch.nn.Sequential:
    """Return a network with small initial outputs."""
    last = torch.nn.Linear(width, outputs)
    with torch.no_grad():
        last.weight *= _SMALL_START
        last.bias.mul_(_SMALL_START)
    inner = (torch.nn.Linear(inputs, width), torch.nn.SiLU(), torch.nn.Linear(width, width), torch.nn.SiLU())
    return torch.nn.Sequential(*inner, last)
