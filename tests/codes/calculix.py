"""Structures in CalculiX, with the law as a UMAT; see build_calculix.sh."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from codes.answer import Answer, Points, ran
from host_structures import Structure

from femops.conversions import ABAQUS
from femops.notation import Array

ELEMENTS = {2: "CPE4", 3: "C3D8"}
DIGITS = 5e-7  # of a number in the results, relative
IN_PLANE = [0, 1, 3]  # of 11, 22, 33, 12, 13, 23
DIRECT, AUTOMATIC = "*STATIC, DIRECT\n1., 1.", "*STATIC\n1., 1."


def solve(
    structure: Structure,
    library: Path,
    folder: Path,
    program: str,
    factor: float = 1.0,
    *,
    static: str = DIRECT,
    extrapolate: bool = False,
) -> Answer:
    """Solve a structure with the library of `femops export --to umat`.

    Args:
        structure: The structure.
        library: The library, whose name is in capitals as CalculiX reads decks: libNAME.so.
        folder: Where the files go.
        program: CalculiX with external behaviours.
        factor: Factor of the prescribed displacements.
        static: The procedure.
        extrapolate: Let the UMAT extrapolate.
    """
    (folder / "deck.inp").write_text(_deck(structure, library, factor, static, extrapolate))
    text, status = ran([program, "deck"], folder, {"LD_LIBRARY_PATH": str(library.parent)})
    corrections = [float(line.split()[6]) for line in _rows(folder / "deck.cvg") if line.split()[:2] == ["1", "1"]]
    seconds = sum(float(value) for value in re.findall(r"Total CalculiX Time: (\S+)", text))
    tables = _tables(folder / "deck.dat")
    if "displacements" not in tables:
        return Answer(text, status, corrections, seconds, None, None)
    layer = tables["strains"][:, 1] <= 2**structure.dim  # in plane strain the second layer equals the first
    tensor = tables["strains"][layer, 2:]
    tensor[:, 3:] *= 2.0  # printed are the components of the tensor
    strain = ABAQUS.strain_to_mandel(tensor[:, IN_PLANE] if structure.dim == 2 else tensor)
    error, out_of_range = tables["internal state variables"][layer, 2:].T
    displacement = tables["displacements"][: len(structure.points), 1 : 1 + structure.dim]
    return Answer(text, status, corrections, seconds, displacement, Points(strain, error, out_of_range))


def _deck(structure: Structure, library: Path, factor: float, static: str, extrapolate: bool) -> str:
    name = f"@ABAQUS_{library.stem.removeprefix('lib')}"
    lines = ["*NODE, NSET=NODES", *_numbered(structure.points)]
    lines += [f"*ELEMENT, TYPE={ELEMENTS[structure.dim]}, ELSET=CELLS", *_numbered(structure.cells + 1)]
    lines += [f"*MATERIAL, NAME={name}", "*USER MATERIAL, CONSTANTS=1", "1." if extrapolate else "0.", "*DEPVAR", "2"]
    lines += [f"*SOLID SECTION, ELSET=CELLS, MATERIAL={name}", *(["1."] if structure.dim == 2 else [])]
    lines += ["*STEP, INC=100", static, "*CONTROLS, PARAMETERS=FIELD", "1e-10, 1e-10", "*BOUNDARY"]
    for node, values in zip(structure.held, structure.prescribed(factor), strict=True):
        lines += [f"{node + 1}, {axis}, {axis}, {_number(value)}" for axis, value in enumerate(values, start=1)]
    for node in np.flatnonzero(structure.nodal_force.any(axis=1)):
        forces = enumerate(structure.nodal_force[node], start=1)
        lines += ["*CLOAD", *(f"{node + 1}, {axis}, {_number(value)}" for axis, value in forces)]
    lines += ["*NODE PRINT, NSET=NODES", "U", "*EL PRINT, ELSET=CELLS", "E, SDV", "*END STEP"]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """Return a number in the twenty characters that CalculiX reads."""
    return str(value) if isinstance(value, int) else f"{value:.12e}"


def _numbered(rows: Iterable[Array]) -> list[str]:
    return [f"{number}, {', '.join(map(_number, row.tolist()))}" for number, row in enumerate(rows, start=1)]


def _rows(file: Path) -> list[str]:
    """Lines of numbers."""
    return [line for line in file.read_text().splitlines() if re.match(r"[-+.\dE\s]*\d[-+.\dE\s]*$", line)]


def _tables(file: Path) -> dict[str, Array]:
    """Return the tables of the first increment in a file of results by their titles."""
    tables: dict[str, Array] = {}
    for title, rows in re.findall(r"^ ([a-z ]+) \(.*\n\n((?:.*\d\n)*)", file.read_text(), re.MULTILINE):
        tables.setdefault(title, np.array([[float(value) for value in row.split()] for row in rows.splitlines()]))
    return tables
