"""SPON law for RVEs of hyperelastic phases."""

from functools import cached_property

import numpy as np

from femops.devices import torch_device
from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.law import CertificateKind, LawResponse
from femops.notation import Array
from femops.surrogate import TrainedModel, chunks, within
from femops.surrogate.fields.bound import StressBound
from femops.surrogate.fields.hyperelastic import FieldResponse, HyperelasticFields, joined
from femops.surrogate.fields.law import TINY, FieldLaw, in_numpy, quadratic_form
from femops_spon.hyperelastic import HyperelasticSPON
from femops_spon.options import SPONParameters
from femops_spon.training import restored

_INNER = 2  # conjugate-gradient steps per Newton step
_COPIES = 6  # copies of the fields of a point in memory at the same time


class HyperelasticSPONLaw(FieldLaw):
    """An RVE of hyperelastic phases with fluctuations predicted at every strain.

    The energy of the predicted fields is an upper bound of that of the nested solve; stress and tangent are its
    derivatives up to terms of second order in the residual forces. `solver_residual` is the work of the residual
    forces relative to the energy, an estimate of the relative error of the energy from below.

    Args:
        model: The trained model with its RVE.
        parameters: Parameters of the law; corrections are Newton steps.

    Attributes:
        metric: Metric of the stress norm of the certificates: the compliance at zero strain [1/stress]. Shape
            (n_s, n_s).

    Raises:
        CaseError: The model was trained on linear phases.
    """

    def __init__(self, model: TrainedModel, parameters: SPONParameters) -> None:
        super().__init__(model.rve)
        self.low, self.high = model.low, model.high
        if model.settings["linear"]:
            raise CaseError(
                "has nonlinear phases, the model was trained on linear ones; expected linear phases", key="rve"
            )
        device = torch_device(parameters.device)
        with_network, self._corrections = parameters.steps(device.type, linear=False)
        self._fields = HyperelasticFields(model.rve, device=device)
        self._start = self._fields.zero_fields
        if with_network:
            network = restored(model.arrays, model.settings, device)
            self._start = HyperelasticSPON(network, self._fields, parameters.precision).predict
        unstrained = self._respond(np.zeros((1, model.rve.discretisation.n_s)), 1)
        self.metric = np.linalg.inv(in_numpy(unstrained.tangent)[0])

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the RVE; see `MaterialLaw.evaluate`."""
        found = self._respond(strain, self._corrections)
        normal, row = (None if one is None else in_numpy(one) for one in (found.stress_33, found.tangent_33))
        return LawResponse(
            in_numpy(found.stress),
            in_numpy(found.tangent),
            np.empty((len(strain), 0)),
            normal,
            valid=within(strain, self.low, self.high),
            solver_residual=in_numpy(found.gap),
            tangent_33=row,
        )

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the bound, see `fields.bound`, or as indicator the relative change in one more Newton step."""
        if kind == "bound":
            return self._bounded(strain, response)
        better = in_numpy(self._respond(strain, self._corrections + 1).stress)
        change, size = (
            quadratic_form(better - response.stress, self.metric),
            quadratic_form(response.stress, self.metric),
        )
        return np.sqrt(change / np.maximum(size, TINY))

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the nested solve, with the predicted fluctuation as initial guess."""
        space = self._fields.space

        def start(part: slice) -> Array:
            fluctuation = in_numpy(self._predicted(strain[part], self._corrections)[0])
            return space.to_free(fluctuation.reshape(len(fluctuation), -1).T).T

        answer = self.exact.solve(strain, start)
        empty, error = np.empty((len(strain), 0)), np.zeros(len(strain))
        return LawResponse(answer.stress, answer.tangent, empty, answer.stress_33, error, tangent_33=answer.tangent_33)

    def free_fluctuation(self, strain: Array) -> Array:
        """Return the fluctuation at the free dofs of the RVE (n_free,) [length] at a strain (n_s,)."""
        fluctuation = in_numpy(self._predicted(strain[None], self._corrections)[0])
        return self._fields.space.to_free(fluctuation.reshape(-1, 1))[:, 0]

    @cached_property
    def _bound(self) -> StressBound:
        return StressBound(self._fields, self.metric)

    def _bounded(self, strain: Array, response: LawResponse) -> Array:
        error = np.empty(len(strain))
        for part in self._parts(strain):
            fields = self._predicted(strain[part], self._corrections)
            error[part] = self._bound.error(strain[part], response.stress[part], *fields)
        return error

    def _predicted(self, strain: Array, corrections: int) -> tuple[Tensor, Tensor]:
        given = self._tensor(strain)
        fluctuation, sensitivity = self._start(given)
        if corrections:
            return self._fields.improve(given, fluctuation, sensitivity, corrections, _INNER)
        return fluctuation, sensitivity

    def _tensor(self, strain: Array) -> Tensor:
        return torch.tensor(np.ascontiguousarray(strain), dtype=torch.float64, device=self._fields.device)

    def _respond(self, strain: Array, corrections: int) -> FieldResponse:
        given, parts = self._tensor(strain), self._parts(strain) or [slice(0, 0)]
        return joined(
            [self._fields.evaluate(given[part], *self._predicted(strain[part], corrections)) for part in parts]
        )

    def _parts(self, strain: Array) -> list[slice]:
        """Return the parts of a batch whose fields fit into memory."""
        return list(chunks(len(strain), 8 * self._fields.space.n_dofs * (1 + strain.shape[1]) * _COPIES))
