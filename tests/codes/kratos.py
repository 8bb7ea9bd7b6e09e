"""Structures in Kratos, with the law as a UMAT."""

import re
import sys
from pathlib import Path

import numpy as np
from codes.answer import Answer, Points, ran
from host_structures import Structure

from femops.conversions import KRATOS

PROGRAM = Path(__file__).with_name("kratos_program.py")
FLAGS = "CFLAGS=-O3 -march=native -DSHEAR_12_23_13"
IN_PLANE = [0, 1, 3]  # of 11, 22, 33, 12


def solve(
    structure: Structure, library: Path, folder: Path, factor: float = 1.0, *, props: tuple[float, ...] = ()
) -> Answer:
    """Solve a structure with the library of `femops export --to umat`, compiled with `FLAGS`.

    Args:
        structure: The structure.
        library: The library.
        folder: Where the files go.
        factor: Factor of the prescribed displacements.
        props: Constants of the UMAT.
    """
    np.savez(
        folder / "structure.npz",
        points=structure.points,
        cells=structure.cells,
        held=structure.held,
        prescribed=structure.prescribed(factor),
        force=structure.nodal_force,
    )
    answer = folder / "answer.npz"
    answer.unlink(missing_ok=True)
    text, status = ran([sys.executable, str(PROGRAM), str(folder), str(library), *map(str, props)], folder)
    norms = [float(value) for value in re.findall(r"Absolute norm = ([^;]+);", text)]
    if not answer.exists():
        return Answer(text, status, norms, 0.0, None, None)
    found = np.load(answer)
    strain = KRATOS.strain_to_mandel(found["strain"][:, IN_PLANE] if structure.dim == 2 else found["strain"])
    points = Points(strain, found["error"], found["out_of_range"])
    return Answer(text, status, norms, float(found["seconds"]), found["displacement"], points)
