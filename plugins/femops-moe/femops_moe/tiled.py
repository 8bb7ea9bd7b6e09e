"""Equilibrium of the components of an arrangement: Newton's method on their reduced energies.

A component is an expert whose ports belong to its own faces and corners, so that z_k = (E, p_k, b_k) holds those of
the arrangement's ports that it shares with its neighbours. Its macroscale strain has the elastic fluctuation of the
arrangement, which differs from place to place; ports and bubbles are those of the kind of component.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array, Indices
from femops.surrogate import chunks
from femops_moe.basis import Basis
from femops_moe.components import Arrangement, Component
from femops_moe.dissection import Condensation, Merge, dissection, renumbered
from femops_moe.experts import Experts, assemble, restricted
from femops_moe.galerkin import Elimination, Equilibrium, derivatives
from femops_moe.sides import numbering

_SMALLEST = 1e-30


@dataclass(frozen=True)
class LocalModes:
    """Modes of a kind of component.

    Attributes:
        ports: Fields of its ports, by side. Shape (n_dofs, n_p).
        bubbles: Fields that vanish on the boundary. Shape (n_dofs, n_b).
    """

    ports: Array
    bubbles: Array


@dataclass(frozen=True)
class TiledExperts:
    """The experts of an arrangement.

    Attributes:
        experts: The experts; `n_ports` is that of one component.
        number: Number of each component's ports among all; −1 for fixed ones. Shape (K, n_p).
        shape: Number of rows and columns, in 3D of layers, rows and columns.
        kinds: Kind of each component. Shape (K,).
        elastic: Elastic fluctuations W₀ of each component [length], shape (n_dofs, n_s).
    """

    experts: Experts
    number: Indices
    shape: tuple[int, ...]
    kinds: Indices
    elastic: list[Array]

    @cached_property
    def merges(self) -> list[Merge]:
        """How components are condensed."""
        return dissection(self.number, self.shape, self.experts.n_s)

    @cached_property
    def first(self) -> tuple[Indices, Indices]:
        """A component that has the port, and its place there, by port. Shape (n_ports,) each."""
        flat = self.number.ravel()
        ports, place = np.unique(flat, return_index=True)
        place = place[ports >= 0]
        return place // self.number.shape[1], place % self.number.shape[1]

    @property
    def n_ports(self) -> int:
        """Number of ports of the arrangement."""
        return int(self.number.max()) + 1

    @property
    def n_unknowns(self) -> int:
        """Length of the vector of unknowns: ports, then `n_bubbles` of each component."""
        return self.n_ports + len(self.number) * self.experts.n_bubbles

    @property
    def used(self) -> Indices:
        """Places in the vector of unknowns that are no padding. Shape (n,)."""
        own = np.arange(self.experts.n_bubbles) < np.array(self.experts.counts)[:, None]
        return np.flatnonzero(np.concatenate([np.ones(self.n_ports, dtype=bool), own.ravel()]))

    def padded(self, unknowns: Array) -> Array:
        """Return vectors of unknowns (n, n_unknowns) of those that are no padding (n, m)."""
        found = np.zeros((len(unknowns), self.n_unknowns))
        found[:, self.used] = unknowns
        return found

    def local(self, strain: Tensor, unknowns: Tensor) -> Tensor:
        """Return z of every component (K, n, m) at strains (n, n_s) and unknowns (n, n_unknowns)."""
        ports, bubbles = unknowns[:, : self.n_ports], unknowns[:, self.n_ports :]
        own = torch.nn.functional.pad(ports, (0, 1))[:, self.number].transpose(0, 1)  # the last one is fixed
        inside = bubbles.unflatten(1, (len(self.number), self.experts.n_bubbles)).transpose(0, 1)
        return torch.cat([strain.expand(len(self.number), -1, -1), own, inside], 2)


def tiled(
    found: Arrangement,
    components: Sequence[Component],
    modes: Sequence[LocalModes],
    counts: Sequence[int],
    elastic: list[Array],
) -> TiledExperts:
    """Return the experts of an arrangement with all points.

    Args:
        found: The arrangement.
        components: The components.
        modes: Their modes.
        counts: Number of modes of a side of each class without the corners.
        elastic: Elastic fluctuations W₀ of each component [length], shape (n_dofs, n_s).
    """
    experts = []
    for kind, own in zip(found.kinds, elastic, strict=True):
        experts.append(_expert(components[kind], own, modes[kind]))
    number = renumbered(numbering(found.shape, counts), found.shape)
    return TiledExperts(stacked(experts), number, found.shape, found.kinds, elastic)


def with_points(one: TiledExperts, kinds: Indices, factors: Sequence[Array]) -> TiledExperts:
    """Return the experts with weights multiplied by factors (n_points,) of each kind, without points of factor 0."""
    points = one.experts.points
    factor = np.zeros(points.shape)
    for k, kind in enumerate(kinds):
        factor[k] = np.where(points[k] >= 0, factors[kind][points[k]], 0.0)
    return replace(one, experts=restricted(one.experts, factor))


def _expert(component: Component, elastic: Array, modes: LocalModes) -> Experts:
    """Return the expert of one component with all points; its weights sum to 1."""
    cells = np.zeros(len(component.discretisation.mesh.cells), dtype=np.int64)
    basis = Basis(elastic, modes.ports, modes.bubbles, np.array([modes.bubbles.shape[1]]))
    return assemble(component.rve, component, cells, basis)


def stacked(experts: Sequence[Experts]) -> Experts:
    """Return single experts, whose weights sum to 1, as the experts of one RVE of equal components."""
    phases = list(dict.fromkeys(phase for one in experts for phase, _ in one.sampled))
    sizes = [max(_count(one, phase) for one in experts) for phase in phases]
    stops = np.cumsum([0, *sizes])
    n, m = len(experts), max(one.maps.shape[3] for one in experts)
    n_s, n_points = experts[0].n_s, int(stops[-1])
    quadratic, normal = torch.eye(m).double().repeat(n, 1, 1), torch.zeros(n, m).double()
    maps = torch.eye(n_s, m).double().repeat(n, n_points, 1, 1)  # of padding, where norms have derivatives
    weight, points = torch.zeros(n, n_points).double(), np.full((n, n_points), -1)
    for k, one in enumerate(experts):
        size = one.maps.shape[3]
        quadratic[k, :size, :size], normal[k, :size] = one.quadratic[0] / n, one.normal[0] / n
        for phase, part in one.sampled:
            first = stops[phases.index(phase)]
            place = slice(int(first), int(first) + part.stop - part.start)
            maps[k, place] = 0.0
            maps[k, place, :, :size] = one.maps[0, part]
            weight[k, place] = one.weight[0, part] / n
            points[k, place] = one.points[0, part]
    sampled = tuple((phase, slice(int(a), int(b))) for phase, a, b in zip(phases, stops, stops[1:], strict=False))
    counts = tuple(one.counts[0] for one in experts)
    return Experts(quadratic, maps, weight, normal, points, sampled, counts, experts[0].n_ports)


def _count(one: Experts, phase: object) -> int:
    return sum(part.stop - part.start for other, part in one.sampled if other == phase)


class TiledSchur:
    """Factors of the Hessians of components, condensed to the macroscale strain.

    Args:
        one: The experts.
        hessian: Shape (K, n, m, m).

    Attributes:
        tangent: Of the homogenized stress. Shape (n, n_s, n_s).
        failed: Whether a factorisation failed. Shape (n,).
    """

    def __init__(self, one: TiledExperts, hessian: Tensor) -> None:
        self._one = one
        self._bubbles = Elimination(hessian, one.experts.n_shared)
        self._ports = Condensation(one.merges, self._bubbles.condensed)
        self.tangent = self._ports.condensed
        self.failed = self._bubbles.failed.any(0) | self._ports.failed

    def solve(self, force: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the response of the unknowns to forces; see `galerkin.SchurComplement.solve`.

        Args:
            force: Derivatives of the energies. Shape (K, n, m, c).
        """
        of_bubbles, left = self._bubbles.forward(force)
        change, stress, work = self._ports.solve(left)
        bubbles = self._bubbles.backward(of_bubbles, change)
        component, place = self._one.first
        ports = change[component, :, self._one.experts.n_s + place].transpose(0, 1)
        work = work + (of_bubbles[..., :1] * of_bubbles).sum((0, 2))
        return torch.cat([ports, bubbles.transpose(0, 1).flatten(1, 2)], 1), stress, work


class TiledSolver:
    """Coupled components in batched torch; arrays in and out, as `galerkin.BatchedExperts`.

    Args:
        one: The experts.
    """

    def __init__(self, one: TiledExperts) -> None:
        self._one = one

    def solve(self, strain: Array, start: Array, evaluations: int, tolerance: float) -> Equilibrium:
        """Return the response at all strains (n, n_s), from unknowns (n, n_unknowns).

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
            start: Initial unknowns, without padding. Shape (n, n_unknowns).
            evaluations: Largest number of evaluations of the energies.
            tolerance: Decrement at convergence [-].
        """
        given, first = self._tensor(strain), self._tensor(self._one.padded(start))
        with torch.no_grad():
            found = [_newton(self._one, given[i], first[i], evaluations, tolerance) for i in self._parts(len(strain))]
        values = {one.name: _joined([getattr(part, one.name) for part in found]) for one in fields(Equilibrium)}
        return Equilibrium(**{**values, "unknowns": values["unknowns"][:, self._one.used]})

    def sensitivity(self, strain: Array, unknowns: Array) -> Array:
        """Return the derivative of the unknowns in equilibrium by the strain. Shape (n, n_unknowns, n_s)."""
        given, at = self._tensor(strain), self._tensor(self._one.padded(unknowns))
        found = []
        for part in self._parts(len(strain)):
            hessian = derivatives(self._one.experts, self._one.local(given[part], at[part])).hessian
            found.append(TiledSchur(self._one, hessian).solve(hessian[..., : self._one.experts.n_s])[0])
        return _joined(found)[:, self._one.used]

    def _parts(self, n: int) -> list[slice]:
        return list(chunks(n, 2.0 * self._one.experts.bytes_of_one)) or [slice(0, 0)]

    def _tensor(self, values: Array) -> Tensor:
        like = self._one.experts.maps
        return torch.tensor(values, dtype=like.dtype, device=like.device)


def _newton(one: TiledExperts, strain: Tensor, start: Tensor, evaluations: int, tolerance: float) -> Equilibrium:
    unknowns = start
    for number in range(evaluations):
        at = derivatives(one.experts, one.local(strain, unknowns))
        schur = TiledSchur(one, at.hessian)
        change, both, work = schur.solve(torch.stack([at.gradient, at.row_33], 3))
        stress, tangent_33 = both[..., 0], both[..., 1]
        decrement = work[:, 0] / torch.clamp((stress * strain).sum(1), min=_SMALLEST)
        decrement = decrement.masked_fill(schur.failed, torch.nan)
        found = Equilibrium(unknowns, stress, schur.tangent, at.sum_33 - work[:, 1], tangent_33, decrement)
        converged = decrement <= tolerance
        if number == evaluations - 1 or (not converged.is_cuda and bool(converged.all())):
            break
        unknowns = torch.where(converged[:, None], unknowns, unknowns + change[..., 0])
    return found


def _joined(parts: Sequence[Tensor]) -> Array:
    return np.asarray(torch.cat(list(parts)).cpu().double().numpy())
