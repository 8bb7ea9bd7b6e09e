"""SPON law for RVEs of linear phases, with a guaranteed error bound."""

import numpy as np

from femops.law import CertificateKind, LawResponse
from femops.notation import Array
from femops.surrogate import TrainedModel, torch_device
from femops.surrogate.fields.linear import LinearFields, stress_error_bound
from femops.surrogate.torch_library import Tensor, torch
from femops_spon.families import network_of
from femops_spon.law import TINY, SPONLaw, in_numpy, quadratic_form
from femops_spon.options import SPONParameters
from femops_spon.training import predict

_INDICATOR_STEPS = 3  # additional conjugate-gradient steps for the indicator


class LinearSPONLaw(SPONLaw):
    """An RVE of linear phases with predicted fluctuations of the unit strains.

    C̄(W) = ⟨(1 + B W)ᵀ D (1 + B W)⟩ of the predicted fluctuations W is symmetric, positive definite and an upper bound
    of the stiffness of the nested solve. `error` of the response is the guaranteed bound, which is computed once; it
    does not cover stress_33, whose error is of first order in that of W.

    Args:
        model: The trained model with its RVE.
        parameters: Parameters of the law; corrections are conjugate-gradient steps.

    Attributes:
        stiffness: C̄(W), Mandel [stress]. Shape (n_s, n_s).
        fields: Fluctuations of the unit strains at the free dofs of the RVE [length]. Shape (n_free, n_s).
        metric: Metric of the stress norm of the certificates: the compliance [1/stress]. Shape (n_s, n_s).

    Raises:
        CaseError: The RVE is not periodic, or its dimension is not that of the model.
    """

    def __init__(self, model: TrainedModel, parameters: SPONParameters) -> None:
        super().__init__(model)
        self._exact_answer: tuple[Array, Array | None] | None = None
        network = network_of(model, parameters.device)
        problem = LinearFields.of([model.rve], device=torch_device(parameters.device))
        fields = torch.zeros_like(problem.load)
        if parameters.start == "network":
            fields = predict(network, problem, parameters.precision)
        if parameters.corrections:
            fields = problem.improve(fields, parameters.corrections, problem.preconditioner())
        self._problem, self._fields = problem, problem.centred(fields)
        self.stiffness = _first(problem.homogenized(self._fields))
        self.metric = np.linalg.inv(self.stiffness)
        row = problem.row_33(self._fields)
        self._row_33 = None if row is None else _first(row)
        self._bound = _first(problem.bound(self._fields))
        self._indicator: Array | None = None

    @property
    def fields(self) -> Array:
        """Fluctuations of the unit strains at the free dofs of the RVE [length]. Shape (n_free, n_s)."""
        return self._problem.space.to_free(_first(self._fields).reshape(self._problem.space.n_dofs, -1))

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the RVE; see `MaterialLaw.evaluate`."""
        n = len(strain)
        tangent = np.tile(self.stiffness, (n, 1, 1))
        normal = None if self._row_33 is None else strain @ self._row_33
        bound = stress_error_bound(strain, self.stiffness, self._bound)
        return LawResponse(strain @ self.stiffness, tangent, np.empty((n, 0)), normal, bound)

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the relative error of the stress in the norm of `metric`: a bound, or the change by further steps."""
        if kind == "bound":
            return stress_error_bound(strain, self.stiffness, self._bound)
        if self._indicator is None:
            better = self._problem.improve(self._fields, _INDICATOR_STEPS, self._problem.preconditioner())
            self._indicator = self.stiffness - _first(self._problem.homogenized(better))
        change = strain @ self._indicator
        return np.sqrt(quadratic_form(change, self.metric) / np.maximum(quadratic_form(strain, self.stiffness), TINY))

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the nested solve, which is computed once for the unit strains."""
        if self._exact_answer is None:
            units = self.exact.solve(np.eye(strain.shape[1]))
            self._exact_answer = units.stress, units.stress_33
        stiffness, row = self._exact_answer
        n = len(strain)
        normal = None if row is None else strain @ row
        return LawResponse(strain @ stiffness, np.tile(stiffness, (n, 1, 1)), np.empty((n, 0)), normal, np.zeros(n))

    def free_fluctuation(self, strain: Array) -> Array:
        """Return the fluctuation at the free dofs of the RVE (n_free,) [length] at a strain (n_s,)."""
        return np.asarray(self.fields @ strain)


def _first(values: Tensor) -> Array:
    """Return the only item of a batch as a NumPy array."""
    return in_numpy(values[0])
