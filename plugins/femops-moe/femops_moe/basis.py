"""Port and bubble modes of a partitioned RVE.

A fluctuation is w = W₀ E + Σ p_i Φ_i + Σ_k Σ_j b_kj β_kj with the elastic fluctuation W₀ E, ports Φ and bubbles β_k of
the experts k. Of the nonlinear part of a snapshot, w − W₀ E, a port has the values on the interface and, in the
subdomains, the solution of the elastic problem (tangents at zero strain) with these values; the rest is the sum of the
experts' bubbles, which vanish on the interface. Any combination is continuous and periodic.

In the energy of the elastic problem, ports and bubbles are orthogonal. The proper orthogonal decompositions of the
ports and of each expert's bubbles, in the order of their energies, therefore lose the least energy of the snapshots
for every number of modes in total.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from femops.notation import Array, Indices
from femops.rve.discretisation import Discretisation
from femops.rve.spec import RVE
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.spec import Arrays
from femops_moe.partition import Partition

_DEPENDENT = 1e-14  # of the energy of all fields, or of a group of modes; round-off of the squares is 1e-16


class Strains(Protocol):
    """Displacement fields and their strains: the fluctuations of an RVE, or the displacements of a component."""

    @property
    def discretisation(self) -> Discretisation:
        """The mesh."""
        ...

    @property
    def gradient(self) -> sp.csr_array:
        """Map from dofs to the strain at all points, component-major. Shape (n_s · n_points, n_dofs)."""
        ...


@dataclass(frozen=True)
class Basis:
    """Modes, orthonormal in the elastic energy; the bubbles of all experts share columns, since they do not overlap.

    Attributes:
        elastic: Fluctuations W₀ of the unit strains [length]. Shape (n_dofs, n_s).
        ports: Shape (n_dofs, n_p).
        bubbles: Column j holds mode j of every expert, and zeros where an expert has fewer. Shape (n_dofs, n_b).
        counts: Number of bubbles of each expert. Shape (K,).
    """

    elastic: Array
    ports: Array
    bubbles: Array
    counts: Indices

    @property
    def n_unknowns(self) -> int:
        """Number of ports and bubbles."""
        return int(self.ports.shape[1] + self.counts.sum())

    def places(self, n_ports: int, counts: Indices) -> Indices:
        """Return where the first ports, and the first bubbles of each expert, are among the unknowns. Shape (n,)."""
        starts = self.ports.shape[1] + np.cumsum(self.counts) - self.counts
        own = [start + np.arange(count) for start, count in zip(starts, counts, strict=True)]
        return np.concatenate([np.arange(n_ports), *own])

    def fluctuation(self, owner: Indices, strain: Array, unknowns: Array) -> Array:
        """Return the fluctuations of given unknowns [length].

        Args:
            owner: Expert of each node, see `Partition`. Shape (n_nodes,).
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
            unknowns: Ports, then n_b bubbles of each expert. Shape (n, n_p + K · n_b).

        Returns:
            Shape (n_dofs, n).
        """
        n_p, n_b = self.ports.shape[1], self.bubbles.shape[1]
        of_expert = unknowns[:, n_p:].reshape(len(strain), len(self.counts), n_b)
        of_node = of_expert[:, owner].transpose(1, 2, 0)  # of some expert on the interface, where bubbles are zero
        bubbles = self.bubbles.reshape(len(owner), -1, n_b) @ of_node
        return self.elastic @ strain.T + self.ports @ unknowns[:, :n_p].T + bubbles.reshape(len(self.bubbles), -1)


def elastic_stiffness(space: Strains, rve: RVE) -> sp.csr_array:
    """Return Σ w Bᵀ D₀ B / |Ω| with the tangents D₀ at zero strain. Shape (n_dofs, n_dofs)."""
    mesh = space.discretisation
    tangent = np.empty((mesh.n_s, mesh.n_s, mesh.n_points))
    for position, phase in enumerate(rve.phases):
        part = mesh.points_of_phase(position)
        zero = np.zeros((mesh.n_s, part.stop - part.start))
        tangent[:, :, part] = phase.evaluate(zero, zero[:0]).tangent
    weighted = tangent * (mesh.weight.ravel() / mesh.volume)
    blocks = sp.block_array([[sp.diags_array(one) for one in row] for row in weighted])
    return (space.gradient.T @ blocks.tocsr() @ space.gradient).tocsr()


def nonlinear_fields(space: FluctuationSpace, snapshots: Arrays, elastic: Array, half: Array) -> Array:
    """Return the nonlinear parts of the fluctuations of snapshots and of their sensitivities.

    Args:
        space: Fluctuations of the RVE.
        snapshots: `strain`, `fluctuation` and `sensitivity` are used; see `femops.rve.snapshots`.
        elastic: Sensitivity at zero strain, at the free dofs [length]. Shape (n_free, n_s).
        half: Half widths of the training range, which scale the sensitivities. Shape (n_s,).

    Returns:
        Shape (n_dofs, n_fields).
    """
    strain = np.asarray(snapshots["strain"])
    fields = np.asarray(snapshots["fluctuation"]).T - elastic @ strain.T
    changes = (np.asarray(snapshots["sensitivity"]) - elastic) * half
    both = np.concatenate([fields, changes.transpose(1, 0, 2).reshape(len(fields), -1)], axis=1)
    return space.from_free(both)


def harmonic(stiffness: sp.csr_array, interior: Indices, interface: Indices, fields: Array) -> Array:
    """Return the fields (n_dofs, k) with the given values on the interface that are in equilibrium in the interior."""
    found = np.zeros_like(fields)
    if len(interface) == 0:
        return found
    found[interface] = fields[interface]
    inner = stiffness[interior]
    factor = splu(inner[:, interior].tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    found[interior] = factor.solve(-(inner[:, interface] @ fields[interface]))
    return found


def decompose(
    partition: Partition,
    stiffness: sp.csr_array,
    elastic: Array,
    fields: Array,
    largest: int,
    tolerance: float,
    *,
    with_ports: bool = True,
) -> tuple[Basis, Array]:
    """Return the modes of fields.

    Args:
        partition: The partition.
        stiffness: Stiffness of the elastic problem. Shape (n_dofs, n_dofs).
        elastic: W₀. Shape (n_dofs, n_s).
        fields: Nonlinear fields to represent. Shape (n_dofs, n_fields).
        largest: Largest number of modes in total.
        tolerance: Part of the fields, in the energy norm, that may be lost.
        with_ports: False leaves the elastic fluctuation on the interface, so that experts are independent.

    Returns:
        The modes, and the part of the fields, in the energy norm, lost by the first 0, 1, … modes.
    """
    owner = np.repeat(partition.owner, len(fields) // len(partition.owner))
    interior, interface = np.flatnonzero(owner >= 0), np.flatnonzero(owner < 0)
    traces = harmonic(stiffness, interior, interface, fields)
    places = [np.flatnonzero(owner == k) for k in range(partition.n_experts)]
    modes = [_proper_orthogonal(traces if with_ports else traces[:, :0], stiffness)]
    for own in places:
        modes.append(_proper_orthogonal(fields[own] - traces[own], stiffness[own][:, own]))
    energy = np.concatenate([values for values, _ in modes])
    group_of = np.repeat(np.arange(len(modes)), [len(values) for values, _ in modes])
    order = np.argsort(-energy, kind="stable")
    total = float((fields * (stiffness @ fields)).sum())
    lost = np.concatenate([[1.0], np.maximum(1.0 - np.cumsum(energy[order]) / total, 0.0)])
    wanted = (lost[:-1] > tolerance**2) & (energy[order] > _DEPENDENT * total)
    chosen = order[: min(largest, int(wanted.sum()))]
    counts = np.bincount(group_of[chosen], minlength=len(modes))
    bubbles = np.zeros((len(fields), counts[1:].max()))
    for own, (_, vectors), count in zip(places, modes[1:], counts[1:], strict=True):
        bubbles[own, :count] = vectors[:, :count]
    return Basis(elastic, modes[0][1][:, : counts[0]], bubbles, counts[1:]), np.sqrt(lost)


def _proper_orthogonal(fields: Array, stiffness: sp.csr_array) -> tuple[Array, Array]:
    """Return the energies of the modes of fields (n_dofs, k), in descending order, and the modes (n_dofs, n_modes)."""
    if fields.shape[1] == 0:
        return np.zeros(0), fields
    gram = fields.T @ (stiffness @ fields)
    values, vectors = np.linalg.eigh(0.5 * (gram + gram.T))
    kept = np.flatnonzero(values > _DEPENDENT * max(values[-1], np.finfo(float).tiny))[::-1]
    return values[kept], fields @ (vectors[:, kept] / np.sqrt(values[kept]))
