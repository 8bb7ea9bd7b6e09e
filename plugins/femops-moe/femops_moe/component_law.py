"""The law of an arrangement of trained components."""

from dataclasses import replace
from functools import cached_property

import numpy as np

from femops.errors import CaseError
from femops.law import CertificateKind, LawResponse
from femops.notation import Array
from femops.phases import PlaneStrainPhase
from femops.surrogate import TrainedModel, chunks, torch_device, within
from femops.surrogate.fields.bound import StressBound
from femops.surrogate.fields.hyperelastic import HyperelasticFields
from femops.surrogate.fields.law import TINY, FieldLaw, in_numpy, quadratic_form
from femops.surrogate.store import of_arrays
from femops.surrogate.torch_library import Tensor, torch
from femops_moe.experts import on_device
from femops_moe.galerkin import Equilibrium
from femops_moe.library import stored_library
from femops_moe.options import MoEParameters
from femops_moe.tiled import TiledSolver

_EVALUATIONS = 12
_TOLERANCE = {"float64": 1e-12, "float32": 1e-8}  # Newton decrement, relative to the work
_COPIES, _INNER = 6, 2  # copies of the fields of a point in memory; conjugate-gradient steps of the indicator


class ComponentLaw(FieldLaw):
    """An RVE composed of trained components, in an arrangement that may be new.

    The state of a point holds the ports and bubbles of its last step. Stress and tangent are exact derivatives of the
    minimum of the reduced energy. The fields of the whole RVE are built for certificates and output only.

    Args:
        model: The trained model, with the RVE to answer for.
        parameters: Parameters in the case.

    Attributes:
        metric: Metric of the stress norm of the certificates: the compliance at zero strain [1/stress]. Shape
            (n_s, n_s).

    Raises:
        CaseError: The model is damaged, or the RVE is no arrangement of its components.
    """

    def __init__(self, model: TrainedModel, parameters: MoEParameters) -> None:
        super().__init__(model.rve)
        self.low, self.high = model.low, model.high
        self._precision = parameters.precision
        self._device = torch_device(parameters.device)
        _check_phases(model)
        with of_arrays(model.folder):
            self._library = stored_library(model.arrays, int(model.settings["components"]), model.rve)
        experts, self._nodes = self._library.experts(model.rve)
        there = on_device(experts.experts, self._device, getattr(torch, self._precision))
        self.experts = replace(experts, experts=there)
        self._solver = TiledSolver(self.experts)
        self.n_state = len(self.experts.used)
        self._knows_tangent_33 = all(isinstance(phase, PlaneStrainPhase) for phase, _ in experts.experts.sampled)
        unstrained = self._solve(np.zeros((1, len(self.low))), np.zeros((1, self.n_state)))
        self.metric = np.linalg.inv(unstrained.tangent[0])

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the coupled components; see `MaterialLaw.evaluate`."""
        found = self._solve(strain, state)
        return LawResponse(
            found.stress,
            found.tangent,
            found.unknowns,
            found.stress_33,
            valid=within(strain, self.low, self.high) & (found.decrement <= _TOLERANCE[self._precision]),
            solver_residual=found.decrement,
            tangent_33=found.tangent_33 if self._knows_tangent_33 else None,
        )

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the bound, see `fields.bound`, or the relative change of the stress in a Newton step of the field."""
        error, size = np.empty(len(strain)), quadratic_form(response.stress, self.metric)
        for part in chunks(len(strain), 8.0 * self._fields.space.n_dofs * (1 + strain.shape[1]) * _COPIES):
            fields = self._mode_fields(strain[part], response.state[part])
            if kind == "bound":
                error[part] = self._bound.error(strain[part], response.stress[part], *fields)
                continue
            given = torch.tensor(strain[part], device=self._fields.device)
            better = self._fields.improve(given, *fields, steps=1, inner=_INNER)
            change = in_numpy(self._fields.evaluate(given, *better).stress) - response.stress[part]
            error[part] = np.sqrt(quadratic_form(change, self.metric) / np.maximum(size[part], TINY))
        return error

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the nested solve, which starts from the fields of the components."""
        found = self._solve(strain, state).unknowns

        def start(part: slice) -> Array:
            return self._free(strain[part], found[part])

        answer = self.exact.solve(strain, start)
        error = np.zeros(len(strain))
        return LawResponse(answer.stress, answer.tangent, found, answer.stress_33, error, tangent_33=answer.tangent_33)

    def free_fluctuation(self, strain: Array) -> Array:
        """Return the fluctuation at the free dofs of the RVE (n_free,) [length] at a strain (n_s,)."""
        unknowns = self._solve(strain[None], np.zeros((1, self.n_state))).unknowns
        return np.asarray(self._free(strain[None], unknowns)[0])

    @cached_property
    def _fields(self) -> HyperelasticFields:
        return HyperelasticFields(self.rve, device=self._device)

    @cached_property
    def _bound(self) -> StressBound:
        return StressBound(self._fields, self.metric)

    def _solve(self, strain: Array, state: Array) -> Equilibrium:
        return self._solver.solve(strain, state, _EVALUATIONS, _TOLERANCE[self._precision])

    def _fluctuation(self, strain: Array, unknowns: Array) -> Array:
        """Return the fluctuations of the RVE (n_dofs, n)."""
        space, one = self._fields.space, self.experts
        z = one.local(torch.tensor(strain), torch.as_tensor(one.padded(unknowns))).numpy()
        found = np.empty((space.n_nodes, 2, len(strain)))
        for k, nodes in enumerate(self._nodes):
            modes = self._library.modes[one.kinds[k]]
            local = np.concatenate([one.elastic[k], modes.ports, modes.bubbles], axis=1)
            found[space.node_of[nodes]] = (local @ z[k, :, : local.shape[1]].T).reshape(len(nodes), 2, -1)
        return found.reshape(space.n_dofs, -1)

    def _free(self, strain: Array, unknowns: Array) -> Array:
        """Return the fluctuations at the free dofs (n, n_free)."""
        return self._fields.space.to_free(self._fluctuation(strain, unknowns)).T

    def _mode_fields(self, strain: Array, unknowns: Array) -> tuple[Tensor, Tensor]:
        """Return the fluctuations (n, n_nodes, dim) and their derivatives by the strain (n, n_nodes, dim, n_s)."""
        columns = self._solver.sensitivity(strain, unknowns)
        fields = [self._fluctuation(strain, unknowns)]
        for unit, column in zip(np.eye(strain.shape[1]), np.moveaxis(columns, 2, 0), strict=True):
            fields.append(self._fluctuation(np.tile(unit, (len(strain), 1)), column))
        every = torch.as_tensor(np.stack(fields, 2), device=self._fields.device)  # (n_dofs, n, 1 + n_s)
        nodal = every.unflatten(0, (-1, self.dim)).permute(2, 0, 1, 3).contiguous()
        return nodal[..., 0], nodal[..., 1:]


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
