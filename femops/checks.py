"""Checks of the law contract, for the tests of every law: built-in, nested or from a plugin.

They need no test framework: `check_law(law)` raises AssertionError and says what is wrong. `check_arrays` is for laws
that are loaded from stored models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from femops import notation
from femops.contract import check_attributes, check_response, read_only
from femops.errors import CaseError
from femops.law import LawResponse, MaterialLaw
from femops.notation import Array

_DT = 1.0
_OTHER_DT = (1e-3, 10.0)
_PARTS = ("stress", "tangent", "state", "stress_33", "tangent_33", "error", "valid")
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

    Random strains are applied to the virgin state and, if the law has internal state, to the state after one
    increment. Checked are shapes and types, purity, unmodified inputs, batch = loop, the empty batch, the tangent
    against central differences of the stress, and zero stress in the virgin state. A rate-dependent law is checked for
    several increment lengths. Points where the stress is not smooth, for example at the onset of yield, are excluded
    from the comparison with central differences.

    Args:
        law: The law.
        strain_scale: Largest strain component [-].
        n_points: Number of random strains.
        seed: Seed of the random strains.
        rtol_tangent: Largest allowed relative error of the tangent at a point [-].

    Raises:
        AssertionError: The law breaks the contract.
    """
    try:
        check_attributes(law)
    except CaseError as error:
        raise AssertionError(error.problem) from error
    rng = np.random.default_rng(seed)
    shape = (n_points, notation.n_strain(law.dim))
    first = strain_scale * rng.uniform(-1.0, 1.0, shape)
    second = first + 0.5 * strain_scale * rng.uniform(-1.0, 1.0, shape)
    virgin = np.zeros((n_points, law.n_state))
    for dt in (_DT, *_OTHER_DT):
        _check_virgin(law, strain_scale, dt)
        zeros = np.zeros((0, shape[1])), np.zeros((0, law.n_state))
        _Batch(law, *zeros, dt, "for an empty batch").response()
    step = _DIFFERENCE_STEP * strain_scale
    reached = _check_batch(_Batch(law, first, virgin, _DT, "from the virgin state"), rtol_tangent, step)
    if law.n_state:
        _check_batch(_Batch(law, second, reached.state, _DT, "from a reached state"), rtol_tangent, step)


@dataclass(frozen=True)
class _Batch:
    """Input of one law evaluation.

    Attributes:
        law: The law.
        strain: Shape (n_qp, n_s).
        state: Shape (n_qp, n_state).
        dt: Length of the increment [time].
        where: Description of the evaluation, for error messages.
    """

    law: MaterialLaw
    strain: Array
    state: Array
    dt: float
    where: str

    def response(self) -> LawResponse:
        """Evaluate the law on read-only inputs and check the inputs and the response."""
        given = read_only(self.strain.copy()), read_only(self.state.copy())
        response = self.law.evaluate(*given, self.dt)
        for name, array in zip(("strain", "state"), given, strict=True):
            assert np.array_equal(array, getattr(self, name)), f"evaluate changed its input {name}"
        try:
            check_response(self.law, response, *given, self.where)
        except CaseError as error:
            raise AssertionError(error.problem) from error
        for name in _PARTS:
            value = getattr(response, name)
            assert value is None or np.isfinite(value).all(), f"{name} {self.where} is not finite"
        return response


def check_arrays(
    arrays: Mapping[str, npt.NDArray[Any]],
    load: Callable[[dict[str, npt.NDArray[Any]]], object],
    any_length: Sequence[str] = (),
) -> None:
    """Check that a stored model with an invalid array is refused with an error that names the array.

    Each array in turn is removed, truncated, transposed, set to NaN, cast to another type, and swapped with others of
    a different shape. Swaps of arrays of equal shape are detected by the checksum of the model.

    Args:
        arrays: Arrays of a trained model.
        load: Builds a law, or another object, from the arrays.
        any_length: Names of arrays that may have any number of rows.

    Raises:
        AssertionError: Invalid arrays are accepted, or the error does not name an array.
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


def _check_virgin(law: MaterialLaw, strain_scale: float, dt: float) -> None:
    """Check that the stress vanishes at zero strain and zero state."""
    zeros = np.zeros((1, notation.n_strain(law.dim))), np.zeros((1, law.n_state))
    response = _Batch(law, *zeros, dt, "at zero strain and state").response()
    allowed = 1e-9 * strain_scale * np.linalg.norm(response.tangent)
    largest = np.abs(response.stress).max()
    assert largest <= allowed, f"zero strain in the virgin state gives the stress {largest:.3g}, expected zero"


def _check_batch(batch: _Batch, rtol_tangent: float, step: float) -> LawResponse:
    """Check one batch for increments of several lengths and return the first response."""
    first = batch.response()
    for dt in (_DT, *_OTHER_DT):
        timed = replace(batch, dt=dt, where=f"{batch.where}, dt = {dt:g}")
        response = timed.response()
        if dt == _DT or not _same(response, first):  # otherwise the law is rate-independent
            _check_loop(timed, response)
            _check_tangent(timed, response, rtol_tangent, step)
    return first


def _check_loop(batch: _Batch, response: LawResponse) -> None:
    """Check that a law has no hidden state and that the response at a point does not depend on the other points."""
    strain, state, where = batch.strain, batch.state, batch.where
    replace(batch, strain=-0.5 * strain[::-1], state=np.zeros_like(state)).response()  # would change a hidden state
    _check_same(batch.response(), response, 1e-12, f"the same input twice, {where}")
    for i in range(len(strain)):
        part = slice(i, i + 1)
        one = replace(batch, strain=strain[part], state=state[part]).response()
        _check_same(one, response, 1e-9, f"point {i} alone and in the batch, {where}", part)


def _same(response: LawResponse, other: LawResponse) -> bool:
    """Return whether two responses are bitwise equal."""
    pairs = [(getattr(response, name), getattr(other, name)) for name in _PARTS]
    return all(np.array_equal(one, two) if one is not None else two is None for one, two in pairs)


def _check_same(
    response: LawResponse, expected: LawResponse, rtol: float, where: str, part: slice = slice(None)
) -> None:
    """Compare each array of the response with `part` of the expected one, relative to its largest value."""
    for name in _PARTS:
        ours, theirs = getattr(response, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), f"{name} is given only sometimes: {where}"
        if ours is None or ours.size == 0:
            continue
        if name == "valid":
            assert np.array_equal(ours, theirs[part]), f"valid differs: {where}"
            continue
        difference, allowed = np.abs(ours - theirs[part]).max(), rtol * np.abs(theirs).max()
        assert difference <= allowed, f"{name} differs by {difference:.3g}, allowed {allowed:.3g}: {where}"


def _check_tangent(batch: _Batch, response: LawResponse, rtol: float, step: float) -> None:
    """Compare the tangent with central differences of the stress where the stress is smooth.

    Where the stress is smooth, doubling the step leaves the central difference unchanged and doubles the gap between
    the forward and the backward difference. The deviation from this bounds the error of the central difference.
    """
    tangent = _with_33(response.tangent, response.tangent_33, response)
    forward, backward = _differences(batch, response, step)
    far_forward, far_backward = _differences(batch, response, 2.0 * step)
    central = 0.5 * (forward + backward)
    size = np.linalg.norm(central, axis=(1, 2))
    gap = far_forward - far_backward - 2.0 * (forward - backward)
    shift = 0.5 * (far_forward + far_backward) - central
    doubt = np.linalg.norm(gap, axis=(1, 2)) + np.linalg.norm(shift, axis=(1, 2))
    smooth = doubt <= 0.5 * rtol * size
    n_qp, where = len(batch.strain), batch.where
    assert 2 * smooth.sum() >= n_qp, f"the stress is not smooth at {n_qp - smooth.sum()} of {n_qp} points {where}"
    n_s = batch.strain.shape[1]
    for name, rows in (("tangent", slice(n_s)), ("tangent_33", slice(n_s, None))):
        deviation = np.linalg.norm((tangent - central)[:, rows], axis=(1, 2))
        error = np.where(smooth, deviation / size, 0.0)
        worst = int(error.argmax())
        assert error[worst] <= rtol, (
            f"the {name} of point {worst} {where} differs from central differences by {error[worst]:.3g} of the "
            f"tangent's norm, allowed {rtol:.3g}; strain {batch.strain[worst]}"
        )


def _with_33(values: Array, of_33: Array | None, response: LawResponse) -> Array:
    """Append a row of the direction 33 to stresses or tangents if the response has its tangent."""
    if of_33 is None or response.tangent_33 is None:
        return values
    return np.concatenate([values, of_33[:, None]], axis=1)


def _differences(batch: _Batch, response: LawResponse, step: float) -> tuple[Array, Array]:
    """Return the forward and backward differences of the stress, with 33 if its tangent is known.

    Shape (n_qp, n_s or n_s + 1, n_s) each.
    """
    n_qp, n_s = batch.strain.shape
    moves = np.concatenate([step * np.eye(n_s), -step * np.eye(n_s)])
    moved = (batch.strain[:, None, :] + moves).reshape(-1, n_s)
    states = np.repeat(batch.state, 2 * n_s, axis=0)
    answer = replace(batch, strain=moved, state=states).response()
    base = _with_33(response.stress, response.stress_33, response)
    stress = _with_33(answer.stress, answer.stress_33, response).reshape(n_qp, 2 * n_s, -1)
    change = (stress - base[:, None, :]).transpose(0, 2, 1) / step
    return change[:, :, :n_s], -change[:, :, n_s:]
