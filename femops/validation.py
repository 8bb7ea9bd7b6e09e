"""From pydantic's errors to one clear line."""

from pydantic import ValidationError

from femops.errors import CaseError

_LONGEST_VALUE = 60


class NestedError(ValueError):
    """A `CaseError` raised inside a pydantic validator, which passes only ValueErrors on."""

    def __init__(self, error: CaseError) -> None:
        super().__init__(str(error))
        self.error = error


def first_error(error: ValidationError) -> CaseError:
    """Return the first problem of a validation as a `CaseError` that names key, value and what was expected."""
    problems = error.errors()
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in problem["loc"])
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, NestedError):
        return cause.error.within(key=key)
    if problem["type"] == "extra_forbidden":
        return CaseError("unknown key", key=key)
    if problem["type"] == "missing":
        return CaseError("missing", key=key)
    value = repr(problem["input"])
    shown = value if len(value) <= _LONGEST_VALUE else value[:_LONGEST_VALUE] + "…"
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    expected = text if problem["type"] == "value_error" else f"{shown} given, expected {text}"
    return CaseError(expected, key=key)
