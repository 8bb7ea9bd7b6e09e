"""The law of SPON for RVEs of hyperelastic phases."""

from collections.abc import Mapping

import numpy as np

from femops.errors import CaseError
from femops.law import CertificateKind, Kinematics, LawResponse
from femops.notation import Array
from femops.rve.micro import MicroFields, micro_fields
from femops.surrogate import ExactRVE, TrainedModel, chunks, torch_device, within
from femops.surrogate.hyperelastic_fields import FieldResponse, HyperelasticFields, joined
from femops.surrogate.torch_library import Tensor, torch
from femops_spon.families import network_of
from femops_spon.hyperelastic import HyperelasticSPON
from femops_spon.options import SPONParameters

_INNER = 2  # steps of conjugate gradients in a Newton step
_COPIES = 6  # of the fields of a point that are in memory at the same time
_TINY = np.finfo(np.float64).tiny


class HyperelasticSPONLaw:
    """An RVE of hyperelastic phases with its fields predicted at every strain.

    Stress and tangent are derivatives of the energy of the predicted fields, which is not below that of the nested
    solve. `error` is about the relative error of that energy.

    Args:
        model: The trained model, with the RVE to stand in for.
        parameters: How to run it; corrections are Newton steps.

    Attributes:
        metric: The norm of stresses in which errors are certified: the compliance at zero strain. Shape (n_s, n_s).
        learns: Nothing.

    Raises:
        CaseError: The RVE is not periodic, has a phase with memory, or its dimension is not that of the model; the
            model was trained on linear phases.
    """

    kinematics = Kinematics.SMALL_STRAIN
    n_state = 0
    learns = False

    def __init__(self, model: TrainedModel, parameters: SPONParameters) -> None:
        self.rve, self.dim = model.rve, model.rve.discretisation.dim
        self.low, self.high = model.low, model.high
        self.state_fields: Mapping[str, slice] = {}
        if model.settings["linear"]:
            raise CaseError("has nonlinear phases, the model was trained on linear ones; expected those", key="rve")
        self._corrections = parameters.corrections
        self._exact = ExactRVE(model.rve)
        network = network_of(model, parameters.device)
        self._fields = HyperelasticFields(model.rve, device=torch_device(parameters.device))
        self._start = self._fields.at_rest
        if parameters.start == "network":
            self._start = HyperelasticSPON(network, self._fields, parameters.precision).predict
        at_rest = self._respond(np.zeros((1, model.rve.discretisation.n_s)), 1)
        self.metric = np.linalg.inv(_numpy(at_rest.tangent)[0])

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the RVE; see `MaterialLaw.evaluate`."""
        found = self._respond(strain, self._corrections)
        normal = None if found.stress_33 is None else _numpy(found.stress_33)
        return LawResponse(
            _numpy(found.stress),
            _numpy(found.tangent),
            np.empty((len(strain), 0)),
            normal,
            _numpy(found.gap),
            within(strain, self.low, self.high),
        )

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return how much one more Newton step changes the stress, relative to it; there is no bound, so infinity."""
        if kind == "bound":
            return np.full(len(strain), np.inf)
        better = _numpy(self._respond(strain, self._corrections + 1).stress)
        change, size = _squared(better - response.stress, self.metric), _squared(response.stress, self.metric)
        return np.sqrt(change / np.maximum(size, _TINY))

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Answer with the nested solve, from the predicted fields."""
        space = self._fields.space

        def start(part: slice) -> Array:
            fluctuation = _numpy(self._predicted(strain[part], self._corrections)[0])
            return space.to_free(fluctuation.reshape(len(fluctuation), -1).T).T

        answer = self._exact.solve(strain, start)
        empty = np.empty((len(strain), 0))
        return LawResponse(answer.stress, answer.tangent, empty, answer.stress_33, np.zeros(len(strain)))

    def enriched(self, strain: Array) -> "HyperelasticSPONLaw":
        """Refuse; see `learns`.

        Raises:
            CaseError: Always.
        """
        raise CaseError("the law 'spon' cannot learn on the way; expected false", key="enrich")

    def micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Return the fields inside the RVE of one point.

        Args:
            strain: Macroscale strain, Mandel. Shape (n_s,).
            state: Not used. Shape (0,).
        """
        solver, space = self._exact.solver, self._fields.space
        fluctuation = _numpy(self._predicted(strain[None], self._corrections)[0])
        history = [one[:, :, 0] for one in solver.virgin_history(1)]
        return micro_fields(self.rve, solver, strain, space.to_free(fluctuation.reshape(-1, 1))[:, 0], history)

    def _predicted(self, strain: Array, corrections: int) -> tuple[Tensor, Tensor]:
        given = torch.as_tensor(strain, device=self._fields.device)
        fluctuation, sensitivity = self._start(given)
        if corrections:
            return self._fields.improve(given, fluctuation, sensitivity, corrections, _INNER)
        return fluctuation, sensitivity

    def _respond(self, strain: Array, corrections: int) -> FieldResponse:
        given, space = torch.as_tensor(strain, device=self._fields.device), self._fields.space
        width = 8 * space.n_dofs * (1 + strain.shape[1]) * _COPIES
        parts = list(chunks(len(strain), width)) or [slice(0, 0)]
        return joined(
            [self._fields.respond(given[part], *self._predicted(strain[part], corrections)) for part in parts]
        )


def _squared(stress: Array, metric: Array) -> Array:
    return np.asarray(np.einsum("ns,st,nt->n", stress, metric, stress))


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.detach().cpu().numpy())
