"""Converts surfaces of Abaqus input files to facets of cells."""

import numpy as np

from femops.errors import CaseError
from femops.meshing.abaqus.elements import WHOLE, face_nodes
from femops.meshing.abaqus.placing import Piece, Placed
from femops.meshing.abaqus.scopes import SurfaceEntry
from femops.meshing.cells import CELLS
from femops.notation import Indices


def facets_of_surface(placed: Placed, piece: Piece, entry: SurfaceEntry) -> Indices | None:
    """Return the facets of an element-based surface, by nodes; None if none of its faces is a facet of the mesh.

    Args:
        placed: The mesh.
        piece: Piece in which the surface is defined.
        entry: Rows of a set or label and a face; without a face, the exterior faces of the elements.

    Raises:
        CaseError: A row refers to undefined elements, or to a face that they do not have.
    """
    kinds = {str(block.kind): CELLS[str(block.kind)] for block in placed.blocks}
    dim = max(kind.dim for kind in kinds.values())
    full = [kind for kind in kinds.values() if kind.dim == dim]
    if len(full) > 1:
        return None  # mixed kinds are rejected later
    facets = []
    for row in entry.rows:
        label = row[1].upper() if len(row) > 1 else ""
        elements = placed.members(piece, row[0], "element")
        if label == "":
            exterior, owner = placed.exterior
            facets.append(exterior[np.isin(owner, elements)])
        for block, cells in zip(placed.blocks, placed.by_block(elements), strict=True):
            kind = CELLS[str(block.kind)]
            if not len(cells):
                continue
            if kind.dim < dim:
                skin = kind.name == full[0].facet and label in ("", *WHOLE)
                facets += [block.nodes[cells]] if skin else []
            elif label not in ("", *WHOLE):
                local = face_nodes(kind, label)
                if local is None:
                    raise CaseError(
                        f"surface '{entry.name}' refers to face {row[1]}, which {block.type} elements do not have"
                    )
                facets.append(block.nodes[cells][:, local])
    facets = [part for part in facets if len(part)]
    return np.vstack(facets) if facets else None
