"""Energy, stress and tangent of predicted fluctuations in RVEs of hyperelastic phases.

For any fluctuation w(E) with X = dw/dE, Ψ(E) = ⟨ψ(E + B w)⟩ is an upper bound of the exact energy, and

    S = dΨ/dE = ⟨(1 + B X)ᵀ σ⟩,    dS/dE = ⟨(1 + B X)ᵀ D (1 + B X)⟩ + R · d²w/dE² / |Ω|,    R = Σ w Bᵀ σ,

are its exact derivatives; errors of w enter Ψ at second order. Fields at n strains have shape (n, n_nodes, dim, k).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.phases import know_row_33
from femops.rve.spec import RVE
from femops.surrogate.batching import chunks
from femops.surrogate.exact import check_elastic
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.homogeneous import Factorised
from femops.surrogate.fields.krylov import LinearMap, conjugate_gradients
from femops.surrogate.fields.linear import CellTangents, LinearFields
from femops.surrogate.fields.multigrid import Multigrid, grid_prolongations
from femops.surrogate.fields.stiffness import repeated

Curvature = Callable[[slice, Tensor], Tensor]
"""Callable for Σ R · d²w/dE² (m, n_s, n_s) at a slice of strains, from their nodal forces R (m, n_nodes, dim)."""

_HALVINGS = 4
_ROUND_OFF = 1e-12


@dataclass(frozen=True)
class FieldResponse:
    """Homogenized response of predicted fields.

    Attributes:
        energy: Ψ [stress]. Shape (n,).
        stress: S [stress]. Shape (n, n_s).
        tangent: dS/dE [stress]. Shape (n, n_s, n_s).
        stress_33: In plane strain ⟨σ_33⟩ [stress], shape (n,); None in 3D.
        tangent_33: In plane strain d⟨σ_33⟩/dE [stress], shape (n, n_s); None in 3D or if a phase does not know its own.
        gap: Estimate of the relative error of Ψ [-]: R · K₀⁻¹ R / (2 |Ω| Ψ) with K₀ the stiffness at zero strain; an
            underestimate if phases soften. Shape (n,).
    """

    energy: Tensor
    stress: Tensor
    tangent: Tensor
    stress_33: Tensor | None
    tangent_33: Tensor | None
    gap: Tensor


@dataclass(frozen=True)
class Linearisation:
    """The linearised problem of a Newton step.

    Attributes:
        energy: Ψ at the fields [stress]. Shape (n,).
        residual: R / |Ω| [stress / length]. Shape (n, n_nodes, dim).
        tangent: Cell means of the phase tangents, in the cell order of the RVE [stress]. Shape (n, n_cells, n_s, n_s).
    """

    energy: Tensor
    residual: Tensor
    tangent: Tensor


@dataclass(frozen=True)
class _PointValues:
    """Quantities at the quadrature points of the RVE.

    Attributes:
        energy: Ψ. Shape (n,).
        stress: Stress times weight. Shape (n_s, n_points, n).
        tangent: Tangent times weight. Shape (n_points, n, n_s, n_s).
        sum_33: ⟨σ_33⟩. Shape (n,).
        row_33: dσ_33/dε times weight, shape (n_s, n_points, n); None in 3D or if a phase does not know it.
    """

    energy: Tensor
    stress: Tensor
    tangent: Tensor
    sum_33: Tensor
    row_33: Tensor | None


class HyperelasticFields:
    """An RVE of hyperelastic phases at batches of macroscale strains.

    Args:
        rve: The RVE, with periodic or kinematic boundary condition.
        dtype: Precision.
        device: Device of the tensors.

    Raises:
        CaseError: A phase has internal state or the boundary condition is static.
    """

    def __init__(self, rve: RVE, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> None:
        check_elastic(rve)
        self.rve, self.space = rve, FluctuationSpace(rve)
        mesh = self.space.discretisation
        like = torch.zeros(0, dtype=dtype, device=device)
        weight = mesh.weight.ravel() / mesh.volume
        self._gradient = repeated(self.space.gradient, 1, like)
        self._divergence = repeated(self.space.gradient.T.tocsr(), 1, like)
        self._weight = torch.as_tensor(weight).to(like)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self._weight.device

    @property
    def bytes_of_one(self) -> float:
        """Memory per strain [bytes]."""
        mesh = self.space.discretisation
        return 8.0 * mesh.n_points * mesh.n_s * (3 * mesh.n_s + 4 * (mesh.n_s + 1))

    def energy(self, strain: Tensor, fluctuation: Tensor) -> Tensor:
        """Return Ψ, differentiable.

        Args:
            strain: E. Shape (n, n_s).
            fluctuation: w. Shape (n, n_nodes, dim).

        Returns:
            Shape (n,) [stress].
        """
        found: Tensor = _Energy.apply(strain, fluctuation, self)
        return found

    def evaluate(
        self, strain: Tensor, fluctuation: Tensor, sensitivity: Tensor, curvature: Curvature | None = None
    ) -> FieldResponse:
        """Return energy, stress and tangent of predicted fields.

        Args:
            strain: E, Mandel [-]. Shape (n, n_s).
            fluctuation: w [length]. Shape (n, n_nodes, dim).
            sensitivity: X = dw/dE [length]. Shape (n, n_nodes, dim, n_s).
            curvature: Contribution of d²w/dE² to the tangent; without it the tangent is exact only if R = 0.
        """
        parts = [
            self._respond(strain[part], fluctuation[part], sensitivity[part], part, curvature)
            for part in self._parts(len(strain))
        ]
        return joined(parts)

    def improve(
        self, strain: Tensor, fluctuation: Tensor, sensitivity: Tensor, steps: int, inner: int = 2
    ) -> tuple[Tensor, Tensor]:
        """Return fields improved by inexact Newton steps.

        Each is solved by conjugate gradients, preconditioned by the elastic stiffness. No step increases the energy.
        Arguments as for `evaluate`.

        Args:
            strain: E.
            fluctuation: w.
            sensitivity: X.
            steps: Number of Newton steps.
            inner: Conjugate-gradient steps per Newton step.

        Returns:
            w and X.
        """
        new, slopes = torch.empty_like(fluctuation), torch.empty_like(sensitivity)
        for part in self._parts(len(strain)):
            w, x = fluctuation[part], sensitivity[part]
            for _ in range(steps):
                w, x = self._newton(strain[part], w, x, inner)
            new[part], slopes[part] = self.centred(w), self.centred(x)
        return new, slopes

    def centred(self, fields: Tensor) -> Tensor:
        """Return fields (n, n_nodes, dim, ...) minus their volume average."""
        share = torch.as_tensor(self.space.mean).to(fields)
        return fields - torch.einsum("a,na...->n...", share, fields)[:, None]

    def zero_fields(self, strain: Tensor) -> tuple[Tensor, Tensor]:
        """Return zero fields for strains (n, n_s): w (n, n_nodes, dim) and X (n, n_nodes, dim, n_s)."""
        shape = (len(strain), self.space.n_nodes, self.space.discretisation.dim)
        return strain.new_zeros(shape), strain.new_zeros(*shape, strain.shape[1])

    def linearised(self, strain: Tensor, fluctuation: Tensor) -> Linearisation:
        """Return the linearised problem of a Newton step; all strains are in memory at once.

        Args:
            strain: E. Shape (n, n_s).
            fluctuation: w. Shape (n, n_nodes, dim).
        """
        at = self._points(strain, fluctuation)
        weight = self._weight.reshape(self.space.discretisation.weight.shape)
        sums = at.tangent.unflatten(0, weight.shape).sum(1).transpose(0, 1)
        return Linearisation(at.energy, self._forces(at.stress[..., None])[..., 0], sums / weight.sum(1)[:, None, None])

    def line_search(self, strain: Tensor, fluctuation: Tensor, step: Tensor, energy: Tensor) -> Tensor:
        """Return w after a backtracking line search.

        The step is halved while Ψ exceeds `energy`, and rejected if it still does after four halvings.

        Returns:
            Shape (n, n_nodes, dim).
        """
        most = energy * (1.0 + _ROUND_OFF)
        for _ in range(_HALVINGS):
            worse = ~(self._energy(strain, fluctuation + step) <= most)  # also where it is NaN
            step = torch.where(worse[:, None, None], 0.5 * step, step)
        worse = ~(self._energy(strain, fluctuation + step) <= most)
        return fluctuation + torch.where(worse[:, None, None], torch.zeros_like(step), step)

    @property
    def weight(self) -> Tensor:
        """Weights of the quadrature points, relative to the volume. Shape (n_points,)."""
        return self._weight

    def stiffness(self, tangent: Array) -> sp.csr_array:
        """Return |Ω|⁻¹ Σ w Bᵀ D B (n_dofs, n_dofs) of tangents at the points (n_points, n_s, n_s)."""
        weighted = (tangent * self._weight.cpu().double().numpy()[:, None, None]).transpose(1, 2, 0)
        blocks = sp.block_array([[sp.diags_array(one) for one in row] for row in weighted])
        return (self.space.gradient.T @ blocks.tocsr() @ self.space.gradient).tocsr()

    def phases_at(self, strain: Tensor, fluctuation: Tensor) -> Iterator[tuple[Any, Tensor]]:
        """Yield the phases, with the strain at the points of each (n_s, n_points_of_phase, n)."""
        local = self._total_strain(strain, fluctuation)
        for phase, points in self._phases():
            yield phase, local[:, points]

    def phase_values(self, strain: Tensor, fluctuation: Tensor) -> tuple[Tensor, Tensor]:
        """Return stress (n_s, n_points, n) and tangent (n_points, n, n_s, n_s) of the phases."""
        found = [phase.evaluate(local, local[:0]) for phase, local in self.phases_at(strain, fluctuation)]
        tangent = torch.cat([one.tangent.permute(2, 3, 0, 1) for one in found])
        return torch.cat([one.stress for one in found], 1), tangent

    def strain_of(self, field: Tensor) -> Tensor:
        """Return B of fields (n, n_nodes, dim, k) at the points. Shape (n_s, n_points, n, k)."""
        return self._strain(field)

    def forces_of(self, stress: Tensor) -> Tensor:
        """Return |Ω|⁻¹ Σ w Bᵀ σ (n, n_nodes, dim, k) of stresses (n_s, n_points, n, k)."""
        return self._forces(stress * self._weight[:, None, None])

    @cached_property
    def elastic_inverse(self) -> LinearMap:
        """Approximate inverse of |Ω|⁻¹ K at zero strain: a multigrid cycle on a uniform grid, else a factorisation."""
        mesh = self.space.discretisation
        tangent = np.empty((1, len(mesh.weight), mesh.n_s, mesh.n_s))
        for phase, part in zip(self.rve.phases, mesh.cells_of_phase, strict=True):
            tangent[0, part] = phase.evaluate(np.zeros((mesh.n_s, 1)), np.zeros((0, 1))).tangent[:, :, 0]
        cells, like = CellTangents(tangent / mesh.volume, None), self._weight
        stiffness = LinearFields.on(self.space, cells, like.dtype, like.device).stiffness
        prolongations = grid_prolongations(self.space)
        if not Multigrid.applies(prolongations, mesh.dim):
            return Factorised(stiffness.to_scipy(), mesh.dim)
        return _for_all_strains(Multigrid(stiffness, prolongations))

    def residual(self, strain: Tensor, fluctuation: Tensor) -> Tensor:
        """Return R / |Ω| [stress / length]. Shape (n, n_nodes, dim)."""
        return self._forces(self._points(strain, fluctuation).stress[..., None])[..., 0]

    def _parts(self, n: int) -> list[slice]:
        return list(chunks(n, self.bytes_of_one)) or [slice(0, 0)]

    def _respond(
        self, strain: Tensor, fluctuation: Tensor, sensitivity: Tensor, part: slice, curvature: Curvature | None
    ) -> FieldResponse:
        at = self._points(strain, fluctuation)
        force = self._forces(at.stress[..., None])
        stress = at.stress.sum(1).T + torch.einsum("nads,nad->ns", sensitivity, force[..., 0])
        local = self._strain(sensitivity)
        total = local + torch.eye(len(local)).to(local)[:, None, None]
        unit = _times(at.tangent, total)
        tangent = unit.sum(1).transpose(0, 1) + torch.einsum("nads,nadt->nst", sensitivity, self._forces(unit))
        if curvature is not None:
            tangent = tangent + curvature(part, force[..., 0])
        work = (force * self.elastic_inverse(force)).sum((1, 2, 3))
        gap = torch.where(work > 0.0, 0.5 * work / at.energy, torch.zeros_like(work))
        symmetric = 0.5 * (tangent + tangent.transpose(1, 2))
        normal = at.sum_33 if self.rve.discretisation.dim == 2 else None
        row = None if at.row_33 is None else torch.einsum("spn,spnt->nt", at.row_33, total)
        return FieldResponse(at.energy, stress, symmetric, normal, row, gap)

    def _newton(self, strain: Tensor, fluctuation: Tensor, sensitivity: Tensor, inner: int) -> tuple[Tensor, Tensor]:
        """Return w and X after one Newton step; both share the search directions."""
        at = self._points(strain, fluctuation)
        images = self._product(at, sensitivity)
        load = self._forces(at.tangent.permute(2, 0, 1, 3))
        residual = -torch.cat([self._forces(at.stress[..., None]), images + load], dim=3)
        start = (sensitivity, images)
        change = conjugate_gradients(lambda v: self._product(at, v), self.elastic_inverse, residual, start, inner)
        return self.line_search(strain, fluctuation, change[..., 0], at.energy), sensitivity + change[..., 1:]

    def _strain(self, field: Tensor) -> Tensor:
        """Return the strain of fields (n, n_nodes, dim, k) at all points. Shape (n_s, n_points, n, k)."""
        n, n_nodes, dim, k = field.shape
        flat = self._gradient @ field.permute(1, 2, 0, 3).reshape(n_nodes * dim, n * k)
        return flat.reshape(self.rve.discretisation.n_s, len(self._weight), n, k)

    def _forces(self, stress: Tensor) -> Tensor:
        """Return Bᵀ σ of weighted stresses (n_s, n_points, n, k). Shape (n, n_nodes, dim, k)."""
        n_s, n_points, n, k = stress.shape
        flat = self._divergence @ stress.reshape(n_s * n_points, n * k)
        return flat.reshape(self.space.n_nodes, self.rve.discretisation.dim, n, k).permute(2, 0, 1, 3)

    def _product(self, at: _PointValues, field: Tensor) -> Tensor:
        """Return K v / |Ω|."""
        return self._forces(_times(at.tangent, self._strain(field)))

    def _total_strain(self, strain: Tensor, fluctuation: Tensor) -> Tensor:
        return self._strain(fluctuation[..., None])[..., 0] + strain.T[:, None]

    def _energy(self, strain: Tensor, fluctuation: Tensor) -> Tensor:
        """Return Ψ. Shape (n,)."""
        local, total = self._total_strain(strain, fluctuation), torch.zeros_like(strain[:, 0])
        for phase, points in self._phases():
            total = total + self._weight[points] @ phase.energy(local[:, points], local[:0, points])
        return total

    def _phases(self) -> Iterator[tuple[Any, slice]]:
        mesh = self.rve.discretisation
        for position, phase in enumerate(self.rve.phases):
            yield phase, mesh.points_of_phase(position)

    @property
    def _knows_row_33(self) -> bool:
        return know_row_33(self.rve.phases, self.rve.discretisation.dim)

    def _points(self, strain: Tensor, fluctuation: Tensor) -> _PointValues:
        local = self._total_strain(strain, fluctuation)
        stress, tangent, rows = [], [], []
        energy, sum_33 = torch.zeros_like(strain[:, 0]), torch.zeros_like(strain[:, 0])
        for phase, points in self._phases():
            weight = self._weight[points]
            answer = phase.evaluate(local[:, points], local[:0, points])
            energy = energy + weight @ phase.energy(local[:, points], local[:0, points])
            stress.append(answer.stress * weight[:, None])
            tangent.append((answer.tangent * weight[:, None]).permute(2, 3, 0, 1))
            if answer.stress_33 is not None:
                sum_33 = sum_33 + weight @ answer.stress_33
            if self._knows_row_33:
                rows.append(phase.tangent_33(answer.tangent) * weight[:, None])
        row = torch.cat(rows, 1) if rows else None
        return _PointValues(energy, torch.cat(stress, 1), torch.cat(tangent), sum_33, row)


class _Energy(torch.autograd.Function):
    """Ψ with the stress as its derivative, so that it is also defined at zero strain."""

    @staticmethod
    def forward(ctx: Any, strain: Tensor, fluctuation: Tensor, problem: HyperelasticFields) -> Tensor:
        at = problem._points(strain.detach(), fluctuation.detach())
        ctx.save_for_backward(at.stress.sum(1).T, problem._forces(at.stress[..., None])[..., 0])
        return at.energy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        stress, force = ctx.saved_tensors
        return grads[0][:, None] * stress, grads[0][:, None, None] * force, None


def _times(tangent: Tensor, strain: Tensor) -> Tensor:
    """Return D ε of tangents (n_points, n, n_s, n_s) and strains (n_s, n_points, n, k)."""
    return (tangent @ strain.permute(1, 2, 0, 3)).permute(2, 0, 1, 3)


def _for_all_strains(inverse: LinearMap) -> LinearMap:
    """Return the inverse for one RVE as a map of fields (n, n_nodes, dim, k) at n strains."""

    def applied(force: Tensor) -> Tensor:
        n, n_nodes, dim, k = force.shape
        found = inverse(force.permute(1, 2, 0, 3).reshape(1, n_nodes, dim, n * k))
        return found.reshape(n_nodes, dim, n, k).permute(2, 0, 1, 3)

    return applied


def joined(parts: Sequence[FieldResponse]) -> FieldResponse:
    """Concatenate the responses of the chunks of a batch."""
    whole: dict[str, Any] = {}
    for one in fields(FieldResponse):
        values = [getattr(part, one.name) for part in parts]
        whole[one.name] = None if values[0] is None else torch.cat(values)
    return FieldResponse(**whole)
