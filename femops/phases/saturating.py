"""Nonlinear elasticity with a saturating shear response."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from array_api_compat import array_namespace
from pydantic import Field

from femops.law import LawContext, LawParameters, LawSpec
from femops.phases import isotropic
from femops.phases.phase import PhaseLaw, PhaseResponse


class SaturatingParameters(LawParameters):
    """Parameters of `saturating`."""

    law: Literal["saturating"] = "saturating"
    K: float = Field(gt=0, description="bulk modulus [stress]")
    alpha1: float = Field(gt=0, description="largest norm of the deviatoric stress [stress]")
    alpha2: float = Field(gt=0, description="deviatoric strain at which half of it is reached [-]")


@dataclass(frozen=True)
class Saturating:
    """σ = K tr(ε) 1 + α1/(α2 + n) dev ε with n = |dev ε| of the three-dimensional deviator.

    The matrix of the EquiNO benchmarks (arXiv 2504.07976), made hyperelastic by the three-dimensional norm.

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
        """An elastic law has no state."""
        return {}

    def respond(self, strain: Any, state: Any) -> PhaseResponse:
        """See `Phase.respond`."""
        xp = array_namespace(strain)
        dev, dev_33 = isotropic.deviator(strain)
        n = isotropic.norm(dev, dev_33)
        secant = self.alpha1 / (self.alpha2 + n)
        pressure = self.K * isotropic.trace(strain)
        dim = 2 if dev_33 is not None else 3
        stress = xp.stack([secant * dev[i] + pressure if i < dim else secant * dev[i] for i in range(dev.shape[0])])
        # d(secant)/dn · dev⊗dev/n vanishes with n like n; the floor avoids 0/0.
        along = -secant * secant / (self.alpha1 * xp.where(n > 0.0, n, xp.ones_like(n)))
        tangent = isotropic.tangent(self.K, secant, along, dev)
        return PhaseResponse(stress, tangent, state, None if dev_33 is None else pressure + secant * dev_33)

    def energy(self, strain: Any, state: Any) -> Any:
        """Return ψ = K/2 tr² + α1 (n − α2 ln(1 + n/α2))."""
        xp = array_namespace(strain)
        n = isotropic.norm(*isotropic.deviator(strain))
        volumetric = 0.5 * self.K * isotropic.trace(strain) ** 2
        return volumetric + self.alpha1 * (n - self.alpha2 * xp.log1p(n / self.alpha2))


def _phase(parameters: SaturatingParameters) -> Saturating:
    return Saturating(parameters.K, parameters.alpha1, parameters.alpha2)


def _law(parameters: SaturatingParameters, context: LawContext) -> PhaseLaw:
    return PhaseLaw(_phase(parameters), context.dim)


SPEC = LawSpec("saturating", "nonlinear elasticity with saturating shear", SaturatingParameters, _law, _phase)
