"""A case with all its defaults, and the files that it names."""

import os
from pathlib import Path
from typing import Any

from femops.inputs.case import Case
from femops.meshing import EVERYWHERE

# Keys whose values are paths relative to the case: meshes, models and studies.
_FILES = ("file", "model", "study")


def resolved(case: Case) -> dict[str, Any]:
    """Return a case with all defaults as a mapping for YAML."""
    data = case.model_dump(mode="json", exclude_none=True, serialize_as_any=True)
    data["output"].setdefault("picture", None)  # None is not the default
    laws = data["material"]
    data["material"] = laws[EVERYWHERE] if list(laws) == [EVERYWHERE] else laws
    return data


def move_files(data: Any, base: Path, folder: Path) -> None:
    """Rewrite the relative paths in a case to refer to another folder, in place.

    Args:
        data: The case, or a block of it, as a mapping for YAML.
        base: Folder to which the paths refer.
        folder: Folder to which they will refer.
    """
    if isinstance(data, dict):
        for key, value in data.items():
            if key in _FILES and isinstance(value, str):
                data[key] = os.path.relpath(base / value, folder)
            move_files(value, base, folder)
