"""Reading of case and study files: YAML, overrides from the command line, and validation."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from femops.errors import CaseError
from femops.validation import first_error, shown, with_suggestion

# Limits far beyond any case, yet files within them are read in seconds.
_LARGEST_FILE = 16 * 2**20  # [bytes]
_DEEPEST = 64
_MOST_VALUES = 1_000_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits on size and depth, and an error for duplicate keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0  # aliases count as the nodes that they refer to
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _problem(f"blocks and lists nested deeper than {_DEEPEST} levels", mark)
        before = self._nodes
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not alias and node is not None:
            self._nodes += 1
            self._sizes[node] = self._nodes - before
        elif node is None or node not in self._sizes:
            raise _problem("an alias refers to a block that contains it", mark)
        else:
            self._nodes += self._sizes[node]
        if self._nodes > _MOST_VALUES:
            raise _problem(f"more than {_MOST_VALUES} values, counting those of every alias", mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{shown(node.value)} is not a valid {kind} ({error}); put text in quotes"
            raise _problem(problem, node.start_mark) from error
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise _problem(f"a number of {len(node.value)} digits, expected one below 1.8e308", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, yaml.Mark] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():  # else super raises
            mark = first.setdefault(str(key.value), key.start_mark)
            if mark is not key.start_mark:
                raise _problem(f"duplicate key {key.value!r}, first at line {mark.line + 1}", key.start_mark)
        return super().construct_mapping(node, deep)


def _problem(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file as a mapping.

    Raises:
        CaseError: The file is missing, too large, not UTF-8 or YAML, or does not contain a mapping.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)
        if len(text) > _LARGEST_FILE:
            raise CaseError(f"is larger than {_LARGEST_FILE} bytes; expected a case or a study", file=path)
        data = yaml.load(text.decode("utf-8"), _Loader)
    except OSError as error:
        raise CaseError(f"cannot be read ({error.strerror})", file=path) from error
    except UnicodeDecodeError as error:
        raise CaseError(f"is not UTF-8 text (byte {error.start}); save it as UTF-8", file=path) from error
    except yaml.YAMLError as error:
        raise CaseError(f"is not valid YAML{_explained(error)}", file=path) from error
    if not isinstance(data, dict):
        raise CaseError(f"{shown(data)} given, expected a mapping of keys", file=path)
    return data


@dataclass(frozen=True)
class OtherKind:
    """Another kind of input file, given by mistake.

    Attributes:
        name: Its kind.
        keys: Keys that only this kind has.
        command: The command for this kind.
    """

    name: str
    keys: frozenset[str]
    command: str


STUDY = OtherKind("study", frozenset({"sampling", "family", "problem", "surrogate"}), "femops train STUDY")
CASE = OtherKind("case", frozenset({"material", "supports", "steps"}), "femops run CASE")


def load_validated[M: BaseModel](
    path: Path, overrides: tuple[str, ...], model: type[M], schema: Callable[[], dict[str, Any]], other: OtherKind
) -> M:
    """Read a file, apply overrides and validate it.

    Args:
        path: The YAML file.
        overrides: Overrides, see `apply_override`.
        model: Pydantic model of the file.
        schema: Returns the JSON Schema of the model, to suggest keys for unknown ones.
        other: The kind of file that may be given by mistake.

    Raises:
        CaseError: The file is missing or invalid; the message names the file, the key and the expected value.
    """
    data = read_yaml(path)
    for override in overrides:
        apply_override(data, override)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        if other.keys & data.keys():
            raise CaseError(f"is a {other.name}; use it with: {other.command}", file=path) from error
        problem = first_error(error)
        if problem.problem == "unknown key":
            problem = with_suggestion(problem, data, schema())
        raise problem.within(file=path) from error


def _explained(error: yaml.YAMLError) -> str:
    """Return the line number and the problem of a YAML error in one line."""
    mark = getattr(error, "problem_mark", None)
    line = "" if mark is None else f" at line {mark.line + 1}"
    return f"{line}: {' '.join(str(getattr(error, 'problem', None) or error).split())}"


def apply_override(data: dict[str, Any], override: str) -> None:
    """Override one value in place.

    Args:
        data: Content of the file.
        override: An override such as `solver.rtol=1e-6`; the value is YAML.

    Raises:
        CaseError: The override does not have this form, or a parent key is not a block of keys.
    """
    key, separator, text = override.partition("=")
    *parents, last = key.split(".")
    if not separator or not all((*parents, last)):
        raise CaseError(f"{override!r} given, expected key=value, for example solver.rtol=1e-6", key="--set")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise CaseError(f"{key!r}: {parent!r} is not a block of keys; replace it as a whole", key="--set")
    try:
        data[last] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise CaseError(f"{text!r} is not valid YAML{_explained(error)}", key="--set") from error
