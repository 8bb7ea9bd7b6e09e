"""Laws of RVEs whose fluctuations are predicted."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from femops.devices.torch_library import Tensor
from femops.law import CertificateKind, LawResponse, StrainMeasure
from femops.notation import Array
from femops.rve.micro import MicroFields, micro_fields
from femops.rve.spec import RVE
from femops.surrogate.exact import ExactRVE
from femops.surrogate.fields.krylov import LinearMap
from femops.surrogate.fields.linear import LinearFields, stress_error_bound

TINY = np.finfo(np.float64).tiny
_INDICATOR_STEPS = 3  # additional conjugate-gradient steps for the indicator


class FieldLaw(ABC):
    """Base of laws that predict the fluctuation of an RVE of elastic phases: no state, access to the nested solve.

    Args:
        rve: The RVE.

    Raises:
        CaseError: A phase has internal state.
    """

    strain_measure = StrainMeasure.SMALL_STRAIN
    n_state = 0

    def __init__(self, rve: RVE) -> None:
        self.rve, self.dim = rve, rve.discretisation.dim
        self.state_fields: Mapping[str, slice] = {}
        self.exact = ExactRVE(rve)

    def micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Return the predicted microscale fields at one point.

        Args:
            strain: Macroscale strain, Mandel [-]. Shape (n_s,).
            state: Not used. Shape (0,).
        """
        solver = self.exact.solver
        virgin = [one[:, :, 0] for one in solver.virgin_state(1)]
        return micro_fields(self.rve, solver, strain, self.free_fluctuation(strain), virgin)

    def exact_micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Return the microscale fields of the nested solve at one point; arguments as in `micro_fields`."""
        return self.exact.micro_fields(strain, self.free_fluctuation(strain))

    @abstractmethod
    def free_fluctuation(self, strain: Array) -> Array:
        """Return the fluctuation at the free dofs of the RVE (n_free,) [length] at a strain (n_s,)."""


class LinearFieldLaw(FieldLaw):
    """An RVE of linear phases with predicted fluctuations of the unit strains.

    C̄(W) = ⟨(1 + B W)ᵀ D (1 + B W)⟩ of the predicted fluctuations W is symmetric, positive definite and an upper bound
    of the stiffness of the nested solve. `error` of the response is the guaranteed bound, which is computed once; it
    does not cover stress_33, whose error is of first order in that of W.

    Args:
        rve: The RVE.
        problem: Its mechanics.
        fields: W. Shape (1, n_nodes, dim, n_s).
        precondition: Approximation of K⁻¹ for the steps of the indicator.

    Attributes:
        stiffness: C̄(W), Mandel [stress]. Shape (n_s, n_s).
        fields: Fluctuations of the unit strains at the free dofs of the RVE [length]. Shape (n_free, n_s).
        metric: Metric of the stress norm of the certificates: the compliance [1/stress]. Shape (n_s, n_s).
    """

    def __init__(self, rve: RVE, problem: LinearFields, fields: Tensor, precondition: LinearMap) -> None:
        super().__init__(rve)
        self._exact_units: tuple[Array, Array | None] | None = None
        self._problem, self._fields, self._precondition = problem, problem.centred(fields), precondition
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
        bound = stress_error_bound(strain, self.stiffness, self._bound)
        return _linear_response(strain, self.stiffness, self._row_33, bound)

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the relative error of the stress in the norm of `metric`: a bound, or the change by further steps."""
        if kind == "bound":
            return stress_error_bound(strain, self.stiffness, self._bound)
        if self._indicator is None:
            better = self._problem.improve(self._fields, _INDICATOR_STEPS, self._precondition)
            self._indicator = self.stiffness - _first(self._problem.homogenized(better))
        change = strain @ self._indicator
        return np.sqrt(quadratic_form(change, self.metric) / np.maximum(quadratic_form(strain, self.stiffness), TINY))

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the nested solve, which is computed once for the unit strains."""
        if self._exact_units is None:
            units = self.exact.solve(np.eye(strain.shape[1]))
            self._exact_units = units.stress, units.stress_33
        return _linear_response(strain, *self._exact_units, np.zeros(len(strain)))

    def free_fluctuation(self, strain: Array) -> Array:
        """Return the fluctuation at the free dofs of the RVE (n_free,) [length] at a strain (n_s,)."""
        return np.asarray(self.fields @ strain)


def quadratic_form(vectors: Array, matrix: Array) -> Array:
    """Return v · matrix · v for vectors v (n, n_s). Shape (n,)."""
    return np.asarray(np.einsum("ns,st,nt->n", vectors, matrix, vectors))


def in_numpy(values: Tensor) -> Array:
    """Return a tensor as a NumPy array in double precision."""
    return np.asarray(values.detach().cpu().double().numpy())


def _linear_response(strain: Array, stiffness: Array, row_33: Array | None, error: Array) -> LawResponse:
    n = len(strain)
    response = LawResponse(strain @ stiffness, np.tile(stiffness, (n, 1, 1)), np.empty((n, 0)), error=error)
    if row_33 is None:
        return response
    return replace(response, stress_33=strain @ row_33, tangent_33=np.tile(row_33, (n, 1)))


def _first(values: Tensor) -> Array:
    """Return the only item of a batch as a NumPy array."""
    return in_numpy(values[0])
