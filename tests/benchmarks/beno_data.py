"""Poisson problems on the unit square with cut corners, or with a hole, on square grids: Dirichlet data throughout."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from femops.meshing import CELLS, TaggedMesh
from femops.meshing.building import exterior_facets
from femops.notation import Array
from femops_beno.systems import System

CORNERS = tuple(f"corners_{n}" for n in range(5))
UNSEEN = "holes"
_STIFFNESS = np.array([[4, -1, -2, -1], [-1, 4, -1, -2], [-2, -1, 4, -1], [-1, -2, -1, 4]]) / 6.0
_MASS = np.array([[4, 2, 1, 2], [2, 4, 2, 1], [1, 2, 4, 2], [2, 1, 2, 4]]) / 36.0
_WAVES, _DECAY = 6, 1.5


def problems(shape: str, cells: int, count: int, seed: int) -> list[System]:
    """Return solved problems of a shape class on grids of cells × cells."""
    numbers = np.random.default_rng([seed, (*CORNERS, UNSEEN).index(shape), cells])
    return [_problem(_kept(shape, cells, numbers), numbers).solved() for _ in range(count)]


def _kept(shape: str, n: int, numbers: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return which cells (x, y) belong to the domain."""
    kept = np.ones((n, n), dtype=bool)
    if shape == UNSEEN:
        low, size = numbers.integers(n // 4, n // 2, 2), numbers.integers(n // 8, n // 4 + 1, 2)
        kept[low[0] : low[0] + size[0], low[1] : low[1] + size[1]] = False
        return kept
    corners = numbers.permutation(4)[: int(shape[-1])]
    for corner in corners:
        x, y = numbers.integers(n // 8, 7 * n // 16, 2)
        turned = kept[:: 1 - 2 * (corner % 2), :: 1 - 2 * (corner // 2)]
        turned[:x, :y] = False
    return kept


def _problem(kept: npt.NDArray[np.bool_], numbers: np.random.Generator) -> System:
    n = len(kept)
    x, y = np.nonzero(kept)
    grid = np.stack([np.stack([x + i, y + j], axis=-1) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))], axis=1)
    used, cells = np.unique(grid @ [n + 1, 1], return_inverse=True)
    cells = cells.reshape(-1, 4)
    points = np.stack([used // (n + 1), used % (n + 1)], axis=1) / n
    mesh = TaggedMesh(points, cells, CELLS["quad"])
    prescribed = np.zeros(len(points), dtype=bool)
    prescribed[exterior_facets(cells, mesh.kind)] = True
    source = _assembled(cells, len(points), _MASS / n**2) @ (10.0 * _field(numbers)(points))
    lifting = np.where(prescribed, _field(numbers)(points), 0.0)
    none = np.zeros(len(points))
    stiffness = _assembled(cells, len(points), _STIFFNESS)
    return System(mesh, prescribed, stiffness, source, none, lifting, np.zeros((len(cells), 0)))


def _assembled(cells: npt.NDArray[np.int64], size: int, matrix: Array) -> sp.csr_array:
    rows, columns = np.repeat(cells, 4, axis=1).ravel(), np.tile(cells, 4).ravel()
    return sp.coo_array((np.tile(matrix.ravel(), len(cells)), (rows, columns)), shape=(size, size)).tocsr()


def _field(numbers: np.random.Generator) -> Callable[[Array], Array]:
    """Return a random smooth field, a sum of waves."""
    wave = np.pi * np.stack(np.meshgrid(np.arange(_WAVES), np.arange(_WAVES)), axis=-1).reshape(-1, 2)
    size = numbers.normal(size=len(wave)) / (1.0 + np.linalg.norm(wave / np.pi, axis=1)) ** _DECAY
    phase = numbers.uniform(0.0, 2.0 * np.pi, len(wave))
    return lambda points: np.cos(points @ wave.T + phase) @ size
