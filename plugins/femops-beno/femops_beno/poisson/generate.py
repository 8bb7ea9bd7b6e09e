"""Random samples of Poisson's equation on random shapes, with their finite-element solutions."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from femops.meshing import TaggedMesh
from femops.notation import Array, Indices
from femops.pde.random_fields import gaussian_field
from femops.surrogate import Progress
from femops_beno.poisson.assembly import edge_mass_matrix, poisson, source_load
from femops_beno.poisson.meshes import OUTER, grid_mesh, polygon_mesh
from femops_beno.poisson.options import PoissonShapes, Shape
from femops_beno.poisson.shapes import cut_square, polygon
from femops_beno.systems import System

_NEUMANN_PARTS = (0.2, 0.6)  # of the length of each contour
_SHOW_EVERY = 20


@dataclass(frozen=True)
class Sample:
    """A problem with its solution.

    Attributes:
        system: The problem, solved.
        shape: Its class of shapes.
        source: f at the nodes or in each cell, see `assembly.source_load`.
        given: Solution that was given along with the problem, at the centres of the cells. Shape (n_cells,).
    """

    system: System
    shape: str
    source: Array
    given: Array | None = None


def random_samples(block: PoissonShapes, count: int, seed: int, progress: Progress, stage: str) -> list[Sample]:
    """Return random samples of each class of shapes, one class after the other.

    The samples of a class depend neither on the other classes nor on the count.

    Args:
        block: Shapes, boundary conditions and random fields.
        count: Number of samples of each class.
        seed: Seed of the random numbers.
        progress: Progress callback.
        stage: Name of the stage.
    """
    found: list[Sample] = []
    for shape in block.shapes:
        for number in range(count):
            found.append(random_sample(shape, block, seed, number))
            if len(found) % _SHOW_EVERY == 0 or len(found) == count * len(block.shapes):
                progress(stage, len(found), count * len(block.shapes))
    return found


def random_sample(shape: Shape, block: PoissonShapes, seed: int, number: int) -> Sample:
    """Return a random sample, which depends on shape, seed and number only.

    Raises:
        CaseError: gmsh found no valid mesh.
    """
    draws = np.random.default_rng([seed, *shape.key, number])
    mesh = _mesh(shape, draws, block.resolution)
    source, values, flux = (gaussian_field(draws, 2, block.length)(mesh.points) for _ in range(3))
    values, flux = block.amplitude * values, block.amplitude / block.length * flux
    if block.boundary == "neumann":
        system = pure_neumann(mesh, source, flux)
    else:
        neumann = np.vstack(list(_neumann_parts(mesh, draws))) if block.boundary == "mixed" else None
        system = with_dirichlet(mesh, source, values, flux, neumann)
    return Sample(system.solved(), shape.label, source)


def with_dirichlet(
    mesh: TaggedMesh, source: Array, values: Array, flux: Array | None = None, neumann: Indices | None = None
) -> System:
    """Return −Δu = f with u = g on the boundary, except for the Neumann part, on which ∂u/∂n = h.

    Args:
        mesh: Mesh with all its contours as boundaries.
        source: f; see `assembly.source_load`.
        values: g at the nodes. Shape (n_nodes,).
        flux: h at the nodes. Shape (n_nodes,).
        neumann: Edges of the Neumann part, as they stand among the boundaries; default none. Shape (n_edges, 2).
    """
    edges = np.vstack(list(mesh.boundaries.values()))
    if neumann is None or flux is None:
        dirichlet, load = edges, None
    else:
        n = len(mesh.points)
        dirichlet = edges[~np.isin(edges @ [n, 1], neumann @ [n, 1])]
        load = edge_mass_matrix(mesh, neumann) @ flux
    prescribed = np.zeros(len(mesh.points), dtype=bool)
    prescribed[dirichlet] = True
    return poisson(mesh, source, prescribed, values, load)


def pure_neumann(mesh: TaggedMesh, source: Array, flux: Array) -> System:
    """Return −Δu = f with ∂u/∂n = h − c on the whole boundary.

    The constant c makes the data compatible: ∫ f dx + ∫ (h − c) ds = 0. The solution is then defined up to a constant,
    and u = 0 at the first node of the outer contour selects one without a load there.

    Args:
        mesh: Mesh with all its contours as boundaries.
        source: f; see `assembly.source_load`.
        flux: h at the nodes. Shape (n_nodes,).
    """
    surface = edge_mass_matrix(mesh, np.vstack(list(mesh.boundaries.values())))
    prescribed = np.zeros(len(mesh.points), dtype=bool)
    prescribed[mesh.boundaries[OUTER][0, 0]] = True
    total = source_load(mesh, source).sum() + (surface @ flux).sum()
    return poisson(mesh, source, prescribed, np.zeros(len(mesh.points)), surface @ (flux - total / surface.sum()))


def _mesh(shape: Shape, draws: np.random.Generator, resolution: int) -> TaggedMesh:
    if shape.polygon is None:
        return grid_mesh(cut_square(draws, shape.corners or 0, resolution))
    return polygon_mesh(polygon(draws, shape.polygon.vertices, shape.polygon.holes), 1.0 / resolution)


def _neumann_parts(mesh: TaggedMesh, draws: np.random.Generator) -> Iterator[Indices]:
    """Yield the edges of a random contiguous part of each contour."""
    for edges in mesh.boundaries.values():
        length = np.linalg.norm(mesh.points[edges[:, 1]] - mesh.points[edges[:, 0]], axis=1)
        middle = (np.cumsum(length) - 0.5 * length) / length.sum()
        start, part = draws.uniform(), draws.uniform(*_NEUMANN_PARTS)
        yield edges[(middle - start) % 1.0 < part]
