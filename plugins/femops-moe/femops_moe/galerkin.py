"""Equilibrium of port-coupled experts at batches of strains: Newton's method with a Schur complement over the ports.

Every expert k eliminates its bubbles from its Hessian H_k with respect to z_k = (e, b_k), e = (E, p),

    Ĥ = Σ_k H_ee − H_eb H_bb⁻¹ H_be,

by one batch of Cholesky factorisations over experts and strains; what is left of the ports is solved, and the tangent
of the homogenized stress is the Schur complement of Ĥ over the ports. Residuals are eliminated likewise, so that the
stress includes the first-order effect of the step to come.
"""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.phases import PlaneStrainPhase
from femops.surrogate import chunks
from femops_moe.experts import Experts

_SMALLEST = 1e-30
_BYTES_OF_PRODUCTS = 64e6


class PointValues(NamedTuple):
    """Derivatives of the sampled energy at the points, times the weights.

    Attributes:
        stress: Shape (n_s, K, n, P).
        tangent: Shape (n_s, n_s, K, n, P).
        sum_33: ⟨σ_33⟩ in plane strain, with the quadratic part; zeros in 3D. Shape (n,).
        row_33: dσ_33/dε; zeros in 3D, and of phases that do not know it. Shape (n_s, K, n, P).
    """

    stress: Tensor
    tangent: Tensor
    sum_33: Tensor
    row_33: Tensor


class Derivatives(NamedTuple):
    """Derivatives of the experts' energies.

    Attributes:
        gradient: Shape (K, n, m).
        hessian: Shape (K, n, m, m).
        sum_33: See `PointValues`.
        row_33: Derivatives of ⟨σ_33⟩. Shape (K, n, m).
    """

    gradient: Tensor
    hessian: Tensor
    sum_33: Tensor
    row_33: Tensor


@dataclass(frozen=True)
class Equilibrium:
    """Response of coupled experts, as tensors or arrays.

    Attributes:
        unknowns: Ports and bubbles. Shape (n, n_unknowns).
        stress: Shape (n, n_s).
        tangent: Shape (n, n_s, n_s).
        stress_33: In plane strain ⟨σ_33⟩; zeros in 3D. Shape (n,).
        tangent_33: In plane strain d⟨σ_33⟩/dE; zeros in 3D. Shape (n, n_s).
        decrement: Work of the residual in the step to come, relative to S : E; NaN where a factorisation failed.
            Shape (n,).
    """

    unknowns: Any
    stress: Any
    tangent: Any
    stress_33: Any
    tangent_33: Any
    decrement: Any


def derivatives(experts: Experts, z: Tensor) -> Derivatives:
    """Return the derivatives of the energies at z (K, n, m)."""
    at = point_values(experts, z)
    gradient = z @ experts.quadratic + _forces(experts, at.stress)
    row_33 = experts.normal[:, None] + _forces(experts, at.row_33)
    return Derivatives(gradient, hessian(experts, at.tangent), at.sum_33, row_33)


def _forces(experts: Experts, stress: Tensor) -> Tensor:
    """Return Σ_g M_gᵀ σ_g (K, n, m) of weighted stresses (n_s, K, n, P)."""
    return stress.permute(1, 2, 3, 0).flatten(2) @ experts.maps.flatten(1, 2)


def point_values(experts: Experts, z: Tensor) -> PointValues:
    """Return the derivatives of the sampled energy at z (K, n, m)."""
    strain = local_strain(experts, z)
    stress, tangent = [strain[..., :0]], [strain.new_zeros(len(strain), *strain.shape[:-1], 0)]
    rows = [strain[..., :0]]
    sum_33 = (z * experts.normal[:, None]).sum((0, 2))
    for phase, points in experts.sampled:
        weight = experts.weight[:, None, points]
        answer = phase.evaluate(strain[..., points], strain[:0, ..., points])
        stress.append(answer.stress * weight)
        tangent.append(answer.tangent * weight)
        if answer.stress_33 is not None:
            sum_33 = sum_33 + (answer.stress_33 * weight).sum((0, 2))
        if answer.stress_33 is not None and isinstance(phase, PlaneStrainPhase):
            rows.append(phase.tangent_33(answer.tangent) * weight)
        else:
            rows.append(torch.zeros_like(answer.stress))
    return PointValues(torch.cat(stress, -1), torch.cat(tangent, -1), sum_33, torch.cat(rows, -1))


def local_strain(experts: Experts, z: Tensor) -> Tensor:
    """Return the strain at the points at z (K, n, m). Shape (n_s, K, n, P)."""
    flat = z @ experts.maps.flatten(1, 2).mT
    return flat.unflatten(2, experts.maps.shape[1:3]).permute(3, 0, 1, 2).contiguous()


def hessian(experts: Experts, tangent: Tensor) -> Tensor:
    """Return Q + Σ_g M_gᵀ D_g M_g (K, n, m, m) of weighted tangents (n_s, n_s, K, n, P).

    The products M_gᵀ M_g, lower triangles only, are the same for all strains, which leaves one matrix product.
    """
    maps, m = experts.maps, experts.maps.shape[3]
    row, column = torch.tril_indices(m, m, device=maps.device)
    place = torch.empty(m, m, dtype=torch.int64, device=maps.device)
    place[row, column] = place[column, row] = torch.arange(len(row), device=maps.device)
    pairs = [(s, t) for s in range(experts.n_s) for t in range(s, experts.n_s)]
    size = max(1, int(_BYTES_OF_PRODUCTS / (len(maps) * len(pairs) * len(row) * maps.element_size())))
    packed = experts.quadratic[:, None, row, column].expand(-1, tangent.shape[3], -1)
    for first in range(0, maps.shape[1], size):
        points = slice(first, first + size)
        left, right = maps[:, points][..., row], maps[:, points][..., column]
        products = [left[:, :, s] * right[:, :, t] for s, t in pairs]
        for number, (s, t) in enumerate(pairs):
            if s != t:
                products[number] = products[number] + left[:, :, t] * right[:, :, s]
        factors = torch.cat([tangent[s, t, :, :, points] for s, t in pairs], 2)
        packed = torch.baddbmm(packed, factors, torch.cat(products, 1))
    return packed[:, :, place]


class Elimination:
    """Elimination of the last unknowns of positive definite systems.

    Args:
        matrix: Shape (..., m, m).
        n_kept: Number of first unknowns that are kept.

    Attributes:
        condensed: Matrix of the unknowns that are kept. Shape (..., n_kept, n_kept).
        failed: Whether a factorisation failed. Shape (...,).
    """

    def __init__(self, matrix: Tensor, n_kept: int) -> None:
        self.n_kept = n_kept
        self._factor, failed = torch.linalg.cholesky_ex(matrix[..., n_kept:, n_kept:])
        self._coupling = _forward(self._factor, matrix[..., n_kept:, :n_kept])
        self.condensed = matrix[..., :n_kept, :n_kept] - self._coupling.mT @ self._coupling
        self.failed = failed > 0

    def forward(self, force: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `backward` needs of forces (..., m, c), and the forces on the unknowns that are kept."""
        own = _forward(self._factor, force[..., self.n_kept :, :])
        return own, force[..., : self.n_kept, :] - self._coupling.mT @ own

    def backward(self, own: Tensor, change: Tensor) -> Tensor:
        """Return the change of the eliminated unknowns for that of the others (..., n_kept, c)."""
        return -_backward(self._factor, own + self._coupling @ change)


class SchurComplement:
    """Factors of the Hessians of coupled experts, condensed to the ports.

    Args:
        experts: The experts.
        hessian: Shape (K, n, m, m).

    Attributes:
        tangent: Of the homogenized stress. Shape (n, n_s, n_s).
        failed: Whether a factorisation failed. Shape (n,).
    """

    def __init__(self, experts: Experts, hessian: Tensor) -> None:
        self._bubbles = Elimination(hessian, experts.n_shared)
        self._ports = Elimination(self._bubbles.condensed.sum(0), experts.n_s)
        self.tangent = self._ports.condensed
        self.failed = self._bubbles.failed.any(0) | self._ports.failed

    def solve(self, force: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the response of the unknowns to forces.

        Args:
            force: Derivatives of the experts' energies. Shape (K, n, m, c).

        Returns:
            Change of the unknowns −K⁻¹ f, shape (n, n_unknowns, c); stress after that change, shape (n, n_s, c); and
            f₁ · K⁻¹ f with the first force f₁, shape (n, c).
        """
        own, shared = self._bubbles.forward(force)
        of_ports, stress = self._ports.forward(shared.sum(0))
        fixed = torch.zeros_like(stress)
        ports = self._ports.backward(of_ports, fixed)
        bubbles = self._bubbles.backward(own, torch.cat([fixed, ports], 1))
        unknowns = torch.cat([ports, bubbles.transpose(0, 1).flatten(1, 2)], 1)
        return unknowns, stress, (own[..., :1] * own).sum((0, 2)) + (of_ports[..., :1] * of_ports).sum(1)


def sensitivity(experts: Experts, strain: Tensor, unknowns: Tensor) -> Tensor:
    """Return the derivative of the unknowns in equilibrium by the strain. Shape (n, n_unknowns, n_s)."""
    hessian = derivatives(experts, experts.local(strain, unknowns)).hessian
    return SchurComplement(experts, hessian).solve(hessian[..., : experts.n_s])[0]


def equilibrium(experts: Experts, strain: Tensor, start: Tensor, evaluations: int, tolerance: float) -> Equilibrium:
    """Solve for the unknowns at all strains together.

    The work does not depend on values, so that an accelerator is never waited for: a point whose decrement is below the
    tolerance keeps its unknowns. On the CPU the iteration ends once that holds for all points. No derivatives are
    recorded; see `implicit`.

    Args:
        experts: The experts.
        strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
        start: Initial unknowns. Shape (n, n_unknowns).
        evaluations: Number of evaluations of the energies, one more than Newton steps.
        tolerance: Decrement at convergence [-].
    """
    parts = list(chunks(len(strain), experts.bytes_of_one)) or [slice(0, 0)]
    with torch.no_grad():
        found = [_newton(experts, strain[part], start[part], evaluations, tolerance) for part in parts]
    names = [one.name for one in fields(Equilibrium)]
    return Equilibrium(**{name: torch.cat([getattr(one, name) for one in found]) for name in names})


def _newton(experts: Experts, strain: Tensor, start: Tensor, evaluations: int, tolerance: float) -> Equilibrium:
    """Solve for the unknowns of a part of the strains; arguments as in `equilibrium`."""
    unknowns = start
    for number in range(evaluations):
        at = derivatives(experts, experts.local(strain, unknowns))
        schur = SchurComplement(experts, at.hessian)
        change, both, work = schur.solve(torch.stack([at.gradient, at.row_33], 3))
        stress, tangent_33 = both[..., 0], both[..., 1]
        decrement = work[:, 0] / torch.clamp((stress * strain).sum(1), min=_SMALLEST)
        decrement = decrement.masked_fill(schur.failed, torch.nan)
        stress_33 = at.sum_33 - work[:, 1]
        found = Equilibrium(unknowns, stress, schur.tangent, stress_33, tangent_33, decrement)
        converged = decrement <= tolerance
        if number == evaluations - 1 or (not converged.is_cuda and bool(converged.all())):
            break
        unknowns = torch.where(converged[:, None], unknowns, unknowns + change[..., 0])
    return found


class BatchedExperts:
    """Coupled experts in batched torch, on any device; arrays in and out.

    The unknowns are those of `Basis` in their order: ports, then the bubbles of each expert, without padding.

    Args:
        experts: The experts.
    """

    def __init__(self, experts: Experts) -> None:
        self._experts = experts

    def solve(self, strain: Array, start: Array, evaluations: int, tolerance: float) -> Equilibrium:
        """Return the response at all strains.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
            start: Initial unknowns. Shape (n, n_unknowns).
            evaluations: Largest number of evaluations of the energies, one more than Newton steps.
            tolerance: Decrement at convergence [-].
        """
        given, first = self._tensor(strain), self._tensor(self._experts.padded(start))
        found = equilibrium(self._experts, given, first, evaluations, tolerance)
        values = {one.name: _array(getattr(found, one.name)) for one in fields(Equilibrium)}
        return Equilibrium(**{**values, "unknowns": values["unknowns"][:, self._experts.used]})

    def sensitivity(self, strain: Array, unknowns: Array) -> Array:
        """Return the derivative of the unknowns in equilibrium by the strain. Shape (n, n_unknowns, n_s)."""
        given, at = self._tensor(strain), self._tensor(self._experts.padded(unknowns))
        parts = list(chunks(len(strain), self._experts.bytes_of_one)) or [slice(0, 0)]
        return _array(torch.cat([sensitivity(self._experts, given[one], at[one]) for one in parts]))[
            :, self._experts.used
        ]

    def _tensor(self, values: Array) -> Tensor:
        like = self._experts.maps
        return torch.tensor(values, dtype=like.dtype, device=like.device)


def _array(values: Tensor) -> Array:
    return np.asarray(values.cpu().double().numpy())


def _forward(factor: Tensor, right: Tensor) -> Tensor:
    """Return L⁻¹ x."""
    return torch.linalg.solve_triangular(factor, right, upper=False)


def _backward(factor: Tensor, right: Tensor) -> Tensor:
    """Return L⁻ᵀ x."""
    return torch.linalg.solve_triangular(factor.mT, right, upper=True)
