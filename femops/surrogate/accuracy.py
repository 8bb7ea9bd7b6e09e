"""Errors of a surrogate against the nested solve, effectivity of its certificates, and speed-up."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from femops.law import CertifiedLaw, MaterialLaw
from femops.notation import Array
from femops.rve.law import NestedLaw

_TIMED_NESTED = 16
_TIMED_LAW = 4096
_MIN_SECONDS = 0.2
# Error of the nested solve: its solver tolerance must not count as a violation of a bound.
_NESTED_ERROR = 1e-8


@dataclass(frozen=True)
class Accuracy:
    """Relative errors of a law at test strains; stress and tangent errors in the Frobenius norm.

    Certificates and the error that they are compared with are in the norm of the law.

    Attributes:
        over: Abscissa of error plots: norms of the strains [-], or volume fractions [-]. Shape (n,).
        stress: Relative errors of the stress [-]. Shape (n,).
        tangent: Relative errors of the tangent [-]. Shape (n,).
        bound: Upper bounds of the error stated by the law [-], shape (n,); None if it states none.
        indicator: Error estimates stated by the law [-], shape (n,); None if it states none.
        certified: Relative errors of the stress in the norm of the law [-]. Shape (n,).
    """

    over: Array
    stress: Array
    tangent: Array
    bound: Array | None
    indicator: Array | None
    certified: Array

    @staticmethod
    def joined(parts: Sequence["Accuracy"], over: Array) -> "Accuracy":
        """Concatenate several.

        Args:
            parts: Accuracies with the same certificates.
            over: Abscissa of the concatenated errors. Shape (n,).
        """
        names = ("stress", "tangent", "bound", "indicator", "certified")
        stated = [name for name in names if getattr(parts[0], name) is not None]
        values = {name: np.concatenate([getattr(part, name) for part in parts]) for name in stated}
        return Accuracy(**{**dict.fromkeys(names), "over": over, **values})  # type: ignore[arg-type]

    def figures(self) -> dict[str, Any]:
        """Return median, 95 % quantile and maximum of the errors, and the effectivity of the certificates."""
        figures: dict[str, Any] = {
            "count": len(self.over),
            "stress": _spread(self.stress),
            "tangent": _spread(self.tangent),
        }
        for name, values in (("bound", self.bound), ("indicator", self.indicator)):
            if values is not None:
                finite = np.isfinite(values)
                ratio = values[finite] / np.maximum(self.certified[finite], np.finfo(float).tiny)
                figures[name] = {"effectivity": _spread(ratio), "infinite": int((~finite).sum()), "of": len(values)}
        if self.bound is not None:
            figures["bound"]["violations"] = int((self.bound < self.certified - _NESTED_ERROR).sum())
        return figures


def accuracy(law: MaterialLaw, strain: Array, stress: Array, tangent: Array) -> Accuracy:
    """Compare a law with reference solutions.

    Args:
        law: The law.
        strain: Strains, Mandel [-]. Shape (n, n_s).
        stress: Reference stress [stress]. Shape (n, n_s).
        tangent: Reference tangent [stress]. Shape (n, n_s, n_s).
    """
    response = law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)
    bound = indicator = None
    if isinstance(law, CertifiedLaw):
        bound, indicator = law.certify(strain, response, "bound"), law.certify(strain, response, "indicator")
    errors = _relative(response.stress, stress), _relative(response.tangent, tangent)
    certified = errors[0]
    if isinstance(law, CertifiedLaw):
        certified = np.sqrt(_squared(response.stress - stress, law.metric) / _squared(response.stress, law.metric))
    return Accuracy(np.linalg.norm(strain, axis=1), *errors, bound, indicator, certified)


def speed(law: MaterialLaw, nested: NestedLaw, strain: Array) -> dict[str, float]:
    """Return the times per point of the law and of the nested solve on one process [s], and their ratio.

    Both are warmed up first, so that no compilation is timed.

    Args:
        law: The surrogate.
        nested: The nested law that it replaces.
        strain: Strains, Mandel [-]. Shape (n, n_s).
    """
    few = strain[:_TIMED_NESTED]
    many = np.resize(strain, (_TIMED_LAW, strain.shape[1]))
    nested.evaluate(few[:1], np.zeros((1, nested.n_state)), 1.0)
    law.evaluate(many, np.zeros((len(many), law.n_state)), 1.0)
    slow, fast = _seconds_per_point(nested, few), _seconds_per_point(law, many)
    return {"law": fast, "nested": slow, "ratio": slow / fast}


def _seconds_per_point(law: MaterialLaw, strain: Array) -> float:
    state, runs, begin = np.zeros((len(strain), law.n_state)), 0, time.perf_counter()
    while runs == 0 or time.perf_counter() - begin < _MIN_SECONDS:
        law.evaluate(strain, state, 1.0)
        runs += 1
    return (time.perf_counter() - begin) / (runs * len(strain))


def _relative(values: Array, reference: Array) -> Array:
    axes = tuple(range(1, reference.ndim))
    size = np.sqrt((reference**2).sum(axes))
    return np.sqrt(((values - reference) ** 2).sum(axes)) / np.maximum(size, np.finfo(float).tiny)


def _squared(stress: Array, metric: Array) -> Array:
    return np.maximum(np.einsum("ns,st,nt->n", stress, metric, stress), np.finfo(float).tiny)


def _spread(values: Array) -> dict[str, float | None]:
    if not len(values):
        return {"median": None, "p95": None, "max": None}
    return {"median": np.median(values), "p95": np.quantile(values, 0.95), "max": values.max()}
