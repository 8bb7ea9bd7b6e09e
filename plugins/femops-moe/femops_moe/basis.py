"""Port and bubble modes of a partitioned RVE.

A fluctuation is w = W₀ E + Σ p_i Φ_i + Σ_k Σ_j b_kj β_kj with the elastic fluctuation W₀ E, ports Φ and bubbles β_k of
the experts k. Of the nonlinear part of a snapshot, w − W₀ E, a port has the values on the interface and, in the
subdomains, the solution of the elastic problem (tangents at zero strain) with these values; the rest is the sum of the
experts' bubbles, which vanish on the interface. Any combination is continuous and periodic.

In the energy of the elastic problem, ports and bubbles are orthogonal. The proper orthogonal decompositions of the
ports and of each expert's bubbles, in the order of their energies, therefore lose the least energy of the snapshots
for every number of modes in total.

The interiors of the first ports may be learned: these are global modes, the proper orthogonal decomposition of whole
fields, whose bubbles follow the values on the interface as they do in the snapshots. The other ports and the bubbles
represent the rest (`femops_moe.modes`).
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
from femops_moe.modes import WHOLE, Modes, ordered
from femops_moe.partition import Partition


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
    """Modes of unit elastic energy; the bubbles of all experts share columns, since they do not overlap.

    Attributes:
        elastic: Fluctuations W₀ of the unit strains [length]. Shape (n_dofs, n_s).
        ports: Global modes first. Shape (n_dofs, n_p).
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
        bubbles = self.bubbles.reshape(len(owner), len(self.bubbles) // len(owner), n_b) @ of_node
        return self.elastic @ strain.T + self.ports @ unknowns[:, :n_p].T + bubbles.reshape(len(self.bubbles), -1)


def stiffness_of(space: Strains, tangent: Array) -> sp.csr_array:
    """Return Σ w Bᵀ D B / |Ω| of tangents D at the points (n_s, n_s, n_points). Shape (n_dofs, n_dofs)."""
    mesh = space.discretisation
    weighted = tangent * (mesh.weight.ravel() / mesh.volume)
    blocks = sp.block_array([[sp.diags_array(one) for one in row] for row in weighted])
    return (space.gradient.T @ blocks.tocsr() @ space.gradient).tocsr()


def elastic_stiffness(space: Strains, rve: RVE) -> sp.csr_array:
    """Return Σ w Bᵀ D₀ B / |Ω| with the tangents D₀ at zero strain. Shape (n_dofs, n_dofs)."""
    mesh = space.discretisation
    tangent = np.empty((mesh.n_s, mesh.n_s, mesh.n_points))
    for position, phase in enumerate(rve.phases):
        part = mesh.points_of_phase(position)
        zero = np.zeros((mesh.n_s, part.stop - part.start))
        tangent[:, :, part] = phase.evaluate(zero, zero[:0]).tangent
    return stiffness_of(space, tangent)


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


@dataclass(frozen=True)
class Split:
    """Fields as sums of harmonic fields, which are in equilibrium in the subdomains, and bubbles.

    Attributes:
        owner: Expert of each dof; −1 on the interface. Shape (n_dofs,).
        harmonic: Shape (n_dofs, n_fields).
        bubbles: Of all experts. Shape (n_dofs, n_fields).
        inner: Inner products, in the elastic energy, of the harmonic fields and of the bubbles of each expert. Shape
            (1 + K, n_fields, n_fields).
    """

    owner: Indices
    harmonic: Array
    bubbles: Array
    inner: Array

    def basis(self, elastic: Array, modes: Modes) -> Basis:
        """Return modes of the fields as displacements; `elastic` is W₀ (n_dofs, n_s)."""
        _, counts = modes.counts(len(self.inner) - 1)
        bubbles = np.zeros((len(self.owner), counts.max()))
        for expert, count in enumerate(counts):
            own = np.flatnonzero(self.owner == expert)
            bubbles[own, :count] = self.bubbles[own] @ modes.coefficients[:, modes.part == expert + 1]
        ports = modes[np.flatnonzero(modes.part <= 0)]
        of_bubbles = ports.coefficients * (ports.part == WHOLE)
        return Basis(elastic, self.harmonic @ ports.coefficients + self.bubbles @ of_bubbles, bubbles, counts)


def split(partition: Partition, stiffness: sp.csr_array, fields: Array) -> Split:
    """Split fields (n_dofs, n_fields) at the interface; `stiffness` is that of the elastic problem."""
    owner = np.repeat(partition.owner, len(fields) // len(partition.owner))
    extended = harmonic(stiffness, np.flatnonzero(owner >= 0), np.flatnonzero(owner < 0), fields)
    bubbles, inner = fields - extended, [extended.T @ (stiffness @ extended)]
    for expert in range(partition.n_experts):
        own = np.flatnonzero(owner == expert)
        inner.append(bubbles[own].T @ (stiffness[own][:, own] @ bubbles[own]))
    return Split(owner, extended, bubbles, np.array(inner))


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
    """Return the modes of fields, all ports in elastic equilibrium.

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
    parts = split(partition, stiffness, fields)
    modes = ordered(parts.inner, 0, with_ports=with_ports)
    lost = np.sqrt(np.maximum(1.0 - np.cumsum([0.0, *modes.energy]), 0.0))
    return parts.basis(elastic, modes[: min(largest, int((lost[:-1] > tolerance).sum()))]), lost
