"""Poisson problems with Dirichlet data on the unit square with cut corners, and on polygons with holes."""

from femops_beno.poisson.generate import random_sample
from femops_beno.poisson.options import PoissonShapes, PolygonBlock, Shape
from femops_beno.systems import System

CORNERS = tuple(f"corners_{n}" for n in range(5))
UNSEEN = "holes"
_SHAPES = {name: Shape(corners=n, polygon=None) for n, name in enumerate(CORNERS)}
_SHAPES[UNSEEN] = Shape(corners=None, polygon=PolygonBlock(vertices=(5, 12), holes=(1, 2)))


def problems(shape: str, cells: int, count: int, seed: int) -> list[System]:
    """Return solved problems of a shape class on grids of cells × cells, or of triangles of that size."""
    block = PoissonShapes(shapes=(_SHAPES[shape],), resolution=cells)
    return [random_sample(_SHAPES[shape], block, seed, number).system for number in range(count)]
