"""Meshes as plain arrays with named groups, and the files and generators that they come from."""

from femops.meshing.cells import CELLS, CellKind
from femops.meshing.tagged import TaggedMesh

__all__ = ["CELLS", "CellKind", "TaggedMesh"]
