"""SPON for RVEs of linear phases: from the phases of the cells to the fluctuations of the unit strains.

The network approximates the inverse stiffness: it maps nodal forces to fields, linearly, with weights that depend on
the phases. Damped Jacobi steps with the exact stiffness smooth its output, and an energy minimisation combines the
outputs of the passes. Each further pass acts on the residual forces. Forces and fields are normalised, so that neither
the mesh size nor the unit of stress matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from femops import notation
from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.notation import Array, Indices
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.linear import LinearFields
from femops.surrogate.fields.stiffness import StiffnessBatch
from femops.surrogate.graph import (
    CellPoints,
    Hierarchy,
    PeriodicBox,
    disjoint_union,
    fe_graph,
    periodic_hierarchy,
    rotated,
)
from femops.surrogate.message_passing import HierarchyMaps, Processor, ProcessorOptions, Shape
from femops_spon.plain import PlainGraphNetwork

_MIN_CELLS = 4
_FIRST_DAMPING = 0.4
_CUTOFF = 1e-6
_TINY = 1e-30


@dataclass(frozen=True)
class Architecture:
    """Architecture of a network.

    Attributes:
        processor: Size of the processor of each pass.
        passes: Number of passes over the residual forces, each with separate weights.
        smoothing: Damped Jacobi steps with the exact stiffness after each pass.
        plain: Use a plain graph network on the mesh instead of finite-element message passing on a grid hierarchy.
        seed: Seed of the initial weights.
    """

    processor: ProcessorOptions
    passes: int
    smoothing: int
    plain: bool = False
    seed: int = 0


def grid_counts(space: FluctuationSpace, least: int = _MIN_CELLS) -> Indices:
    """Return the cell counts of successively halved coarse grids of a mesh. Shape (n_grids, dim).

    If the mesh is a uniform grid, every node of a coarse grid is a node of the finer one.

    Args:
        space: The space on the mesh.
        least: Least number of cells of a grid along an axis.
    """
    lower, upper = space.discretisation.mesh.bounds
    edges = upper - lower
    count = np.rint(edges * (space.n_nodes / np.prod(edges)) ** (1.0 / len(edges))).astype(np.int64)
    counts = []
    while (count >= 2 * least).all():
        count = count // 2
        counts.append(count)
    return np.array(counts, dtype=np.int64).reshape(-1, len(edges))


def hierarchy(space: FluctuationSpace, n_levels: int, shift: Array | float = 0.0) -> Hierarchy:
    """Return the hierarchy of the mesh of a space and coarser grids.

    Args:
        space: The space.
        n_levels: Number of levels, including the mesh.
        shift: Shift of the coarse grids, in cells of the first of them [-]. Shape (dim,).

    Raises:
        CaseError: The RVE is not periodic, or its mesh is too coarse for `n_levels` levels or has quadratic cells.
    """
    if space.boundary != "periodic":
        problem = f"{space.boundary!r} given, expected 'periodic': the coarser levels of the network are periodic grids"
        raise CaseError(problem, key="rve.boundary")
    rve = space.discretisation
    if rve.mesh.kind.degree > 1:
        raise CaseError("has quadratic cells, expected linear ones, for example cell: triangle", key="rve")
    lower, upper = rve.mesh.bounds
    counts = grid_counts(space, 1)[: n_levels - 1]
    if len(counts) < n_levels - 1:
        raise CaseError(f"the mesh is too coarse for the {n_levels} levels of the network", key="rve")
    finest = fe_graph(rve.mesh.points, rve.mesh.cells, rve.mesh.kind, space.node_of, space.n_nodes)
    start = lower + shift * (upper - lower) / (counts[0] if len(counts) else 1)
    points = CellPoints(rve.points, rve.weight)
    return periodic_hierarchy(finest, space.points, points, counts, PeriodicBox(start, upper - lower))


def rotation_of_strain(rotation: Array) -> Array:
    """Return the orthogonal matrix T such that T ε is the Mandel vector of Q ε Qᵀ. Shape (n_s, n_s)."""
    dim = len(rotation)
    units = notation.to_tensor(np.eye(notation.n_strain(dim)))
    return notation.from_tensor(rotation @ units @ rotation.T).T


class MeshMaps:
    """The operators of a mesh, or of a disjoint union of meshes, in rotated coordinates Q x.

    Args:
        levels: Hierarchy of the mesh, see `hierarchy`.
        rotation: Q, orthogonal; None for the identity. Shape (dim, dim).
        sizes: Number of nodes of each mesh, if `levels` is a union of several.
    """

    def __init__(self, levels: Hierarchy, rotation: Array | None = None, sizes: Sequence[int] = ()) -> None:
        self.levels = HierarchyMaps(levels if rotation is None else rotated(levels, rotation))
        dim = levels[0].graph.dim
        matrix = np.eye(dim) if rotation is None else rotation
        self._rotated = rotation is not None
        self._vector, self._strain = torch.as_tensor(matrix), torch.as_tensor(rotation_of_strain(matrix))
        self.sizes = tuple(sizes)
        self._owner = torch.as_tensor(np.repeat(np.arange(len(sizes)), sizes))

    @classmethod
    def disjoint_union(cls, hierarchies: Sequence[Hierarchy], rotation: Array | None = None) -> "MeshMaps":
        """Return the operators of the disjoint union of one or more meshes; arguments as above."""
        if len(hierarchies) == 1:
            return cls(hierarchies[0], rotation)
        return cls(disjoint_union(hierarchies), rotation, [levels[0].graph.n_nodes for levels in hierarchies])

    def totals(self, values: Tensor) -> Tensor:
        """Return sums of values (N, n_nodes, ...) over the nodes of each RVE: N RVEs on one mesh, or one per mesh."""
        if not self.sizes:
            return values.sum(dim=1)
        found = values.new_zeros(len(self.sizes), *values.shape[2:])
        return found.index_add_(0, self._owner.to(values.device), values[0])

    def at_nodes(self, values: Tensor) -> Tensor:
        """Return values of each RVE (n_rves, ...) at its nodes, broadcastable to (N, n_nodes, ...)."""
        return values[:, None] if not self.sizes else values[self._owner.to(values.device)][None]

    def to_rotated(self, vectors: Tensor) -> Tensor:
        """Return nodal vectors (N, n_nodes, dim) in the rotated coordinates."""
        return vectors @ self._vector.T.to(vectors) if self._rotated else vectors

    def from_rotated(self, vectors: Tensor) -> Tensor:
        """Return nodal vectors in the original coordinates; the inverse of `to_rotated`."""
        return vectors @ self._vector.to(vectors) if self._rotated else vectors

    def tangent(self, tangent: Tensor) -> Tensor:
        """Return tangents (..., n_s, n_s) in the rotated coordinates."""
        if not self._rotated:
            return tangent
        matrix = self._strain.to(tangent)
        return matrix @ tangent @ matrix.T


class SPON(torch.nn.Module):
    """The network; its weights apply to any mesh of its dimension.

    Args:
        dim: Dimension of space.
        n_levels: Number of levels of the hierarchies.
        architecture: See `Architecture`.
    """

    def __init__(self, dim: int, n_levels: int, architecture: Architecture) -> None:
        super().__init__()
        self.dim, self.n_levels = dim, n_levels
        n_s = notation.n_strain(dim)
        shape = Shape(dim, 1 + n_s * (n_s + 1) // 2, dim, dim, n_levels)
        kind: Any = PlainGraphNetwork if architecture.plain else Processor
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(architecture.seed)
            self.passes = torch.nn.ModuleList(kind(shape, architecture.processor) for _ in range(architecture.passes))
        self.damping = torch.nn.Parameter(torch.full((architecture.passes, architecture.smoothing), _FIRST_DAMPING))

    def forward(self, maps: MeshMaps, problem: LinearFields, features: Tensor) -> Tensor:
        """Return the fluctuations of the unit strains, up to a translation. Shape (N, n_nodes, dim, n_s).

        Args:
            maps: Operators of the mesh.
            problem: N RVEs on it, in the precision of the weights.
            features: `cell_features` of their phases.
        """
        return self.solve(maps, problem.stiffness, -problem.load, features)

    def solve(self, maps: MeshMaps, stiffness: StiffnessBatch, forces: Tensor, features: Tensor) -> Tensor:
        """Return an approximation of K⁻¹ f, up to a translation. Shape (N, n_nodes, dim, k).

        Args:
            maps: Operators of the mesh.
            stiffness: K of N RVEs; for a union of meshes, one block-diagonal matrix.
            forces: f, k columns of nodal forces with zero resultant. Shape (N, n_nodes, dim, k).
            features: `cell_features` of the phases.
        """
        diagonal = stiffness.diagonal[..., None]
        fields, residual = torch.zeros_like(forces), forces
        search, images = fields[..., :0], fields[..., :0]
        for network, dampings in zip(self.passes, self.damping, strict=True):
            step = self._pass(network, maps, residual / diagonal, features)
            for damping in dampings:
                step = step + damping * (residual - _Product.apply(step, stiffness)) / diagonal
            search = torch.cat([search, step], dim=3)
            images = torch.cat([images, _Product.apply(step, stiffness)], dim=3)
            amount = maps.at_nodes(_least_energy(maps, search.detach(), images.detach(), residual.detach()))
            search, images = search @ amount, images @ amount
            fields, residual = fields + search, residual - images
        return fields

    def _pass(self, network: torch.nn.Module, maps: MeshMaps, forces: Tensor, features: Tensor) -> Tensor:
        """Return the output of one pass for forces divided by the diagonal of the stiffness (N, n_nodes, dim, k)."""
        share = 1.0 / (forces.shape[2] * maps.totals(torch.ones_like(forces[..., :1, :1])))
        size = maps.at_nodes((maps.totals(forces.square()).sum(1, keepdim=True) * share).clamp(min=_TINY).sqrt())
        columns = (forces / size).permute(0, 3, 1, 2)
        output = maps.from_rotated(network(maps.levels, maps.to_rotated(columns.flatten(0, 1)), features))
        return output.view(columns.shape).permute(0, 2, 3, 1) * size


class _Product(torch.autograd.Function):
    """K w with its derivative; K is symmetric."""

    @staticmethod
    def forward(ctx: Any, fields: Tensor, stiffness: StiffnessBatch) -> Tensor:
        """Return K w."""
        ctx.stiffness = stiffness
        return stiffness @ fields

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return K g."""
        return ctx.stiffness @ gradients[0].contiguous(), None


def _least_energy(maps: MeshMaps, search: Tensor, images: Tensor, residual: Tensor) -> Tensor:
    """Return the coefficients of the fields (N, n_nodes, dim, m) of least energy for each RVE. Shape (n_rves, m, n_s).

    A small regularisation handles nearly dependent fields. The energy is stationary in the coefficients, so that
    training need not differentiate them: exactly in the last pass, approximately in those before.

    Args:
        maps: Operators of the mesh.
        search: The fields.
        images: K times the fields.
        residual: Residual forces. Shape (N, n_nodes, dim, n_s).
    """
    m = search.shape[3]
    work = _work(maps, search, torch.cat([images, residual], dim=3)).double()
    gram, right = work[..., :m], work[..., m:]
    scale = gram.diagonal(dim1=1, dim2=2).clamp(min=_TINY).rsqrt()[..., None]
    unit = scale * (0.5 * (gram + gram.transpose(1, 2))) * scale.transpose(1, 2)
    unit = unit + _CUTOFF * torch.eye(m, dtype=unit.dtype, device=unit.device)
    return (scale * torch.linalg.solve(unit, scale * right)).to(search)


def _work(maps: MeshMaps, fields: Tensor, forces: Tensor) -> Tensor:
    """Return the work of forces (N, n_nodes, dim, p) along fields (N, n_nodes, dim, m). Shape (n_rves, m, p)."""
    if not maps.sizes:
        return fields.flatten(1, 2).transpose(1, 2) @ forces.flatten(1, 2)
    return maps.totals(fields.transpose(2, 3) @ forces)
