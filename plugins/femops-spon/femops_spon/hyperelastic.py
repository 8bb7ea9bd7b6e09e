"""SPON for RVEs of hyperelastic phases: fields predicted at each macroscale strain.

Linearisation at fields w gives the same kind of problem as linear phases: K(w) X = −L(w) for X = dw/dE, and the Newton
step K(w) δ = −R(w). The network solves both approximately, with the cell tangents as features; it is trained on such
problems at uniform strain and at solutions.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.rve.spec import RVE
from femops.surrogate import chunks
from femops.surrogate.fields.fluctuation_space import FluctuationSpace, common_order
from femops.surrogate.fields.hyperelastic import HyperelasticFields
from femops.surrogate.fields.linear import CellTangents, LinearFields, cell_features
from femops_spon.network import SPON, MeshMaps, hierarchy
from femops_spon.training import Precision

_STEPS, _INNER = 3, 4  # Newton and inner steps to the training states, which need not be converged
_NEWTON_STEPS = 2  # Newton steps per prediction, starting from uniform strain
_BYTES_PER_VALUE = 8 * 40  # memory of the network per nodal value


class HyperelasticSPON:
    """Predicts the fluctuations of an RVE.

    Args:
        network: The network, on the device of the fields.
        fields: Mechanics of the RVE.
        precision: Precision of the network.

    Raises:
        CaseError: The mesh is too coarse for the levels of the network.
    """

    def __init__(self, network: SPON, fields: HyperelasticFields, precision: Precision) -> None:
        self._dtype = getattr(torch, precision)
        self._network, self._fields = deepcopy(network).to(self._dtype), fields
        self._maps = MeshMaps(hierarchy(fields.space, network.n_levels))

    def predict(self, strain: Tensor) -> tuple[Tensor, Tensor]:
        """Return zero-mean w (n, n_nodes, dim) and an estimate of dw/dE (n, n_nodes, dim, n_s) at strains (n, n_s)."""
        space, n_s = self._fields.space, strain.shape[1]
        fluctuation, sensitivity = self._fields.zero_fields(strain)
        width = n_s * space.discretisation.dim * _BYTES_PER_VALUE
        with torch.no_grad():
            for part in chunks(len(strain), width * space.n_nodes):
                fluctuation[part], sensitivity[part] = self._predicted(strain[part], fluctuation[part])
        return self._fields.centred(fluctuation), self._fields.centred(sensitivity)

    def _predicted(self, strain: Tensor, fluctuation: Tensor) -> tuple[Tensor, Tensor]:
        fields, volume = self._fields, self._fields.space.discretisation.volume
        sensitivity = None
        for _ in range(_NEWTON_STEPS):
            at = fields.linearised(strain, fluctuation)
            cells = CellTangents(at.tangent.cpu().numpy(), None)
            problem = LinearFields.on(fields.space, cells, self._dtype, strain.device)
            residual = (volume * at.residual).to(self._dtype)
            forces = -torch.cat([residual[..., None], problem.load], dim=3)
            features = cell_features(at.tangent.to(self._dtype))
            update = self._network.solve(self._maps, problem.stiffness, forces, features).to(strain.dtype)
            fluctuation = fields.line_search(strain, fluctuation, update[..., 0], at.energy)
            sensitivity = update[..., 1:]
        assert sensitivity is not None
        return fluctuation, sensitivity


def linear_problems(rves: Sequence[RVE], strain: Array) -> Iterator[tuple[FluctuationSpace, Array]]:
    """Yield the linearised training problems of each RVE: at uniform strain, then at approximate solutions.

    Args:
        rves: The RVEs.
        strain: Strains of each RVE, Mandel [-]. Shape (N, n, n_s).

    Yields:
        The space shared by all RVEs on that mesh, and cell tangents (2 n, n_cells, n_s, n_s) in its cell order
        [stress].
    """
    for rve, strains in zip(rves, torch.as_tensor(strain), strict=True):
        fields = HyperelasticFields(rve)
        zero, slopes = fields.zero_fields(strains)
        solved, _ = fields.improve(strains, zero, slopes, _STEPS, _INNER)
        tangent = np.concatenate([fields.linearised(strains, state).tangent.numpy() for state in (zero, solved)])
        yield FluctuationSpace.shared(rve), tangent[:, common_order(rve.discretisation)]
