"""Writes Abaqus input files that other programs and `read_inp` can read."""

from pathlib import Path
from typing import TextIO

import numpy as np

from femops.errors import CaseError
from femops.meshing.abaqus.elements import WRITTEN
from femops.meshing.tagged import TaggedMesh
from femops.notation import Indices


def write_inp(mesh: TaggedMesh, path: Path) -> None:
    """Write nodes, elements, an element set for each region and a node set for each boundary.

    Raises:
        CaseError: Abaqus has no element type for the cell kind.
    """
    if mesh.kind.name not in WRITTEN:
        raise CaseError(f"Abaqus files cannot contain {mesh.kind.name} cells; expected one of {', '.join(WRITTEN)}")
    with path.open("w", encoding="ascii", errors="backslashreplace") as file:
        file.write("*NODE\n")
        np.savetxt(file, np.column_stack([np.arange(1, len(mesh.points) + 1), mesh.points]), fmt=_row_format(mesh.dim))
        file.write(f"*ELEMENT, TYPE={WRITTEN[mesh.kind.name]}\n")
        _write_integers(file, np.column_stack([np.arange(len(mesh.cells)), mesh.cells]) + 1)
        for name, cells in mesh.regions.items():
            file.write(f"*ELSET, ELSET={name}\n")
            _write_integers(file, cells[None, :] + 1)
        for name, facets in mesh.boundaries.items():
            file.write(f"*NSET, NSET={name}\n")
            _write_integers(file, np.unique(facets)[None, :] + 1)


def _row_format(dim: int) -> str:
    return ", ".join(["%d", *["%.17g"] * dim])


def _write_integers(file: TextIO, rows: Indices) -> None:
    """Write rows with at most eight numbers per line; a trailing comma continues the row."""
    for row in rows.tolist():
        lines = [", ".join(map(str, row[i : i + 8])) for i in range(0, len(row), 8)]
        file.write(",\n".join(lines) + "\n")
