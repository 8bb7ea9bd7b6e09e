"""The law of an arrangement of trained components."""

from dataclasses import replace

import numpy as np

from femops.devices import torch_device
from femops.devices.torch_library import torch
from femops.errors import CaseError
from femops.law import LawResponse
from femops.notation import Array
from femops.surrogate import TrainedModel
from femops.surrogate.store import of_arrays
from femops_moe.compiled import tiled_solver
from femops_moe.experts import on_device
from femops_moe.library import stored_library
from femops_moe.options import MoEParameters
from femops_moe.reduced_law import ReducedLaw


class ComponentLaw(ReducedLaw):
    """An RVE composed of trained components, in an arrangement that may be new.

    The fields of the whole RVE are built for certificates and output only.

    Args:
        model: The trained model, with the RVE to answer for.
        parameters: Parameters in the case.

    Raises:
        CaseError: The model is damaged, or the RVE is no arrangement of its components.
    """

    def __init__(self, model: TrainedModel, parameters: MoEParameters) -> None:
        _check_phases(model)
        with of_arrays(model.folder):
            self._library = stored_library(model.arrays, int(model.settings["components"]), model.rve)
        experts, self._nodes = self._library.experts(model.rve)
        device, dtype = torch_device(parameters.device), getattr(torch, parameters.precision)
        self.experts = replace(experts, experts=on_device(experts.experts, device, dtype))
        sampled = experts.experts.sampled
        super().__init__(model, parameters, tiled_solver(self.experts), len(self.experts.used), sampled)

    def _indicated(self, strain: Array, response: LawResponse) -> Array:
        """Return the relative change of the stress in a Newton step of the whole field."""
        return self._change_in_newton_step(strain, response)

    def _fluctuation(self, strain: Array, unknowns: Array) -> Array:
        """Return the fluctuations of the RVE (n_dofs, n)."""
        space, one = self._fields.space, self.experts
        z = one.local(torch.tensor(strain), torch.as_tensor(one.padded(unknowns))).numpy()
        found = np.empty((space.n_nodes, self.dim, len(strain)))
        for k, nodes in enumerate(self._nodes):
            modes = self._library.modes[one.kinds[k]]
            local = np.concatenate([one.elastic[k], modes.ports, modes.bubbles], axis=1)
            found[space.node_of[nodes]] = (local @ z[k, :, : local.shape[1]].T).reshape(len(nodes), self.dim, -1)
        return found.reshape(space.n_dofs, -1)


def _check_phases(model: TrainedModel) -> None:
    """Refuse an RVE with other phases than the components were trained with."""
    trained = model.settings["phases"]
    mesh = model.rve.discretisation
    for name, phase in zip(mesh.phases, model.rve.phases, strict=True):
        if trained.get(name) != str(phase):
            given = f"{phase} given"
            raise CaseError(
                f"{given}, expected {trained.get(name, 'no such phase')} as trained", key=f"rve.phases.{name}"
            )
    if len(trained) != len(mesh.phases):
        raise CaseError(f"{', '.join(mesh.phases)} given, expected {', '.join(trained)} as trained", key="rve.phases")
