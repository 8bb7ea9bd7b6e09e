"""How far a surrogate is from the nested solve, and how far it thinks it is."""

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
_LEAST_SECONDS = 0.2
# What the truth itself may be wrong by: its own tolerance must not count as a violation of a bound.
_TRUTH = 1e-8


@dataclass(frozen=True)
class Accuracy:
    """Relative errors of a law at strains that it was not trained on; errors of arrays in the Frobenius norm.

    The certificates hold in the norm of the law, and so does the error that they are compared with.

    Attributes:
        over: What the errors are drawn over: norms of the strains [-], or volume fractions [-]. Shape (n,).
        stress: Relative errors of the stress [-]. Shape (n,).
        tangent: Relative errors of the tangent [-]. Shape (n,).
        bound: What the law says that its error is at most, shape (n,); None if it says nothing.
        indicator: What the law estimates its error at, shape (n,); None if it says nothing.
        certified: Relative errors of the stress in the norm of the law. Shape (n,).
    """

    over: Array
    stress: Array
    tangent: Array
    bound: Array | None
    indicator: Array | None
    certified: Array

    @staticmethod
    def joined(parts: Sequence["Accuracy"], over: Array) -> "Accuracy":
        """Return several as one.

        Args:
            parts: They state the same certificates.
            over: What all their errors are drawn over. Shape (n,).
        """
        names = ("stress", "tangent", "bound", "indicator", "certified")
        stated = [name for name in names if getattr(parts[0], name) is not None]
        values = {name: np.concatenate([getattr(part, name) for part in parts]) for name in stated}
        return Accuracy(**{**dict.fromkeys(names), "over": over, **values})  # type: ignore[arg-type]

    def figures(self) -> dict[str, Any]:
        """Return median, 95 % and largest values, and how the certificates compare with the errors."""
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
            figures["bound"]["violations"] = int((self.bound < self.certified - _TRUTH).sum())
        return figures


def accuracy(law: MaterialLaw, strain: Array, stress: Array, tangent: Array) -> Accuracy:
    """Compare a law with the truth.

    Args:
        law: The law.
        strain: Strains, Mandel [-]. Shape (n, n_s).
        stress: True stress [stress]. Shape (n, n_s).
        tangent: True tangent [stress]. Shape (n, n_s, n_s).
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
    """Return the time that law and nested solve need for a point on one process [s], and their ratio.

    Both have run before, so that nothing is compiled while the clock runs.

    Args:
        law: The law.
        nested: What it stands in for.
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
    while runs == 0 or time.perf_counter() - begin < _LEAST_SECONDS:
        law.evaluate(strain, state, 1.0)
        runs += 1
    return (time.perf_counter() - begin) / (runs * len(strain))


def _relative(values: Array, truth: Array) -> Array:
    axes = tuple(range(1, truth.ndim))
    size = np.sqrt((truth**2).sum(axes))
    return np.sqrt(((values - truth) ** 2).sum(axes)) / np.maximum(size, np.finfo(float).tiny)


def _squared(stress: Array, metric: Array) -> Array:
    return np.maximum(np.einsum("ns,st,nt->n", stress, metric, stress), np.finfo(float).tiny)


def _spread(values: Array) -> dict[str, float | None]:
    if not len(values):
        return {"median": None, "p95": None, "max": None}
    return {"median": np.median(values), "p95": np.quantile(values, 0.95), "max": values.max()}
