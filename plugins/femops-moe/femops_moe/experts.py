"""The reduced energy of every expert: an exact quadratic part, and points where the rest is sampled.

With z_k = (E, p, b_k), the strain in the subdomain of expert k is M z_k, and its share of the energy is
½ z_kᵀ Q_k z_k + Σ_g w_g ψ(M_g z_k). Linear phases and the bulk energy of `saturating` phases are in Q_k; ψ is the rest:
the deviatoric energy of `saturating` phases, the whole energy of others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array, Indices, identity
from femops.phases import Phase
from femops.phases.saturating import Saturating
from femops.rve.spec import RVE
from femops_moe.basis import Basis, Strains


@dataclass(frozen=True)
class Experts:
    """The energies of K experts; weights are relative to the volume of the RVE.

    Experts with fewer points than others have points of weight zero, and those with fewer bubbles have zero columns in
    `maps` with ones on the diagonal of `quadratic`.

    Attributes:
        quadratic: Q_k [stress]. Shape (K, m, m).
        maps: M_g. Shape (K, P, n_s, m).
        weight: w_g [-]. Shape (K, P).
        normal: In plane strain, the share of Q_k in ⟨σ_33⟩ as a map of z_k [stress]; zeros in 3D. Shape (K, m).
        points: Points of the RVE; −1 for padding. Shape (K, P).
        sampled: Phases of the sampled energy, and the slice of the points of each.
        counts: Number of bubbles of each expert. Shape (K,).
        n_ports: Number of ports.
    """

    quadratic: Tensor
    maps: Tensor
    weight: Tensor
    normal: Tensor
    points: Indices
    sampled: tuple[tuple[Phase, slice], ...]
    counts: tuple[int, ...]
    n_ports: int

    @property
    def n_s(self) -> int:
        """Number of strain components."""
        return int(self.maps.shape[2])

    @property
    def n_shared(self) -> int:
        """Number of components of z_k that all experts share: strains and ports."""
        return self.n_s + self.n_ports

    @property
    def n_bubbles(self) -> int:
        """Largest number of bubbles of an expert."""
        return int(self.maps.shape[3]) - self.n_shared

    @property
    def n_unknowns(self) -> int:
        """Length of the vector of unknowns: ports, then `n_bubbles` of each expert."""
        return self.n_ports + len(self.counts) * self.n_bubbles

    @property
    def used(self) -> Indices:
        """Places in the vector of unknowns that are no padding. Shape (n,)."""
        own = np.arange(self.n_bubbles) < np.array(self.counts)[:, None]
        return np.flatnonzero(np.concatenate([np.ones(self.n_ports, dtype=bool), own.ravel()]))

    def padded(self, unknowns: Array) -> Array:
        """Return vectors of unknowns (n, n_unknowns) of those that are no padding (n, m)."""
        found = np.zeros((len(unknowns), self.n_unknowns))
        found[:, self.used] = unknowns
        return found

    def leading(self, n_ports: int, counts: Indices) -> "Experts":
        """Return the experts with the first ports, and the first bubbles of each expert; `counts` is (K,)."""
        n_s, n_shared = self.n_s, self.n_shared
        columns = [*range(n_s + n_ports), *range(n_shared, n_shared + int(counts.max()))]
        unused = torch.as_tensor(np.arange(len(columns)) >= (n_s + n_ports + counts)[:, None])
        quadratic = self.quadratic[:, columns][:, :, columns]
        quadratic = quadratic.masked_fill(unused[:, None] | unused[:, :, None], 0.0) + torch.diag_embed(unused.double())
        return replace(
            self,
            quadratic=quadratic,
            maps=self.maps[..., columns].masked_fill(unused[:, None, None], 0.0),
            normal=self.normal[:, columns].masked_fill(unused, 0.0),
            counts=tuple(int(one) for one in counts),
            n_ports=n_ports,
        )

    @property
    def bytes_of_one(self) -> float:
        """Memory per strain in an evaluation of the energies [bytes]."""
        n_experts, n_points, n_s, m = self.maps.shape
        return float(self.maps.element_size() * n_experts * (n_points * n_s * (3 * n_s + 6) + 4 * m * m))

    def local(self, strain: Tensor, unknowns: Tensor) -> Tensor:
        """Return z of every expert (K, n, m) at strains (n, n_s) and unknowns (n, n_unknowns)."""
        ports, bubbles = unknowns[:, : self.n_ports], unknowns[:, self.n_ports :]
        shared = torch.cat([strain, ports], 1).expand(len(self.counts), -1, -1)
        own = bubbles.unflatten(1, (len(self.counts), self.n_bubbles)).transpose(0, 1)
        return torch.cat([shared, own], 2)


def assemble(rve: RVE, space: Strains, expert: Indices, basis: Basis) -> Experts:
    """Return the experts of an RVE with all points.

    Args:
        rve: The RVE.
        space: Its fluctuations, or the displacements of a component.
        expert: Expert of each cell. Shape (n_cells,).
        basis: The modes.
    """
    mesh = space.discretisation
    weight = mesh.weight.ravel() / mesh.volume
    maps = strain_maps(space, basis)
    expert_of = np.repeat(expert, mesh.n_q)
    quadratic, normal = _quadratic_forms(rve, maps, weight, expert_of, basis)
    sampled = list(_sampled_parts(rve))
    parts = [_padded(points, expert_of, len(basis.counts)) for points, _ in sampled]
    stops = np.cumsum([0, *(part.shape[1] for part in parts)])
    place = np.concatenate([np.zeros((len(basis.counts), 0), dtype=np.int64), *parts], axis=1)
    padding = np.eye(mesh.n_s, maps.shape[2])  # the macroscale strain, at which norms have derivatives
    return Experts(
        torch.as_tensor(quadratic),
        torch.as_tensor(np.where(place[:, :, None, None] >= 0, maps[place], padding)),
        torch.as_tensor(np.where(place >= 0, weight[place], 0.0)),
        torch.as_tensor(normal),
        place,
        tuple((phase, slice(int(a), int(b))) for (_, phase), a, b in zip(sampled, stops, stops[1:], strict=False)),
        tuple(int(one) for one in basis.counts),
        basis.ports.shape[1],
    )


def _quadratic_forms(rve: RVE, maps: Array, weight: Array, expert_of: Indices, basis: Basis) -> tuple[Array, Array]:
    """Return `quadratic` and `normal` of the experts; arguments by point of the RVE."""
    m, n_shared = maps.shape[2], maps.shape[1] + basis.ports.shape[1]
    quadratic, normal = np.zeros((len(basis.counts), m, m)), np.zeros((len(basis.counts), m))
    for k, count in enumerate(basis.counts):
        np.einsum("ii->i", quadratic[k])[n_shared + count :] = 1.0
    for points, tangent, row in _linear_parts(rve):
        for k in np.unique(expert_of[points]):
            own = points[expert_of[points] == k]
            local, w = maps[own], weight[own]
            quadratic[k] += np.tensordot(local * w[:, None, None], tangent @ local, axes=([0, 1], [0, 1]))
            normal[k] += w @ (row @ local)
    return 0.5 * (quadratic + quadratic.transpose(0, 2, 1)), normal


def on_device(experts: Experts, device: torch.device | str, dtype: torch.dtype) -> Experts:
    """Return the experts on a device, in a precision."""
    names = ("quadratic", "maps", "weight", "normal")
    return replace(experts, **{name: getattr(experts, name).to(device, dtype) for name in names})


def strain_maps(space: Strains, basis: Basis) -> Array:
    """Return the strain at all points as a map of (E, p, b), with the bubbles b of the expert of the point.

    Shape (n_points, n_s, m).
    """
    mesh = space.discretisation
    modes = np.concatenate([basis.elastic, basis.ports, basis.bubbles], axis=1)
    maps = (space.gradient @ modes).reshape(mesh.n_s, mesh.n_points, -1).transpose(1, 0, 2)
    maps[:, :, : mesh.n_s] += np.eye(mesh.n_s)
    return np.ascontiguousarray(maps)


def restricted(experts: Experts, factor: Array) -> Experts:
    """Return the experts with weights multiplied by factors (K, P), without the points of factor 0."""
    places, sampled, first = [], [], 0
    for phase, points in experts.sampled:
        used = factor[:, points] > 0.0
        count = int(used.sum(axis=1).max())
        places.append(points.start + np.argsort(~used, axis=1, kind="stable")[:, :count])
        sampled.append((phase, slice(first, first + count)))
        first += count
    place = np.concatenate([np.zeros((len(factor), 0), dtype=np.int64), *places], axis=1)
    rows = np.arange(len(factor))[:, None]
    weight = experts.weight * torch.as_tensor(factor).to(experts.weight)
    return replace(
        experts,
        maps=experts.maps[rows, place],
        weight=weight[rows, place],
        points=experts.points[rows, place],
        sampled=tuple(sampled),
    )


def sampled_at(experts: Experts, factor: Array) -> Experts:
    """Return the experts with weights multiplied by factors of all points of the RVE (n_points,)."""
    return restricted(experts, np.where(experts.points >= 0, factor[experts.points], 0.0))


def _linear_parts(rve: RVE) -> Iterator[tuple[Indices, Array, Array]]:
    """Yield the quadratic part of the energy of phases: points, D (n_s, n_s), and dσ_33/dε (n_s,), zero in 3D."""
    mesh = rve.discretisation
    for position, phase in enumerate(rve.phases):
        part = mesh.points_of_phase(position)
        points = np.arange(part.start, part.stop)
        if phase.linear:
            unit = phase.evaluate(np.eye(mesh.n_s), np.zeros((0, mesh.n_s)))
            yield points, unit.stress, np.zeros(mesh.n_s) if unit.stress_33 is None else unit.stress_33
        elif isinstance(phase, Saturating):
            bulk = phase.K * identity(mesh.dim)
            yield points, np.outer(identity(mesh.dim), bulk), bulk if mesh.dim == 2 else 0.0 * bulk


def _sampled_parts(rve: RVE) -> Iterator[tuple[Indices, Phase]]:
    """Yield the points and the energy of phases that is not quadratic."""
    for position, phase in enumerate(rve.phases):
        part = rve.discretisation.points_of_phase(position)
        if not phase.linear:
            rest: Any = replace(phase, K=0.0) if isinstance(phase, Saturating) else phase
            yield np.arange(part.start, part.stop), rest


def _padded(points: Indices, expert_of: Indices, n_experts: int) -> Indices:
    """Return points by expert, filled up with −1. Shape (K, P)."""
    owner = expert_of[points]
    count = np.bincount(owner, minlength=n_experts)
    found = np.full((n_experts, int(count.max())), -1)
    order = np.argsort(owner, kind="stable")
    start = np.cumsum(count) - count
    found[owner[order], np.arange(len(points)) - start[owner[order]]] = points[order]
    return found
