"""A law as other codes call it: checked, and stopping where its response must not be used."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from femops.contract import check_attributes, check_response
from femops.errors import CaseError, NotConverged, Refused
from femops.law import LawResponse, MaterialLaw
from femops.notation import Array, n_strain

OutOfRange = Literal["raise", "nan", "extrapolate"]
"""Treatment of responses that the law declares invalid: stop, return NaN to the step control of the host, use them."""
Failure = Literal["raise", "nan"]
"""Treatment of points at which the law does not converge: stop, or return NaN to the step control of the host."""


@dataclass
class HostLaw:
    """A law with the decisions of its user.

    Args:
        law: The law.
        out_of_range: `raise` stops at the first response that the law declares invalid, also within the iterations of
            the host. `nan` returns NaN in its place, so that no such iterate is accepted and hosts with a step control
            cut back. `extrapolate` uses it; `response.valid` and `response.error` tell what was used.
        not_converged: `raise` hands on NotConverged, `nan` returns NaN, on which hosts with a step control cut back.
        dt: Length of the increments [time]; rate-dependent laws read it, and the host or its user keeps it up to date.

    Attributes:
        response: Response of the last evaluation.

    Raises:
        CaseError: The law violates the contract, or a decision is unknown.
    """

    law: MaterialLaw
    out_of_range: OutOfRange = "raise"
    not_converged: Failure = "raise"
    dt: float = 1.0
    response: LawResponse | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_attributes(self.law)
        for name, kind in (("out_of_range", OutOfRange), ("not_converged", Failure)):
            given, known = getattr(self, name), get_args(kind)
            if given not in known:
                raise CaseError(f"{given!r} given, expected {', '.join(known)}", key=name)
        self._input = np.empty(0), np.empty(0), np.nan

    def evaluate(self, strain: Array, state: Array) -> LawResponse:
        """Evaluate the law; the same input as in the last call is answered without an evaluation.

        Args:
            strain: Total strain, Mandel [-]. Shape (n_qp, n_s).
            state: Committed state. Shape (n_qp, n_state).

        Raises:
            Refused: The law declares responses invalid and `out_of_range` is `raise`.
            NotConverged: The law did not converge and `not_converged` is `raise`.
            CaseError: The response violates the contract.
        """
        if self.response is not None and self._is_last_input(strain, state):
            return self.response
        strain, state = np.array(strain, dtype=np.float64, order="C"), np.array(state, dtype=np.float64, order="C")
        try:
            response = self.law.evaluate(strain, state, self.dt)
            check_response(self.law, response, strain, state)
        except NotConverged:
            if self.not_converged == "raise":
                raise
            response = self._failed(len(strain))
        if self.out_of_range != "extrapolate" and response.valid is not None and not response.valid.all():
            if self.out_of_range == "raise":
                raise Refused(_first_invalid(strain, response))
            response = replace(response, stress=np.where(response.valid[:, None], response.stress, np.nan))
        self.response, self._input = response, (strain, state, self.dt)
        return response

    def virgin_state(self, n_qp: int) -> Array:
        """Return the initial state of `n_qp` points. Shape (n_qp, n_state)."""
        return np.zeros((n_qp, self.law.n_state))

    def _is_last_input(self, strain: Array, state: Array) -> bool:
        last_strain, last_state, dt = self._input
        return self.dt == dt and np.array_equal(strain, last_strain) and np.array_equal(state, last_state)

    def _failed(self, n_qp: int) -> LawResponse:
        n_s = n_strain(self.law.dim)
        shapes = {"stress": (n_qp, n_s), "tangent": (n_qp, n_s, n_s), "state": (n_qp, self.law.n_state)}
        if self.law.dim == 2:
            shapes |= {"stress_33": (n_qp,)}
        return LawResponse(**{name: np.full(shape, np.nan) for name, shape in shapes.items()})


def _first_invalid(strain: Array, response: LawResponse) -> str:
    wrong = np.flatnonzero(~response.valid)
    where = ", ".join(f"{value:.4g}" for value in strain[wrong[0]])
    return f"{len(wrong)} of {len(strain)} strains are out of the range of the law, the first [{where}] (Mandel)"
