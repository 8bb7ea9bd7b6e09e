"""From pydantic's errors to one clear line."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from femops.errors import CaseError

_LONGEST_VALUE = 60
# What a reader of YAML calls the types for which pydantic has Python's names.
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
    """A `CaseError` raised inside a pydantic validator, which passes only ValueErrors on."""

    def __init__(self, error: CaseError) -> None:
        super().__init__(str(error))
        self.error = error


def shown(value: object) -> str:
    """Return a value as a message shows it: in quotes if it is text, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"


def first_error(error: ValidationError) -> CaseError:
    """Return the first problem of a validation as a `CaseError` that names key, value and what was expected."""
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


def _names_type(part: int | str) -> bool:
    """Tell the parts of a place that pydantic adds for keys and for the members of a union."""
    return isinstance(part, str) and (part in ("[key]", "float", "int") or part.startswith(("constrained-", "list[")))


def numbers(data: Any, key: str) -> Iterator[tuple[str, float]]:
    """Yield every floating-point number of nested blocks and lists with its key."""
    if isinstance(data, float):
        yield key, data
    elif isinstance(data, Mapping | list | tuple):
        for part, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from numbers(value, f"{key}.{part}".removeprefix("."))


def with_suggestion(problem: CaseError, data: Mapping[str, Any], schema: Mapping[str, Any]) -> CaseError:
    """Name the key that an unknown one resembles, or all that its block may have.

    Args:
        problem: The error about an unknown key.
        data: What was given.
        schema: JSON Schema of `data`, with `$defs`.
    """
    *parents, last = problem.key.split(".")
    known = keys_at(schema, data, parents)
    close = difflib.get_close_matches(last, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(known)}" if known else ""
    return CaseError(f"unknown key{hint}", key=problem.key)


def keys_at(schema: Mapping[str, Any], data: object, path: Sequence[str]) -> list[str]:
    """Return the keys that a block may have.

    Args:
        schema: JSON Schema of `data`, with `$defs`.
        data: What was given; its `law` entries tell alternatives apart.
        path: The keys that lead to the block.
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
    return child if isinstance(child, Mapping) else {}  # a bare true allows anything


def _alternatives(node: Mapping[str, Any], definitions: Mapping[str, Any], data: object) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas that a schema refers to, without those of other laws than the one in `data`."""
    if "$ref" in node:
        yield from _alternatives(definitions[node["$ref"].rpartition("/")[2]], definitions, data)
        return
    for alternative in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _alternatives(alternative, definitions, data)
    law = node.get("properties", {}).get("law", {}).get("const")
    if law is None or (isinstance(data, Mapping) and data.get("law") == law):
        yield node
