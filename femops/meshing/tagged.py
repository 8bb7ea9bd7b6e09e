"""The mesh data structure: nodes, cells of one kind, and named regions and boundaries as plain arrays."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from femops.meshing.cells import CELLS, CellKind
from femops.notation import Array, Indices

EVERYWHERE = "everywhere"
"""Name of the region that is the whole body, whether the mesh has regions or not."""


@dataclass(frozen=True)
class TaggedMesh:
    """Mesh of cells of one kind with named regions and boundaries.

    Attributes:
        points: Node coordinates [length]. Shape (n_nodes, dim).
        cells: Nodes of each cell in VTK order. Shape (n_cells, n_nodes_of_cell).
        kind: Cell kind.
        regions: Cells of each named region, by index into `cells`. Regions do not overlap and cover the mesh.
        boundaries: Facets of each named boundary, by nodes in VTK order. Shape (n_facets, n_nodes_of_facet) each.
        notes: Notes to the user about the mesh, one line each.
        sets_without_facets: Named sets without facets, which are not boundaries, with the reason.
        instances: Nodes of each instance, if the file assembles the mesh from several.
        periods: Period vectors of an RVE as rows, if known [length]. Shape (dim, dim).
    """

    points: Array
    cells: Indices
    kind: CellKind
    regions: dict[str, Indices] = field(default_factory=dict)
    boundaries: dict[str, Indices] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sets_without_facets: dict[str, str] = field(default_factory=dict)
    instances: dict[str, Indices] = field(default_factory=dict)
    periods: Array | None = None

    @property
    def dim(self) -> int:
        """Dimension of space and of the cells."""
        return int(self.points.shape[1])

    @property
    def facet_kind(self) -> CellKind:
        """Cell kind of the facets."""
        return CELLS[self.kind.facet]

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Smallest and largest coordinates [length]. Shape (dim,) each."""
        return self.points.min(0), self.points.max(0)

    def region_of_cell(self) -> npt.NDArray[np.int32]:
        """Return the position in `regions` of each cell's region. Shape (n_cells,)."""
        owner = np.full(len(self.cells), -1, dtype=np.int32)
        for position, members in enumerate(self.regions.values()):
            owner[members] = position
        return owner
