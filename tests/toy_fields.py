"""A small field surrogate as a plugin: one Jacobi step towards the fluctuations, with a step length that is learned."""

from typing import Literal

import numpy as np

from femops.hookspecs import hookimpl
from femops.law import CertificateKind, LawResponse, StrainMeasure
from femops.notation import Array
from femops.surrogate import (
    CheckedArrays,
    ExactRVE,
    FamilyParameters,
    FamilyTask,
    Fit,
    SurrogateOptions,
    SurrogateSpec,
    TrainedModel,
)
from femops.surrogate.fields.linear import LinearFields, stress_error_bound
from femops.surrogate.torch_library import Tensor


class ToyFieldOptions(SurrogateOptions):
    law: Literal["toy_fields"] = "toy_fields"


class ToyFieldParameters(FamilyParameters):
    law: Literal["toy_fields"] = "toy_fields"


def jacobi_step(problem: LinearFields) -> Tensor:
    """Return −diag(K)⁻¹ L."""
    return -problem.load / problem.stiffness.diagonal[..., None]


def fit_family(task: FamilyTask) -> Fit:
    """Find the step length of least energy: C̄(α W) = C̄(0) + α A + α² B, summed relative to the exact C̄."""
    linear = quadratic = 0.0
    for rve, exact in zip(task.rves, task.snapshots["tangent"], strict=True):
        problem = LinearFields.of([rve])
        step = jacobi_step(problem)
        minus, zero, plus = (problem.homogenized(factor * step)[0].numpy() for factor in (-1.0, 0.0, 1.0))
        linear += np.trace(np.linalg.solve(exact, 0.5 * (plus - minus)))
        quadratic += np.trace(np.linalg.solve(exact, 0.5 * (plus + minus) - zero))
    return Fit({"step_length": np.array([-0.5 * linear / quadratic])}, {})


class ToyFieldLaw:
    """C̄(W) E with the energy bound of `femops.surrogate.fields.linear`."""

    strain_measure = StrainMeasure.SMALL_STRAIN
    n_state = 0

    def __init__(self, model: TrainedModel, parameters: ToyFieldParameters) -> None:
        self.rve, self.dim, self.state_fields = model.rve, model.rve.discretisation.dim, dict[str, slice]()
        problem = LinearFields.of([model.rve])
        fields = problem.centred(float(CheckedArrays(model.arrays).take("step_length", 1)[0]) * jacobi_step(problem))
        row_33 = problem.row_33(fields)
        self.stiffness, self._bound = (one[0].numpy() for one in (problem.homogenized(fields), problem.bound(fields)))
        self._row_33 = None if row_33 is None else row_33[0].numpy()
        self.metric = np.linalg.inv(self.stiffness)
        self._exact = ExactRVE(model.rve)

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        stress_33 = None if self._row_33 is None else strain @ self._row_33
        error = stress_error_bound(strain, self.stiffness, self._bound)
        tangent = np.tile(self.stiffness, (len(strain), 1, 1))
        return LawResponse(strain @ self.stiffness, tangent, state.copy(), stress_33, error)

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        return stress_error_bound(strain, self.stiffness, self._bound)

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        exact = self._exact.solve(strain)
        return LawResponse(exact.stress, exact.tangent, state.copy(), exact.stress_33, np.zeros(len(strain)))


@hookimpl
def femops_surrogates() -> list[SurrogateSpec]:
    """Return the surrogate `toy_fields`."""
    summary = "a Jacobi step"
    spec = SurrogateSpec(
        "toy_fields", summary, ToyFieldOptions, ToyFieldParameters, None, ToyFieldLaw, fit_family=fit_family
    )
    return [spec]
