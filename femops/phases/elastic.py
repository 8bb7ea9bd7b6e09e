"""Isotropic linear elasticity."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from array_api_compat import array_namespace
from pydantic import Field, model_validator

from femops.law import LawContext, LawParameters, LawSpec
from femops.phases import isotropic
from femops.phases.phase import PhaseLaw, PhaseResponse, SelfConcordance


class ElasticModuli(LawParameters):
    """Two isotropic moduli: bulk and shear modulus, or Young's modulus and Poisson's ratio."""

    K: float | None = Field(None, gt=0, description="bulk modulus [stress]")
    G: float | None = Field(None, gt=0, description="shear modulus [stress]")
    E: float | None = Field(None, gt=0, description="Young's modulus [stress]")
    nu: float | None = Field(None, gt=-1, lt=0.5, description="Poisson's ratio [-]")

    @model_validator(mode="after")
    def _one_pair(self) -> Self:
        given = {name for name in ("K", "G", "E", "nu") if getattr(self, name) is not None}
        if given not in ({"K", "G"}, {"E", "nu"}):
            names = ", ".join(sorted(given)) or "none"
            raise ValueError(f"expected K and G, or E and nu; given: {names}")
        return self

    def bulk_and_shear(self) -> tuple[float, float]:
        """Return bulk and shear modulus [stress]."""
        if self.E is not None and self.nu is not None:
            return self.E / (3.0 * (1.0 - 2.0 * self.nu)), self.E / (2.0 * (1.0 + self.nu))
        if self.K is None or self.G is None:
            raise ValueError("expected K and G, or E and nu")
        return self.K, self.G


class ElasticParameters(ElasticModuli):
    """Parameters of `elastic`."""

    law: Literal["elastic"] = "elastic"


@dataclass(frozen=True)
class Elastic:
    """Isotropic linear elasticity: σ = K tr(ε) 1 + 2 G dev ε, dσ/dε = K 1⊗1 + 2 G P with the deviatoric projector P.

    Attributes:
        K: Bulk modulus [stress].
        G: Shear modulus [stress].
    """

    K: float
    G: float
    linear = True

    def state_fields(self, dim: int) -> Mapping[str, slice]:
        """Return no fields: elasticity has no state."""
        return {}

    def evaluate(self, strain: Any, state: Any) -> PhaseResponse:
        """See `Phase.evaluate`."""
        xp = array_namespace(strain)
        dev, dev_33 = isotropic.deviator(strain)
        pressure = self.K * isotropic.trace(strain)
        dim = 2 if dev_33 is not None else 3
        stress = 2.0 * self.G * dev
        stress = xp.stack([stress[i] + pressure if i < dim else stress[i] for i in range(stress.shape[0])])
        zero = xp.zeros_like(pressure)
        tangent = isotropic.tangent(self.K + zero, 2.0 * self.G + zero, zero, xp.zeros_like(dev))
        return PhaseResponse(stress, tangent, state, None if dev_33 is None else pressure + 2.0 * self.G * dev_33)

    def tangent_33(self, tangent: Any) -> Any:
        """See `PlaneStrainPhase.tangent_33`."""
        return isotropic.tangent_33(self.K, tangent)

    def energy(self, strain: Any, state: Any) -> Any:
        """Return ψ = K/2 tr(ε)² + G |dev ε|² [stress]."""
        dev, dev_33 = isotropic.deviator(strain)
        return 0.5 * self.K * isotropic.trace(strain) ** 2 + self.G * isotropic.norm(dev, dev_33) ** 2

    def self_concordance(self, strain: Any) -> SelfConcordance:
        """Return zeros: the response is linear."""
        zero = array_namespace(strain).zeros_like(strain[0])
        return SelfConcordance(zero, zero)

    def complementary_energy(self, stress: Any) -> Any:
        """Return ψ* = tr(σ)² / (18 K) + |dev σ|² / (4 G) [stress]."""
        total, norm = isotropic.complementary_invariants(stress, isotropic.stress_33(stress, self.K, 2.0 * self.G))
        return total**2 / (18.0 * self.K) + norm**2 / (4.0 * self.G)

    def fenchel_gap(self, strain: Any, stress: Any) -> Any:
        """Return ψ(ε) + ψ*(σ) − σ : ε = (3 K tr ε − tr σ)²/(18 K) + |dev σ − 2 G dev ε|²/(4 G)."""
        normal = isotropic.stress_33(stress, self.K, 2.0 * self.G)
        total, s, s_33 = isotropic.split(stress, normal)
        e, e_33 = isotropic.deviator(strain)
        away = isotropic.norm(s - 2.0 * self.G * e, None if s_33 is None else s_33 - 2.0 * self.G * e_33)
        volumetric = (3.0 * self.K * isotropic.trace(strain) - total) ** 2 / (18.0 * self.K)
        return volumetric + away**2 / (4.0 * self.G)


def _phase(parameters: ElasticParameters) -> Elastic:
    return Elastic(*parameters.bulk_and_shear())


def _law(parameters: ElasticParameters, context: LawContext) -> PhaseLaw:
    return PhaseLaw(_phase(parameters), context.dim)


SPEC = LawSpec("elastic", "linear isotropic elasticity", ElasticParameters, _law, _phase)
