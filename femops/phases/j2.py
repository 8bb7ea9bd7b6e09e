"""J2 plasticity with linear isotropic hardening."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from array_api_compat import array_namespace
from pydantic import Field

from femops import notation
from femops.law import LawContext, LawSpec
from femops.phases import isotropic
from femops.phases.elastic import ElasticModuli
from femops.phases.phase import PhaseLaw, PhaseResponse

_SQRT_3_2 = 1.5**0.5


class J2Parameters(ElasticModuli):
    """Parameters of `j2`."""

    law: Literal["j2"] = "j2"
    yield_stress: float = Field(gt=0, description="initial yield stress [stress]")
    hardening: float = Field(0.0, ge=0, description="linear isotropic hardening modulus [stress]")


@dataclass(frozen=True)
class J2:
    """J2 plasticity with linear isotropic hardening, small strains.

        σ = K tr(ε) 1 + 2 G (dev ε − ε_p),   q = √(3/2) |dev σ| ≤ yield_stress + hardening · p,
        dε_p = √(3/2) dp dev σ / |dev σ|

    Radial return with the trial stress s = 2 G (dev ε − ε_p) of the committed state and n = s / |s|:

        Δp = max(√(3/2) |s| − yield_stress − hardening · p, 0) / (3 G + hardening),
        dev σ = θ s,   θ = 1 − 3 G Δp / (√(3/2) |s|),   Δε_p = √(3/2) Δp n,
        dσ/dε = K 1⊗1 + 2 G θ P − 2 G (3 G / (3 G + hardening) + θ − 1) n⊗n,   last term only if Δp > 0

    with the deviatoric projector P (Simo and Hughes, Computational Inelasticity, 1998, box 3.2). The state is the
    plastic strain ε_p (Mandel; in-plane components in plane strain, as ε_p is traceless) and the equivalent plastic
    strain p.

    Attributes:
        K: Bulk modulus [stress].
        G: Shear modulus [stress].
        yield_stress: Initial yield stress [stress].
        hardening: Hardening modulus d(yield stress)/dp [stress].
    """

    K: float
    G: float
    yield_stress: float
    hardening: float
    linear = False

    def state_fields(self, dim: int) -> Mapping[str, slice]:
        """Return the slices of the plastic strain and the equivalent plastic strain."""
        n_s = notation.n_strain(dim)
        return {"plastic_strain": slice(0, n_s), "equivalent_plastic_strain": slice(n_s, n_s + 1)}

    def evaluate(self, strain: Any, state: Any) -> PhaseResponse:
        """See `Phase.evaluate`."""
        xp = array_namespace(strain)
        n_s = strain.shape[0]
        dev, dev_33 = isotropic.deviator(strain)
        plastic = state[:n_s]
        trial = 2.0 * self.G * (dev - plastic)
        trial_33 = None if dev_33 is None else 2.0 * self.G * (dev_33 + plastic[0] + plastic[1])
        q = _SQRT_3_2 * isotropic.norm(trial, trial_33)
        overstress = q - self.yield_stress - self.hardening * state[n_s]
        increment = xp.where(overstress > 0.0, overstress, xp.zeros_like(q)) / (3.0 * self.G + self.hardening)
        direction = trial * (1.0 / xp.where(q > 0.0, q / _SQRT_3_2, xp.ones_like(q)))
        scale = 1.0 - 3.0 * self.G * increment / xp.where(q > 0.0, q, xp.ones_like(q))
        pressure = self.K * isotropic.trace(strain)
        dim = notation.dimension(n_s)
        stress = xp.stack([scale * trial[i] + pressure if i < dim else scale * trial[i] for i in range(n_s)])
        softening = xp.where(
            increment > 0.0, 3.0 * self.G / (3.0 * self.G + self.hardening) + scale - 1.0, xp.zeros_like(q)
        )
        tangent = isotropic.tangent(self.K, 2.0 * self.G * scale, -2.0 * self.G * softening, direction)
        new_state = xp.concat([plastic + _SQRT_3_2 * increment * direction, (state[n_s] + increment)[None]])
        stress_33 = None if trial_33 is None else pressure + scale * trial_33
        return PhaseResponse(stress, tangent, new_state, stress_33)

    def tangent_33(self, tangent: Any) -> Any:
        """See `PlaneStrainPhase.tangent_33`."""
        return isotropic.tangent_33(self.K, tangent)


def _phase(parameters: J2Parameters) -> J2:
    return J2(*parameters.bulk_and_shear(), parameters.yield_stress, parameters.hardening)


def _law(parameters: J2Parameters, context: LawContext) -> PhaseLaw:
    return PhaseLaw(_phase(parameters), context.dim)


SPEC = LawSpec("j2", "J2 plasticity with linear isotropic hardening", J2Parameters, _law, _phase)
