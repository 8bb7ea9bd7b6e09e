"""The law of a trained EquiNO in its certified mode."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from femops.devices import accelerator
from femops.errors import CaseError
from femops.law import CertificateKind, LawResponse, StrainMeasure
from femops.notation import Array
from femops.surrogate import CheckedArrays, TrainedModel, within
from femops.surrogate.store import of_arrays
from femops_equino.networks.stored import stored, stored_weights
from femops_equino.options import EquiNOOptions, EquiNOParameters
from femops_equino.reduced.adjoint import Adjoint
from femops_equino.reduced.basis import Basis
from femops_equino.reduced.certificate import Quadratics, energy_gap, relative_error, stored_points
from femops_equino.reduced.model import DEVIATOR, ReducedModel, ReducedSolution

if TYPE_CHECKING:
    from femops.rve.spec import RVE
    from femops_equino.microscale import Microscale

MOST_CORRECTIONS = 12


class EquiNOLaw:
    """Law of a reduced RVE with an error certificate.

    The state of a point holds its mode coefficients in the last step minus those of linear elasticity, so that zeros
    are the virgin state; there is no state with `corrections` 0 or adjoint. `evaluate` gives no error: its
    `solver_residual` is the relative Newton decrement of the reduced problem (an estimate with the adjoint, None with
    the potential), which excludes the errors of modes and cubature. `certify` covers the whole error.

    Args:
        model: The trained model.
        parameters: Parameters in the case.

    Attributes:
        metric: The norm of stresses in which errors are certified: √(s · metric · s). Shape (n_s, n_s).
        learns: Whether modes can be added by `enriched`; False with `corrections` 0 or adjoint.

    Raises:
        CaseError: A requested network or spline was not trained, or the requested device is not available.
    """

    strain_measure = StrainMeasure.SMALL_STRAIN

    def __init__(self, model: TrainedModel, parameters: EquiNOParameters) -> None:
        self.trained, self.parameters = model, parameters
        self.dim = model.dim
        self.low, self.high = model.low, model.high
        self.learns = parameters.corrections not in (0, "adjoint")
        n_d, n_e = DEVIATOR[self.dim].shape
        self._arrays = arrays = CheckedArrays(model.arrays, n_s=len(model.low), n_e=n_e, n_d=n_d)
        self.basis = Basis.from_arrays(arrays)
        self.model = ReducedModel.from_arrays("model", arrays, "C")
        self.quadratics = Quadratics.from_arrays(arrays)
        stored_points(arrays)
        self.metric = self.quadratics.metric
        self.n_state = self.model.n_modes if self.learns else 0
        self.state_fields: Mapping[str, slice] = {}
        self._device: Any = accelerator(parameters.device)
        self._networks = stored(arrays, parameters.precision, self._device)
        self._spline: Any = None
        if parameters.potential == "spline":
            from femops_equino.networks import spline  # loads SciPy

            self._spline = spline.stored(arrays, parameters.precision)
        self._states = arrays.take("states", "T", "n_s")
        self._check()

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the reduced RVE; see `MaterialLaw.evaluate`."""
        valid = within(strain, self.low, self.high)
        if self.parameters.corrections == 0:
            return self._uncorrected(strain, valid)
        if self.parameters.corrections == "adjoint":
            return self._adjoint_response(strain, valid)
        solution = self._solve(strain, state)
        largest = self.parameters.tolerance if self.parameters.corrections == "auto" else np.finfo(np.float64).max
        valid &= solution.decrement <= largest  # a response that has not converged is not valid
        state = self._state(strain, solution.coefficients)
        return LawResponse(
            solution.stress,
            solution.tangent,
            state,
            solution.stress_33,
            valid=valid,
            solver_residual=solution.decrement,
            tangent_33=solution.tangent_33,
        )

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the bound or indicator of the relative error of the stresses, in the norm of `metric`."""
        coefficients = self._coefficients_of(strain, response.state)
        if kind == "bound":
            return self.microscale.bound(self.quadratics, self.model, strain, coefficients, response.stress)
        gap = energy_gap(self.microscale.indicator_points, self.quadratics, self.model, strain, coefficients)
        return relative_error(strain, response.stress, gap, self.metric, kind)

    def energy_bounds(self, strain: Array, response: LawResponse) -> tuple[Array, Array]:
        """Return lower and upper bounds of the mean energy of the RVE [stress]. Shape (n,) each."""
        coefficients = self._coefficients_of(strain, response.state)
        gap = energy_gap(self.microscale.full.points, self.quadratics, self.model, strain, coefficients)
        upper = self.microscale.full.model.energy(self.model.extended(strain, gap.coefficients))
        return upper - gap.energy, upper

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Solve the RVE itself, starting from the fields of the reduced model."""
        coefficients = self._solve(strain, state).coefficients
        answer = self.microscale.exact.solve(strain, *self._guesses(strain, coefficients))
        state = self._state(strain, coefficients)
        error = np.zeros(len(strain))
        return LawResponse(answer.stress, answer.tangent, state, answer.stress_33, error, tangent_33=answer.tangent_33)

    def enriched(self, strain: Array) -> "EquiNOLaw":
        """Return the law enriched by modes of exact solutions at given strains, with its range extended to them.

        Raises:
            CaseError: The law cannot be enriched; see `learns`.
        """
        if not self.learns:
            problem = f"{self.parameters.corrections} given, but networks cannot learn on the way"
            raise CaseError(f"{problem}; expected auto or a number of corrections with enrich", key="corrections")
        low, high = np.minimum(self.low, strain.min(axis=0)), np.maximum(self.high, strain.max(axis=0))
        options = EquiNOOptions.model_validate(self.trained.settings["options"])
        new = self.microscale.enriched(options, low, high, self._states, strain)
        arrays = {**self.trained.arrays, **new}
        return EquiNOLaw(replace(self.trained, arrays=arrays, low=low, high=high), self.parameters)

    def micro_fields(self, strain: Array, state: Array) -> Any:
        """Return the fields inside the RVE of one point; see `MicroscaleLaw` and `Microscale.fields`."""
        return self.microscale.micro_fields(strain)

    def exact_micro_fields(self, strain: Array, state: Array) -> Any:
        """Return the fields of `solve_exactly` at one point; arguments as in `micro_fields`."""
        coefficients = self._solve(strain[None], state[None]).coefficients[0]
        return self.microscale.exact.micro_fields(strain, self.basis.displacement @ coefficients)

    @property
    def rve(self) -> "RVE":
        """The RVE that this law approximates."""
        return self.microscale.rve

    @cached_property
    def microscale(self) -> "Microscale":
        """What needs the RVE itself; built on first use, since evaluation needs the stored arrays only.

        Raises:
            CaseError: The model is damaged.
        """
        from femops_equino.microscale import Microscale  # loads the libraries of RVEs

        with of_arrays(self.trained.folder):
            return Microscale(self.trained.rve, self._arrays, self.basis)

    def _check(self) -> None:
        parameters = self.parameters
        if parameters.potential == "spline":
            if self._spline is None:
                problem = "the model has no spline; expected network, or a study with surrogate.spline: 17"
                raise CaseError(problem, key="potential")
            if parameters.device == "cuda":
                raise CaseError("'cuda' given, but a spline runs on the CPU; expected auto or cpu", key="device")
        needed = parameters.start == "network" or not (self.learns or self._spline is not None)
        if needed and not self._networks:
            expected = "expected corrections: auto, 1, 2, ... with start: auto, last or zero"
            raise CaseError(f"the model has no networks; {expected}", key="start")

    @cached_property
    def _on_device(self) -> Any:
        """The reduced model on the accelerator."""
        from femops_equino.kernels.torch_newton import TorchNewton  # imports torch

        return TorchNewton(self.model, self._device, self.parameters.precision)

    @cached_property
    def _adjoint(self) -> Any:
        weights = stored_weights(self._arrays, "coefficients")
        if self._device is None:
            return Adjoint(weights, self.model, self.parameters.precision)
        from femops_equino.kernels.torch_adjoint import TorchAdjoint  # imports torch

        return TorchAdjoint(weights, self.model, self._device, self.parameters.precision)

    def _solve(self, strain: Array, state: Array) -> ReducedSolution:
        """Apply Newton corrections to the initial guess."""
        corrections = self.parameters.corrections
        counted = isinstance(corrections, int) and corrections > 0
        largest = int(corrections) if counted else MOST_CORRECTIONS
        tolerance = 0.0 if counted else self.parameters.tolerance
        start = self._start(strain, state)
        if self._device is not None:
            return self._on_device.solve(strain, start, largest, tolerance)
        return self.model.solve(strain, start, largest, tolerance, self.parameters.precision)

    def _guesses(self, strain: Array, coefficients: Array) -> tuple[Callable[[slice], Array], Callable[[slice], Array]]:
        """Return callables for the initial fluctuation and sensitivity of a range of points in the exact solver."""
        z = self.model.extended(strain, coefficients)
        n_s, n_e = strain.shape[1], self.model.n_e

        def start(part: slice) -> Array:
            return np.asarray(coefficients[part] @ self.basis.displacement.T)

        def sensitivity(part: slice) -> Array:
            _, hessian = self.model.derivatives(z[part])
            slope = -np.linalg.solve(hessian[:, n_e:, n_e:], hessian[:, n_e:, :n_s])
            return np.asarray(np.tensordot(slope, self.basis.displacement, axes=([1], [1])).transpose(0, 2, 1))

        return start, sensitivity

    def _start(self, strain: Array, state: Array) -> Array:
        elastic = strain @ self.basis.elastic.T
        if self._networks and self.parameters.start in ("auto", "network"):
            inside = np.clip(strain, self.low, self.high)  # the network is evaluated in its training range only
            guess = self._networks["coefficients"](inside)
            beyond = elastic - inside @ self.basis.elastic.T
            n_learned = guess.shape[1]
            elastic[:, :n_learned] = guess + beyond[:, :n_learned]  # modes added after training start from elasticity
            return elastic
        forgets = self.parameters.start == "zero" or not self.n_state
        return elastic if forgets else self._coefficients(strain, state)

    def _coefficients(self, strain: Array, state: Array) -> Array:
        """Return the coefficients of a state at given strains; the inverse of `_state`."""
        return strain @ self.basis.elastic.T + state

    def _state(self, strain: Array, coefficients: Array) -> Array:
        return (coefficients - strain @ self.basis.elastic.T)[:, : self.n_state]

    def _adjoint_response(self, strain: Array, valid: Any) -> LawResponse:
        """Return the adjoint-corrected stress of the reduced model, with the tangents of the networks."""
        response = self._adjoint.evaluate(strain, np.clip(strain, self.low, self.high))
        tangent = self._networks["potential"](strain)[2]
        row = self._networks["normal"](strain)[1] if self.dim == 2 else None
        valid &= np.isfinite(response.decrement)
        return _stateless(response.stress, tangent, response.stress_33, row, valid, response.decrement)

    def _uncorrected(self, strain: Array, valid: Any) -> LawResponse:
        if self._spline is not None:
            from femops_equino.networks import spline

            _, stress, tangent, stress_33 = spline.evaluate(self._spline, strain)
            return _stateless(stress, tangent, stress_33, None, valid)
        _, stress, tangent = self._networks["potential"](strain)
        normal, row = self._networks["normal"](strain) if self.dim == 2 else (None, None)
        return _stateless(stress, tangent, normal, row, valid)

    def _coefficients_of(self, strain: Array, state: Array) -> Array:
        """Return the coefficients of the fields of a response."""
        if self.parameters.corrections == 0:  # a potential has no fields; use those of the reduced model
            return self._solve(strain, state).coefficients
        if self.parameters.corrections == "adjoint":
            return self._start(strain, state)
        return self._coefficients(strain, state)


def _stateless(
    stress: Any, tangent: Any, stress_33: Any, tangent_33: Any, valid: Any, decrement: Array | None = None
) -> LawResponse:
    """Return a response without a state, of arrays in any precision."""

    def double(values: Any) -> Any:
        return None if values is None else np.asarray(values, dtype=np.float64)

    state, normal, row = np.zeros((len(stress), 0)), double(stress_33), double(tangent_33)
    return LawResponse(double(stress), double(tangent), state, normal, None, valid, decrement, row)
