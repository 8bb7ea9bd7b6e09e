"""The boundary of a domain as a sequence of points, and the Transformer that embeds it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops_beno.contour import Contours
from femops_beno.systems import System

_HARMONICS = 6
_TINY = 1e-30


@dataclass(frozen=True)
class BoundaryPoints:
    """The boundary nodes of a system; in the plane contour by contour in order.

    Attributes:
        shape: What the boundary looks like at each point [-]: outward normal, position relative to the centre over the
            size of the domain, harmonics of the arc length (in 3D of the position), mark of a hole, mark of each
            prescribed component. Shape (n_b, n_shape).
        data: Boundary data of k problems: prescribed values, and flux loads over the stiffness at the node, in units of
            the solution. Shape (n_b, 2 · n_components, k).
        weight: Length (in 3D area) of each point, as a part of the whole boundary [-]. Shape (n_b,).
    """

    shape: Array
    data: Array
    weight: Array

    @classmethod
    def of(cls, system: System) -> "BoundaryPoints":
        """Return the boundary points of a system."""
        boundary, size = system.boundary, system.n_components
        nodes, points = boundary.nodes, system.mesh.points
        low, high = system.mesh.bounds
        position = (points[nodes] - 0.5 * (low + high)) / (high - low).max()
        phases = boundary.arc[:, None] if isinstance(boundary, Contours) else position
        orders = np.arange(1, _HARMONICS // phases.shape[1] + 1)
        waves = 2.0 * np.pi * (phases[:, :, None] * orders).reshape(len(nodes), -1)
        held = system.prescribed.reshape(-1, size)[nodes]
        parts = [boundary.normal, position, np.cos(waves), np.sin(waves), boundary.loop[:, None] > 0, held]
        diagonal = system.stiffness.diagonal().reshape(-1, size)[nodes]
        prescribed, flux = (_by_point(values, system)[nodes] for values in (system.lifting, system.flux))
        data = np.concatenate([prescribed * held[..., None], flux / diagonal[..., None]], axis=1)
        return cls(np.concatenate(parts, axis=1), data, boundary.length / boundary.length.sum())


def _by_point(values: Array, system: System) -> Array:
    """Return data of a system, shape (n_values,) or (n_values, k), as (n_nodes, n_components, k)."""
    return values.reshape(len(system.mesh.points), system.n_components, -1)


def shape_features(dim: int, n_components: int) -> int:
    """Return the number of columns of `BoundaryPoints.shape`."""
    return 2 * dim + 2 * _HARMONICS + 1 + n_components


def cell_distance(system: System) -> Array:
    """Return the distance of each cell centre to the nearest boundary node, over the size of the domain [-]."""
    mesh = system.mesh
    low, high = mesh.bounds
    distance, _ = cKDTree(mesh.points[system.boundary.nodes]).query(mesh.points[mesh.cells].mean(axis=1))
    return np.asarray(distance / (high - low).max())


@dataclass(frozen=True)
class BoundaryBatch:
    """Boundaries of several systems, padded to the longest.

    Attributes:
        shape: See `BoundaryPoints`. Shape (n_meshes, n_b, n_shape).
        data: Shape (n_meshes, n_b, n_data, k).
        weight: Zero for padding. Shape (n_meshes, n_b).
    """

    shape: Tensor
    data: Tensor
    weight: Tensor

    @classmethod
    def of(cls, boundaries: list[BoundaryPoints], to: Any) -> "BoundaryBatch":
        """Return the padded boundaries; `to` is type and device of the numbers."""
        longest = max(len(one.weight) for one in boundaries)

        def padded(name: str) -> Tensor:
            rows = [getattr(one, name) for one in boundaries]
            found = np.zeros((len(rows), longest, *rows[0].shape[1:]))
            for target, row in zip(found, rows, strict=True):
                target[: len(row)] = row
            return torch.from_numpy(found).to(**to)

        return cls(padded("shape"), padded("data"), padded("weight"))


class BoundaryTransformer(torch.nn.Module):
    """Embeds a boundary as two vectors: one of its shape, and one that is linear in the boundary data.

    Attention between the points sees the shape only. The second vector integrates the data along the contours, with
    weights that the attention of learned queries gives.

    Args:
        n_shape: Columns of `BoundaryPoints.shape`.
        n_data: Columns of `BoundaryPoints.data`.
        width: Length of both vectors, a multiple of the heads.
        layers: Transformer layers.
        heads: Attention heads.
    """

    def __init__(self, n_shape: int, n_data: int, width: int, layers: int, heads: int = 4) -> None:
        super().__init__()
        self.embed = torch.nn.Sequential(
            torch.nn.Linear(n_shape, width), torch.nn.SiLU(), torch.nn.Linear(width, width)
        )
        self.layers = torch.nn.ModuleList(_AttentionLayer(width, heads) for _ in range(layers))
        self.norm = torch.nn.LayerNorm(width)
        self.query, self.gate = torch.nn.Linear(width, width), torch.nn.Linear(width, width * n_data)

    def forward(self, boundary: BoundaryBatch) -> tuple[Tensor, Tensor]:
        """Return the vectors of shape, (n_meshes, width), and of data, (k, n_meshes, width), of each mesh."""
        padding = boundary.weight == 0.0
        tokens = self.embed(boundary.shape)
        for layer in self.layers:
            tokens = layer(tokens, padding)
        tokens = self.norm(tokens)
        shape = (tokens * boundary.weight[..., None]).sum(1)
        share = torch.softmax(self.query(tokens) + boundary.weight.clamp(min=_TINY).log()[..., None], dim=1)
        gates = self.gate(tokens).unflatten(2, (-1, boundary.data.shape[2]))
        return shape, torch.einsum("mbw,mbwd,mbdk->kmw", share, gates, boundary.data)


class _AttentionLayer(torch.nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.after = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        self.change = torch.nn.Sequential(
            torch.nn.Linear(width, 2 * width), torch.nn.SiLU(), torch.nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        seen = self.before(tokens)
        tokens = tokens + self.attention(seen, seen, seen, key_padding_mask=padding, need_weights=False)[0]
        return tokens + self.change(self.after(tokens))
