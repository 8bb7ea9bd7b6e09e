"""Abaqus element types and the faces of elements."""

import re

import numpy as np

from femops.errors import CaseError
from femops.meshing.building import local_facets
from femops.meshing.cells import CellKind
from femops.notation import Indices

WRITTEN = {"triangle": "CPE3", "triangle6": "CPE6", "quad": "CPE4", "quad8": "CPE8", "quad9": "S9R5"}
WRITTEN |= {"tetra": "C3D4", "tetra10": "C3D10", "hexahedron": "C3D8", "hexahedron20": "C3D20"}

_KINDS = {
    "planar": {"3": "triangle", "4": "quad", "6": "triangle6", "8": "quad8", "9": "quad9"},
    "solid": {"4": "tetra", "8": "hexahedron", "10": "tetra10", "20": "hexahedron20"},
    "bar": {"2": "line", "3": "line3"},
}
_FAMILIES = {"CPE": "planar", "CPEG": "planar", "CPS": "planar", "CAX": "planar", "S": "planar", "SFM3D": "planar"}
_FAMILIES |= {"M3D": "planar", "R3D": "planar", "C3D": "solid", "T2D": "bar", "T3D": "bar"}
_TYPE = re.compile(rf"({'|'.join(sorted(_FAMILIES, key=len, reverse=True))})(\d+)")
# Point, two-point and coupling elements, which have no volume.
_DISCRETE: tuple[str, ...] = (
    "MASS",
    "ROTARYI",
    "HEATCAP",
    "SPRING",
    "DASHPOT",
    "DCOUP",
    "CONN",
    "JOINT",
    "GAP",
    "ITT",
    "ITS",
    "DRAG",
)
_DISCRETE += ("RNODE",)

# Corners of each face in the order of its number, from 1 (Abaqus Analysis User's Guide, two-dimensional and
# three-dimensional solid element libraries, "Node ordering and face numbering on elements").
_FACES = {
    "triangle": ((1, 2), (2, 3), (3, 1)),
    "quadrilateral": ((1, 2), (2, 3), (3, 4), (4, 1)),
    "tetrahedron": ((1, 2, 3), (1, 4, 2), (2, 4, 3), (3, 4, 1)),
    "hexahedron": ((1, 2, 3, 4), (5, 8, 7, 6), (1, 5, 6, 2), (2, 6, 7, 3), (3, 7, 8, 4), (4, 8, 5, 1)),
}
_FACE = re.compile(r"[SE](\d)")
WHOLE = ("SPOS", "SNEG")


def kind_of_type(element_type: str) -> str | None:
    """Return the cell kind of an Abaqus element type; None for discrete elements, which have no volume.

    Raises:
        CaseError: The type is not supported.
    """
    name = element_type.upper()
    if name.startswith(_DISCRETE):
        return None
    match = _TYPE.match(name)
    kind = _KINDS[_FAMILIES[match[1]]].get(match[2][:1] if match[1] == "S" else match[2]) if match else None
    if kind is None:
        known = ", ".join(WRITTEN.values())
        raise CaseError(f"Abaqus element type '{element_type}' is not supported; supported: {known} and their variants")
    return kind


def face_nodes(kind: CellKind, label: str) -> Indices | None:
    """Return the local nodes, in VTK order, of the face with the Abaqus label S1, E1, …; None if it does not exist."""
    faces = _FACES.get(kind.shape, ())
    match = _FACE.fullmatch(label.upper())
    if match is None or not 1 <= int(match[1]) <= len(faces):
        return None
    wanted = {corner - 1 for corner in faces[int(match[1]) - 1]}
    n_corners = 2**kind.dim if kind.shape in ("quadrilateral", "hexahedron") else kind.dim + 1
    facets = local_facets(kind)
    chosen = [{int(node) for node in facet if node < n_corners} == wanted for facet in facets]
    return facets[np.flatnonzero(chosen)[0]]
