"""Meshes as plain arrays with named groups; reading, writing and generating them."""

from femops.meshing.cells import CELLS, CellKind
from femops.meshing.tagged import EVERYWHERE, TaggedMesh

__all__ = ["CELLS", "EVERYWHERE", "CellKind", "TaggedMesh"]
