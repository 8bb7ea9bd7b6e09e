"""Meshes of plane domains: quadrilaterals on a grid, and triangles in a polygon, with each contour as a boundary."""

from dataclasses import replace

import gmsh
import numpy as np

from femops.errors import CaseError
from femops.meshing import CELLS, TaggedMesh
from femops.meshing.gmsh_model import gmsh_session, tagged_mesh_from_gmsh
from femops.notation import Array
from femops_beno.contour import Contours
from femops_beno.poisson.shapes import Mask, Polygon

OUTER = "outer"
"""Name of the outer contour as a boundary; those of holes are `hole_1`, `hole_2`, ..."""


def grid_mesh(inside: Mask) -> TaggedMesh:
    """Return the mesh of squares of the grid cells inside a domain of the unit square.

    Args:
        inside: Mask of the cells; the first axis is x. Shape (n, n).

    Returns:
        The mesh, with a boundary for each contour. Its cells are in the order of `np.argwhere(inside)`.

    Raises:
        CaseError: No cell is inside.
    """
    n = len(inside)
    x, y = np.nonzero(inside)
    if not len(x):
        raise CaseError("no cell is inside the domain; expected one or more")
    corners = np.stack([x, x + 1, x + 1, x]) * (n + 1) + np.stack([y, y, y + 1, y + 1])
    used, nodes = np.unique(corners.T, return_inverse=True)
    points = np.stack(np.divmod(used, n + 1), axis=1) / n
    return _with_contours(TaggedMesh(points, nodes.reshape(-1, 4).astype(np.int64), CELLS["quad"]))


def polygon_mesh(polygon: Polygon, size: float) -> TaggedMesh:
    """Return a Delaunay triangulation of a polygon, constrained by its contours.

    Args:
        polygon: The polygon.
        size: Edge length of the triangles [length].

    Returns:
        The mesh, with a boundary for each contour.

    Raises:
        CaseError: gmsh found no valid mesh.
    """
    options = {"Mesh.Algorithm": 5, "Mesh.MeshSizeMax": size, "Mesh.MeshSizeMin": size, "Mesh.RandomSeed": 1}
    with gmsh_session(options):
        try:
            loops = [_loop(contour, size) for contour in (polygon.outer, *polygon.holes)]
            surface = gmsh.model.geo.addPlaneSurface(loops)
            gmsh.model.geo.synchronize()
            gmsh.model.addPhysicalGroup(2, [surface], name="domain")
            gmsh.model.mesh.generate(2)
        except Exception as error:  # gmsh raises nothing more specific
            raise CaseError(f"gmsh cannot mesh the polygon: {error}") from error
        return _with_contours(tagged_mesh_from_gmsh())


def _loop(contour: Array, size: float) -> int:
    """Add a closed contour to the gmsh model; return its tag."""
    geo = gmsh.model.geo
    ends = [geo.addPoint(x, y, 0.0, size) for x, y in contour]
    lines = [geo.addLine(one, other) for one, other in zip(ends, ends[1:] + ends[:1], strict=True)]
    return int(geo.addCurveLoop(lines))


def _with_contours(mesh: TaggedMesh) -> TaggedMesh:
    """Return the mesh with its contours as boundaries, edges in contour order with the domain on their left."""
    loops = Contours.of(mesh).loops
    names = [OUTER, *(f"hole_{i}" for i in range(1, len(loops)))]
    edges = [np.stack([loop, np.roll(loop, -1)], axis=1) for loop in loops]
    regions = {"domain": np.arange(len(mesh.cells))}
    return replace(mesh, regions=regions, boundaries=dict(zip(names, edges, strict=True)))
