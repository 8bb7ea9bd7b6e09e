"""Nonlinear elasticity whose deviatoric stress saturates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from array_api_compat import array_namespace
from pydantic import Field

from femops import notation
from femops.law import LawContext, LawParameters, LawSpec
from femops.phases import isotropic
from femops.phases.phase import PhaseLaw, PhaseResponse, SelfConcordance

# Each iteration reduces the error of the trace by the ratio of the moduli, about a factor of thirty.
_STEPS_TO_STRESS_33 = 3
_SERIES_BELOW = 0.1


def less_log1p(x: Any) -> Any:
    """Return x − ln(1 + x) to full relative accuracy; about x²/2 for small x, infinite for x ≤ −1.

    With u = x/(2 + x), ln(1 + x) = 2 artanh u gives x u − 2 u³ (1/3 + u²/5 + u⁴/7 + …).
    """
    xp = array_namespace(x)
    below = x > -1.0
    x = xp.where(below, x, xp.zeros_like(x))
    u = x / (2.0 + x)
    v = u * u
    series = u * (x - 2.0 * v * (1 / 3 + v * (1 / 5 + v * (1 / 7 + v * (1 / 9 + v / 11)))))
    value = xp.where(abs(x) < _SERIES_BELOW, series, x - xp.log1p(x))
    return xp.where(below, value, xp.full_like(value, xp.inf))


class SaturatingParameters(LawParameters):
    """Parameters of `saturating`."""

    law: Literal["saturating"] = "saturating"
    K: float = Field(gt=0, description="bulk modulus [stress]")
    alpha1: float = Field(gt=0, description="largest norm of the deviatoric stress [stress]")
    alpha2: float = Field(gt=0, description="deviatoric strain at which half of it is reached [-]")


@dataclass(frozen=True)
class Saturating:
    """Nonlinear elasticity with saturating deviatoric stress.

        σ = K tr(ε) 1 + h dev ε,   h = α1/(α2 + n),   n = |dev ε|,
        dσ/dε = K 1⊗1 + h P − h²/(α1 n) dev ε ⊗ dev ε

    with the deviatoric projector P; |dev σ| < α1, and |dev σ| = α1/2 at n = α2.

    The matrix material of the EquiNO benchmarks (arXiv 2504.07976); with the norm of the three-dimensional deviator
    it is hyperelastic in plane strain too.

    Attributes:
        K: Bulk modulus [stress].
        alpha1: Bound of |dev σ| [stress].
        alpha2: Deviatoric strain norm at half of the bound [-].
    """

    K: float
    alpha1: float
    alpha2: float
    linear = False

    def state_fields(self, dim: int) -> Mapping[str, slice]:
        """Return no fields: an elastic law has no state."""
        return {}

    def evaluate(self, strain: Any, state: Any) -> PhaseResponse:
        """See `Phase.evaluate`."""
        xp = array_namespace(strain)
        dev, dev_33 = isotropic.deviator(strain)
        n = isotropic.norm(dev, dev_33)
        secant = self.alpha1 / (self.alpha2 + n)
        pressure = self.K * isotropic.trace(strain)
        dim = 2 if dev_33 is not None else 3
        stress = xp.stack([secant * dev[i] + pressure if i < dim else secant * dev[i] for i in range(dev.shape[0])])
        # d(secant)/dn · dev⊗dev/n is of order n as n → 0; the floor avoids 0/0.
        along = -secant * secant / (self.alpha1 * xp.where(n > 0.0, n, xp.ones_like(n)))
        tangent = isotropic.tangent(self.K, secant, along, dev)
        return PhaseResponse(stress, tangent, state, None if dev_33 is None else pressure + secant * dev_33)

    def tangent_33(self, tangent: Any) -> Any:
        """See `PlaneStrainPhase.tangent_33`."""
        return isotropic.tangent_33(self.K, tangent)

    def energy(self, strain: Any, state: Any) -> Any:
        """Return ψ = K/2 tr(ε)² + α1 (n − α2 ln(1 + n/α2)) [stress]."""
        n = isotropic.norm(*isotropic.deviator(strain))
        volumetric = 0.5 * self.K * isotropic.trace(strain) ** 2
        return volumetric + self.alpha1 * self.alpha2 * less_log1p(n / self.alpha2)

    def self_concordance(self, strain: Any) -> SelfConcordance:
        """Return decay = 2/(α2 + n) and curvature = 1/√(α2 (α2 + n)); see `SelfConcordance`.

        With d = dev δ, ñ = |dev ε|, β = α2 + ñ, θ = ñ/β, n = |dev ε + d|, Δ = n − ñ and d_r the component of d along
        dev ε, σ = α1 dev ε/(α2 + n) gives for the deviatoric parts

            J (β + Δ)/α1 = |d|² − θ Δ d_r,      d : D : d β/α1 = |d|² − θ d_r²,
            |σ(ε + δ) − σ(ε) − D : δ| β (β + Δ)/α1 = |Δ d + ((|d|² − Δ²)/2 − θ Δ d_r) dev ε/ñ|.

        d_r ≤ Δ ≤ |d| and 2 ñ (Δ − d_r) = |d|² − Δ² then lead to both inequalities; femops-equino's README has the
        proof. The differential form |ψ‴[u, v, v]| ≤ M |dev u| v : D : v holds with M = 2/α2 at all strains, where
        the least M at a strain is 2/α2 · √((y + 2)/(y (4 y − 1))), y = 1 + n/α2.
        """
        xp = array_namespace(strain)
        reach = self.alpha2 + isotropic.norm(*isotropic.deviator(strain))
        return SelfConcordance(2.0 / reach, 1.0 / xp.sqrt(self.alpha2 * reach))

    def complementary_energy(self, stress: Any) -> Any:
        """Return ψ* = tr(σ)² / (18 K) − α2 (α1 ln(1 − s/α1) + s) with s = |dev σ|; infinite for s ≥ α1 [stress]."""
        total, s = isotropic.complementary_invariants(stress, self._stress_33(stress))
        return total**2 / (18.0 * self.K) + self.alpha1 * self.alpha2 * less_log1p(-s / self.alpha1)

    def fenchel_gap(self, strain: Any, stress: Any) -> Any:
        """Return ψ(ε) + ψ*(σ) − σ : ε as a sum of nonnegative terms, see `phases.phase.fenchel_gap`.

        With the deviators e and s, n = |e|, m the norm of the deviatoric strain whose stress has the norm |s|, and
        g(x) = x − ln(1 + x), it is

            (3 K tr ε − tr σ)²/(18 K)  +  α1 α2 g((n − m)/(α2 + m))  +  |s| n − s : e.

        In plane strain any σ_33 gives an upper bound; the one from the secant modulus at ε is optimal to first order.
        """
        xp = array_namespace(strain)
        e, e_33 = isotropic.deviator(strain)
        n = isotropic.norm(e, e_33)
        normal = isotropic.stress_33(stress, self.K, self.alpha1 / (self.alpha2 + n))
        total, s, s_33 = isotropic.split(stress, normal)
        size = isotropic.norm(s, s_33)
        apart = less_log1p((n - size * ((self.alpha2 + n) / self.alpha1)) / self.alpha2)
        # |s| n − s : e without cancellation
        across = isotropic.norm(s * n - e * size, None if s_33 is None else s_33 * n - e_33 * size)
        both = size * n
        turned = across**2 / (2.0 * xp.where(both > 0.0, both, xp.ones_like(both)))
        volumetric = (3.0 * self.K * isotropic.trace(strain) - total) ** 2 / (18.0 * self.K)
        return volumetric + self.alpha1 * self.alpha2 * apart + turned

    def _stress_33(self, stress: Any) -> Any | None:
        """Return the out-of-plane stress in plane strain at a given in-plane stress; None in 3D.

        Fixed-point iteration. With the mean p and the deviator s of the in-plane stress and the trace t of the strain,
        n² = (|s|/α1)² (α2 + n)² + t²/6 is quadratic in n, and t = p / (K + h/6) depends weakly on h = α1/(α2 + n).
        """
        if notation.dimension(stress.shape[0]) == 3:
            return None
        xp = array_namespace(stress)
        mean = 0.5 * isotropic.trace(stress)
        squared = ((stress * stress).sum(0) - 2.0 * mean * mean) / self.alpha1**2
        squared = xp.clip(squared, 0.0, 1.0 - 1e-12)
        secant: Any = self.alpha1 / self.alpha2
        for _ in range(_STEPS_TO_STRESS_33):
            t = mean / (self.K + secant / 6.0)
            shift = squared * self.alpha2
            root = xp.sqrt(shift * shift + (1.0 - squared) * (shift * self.alpha2 + t * t / 6.0))
            secant = self.alpha1 / (self.alpha2 + (shift + root) / (1.0 - squared))
        return isotropic.stress_33(stress, self.K, secant)


def _phase(parameters: SaturatingParameters) -> Saturating:
    return Saturating(parameters.K, parameters.alpha1, parameters.alpha2)


def _law(parameters: SaturatingParameters, context: LawContext) -> PhaseLaw:
    return PhaseLaw(_phase(parameters), context.dim)


SPEC = LawSpec("saturating", "nonlinear elasticity with saturating shear", SaturatingParameters, _law, _phase)
