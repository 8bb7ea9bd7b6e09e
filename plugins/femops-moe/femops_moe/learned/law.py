"""The law of an RVE whose modes are computed by a network."""

from typing import Any

import numpy as np

from femops.devices import torch_device
from femops.devices.torch_library import torch
from femops.errors import CaseError
from femops.law import LawResponse
from femops.notation import Array
from femops.surrogate import CheckedArrays, TrainedModel, state_dict
from femops.surrogate.exact import check_dimension
from femops.surrogate.store import of_arrays
from femops_moe.compiled import solver
from femops_moe.cubature import choose
from femops_moe.experts import Experts, on_device, restricted
from femops_moe.learned.linearised import LinearisedRVE
from femops_moe.learned.network import ModeNetwork
from femops_moe.learned.training import one_expert
from femops_moe.options import MoEParameters
from femops_moe.reduced_law import ReducedLaw
from femops_moe.training import compliance, strains_to_learn

_NOTHING = 1e-9  # relative to the macroscale displacement
_STATES = 64  # strains to choose cubature points with


class LearnedBasisLaw(ReducedLaw):
    """An RVE of a family, with modes that were computed for it by a network.

    Modes and cubature points are found when the law is built, without a nested solve.

    Args:
        model: The trained model, with the RVE to answer for.
        parameters: Parameters in the case.

    Raises:
        CaseError: The RVE is homogeneous, of another dimension or of unsuitable phases; or the model is damaged.
    """

    def __init__(self, model: TrainedModel, parameters: MoEParameters) -> None:
        check_dimension(model.rve, model.dim)
        network = stored_network(model)
        problem = LinearisedRVE(model.rve, model.low, model.high)
        with torch.no_grad():
            given = network(problem).numpy()
        lower, upper = model.rve.discretisation.mesh.bounds
        if np.abs(given).max() <= _NOTHING * network.scale * (upper - lower).max():
            raise CaseError("is homogeneous, expected fluctuations; use the law of its phase instead", key="rve")
        self.modes = problem.space.centred(given @ problem.orthonormal(given))
        self.elastic = problem.elastic
        experts = _sampled(one_expert(problem, self.modes), model)
        self.experts = on_device(experts, torch_device(parameters.device), getattr(torch, parameters.precision))
        super().__init__(model, parameters, solver(self.experts), self.modes.shape[1], experts.sampled)

    def _indicated(self, strain: Array, response: LawResponse) -> Array:
        """Return the relative change of the stress in a Newton step of the whole field."""
        return self._change_in_newton_step(strain, response)

    def _fluctuation(self, strain: Array, unknowns: Array) -> Array:
        """Return the fluctuations of the RVE (n_dofs, n)."""
        return self.elastic @ strain.T + self.modes @ unknowns.T


def stored_network(model: TrainedModel) -> ModeNetwork:
    """Return the network of a trained model.

    Raises:
        StoredArrayError: Its arrays are damaged.
    """
    settings: Any = model.settings["learned"]
    network = ModeNetwork(model.low, model.high, int(settings["basis"]), int(settings["width"]))
    with of_arrays(model.folder):
        found = state_dict(CheckedArrays(model.arrays), network.state_dict())
    network.load_state_dict({name: torch.tensor(one) for name, one in found.items()})
    return network.eval()


def _sampled(experts: Experts, model: TrainedModel) -> Experts:
    """Return the experts with few points, as the training asked for."""
    tolerance = model.settings["learned"]["tolerance"]
    if tolerance is None:
        return experts
    strain = strains_to_learn(model.low, model.high, _STATES, 1)
    return restricted(experts, choose(experts, strain, compliance(experts), tolerance, 0, 1)[0])
