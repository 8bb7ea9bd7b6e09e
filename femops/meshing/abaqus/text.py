"""Splits Abaqus input files into keyword lines with options and data lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from femops.errors import CaseError


@dataclass(frozen=True)
class Block:
    """A keyword line with the data lines below it.

    Attributes:
        keyword: In upper case, with single spaces.
        options: Values by upper-case name; empty for options without a value.
        rows: Fields of each data line; empty fields are kept, except after a final comma.
    """

    keyword: str
    options: dict[str, str]
    rows: list[list[str]]

    @property
    def words(self) -> list[str]:
        """All nonempty fields of the data lines."""
        return [word for row in self.rows for word in row if word]


def blocks(path: Path) -> Iterator[Block]:
    """Yield the blocks of a file, included files in place.

    Raises:
        CaseError: A file includes itself.
    """
    block = Block("", {}, [])
    for line in _lines(path, ()):
        if line.startswith("*"):
            yield block
            head, *rest = [part.strip() for part in line[1:].split(",")]
            pairs = [part.partition("=") for part in rest if part]
            options = {" ".join(key.upper().split()): _unquoted(value) for key, _, value in pairs}
            block = Block(" ".join(head.upper().split()), options, [])
        else:
            block.rows.append(_fields(line))
    yield block


def data_lines(path: Path) -> list[list[str]]:
    """Return the fields of each line of a data file given by INPUT=."""
    return [_fields(line) for line in _lines(path, ()) if not line.startswith("*")]


def _fields(line: str) -> list[str]:
    fields = [word.strip() for word in line.split(",")]
    return fields[:-1] if fields[-1] == "" else fields


def _unquoted(value: str) -> str:
    return value.strip().strip("\"'")


def _lines(path: Path, including: tuple[Path, ...]) -> Iterator[str]:
    """Yield the lines without comments, keyword lines joined with their continuations, included files inserted."""
    if path.resolve() in including:
        raise CaseError(f"the file {path.name} includes itself")
    pending = ""
    for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = pending + raw.strip()
        pending = ""
        if not line or line.startswith("**"):
            continue
        if line.startswith("*") and line.endswith(","):
            pending = line
        elif line.upper().startswith("*INCLUDE"):
            yield from _lines(path.parent / _unquoted(line.partition("=")[2]), (*including, path.resolve()))
        else:
            yield line
