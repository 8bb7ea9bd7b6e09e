"""Tables and summaries as text: CSV and JSON."""

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
    """Write one line per row under a header of all keys in the order in which they first appear.

    Args:
        path: The CSV file to write.
        rows: Values by column name; a column that a row lacks stays empty.
    """
    header = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def append_curve(path: Path | str, row: Mapping[str, float]) -> None:
    """Add a line to a file that `write_curves` began with a row of the same columns, in one write."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row.values())
    with shielded(), Path(path).open("a", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())


def write_json(path: Path | str, data: Any) -> None:
    """Write indented JSON; numpy values become plain ones, paths become text, NaN and infinities become null.

    Args:
        path: The JSON file to write.
        data: Mappings, sequences, arrays, numbers, text, paths, None.

    Raises:
        TypeError: a value has no JSON form.
    """
    write_text(path, json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Return nested values as JSON has them; NaN and infinities become None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
