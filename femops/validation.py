"""Conversion of pydantic validation errors to one-line `CaseError` messages."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from femops.errors import CaseError

_LONGEST_VALUE = 60
# YAML terms for pydantic's error types.
_EXPECTED = {
    "model_type": "a block of keys",
    "dict_type": "a block of keys",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_type": "text (in quotes if it looks like a number)",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "too_short": "{min_length} or more entries",
    "too_long": "{max_length} or fewer entries",
}


class NestedError(ValueError):
    """Wraps a `CaseError` raised inside a pydantic validator, as pydantic only collects ValueErrors."""

    def __init__(self, error: CaseError) -> None:
        super().__init__(str(error))
        self.error = error


def shown(value: object) -> str:
    """Return the representation of a value for messages, truncated if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"


def first_error(error: ValidationError) -> CaseError:
    """Return the first validation error as a `CaseError` with key, given value and expectation."""
    problems = error.errors()
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in problem["loc"] if not _names_type(part))
    context = problem.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, NestedError):
        return cause.error.within(key=key)
    if problem["type"] == "extra_forbidden":
        return CaseError("unknown key", key=key)
    if problem["type"] == "missing":
        return CaseError("missing", key=key)
    if problem["type"] == "value_error":
        return CaseError(problem["msg"].removeprefix("Value error, "), key=key)
    known = _EXPECTED.get(problem["type"])
    expected = known.format_map(context) if known else problem["msg"].removeprefix("Input should be ")
    return CaseError(f"{shown(problem['input'])} given, expected {expected}", key=key)


def validated[M: BaseModel](model: type[M], data: object) -> M:
    """Return data as an instance of a model.

    Raises:
        CaseError: The data is not valid; see `first_error`.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise first_error(error) from error


def _names_type(part: int | str) -> bool:
    """Return whether part of an error location was added by pydantic for a key or a union member."""
    return isinstance(part, str) and (part in ("[key]", "float", "int") or part.startswith(("constrained-", "list[")))


def numbers(data: Any, key: str) -> Iterator[tuple[str, float]]:
    """Yield every floating-point number of nested blocks and lists with its key."""
    if isinstance(data, float):
        yield key, data
    elif isinstance(data, Mapping | list | tuple):
        for part, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from numbers(value, f"{key}.{part}".removeprefix("."))


def with_suggestion(problem: CaseError, data: Mapping[str, Any], schema: Mapping[str, Any]) -> CaseError:
    """Return an unknown-key error with the most similar key, or all allowed keys of the block, added.

    Args:
        problem: The error about an unknown key.
        data: The given data.
        schema: JSON Schema of `data`, with `$defs`.
    """
    *parents, last = problem.key.split(".")
    known = keys_at(schema, data, parents)
    close = difflib.get_close_matches(last, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(known)}" if known else ""
    return CaseError(f"unknown key{hint}", key=problem.key)


def keys_at(schema: Mapping[str, Any], data: object, path: Sequence[str]) -> list[str]:
    """Return the allowed keys of a block.

    Args:
        schema: JSON Schema of `data`, with `$defs`.
        data: The given data; its `law` entries select among alternatives.
        path: Keys that lead to the block.
    """
    nodes = list(_alternatives(schema, schema["$defs"], data))
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
        nodes = [
            alternative for node in nodes for alternative in _alternatives(_child(node, part), schema["$defs"], data)
        ]
    return list(dict.fromkeys(key for node in nodes for key in node.get("properties", {})))


def _child(node: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    others = node.get("items") or node.get("additionalProperties")
    child = node.get("properties", {}).get(part, others)
    return child if isinstance(child, Mapping) else {}  # `true` allows anything


def _alternatives(node: Mapping[str, Any], definitions: Mapping[str, Any], data: object) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas that a schema refers to, except those of laws other than the one in `data`."""
    if "$ref" in node:
        yield from _alternatives(definitions[node["$ref"].rpartition("/")[2]], definitions, data)
        return
    for alternative in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _alternatives(alternative, definitions, data)
    law = node.get("properties", {}).get("law", {}).get("const")
    if law is None or (isinstance(data, Mapping) and data.get("law") == law):
        yield node


def is_class(value: object, base: type) -> bool:
    """Return whether a value is a class derived from `base`."""
    return isinstance(value, type) and issubclass(value, base)


def check_types(name: object, checks: Mapping[str, bool]) -> None:
    """Raise TypeError if an attribute of a named law is invalid.

    Args:
        name: The name of the law.
        checks: For each attribute with what was expected of it, whether it is valid.
    """
    for what, good in checks.items():
        if not good:
            raise TypeError(f"its law {shown(name)} has no valid {what}")
