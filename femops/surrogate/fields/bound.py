"""Guaranteed bound of the stress of predicted fields in RVEs of hyperelastic phases, of second order in their errors.

For a prediction ε̃ = E + B w with sensitivities A_d = (1 + B X) d, one solution with the stiffness K₀ = Σ w Bᵀ D₀ B at
zero strain for each residual gives stresses in equilibrium,

    σ̂ = σ(ε̃) − D₀ B K₀⁻¹ Σ w Bᵀ σ(ε̃),      p_d = D̃ A_d − D₀ B K₀⁻¹ Σ w Bᵀ D̃ A_d,      D̃ = D(ε̃).

With δ the difference of the exact strain to ε̃, r₀ = σ̂ − σ(ε̃), r_d = D̃ A_d − p_d, the dressed stress
S̃ · d = ⟨σ(ε̃) : A_d⟩ and the constants of `SelfConcordance`,

    (S − S̃) · d = ⟨δ : r_d⟩ + ⟨ρ : A_d⟩,  |ρ : A_d| ≤ curvature |dev A_d| J,  ⟨J⟩ = ⟨r₀ : δ⟩,  J ≥ |δ|² / (1 + m |δ|),

in the norm of D̃, where m = decay · max |dev δ| / |δ|. Hence for every λ > 0 and |d| ≤ 1, with the convex conjugate at
each point and c = 1 − λ curvature max |dev A_d|,

    λ (S − S̃) · d ≤ ⟨(r₀ + λ r_d) : δ − c J⟩ ≤ ¼ ⟨Φ |r₀ + λ r_d|²⟩,
    Φ = 4 / (c (1 + √(1 − τ))²),      τ = m max |r₀ + λ r_d| / c,

in the norm of D̃⁻¹, if c > 0 and τ < 1 at all points. The right-hand side is a quadratic form in d: S is in a ball.
"""

from typing import Any, NamedTuple

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array, identity
from femops.surrogate.batching import chunks
from femops.surrogate.fields.homogeneous import Factorised
from femops.surrogate.fields.hyperelastic import HyperelasticFields

_PARTS = (1.0, 0.5, 0.2, 0.05)  # of the λ that is best for small errors
_LEAST = 1e-12  # ⟨|r_d|²⟩ that λ is chosen for at least; that of a prediction without sensitivities is about 1
_ROUND_OFF = 1e-12  # of the stress
_TINY = 1e-200
_COPIES = 4  # of residuals in memory at the same time, compared with `HyperelasticFields.bytes_of_one`


class Ball(NamedTuple):
    """Ball that contains the homogenized stress of the nested solve, in the norm √(s · metric · s).

    Attributes:
        centre: Shape (n, n_s).
        radius: Infinite where there is no bound. Shape (n,).
    """

    centre: Array
    radius: Array


class _Residuals(NamedTuple):
    """Residuals of a batch at all points.

    Attributes:
        gram: Products of r₀ and r_d with D̃⁻¹. Shape (P, n, 1 + n_s, 1 + n_s).
        flexibility: Largest |dev δ| / |δ|. Shape (P, n).
        direction: Largest |dev A_d|. Shape (P, n).
        dressed: S̃ · d. Shape (n, n_s).
    """

    gram: Tensor
    flexibility: Tensor
    direction: Tensor
    dressed: Tensor


class StressBound:
    """Bound for an RVE whose phases state their `SelfConcordance` or are linear.

    Args:
        problem: The RVE.
        metric: Metric of the norm of stresses [1/stress]. Shape (n_s, n_s).
    """

    def __init__(self, problem: HyperelasticFields, metric: Array) -> None:
        self._problem, self._root = problem, np.linalg.cholesky(metric)
        mesh = problem.space.discretisation
        self._elastic = np.empty((mesh.n_points, mesh.n_s, mesh.n_s))
        zero = np.zeros((mesh.n_s, 1))
        for position, phase in enumerate(problem.rve.phases):
            self._elastic[mesh.points_of_phase(position)] = phase.evaluate(zero, zero[:0]).tangent[:, :, 0]
        self._inverse = Factorised(problem.stiffness(self._elastic), mesh.dim)

    def ball(self, strain: Array, fluctuation: Tensor, sensitivity: Tensor) -> Ball:
        """Return a ball around the stress of the nested solve.

        Args:
            strain: E, Mandel [-]. Shape (n, n_s).
            fluctuation: w [length]. Shape (n, n_nodes, dim).
            sensitivity: Any X, near dw/dE [length]. Shape (n, n_nodes, dim, n_s).
        """
        found = Ball(np.empty_like(strain), np.empty(len(strain)))
        for part in chunks(len(strain), _COPIES * self._problem.bytes_of_one):
            found.centre[part], found.radius[part] = self._ball(strain[part], fluctuation[part], sensitivity[part])
        return found

    def error(self, strain: Array, stress: Array, fluctuation: Tensor, sensitivity: Tensor) -> Array:
        """Return the bound of the relative error of stresses (n, n_s), shape (n,); other arguments as in `ball`."""
        ball = self.ball(strain, fluctuation, sensitivity)
        size, away = (np.linalg.norm(one @ self._root, axis=1) for one in (stress, stress - ball.centre))
        with np.errstate(divide="ignore", invalid="ignore"):
            error = (away + ball.radius) / size + _ROUND_OFF
        return np.where(strain.any(axis=1), np.where(np.isnan(error), np.inf, error), 0.0)

    def _ball(self, strain: Array, fluctuation: Tensor, sensitivity: Tensor) -> tuple[Array, Array]:
        given = torch.as_tensor(strain.copy()).to(fluctuation)  # strains may be read-only
        root = torch.as_tensor(self._root).to(fluctuation)
        at = self._residuals(given, fluctuation, sensitivity @ root, root)
        whole = self._mean(at.gram)
        largest = torch.linalg.eigvalsh(whole[:, 1:, 1:])[:, -1]
        best = torch.sqrt(torch.clamp(whole[:, 0, 0], min=_TINY) / torch.clamp(largest, min=_LEAST))
        centre, radius = at.dressed, torch.full_like(best, torch.inf)
        decay, curvature = self._constants(given, fluctuation)
        for part in _PARTS:
            scale = part * best
            rest = 1.0 - scale * curvature * at.direction
            most = at.gram[..., 0, 0].sqrt() + scale * at.gram.diagonal(dim1=2, dim2=3)[..., 1:].sum(2).sqrt()
            tau = decay * at.flexibility * most / rest
            valid = ((rest > 0.0) & (tau < 1.0)).all(0)
            factor = torch.where(valid, 4.0 / (rest * (1.0 + torch.sqrt(torch.clamp(1.0 - tau, min=0.0))) ** 2), 1.0)
            gram = self._mean(factor[..., None, None] * at.gram)
            size = gram[:, 0, 0] + scale**2 * torch.linalg.eigvalsh(gram[:, 1:, 1:])[:, -1]
            found = torch.where(valid, size / (4.0 * scale), torch.inf)
            better = found < radius
            radius = torch.where(better, found, radius)
            centre = torch.where(better[:, None], at.dressed + 0.5 * gram[:, 0, 1:], centre)
        middle = np.linalg.solve(self._root.T, centre.cpu().double().numpy().T).T
        return middle, radius.cpu().double().numpy()

    def _residuals(self, strain: Tensor, fluctuation: Tensor, sensitivity: Tensor, root: Tensor) -> _Residuals:
        """Return the residuals of directions d, the columns of `root`; `sensitivity` is X d."""
        problem = self._problem
        stress, tangent = problem.phase_values(strain, fluctuation)  # (n_s, P, n), (P, n, n_s, n_s)
        directions = problem.strain_of(sensitivity) + root[:, None, None, :]
        unit = (tangent @ directions.permute(1, 2, 0, 3)).permute(2, 0, 1, 3)
        change = self._inverse(problem.forces_of(torch.cat([stress[..., None], unit], 3)))
        back = torch.as_tensor(self._elastic).to(strain)[:, None] @ problem.strain_of(change).permute(1, 2, 0, 3)
        back = torch.cat([-back[..., :1], back[..., 1:]], 3)  # r₀ and r_d
        flexible = torch.linalg.solve(tangent, back)
        deviatoric = torch.eye(len(root)).to(strain) - torch.as_tensor(_spherical(problem)).to(strain)
        flexibility = (torch.linalg.inv(tangent) * deviatoric).sum((2, 3)).clamp(min=0.0).sqrt()
        along = torch.einsum("spnk,st,tpnk->pn", directions, deviatoric, directions).clamp(min=0.0).sqrt()
        dressed = torch.einsum("spn,spnk,p->nk", stress, directions, problem.weight)
        return _Residuals(back.mT @ flexible, flexibility, along, dressed)

    def _constants(self, strain: Tensor, fluctuation: Tensor) -> tuple[Tensor, Tensor]:
        """Return `decay` and `curvature` at all points (P, n); infinite where a phase does not state them."""
        decay, curvature = [], []
        for phase, local in self._problem.phases_at(strain, fluctuation):
            zero = torch.zeros_like(local[0])
            if hasattr(phase, "self_concordance"):
                found: Any = phase.self_concordance(local)
            else:
                found = (zero, zero) if phase.linear else (zero + torch.inf, zero + torch.inf)
            decay.append(found[0])
            curvature.append(found[1])
        return torch.cat(decay), torch.cat(curvature)

    def _mean(self, values: Tensor) -> Tensor:
        """Return ⟨·⟩ of values at all points (P, n, ...)."""
        return torch.tensordot(self._problem.weight, values, dims=1)


def _spherical(problem: HyperelasticFields) -> Array:
    """Return 1 ⊗ 1 / 3, with which |dev ε|² = ε · (1 − 1 ⊗ 1 / 3) · ε, in plane strain with the strain 33 of zero."""
    one = identity(problem.space.discretisation.dim)
    return np.outer(one, one) / 3.0
