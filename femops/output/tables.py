"""Tables and summaries as CSV and JSON files."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from femops.output.atomic import shielded, write_text


def write_curves(path: Path | str, rows: Sequence[Mapping[str, float]]) -> None:
    """Write rows to a CSV file; columns are all keys in order of first appearance.

    Args:
        path: The CSV file to write.
        rows: Values by column name; missing values are left empty.
    """
    header = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def append_curve(path: Path | str, row: Mapping[str, float]) -> None:
    """Append a row to a file of `write_curves` with the same columns, in one write."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row.values())
    with shielded(), Path(path).open("a", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())


def write_json(path: Path | str, data: Any) -> None:
    """Write indented JSON; numpy values become Python values, paths strings, NaN and infinities null.

    Args:
        path: The JSON file to write.
        data: Nested mappings, sequences, arrays, numbers, strings, paths or None.

    Raises:
        TypeError: A value cannot be converted to JSON.
    """
    write_text(path, json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Convert nested values to JSON types; NaN and infinities become None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
