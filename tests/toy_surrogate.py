"""A small surrogate for tests of the surrogate interface: a polynomial of the strain, fitted by least squares."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from femops.hookspecs import hookimpl
from femops.law import CertificateKind, LawResponse, StrainMeasure
from femops.notation import Array
from femops.plugins import manager
from femops.surrogate import (
    ExactRVE,
    Fit,
    FitTask,
    SurrogateOptions,
    SurrogateParameters,
    SurrogateSpec,
    TrainedModel,
)

CHUNK = 4


class ToyOptions(SurrogateOptions):
    law: Literal["toy"] = "toy"
    degree: int = Field(3, gt=0)
    noise: float = 0.0


class ToyParameters(SurrogateParameters):
    law: Literal["toy"] = "toy"


def powers(n_s: int, degree: int) -> Any:
    """Return the exponents of all monomials except the constant. Shape (n_monomials, n_s)."""
    chosen = [one for d in range(1, degree + 1) for one in combinations_with_replacement(range(n_s), d)]
    return np.array([np.bincount(one, minlength=n_s) for one in chosen])


def monomials(strain: Array, exponents: Any) -> tuple[Array, Array]:
    """Return values (n, m) and derivatives (n, m, n_s) of monomials."""
    values = (strain[:, None] ** exponents).prod(-1)
    slopes = np.empty((*values.shape, strain.shape[1]))
    for axis in range(strain.shape[1]):
        lower = exponents.copy()
        lower[:, axis] = np.maximum(lower[:, axis] - 1, 0)
        slopes[:, :, axis] = exponents[:, axis] * (strain[:, None] ** lower).prod(-1)
    return values, slopes


@dataclass
class ToyTraining:
    """Fit function of the toy surrogate, with a record of its calls.

    Attributes:
        interrupt_at: Chunk of the snapshots before which a fit is interrupted.
        parts: Completed chunks.
        begun: Number of started fits.
    """

    interrupt_at: int | None = None
    parts: list[int] = field(default_factory=list)
    begun: int = 0

    def fit(self, task: FitTask) -> Fit:
        self.begun += 1
        strain, scale = task.snapshots["strain"], float(np.abs(task.high).max())
        target = np.column_stack([task.snapshots[name] for name in ("stress", "stress_33")])
        target += task.options.noise * np.random.default_rng(task.options.seed).normal(size=target.shape)
        exponents = powers(strain.shape[1], task.options.degree)
        values, _ = monomials(strain / scale, exponents)
        m = values.shape[1]
        state = task.checkpoint.load("sums") or {
            "matrix": np.zeros((m, m)),
            "right": np.zeros((m, target.shape[1])),
            "done": np.array(0),
        }
        parts = -(-len(strain) // CHUNK)
        for part in range(int(state["done"]), parts):
            if part == self.interrupt_at:
                raise KeyboardInterrupt
            rows = slice(part * CHUNK, (part + 1) * CHUNK)
            state = {
                "matrix": state["matrix"] + values[rows].T @ values[rows],
                "right": state["right"] + values[rows].T @ target[rows],
                "done": np.array(part + 1),
            }
            task.checkpoint.save("sums", state)
            task.progress("fitting", part + 1, parts, "a note")
            self.parts.append(part)
        weights = np.linalg.solve(state["matrix"] + 1e-10 * np.eye(m), state["right"])
        residual = np.abs(values @ weights - target).max(axis=1)
        settings = {"degree": task.options.degree, "scale": np.float64(scale)}
        return Fit({"weights": weights}, settings, {"residual": residual.max()}, {"Loss": {"residual": residual}})


class ToyLaw:
    strain_measure = StrainMeasure.SMALL_STRAIN
    n_state = 0
    learns = True

    def __init__(self, model: TrainedModel, parameters: ToyParameters) -> None:
        self.model, self.parameters = model, parameters
        self.state_fields: dict[str, slice] = {}
        self.dim = model.rve.discretisation.dim
        self.exact = ExactRVE(model.rve)
        self.metric = np.eye(len(model.low))
        self._exponents = powers(len(model.low), model.settings["degree"])

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        scale, weights = self.model.settings["scale"], self.model.arrays["weights"]
        values, slopes = monomials(strain / scale, self._exponents)
        stress, n_s = values @ weights, strain.shape[1]
        tangent = np.einsum("mt,nms->nts", weights[:, :n_s], slopes) / scale
        valid = ((strain >= self.model.low) & (strain <= self.model.high)).all(axis=1)
        return LawResponse(stress[:, :n_s].copy(), tangent, state.copy(), stress[:, n_s].copy(), None, valid)

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        exact = self.exact.solve(strain)
        error = np.linalg.norm(response.stress - exact.stress, axis=1) / np.linalg.norm(response.stress, axis=1)
        return 2.0 * error if kind == "bound" else 0.5 * error

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        exact = self.exact.solve(strain)
        return LawResponse(exact.stress, exact.tangent, state.copy(), exact.stress_33)

    def enriched(self, strain: Array) -> "ToyLaw":
        return self


def toy_spec(training: ToyTraining) -> SurrogateSpec:
    return SurrogateSpec("toy", "a polynomial", ToyOptions, ToyParameters, training.fit, ToyLaw)


@contextmanager
def installed_toy() -> Iterator[ToyTraining]:
    """Context manager that registers the surrogate `toy` as a plugin; yields its `ToyTraining`."""
    training = ToyTraining()
    spec = toy_spec(training)

    @hookimpl
    def femops_surrogates() -> list[SurrogateSpec]:
        return [spec]

    plugin = SimpleNamespace(femops_surrogates=femops_surrogates)
    manager().register(plugin)
    try:
        yield training
    finally:
        manager().unregister(plugin)
