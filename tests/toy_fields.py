"""A small field surrogate as a plugin: one Jacobi step towards the fluctuations, with a step length that is learned."""

from typing import Literal

import numpy as np

from femops.devices.torch_library import Tensor
from femops.hookspecs import hookimpl
from femops.surrogate import (
    CheckedArrays,
    FamilyParameters,
    FamilyTask,
    Fit,
    SurrogateOptions,
    SurrogateSpec,
    TrainedModel,
)
from femops.surrogate.fields.law import LinearFieldLaw
from femops.surrogate.fields.linear import LinearFields


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


def as_law(model: TrainedModel, parameters: ToyFieldParameters) -> LinearFieldLaw:
    """Return the law with C̄(W), its bound and its exact solve."""
    problem = LinearFields.of([model.rve])
    fields = float(CheckedArrays(model.arrays).take("step_length", 1)[0]) * jacobi_step(problem)
    return LinearFieldLaw(model.rve, problem, fields, problem.preconditioner())


@hookimpl
def femops_surrogates() -> list[SurrogateSpec]:
    """Return the surrogate `toy_fields`."""
    summary = "a Jacobi step"
    spec = SurrogateSpec(
        "toy_fields", summary, ToyFieldOptions, ToyFieldParameters, None, as_law, fit_family=fit_family
    )
    return [spec]
