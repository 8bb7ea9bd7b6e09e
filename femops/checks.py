"""Checks of the law contract, for the tests of every law: built-in, nested or from a plugin.

They need no test framework: `check_law(law)` raises AssertionError and says what is wrong. `check_arrays` is for laws
that are loaded from stored models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from femops import notation
from femops.errors import CaseError
from femops.law import Kinematics, LawResponse, MaterialLaw
from femops.notation import Array

_DT = 1.0
_DIFFERENCE_STEP = 1e-5  # of the strain scale: round-off and truncation both stay below 1e-8


def check_law(
    law: MaterialLaw,
    *,
    strain_scale: float = 0.02,
    n_points: int = 6,
    seed: int = 0,
    rtol_tangent: float = 1e-5,
) -> None:
    """Check that a law keeps the contract of `MaterialLaw`.

    Checked on random strains, from the virgin state and, for a law with state, from the state that one increment
    leaves behind: shapes and types, purity, inputs left alone, batch = loop, the empty batch, the tangent against
    central differences of the stress, and the virgin state. Points where the stress has a kink, for example at the
    onset of yield, are left out of the differences.

    Args:
        law: The law.
        strain_scale: Largest strain component [-].
        n_points: Number of random strains.
        seed: Seed of the random strains.
        rtol_tangent: Largest error of a point's tangent relative to its norm [-].

    Raises:
        AssertionError: The law breaks the contract.
    """
    _check_attributes(law)
    rng = np.random.default_rng(seed)
    shape = (n_points, notation.n_strain(law.dim))
    first = strain_scale * rng.uniform(-1.0, 1.0, shape)
    second = first + 0.5 * strain_scale * rng.uniform(-1.0, 1.0, shape)
    virgin = np.zeros((n_points, law.n_state))
    _check_virgin(law, strain_scale)
    _check_empty(law)
    reached = _check_batch(law, first, virgin, rtol_tangent, strain_scale, "from the virgin state")
    if law.n_state:
        _check_batch(law, second, reached.state, rtol_tangent, strain_scale, "from a reached state")


def check_arrays(
    arrays: Mapping[str, npt.NDArray[Any]],
    load: Callable[[dict[str, npt.NDArray[Any]]], object],
    any_length: Sequence[str] = (),
) -> None:
    """Check that a stored model is refused, by the name of an array, when any of its arrays is not what it should be.

    Each array in turn is left out, cut short, turned, made NaN, given another type, and exchanged for the next ones of
    another shape. Exchanges of equal shapes are left to the checksum of the model.

    Args:
        arrays: Those of a trained model.
        load: Makes a law, or whatever the model is for, from arrays.
        any_length: Arrays that may have any number of rows.

    Raises:
        AssertionError: Wrong arrays are taken for right ones.
    """
    load(dict(arrays))
    names = sorted(arrays)
    for position, name in enumerate(names):
        for what, damaged in _damages(arrays, name, names[position + 1 :] + names[:position]):
            if what == "cut short" and name in any_length:
                continue
            try:
                load(damaged)
            except CaseError as error:
                problem = str(error)
                assert "array '" in problem and "\n" not in problem, f"{name} {what}: {problem!r} names no array"
                continue
            raise AssertionError(f"a model whose array {name!r} is {what} is loaded, expected a CaseError")


def _damages(
    arrays: Mapping[str, npt.NDArray[Any]], name: str, others: Sequence[str]
) -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
    values = np.asarray(arrays[name])
    yield "missing", {key: one for key, one in arrays.items() if key != name}
    other_type = np.float32 if values.dtype == np.float64 else np.float64
    changed = {"of another type": values.astype(other_type), "longer by an axis": values[None]}
    if values.size:
        changed |= {"cut short": values[:-1] if values.ndim else values[None][:0]}
    if values.size and np.issubdtype(values.dtype, np.floating):
        changed |= {"not a number": np.full_like(values, np.nan)}
    if values.T.shape != values.shape:
        changed |= {"turned": np.ascontiguousarray(values.T)}
    yield from ((what, {**arrays, name: one}) for what, one in changed.items())
    for other in [one for one in others if np.shape(arrays[one]) != values.shape][:2]:
        yield f"exchanged for {other}", {**arrays, name: arrays[other], other: values}


def _check_attributes(law: MaterialLaw) -> None:
    assert isinstance(law, MaterialLaw), f"{type(law).__name__} lacks an attribute of MaterialLaw"
    assert isinstance(law.kinematics, Kinematics), f"kinematics is {law.kinematics!r}, expected a Kinematics"
    assert law.dim in (2, 3), f"dim is {law.dim!r}, expected 2 or 3"
    assert isinstance(law.n_state, int), f"n_state is {law.n_state!r}, expected an int"
    assert law.n_state >= 0, f"n_state is {law.n_state}, expected 0 or more"
    for name, part in law.state_fields.items():
        inside = part.step in (None, 1) and 0 <= part.start < part.stop <= law.n_state
        assert inside, f"state_fields[{name!r}] is {part}, expected a part of the {law.n_state} state variables"


def _check_virgin(law: MaterialLaw, strain_scale: float) -> None:
    """Check that zeros are the virgin state: no stress at no strain."""
    response = _evaluate(law, np.zeros((1, notation.n_strain(law.dim))), np.zeros((1, law.n_state)))
    _check_response(law, response, 1, "at zero strain and state")
    allowed = 1e-9 * strain_scale * np.linalg.norm(response.tangent)
    largest = np.abs(response.stress).max()
    assert largest <= allowed, f"zero strain in the virgin state gives the stress {largest:.3g}, expected zero"


def _check_empty(law: MaterialLaw) -> None:
    response = _evaluate(law, np.zeros((0, notation.n_strain(law.dim))), np.zeros((0, law.n_state)))
    _check_response(law, response, 0, "for an empty batch")


def _check_batch(
    law: MaterialLaw, strain: Array, state: Array, rtol_tangent: float, strain_scale: float, where: str
) -> LawResponse:
    """Check one batch and return its response."""
    response = _evaluate(law, strain, state)
    _check_response(law, response, len(strain), where)
    _evaluate(law, -0.5 * strain[::-1], np.zeros_like(state))  # a law with hidden history would remember this
    _check_same(_evaluate(law, strain, state), response, 1e-12, f"the same input twice, {where}")
    for i in range(len(strain)):
        one = _evaluate(law, strain[i : i + 1], state[i : i + 1])
        _check_same(one, response, 1e-9, f"point {i} alone and in the batch, {where}", slice(i, i + 1))
    _check_tangent(law, strain, state, response, rtol_tangent, _DIFFERENCE_STEP * strain_scale, where)
    return response


def _evaluate(law: MaterialLaw, strain: Array, state: Array) -> LawResponse:
    """Evaluate a law on arrays that refuse to be written to, and check that they keep their values."""
    given = strain.copy(), state.copy()
    for array in given:
        array.flags.writeable = False
    response = law.evaluate(*given, _DT)
    for name, array, original in zip(("strain", "state"), given, (strain, state), strict=True):
        assert np.array_equal(array, original), f"evaluate changed its input {name}"
        for part in ("stress", "tangent", "state"):
            shared = np.shares_memory(getattr(response, part), array)
            assert not shared, f"the response's {part} is a view of the input {name}, expected a new array"
    return response


def _check_response(law: MaterialLaw, response: LawResponse, n_qp: int, where: str) -> None:
    """Check shapes, types and finite values."""
    n_s = notation.n_strain(law.dim)
    required = {"stress": (n_qp, n_s), "tangent": (n_qp, n_s, n_s), "state": (n_qp, law.n_state)}
    if law.dim == 2:
        required["stress_33"] = (n_qp,)
    else:
        assert response.stress_33 is None, f"stress_33 {where} is given, expected None in 3D"
    for name, shape in required.items():
        _check_array(getattr(response, name), name, shape, np.dtype(np.float64), where)
    if response.error is not None:
        _check_array(response.error, "error", (n_qp,), np.dtype(np.float64), where)
        assert (response.error >= 0.0).all(), f"error {where} is negative somewhere"
    if response.valid is not None:
        _check_array(response.valid, "valid", (n_qp,), np.dtype(np.bool_), where)


def _check_array(value: object, name: str, shape: tuple[int, ...], dtype: "np.dtype[np.generic]", where: str) -> None:
    assert isinstance(value, np.ndarray), f"{name} {where} is {type(value).__name__}, expected a numpy array"
    assert value.shape == shape, f"{name} {where} has the shape {value.shape}, expected {shape}"
    assert value.dtype == dtype, f"{name} {where} has the type {value.dtype}, expected {dtype}"
    assert np.isfinite(value).all(), f"{name} {where} is not finite"


def _check_same(
    response: LawResponse, expected: LawResponse, rtol: float, where: str, part: slice = slice(None)
) -> None:
    """Compare every array with `part` of the expected ones, relative to their largest value."""
    for name in ("stress", "tangent", "state", "stress_33", "error", "valid"):
        ours, theirs = getattr(response, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), f"{name} is given only sometimes: {where}"
        if ours is None or ours.size == 0:
            continue
        if name == "valid":
            assert np.array_equal(ours, theirs[part]), f"valid differs: {where}"
            continue
        difference, allowed = np.abs(ours - theirs[part]).max(), rtol * np.abs(theirs).max()
        assert difference <= allowed, f"{name} differs by {difference:.3g}, allowed {allowed:.3g}: {where}"


def _check_tangent(
    law: MaterialLaw, strain: Array, state: Array, response: LawResponse, rtol: float, step: float, where: str
) -> None:
    """Compare the tangent with central differences of the stress where the stress is smooth.

    Where it is smooth, twice the step leaves the central difference as it is and doubles the gap between the forward
    and the backward one. What is lacking in that bounds the error of the central difference at a kink nearby.
    """
    forward, backward = _differences(law, strain, state, response, step)
    far_forward, far_backward = _differences(law, strain, state, response, 2.0 * step)
    central = 0.5 * (forward + backward)
    size = np.linalg.norm(central, axis=(1, 2))
    gap = far_forward - far_backward - 2.0 * (forward - backward)
    shift = 0.5 * (far_forward + far_backward) - central
    doubt = np.linalg.norm(gap, axis=(1, 2)) + np.linalg.norm(shift, axis=(1, 2))
    smooth = doubt <= 0.5 * rtol * size
    n_qp = len(strain)
    assert 2 * smooth.sum() >= n_qp, f"the stress is not smooth at {n_qp - smooth.sum()} of {n_qp} points {where}"
    error = np.where(smooth, np.linalg.norm(response.tangent - central, axis=(1, 2)) / size, 0.0)
    worst = int(error.argmax())
    assert error[worst] <= rtol, (
        f"the tangent of point {worst} {where} differs from central differences by {error[worst]:.3g} of its norm, "
        f"allowed {rtol:.3g}; strain {strain[worst]}"
    )


def _differences(
    law: MaterialLaw, strain: Array, state: Array, response: LawResponse, step: float
) -> tuple[Array, Array]:
    """Return the forward and backward differences of the stress. Shape (n_qp, n_s, n_s) each."""
    n_qp, n_s = strain.shape
    moves = np.concatenate([step * np.eye(n_s), -step * np.eye(n_s)])
    moved = (strain[:, None, :] + moves).reshape(-1, n_s)
    stress = _evaluate(law, moved, np.repeat(state, 2 * n_s, axis=0)).stress.reshape(n_qp, 2 * n_s, n_s)
    change = (stress - response.stress[:, None, :]).transpose(0, 2, 1) / step
    return change[:, :, :n_s], -change[:, :, n_s:]
