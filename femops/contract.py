"""Checks of attributes and responses of a law, in a run and in `femops.checks` alike."""

from typing import Any

import numpy as np

from femops.errors import CaseError
from femops.law import LawResponse, MaterialLaw, StrainMeasure
from femops.notation import Array

RESULT_FIELDS = frozenset({"displacement", "reaction", "strain", "stress", "von_mises", "state", "error", "law_error"})
"""Names of result fields, which a state field must not use."""
_FLOAT, _BOOL = np.dtype(np.float64), np.dtype(np.bool_)
_ATTRIBUTES = ("strain_measure", "dim", "n_state", "state_fields", "evaluate")


def read_only(array: Array) -> Array:
    """Return a read-only view of an array."""
    view = array.view()
    view.flags.writeable = False
    return view


def check_attributes(law: MaterialLaw) -> None:
    """Check the attributes of a law.

    Raises:
        CaseError: An attribute is missing or invalid, the strain measure is not supported, or a state field has the
            name of a result field.
    """
    missing = [name for name in _ATTRIBUTES if not hasattr(law, name)]
    _demand(not missing, f"{type(law).__name__} lacks {', '.join(missing)} of MaterialLaw")
    known = ", ".join(str(one) for one in StrainMeasure)
    _demand(
        isinstance(law.strain_measure, StrainMeasure), f"strain_measure is {law.strain_measure!r}, expected {known}"
    )
    _demand(law.dim in (2, 3), f"dim is {law.dim!r}, expected 2 or 3")
    whole = isinstance(law.n_state, int) and not isinstance(law.n_state, bool)
    _demand(whole, f"n_state is {law.n_state!r}, expected an int")
    _demand(law.n_state >= 0, f"n_state is {law.n_state}, expected 0 or more")
    for name, part in law.state_fields.items():
        named = isinstance(name, str) and name != "" and "/" not in name
        _demand(named, f"state_fields has the name {name!r}, expected text without '/'")
        _demand(name not in RESULT_FIELDS, f"state_fields[{name!r}] is named like a field of the results")
        problem = f"state_fields[{name!r}] is {part}, expected a part of the {law.n_state} state variables"
        bounded = isinstance(part, slice) and isinstance(part.start, int) and isinstance(part.stop, int)
        _demand(bounded, problem)
        _demand(part.step in (None, 1) and 0 <= part.start < part.stop <= law.n_state, problem)


def check_response(
    law: MaterialLaw,
    response: LawResponse,
    strain: Array,
    state: Array,
    where: str = "",
    committed: Array | None = None,
) -> None:
    """Check types and shapes of a response, and that it shares no memory with the inputs.

    The values of the large arrays are not read; non-finite values are left to the caller.

    Args:
        law: The law.
        response: Its response.
        strain: Strain at which it was evaluated. Shape (n_qp, n_s).
        state: Committed state. Shape (n_qp, n_state).
        where: Description of the evaluation, for error messages.
        committed: The committed state, if `state` is a copy of it. Shape (any, n_state).

    Raises:
        CaseError: The response violates the contract of `LawResponse`.
    """
    at = f" {where}" if where else ""
    if not isinstance(response, LawResponse):
        raise CaseError(f"evaluate{at} returns {type(response).__name__}, expected a LawResponse")
    (n_qp, n_s), plane = strain.shape, law.dim == 2
    shapes = {"stress": (n_qp, n_s), "tangent": (n_qp, n_s, n_s), "state": (n_qp, law.n_state)}
    for name, shape in {**shapes, "stress_33": (n_qp,)}.items() if plane else shapes.items():
        check_array(getattr(response, name), name, shape, at)
    if plane and response.tangent_33 is not None:
        check_array(response.tangent_33, "tangent_33", (n_qp, n_s), at)
    for name in ("stress_33", "tangent_33"):
        _demand(plane or getattr(response, name) is None, f"{name}{at} is given, expected None in 3D")
    for name in ("error", "solver_residual"):
        if getattr(response, name) is not None:
            check_error(getattr(response, name), name, n_qp, at)
    if response.valid is not None:
        check_array(response.valid, "valid", (n_qp,), at, _BOOL)
    for name in shapes:
        for given, array in (("strain", strain), ("state", state), ("state", committed)):
            shared = array is not None and np.may_share_memory(getattr(response, name), array)
            _demand(not shared, f"{name}{at} is a view of the input {given}, expected a new array")


def check_error(value: object, name: str, n_qp: int, at: str = "") -> None:
    """Check the error estimates of a law: not negative; infinite or NaN where unknown.

    Raises:
        CaseError: The array has a wrong type or shape, or negative values.
    """
    check_array(value, name, (n_qp,), at)
    _demand(not (np.asarray(value) < 0.0).any(), f"{name}{at} is negative somewhere, expected 0 or more")


def check_array(
    value: object, name: str, shape: tuple[int, ...], at: str = "", dtype: "np.dtype[Any]" = _FLOAT
) -> None:
    """Check type and shape of one array.

    Raises:
        CaseError: It is not a numpy array, or has a wrong shape or dtype.
    """
    if not isinstance(value, np.ndarray):
        raise CaseError(f"{name}{at} is {type(value).__name__}, expected a numpy array")
    _demand(value.shape == shape, f"{name}{at} has the shape {value.shape}, expected {shape}")
    _demand(value.dtype == dtype, f"{name}{at} has the type {value.dtype}, expected {dtype}")


def _demand(condition: bool, problem: str) -> None:
    if not condition:
        raise CaseError(problem)
