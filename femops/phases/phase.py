"""Interface of constituent laws, and the adapter that makes one a macroscale law.

Arrays of a phase have components first and points last: strain has shape (n_s, ...). The inner loops then run along
the points, which is several times faster than along three or six components. `PhaseLaw` transposes for the host,
whose arrays have points first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from femops import notation
from femops.law import LawResponse, StrainMeasure
from femops.notation import Array


@dataclass(frozen=True)
class PhaseResponse:
    """Response of a phase, components first.

    Attributes:
        stress: Stress, Mandel [stress]. Shape (n_s, ...).
        tangent: Consistent tangent, Mandel [stress]. Shape (n_s, n_s, ...).
        state: Trial state. Shape (n_state, ...).
        stress_33: In plane strain the out-of-plane stress [stress], shape (...); None in 3D.
    """

    stress: Any
    tangent: Any
    state: Any
    stress_33: Any | None


class Phase(Protocol):
    """Constituent law of a phase, written against the array API so that the same code runs on numpy and torch.

    Attributes:
        linear: True if the tangent is constant and there is no state.
    """

    linear: bool

    def state_fields(self, dim: int) -> Mapping[str, slice]:
        """Return the slices of the state vector by name; together they cover it."""
        ...

    def evaluate(self, strain: Any, state: Any) -> PhaseResponse:
        """Return the response to strain (n_s, ...) from committed state (n_state, ...); threads call it at once."""
        ...


class SelfConcordance(NamedTuple):
    """Constants at a strain ε that limit how far the response at ε + δ departs from the linearised one, for every δ.

    With the tangent D at ε and J = (σ(ε + δ) − σ(ε)) : δ,

        J ≥ δ : D : δ / (1 + decay |dev δ|),      |(σ(ε + δ) − σ(ε) − D : δ) : v| ≤ curvature |dev v| J.

    The bulk response is linear, so that both hold for the deviatoric parts alone. A phase with
    |ψ‴[u, v, v]| ≤ M |dev u| v : D : v at all strains has decay = curvature = M.

    Attributes:
        decay: Shape (...).
        curvature: Shape (...).
    """

    decay: Any
    curvature: Any


@runtime_checkable
class HyperelasticPhase(Phase, Protocol):
    """A phase without state whose energy density ψ is convex, with its complementary energy density ψ*.

    A phase may provide a method `self_concordance(strain)` that returns its `SelfConcordance` at strains (n_s, ...);
    error bounds of second order need it.
    """

    def energy(self, strain: Any, state: Any) -> Any:
        """Return ψ(ε), whose derivative is the stress [stress]. Shape (...)."""
        ...

    def complementary_energy(self, stress: Any) -> Any:
        """Return ψ*(σ) = sup_ε σ : ε − ψ(ε), or a close upper bound of it [stress].

        In plane strain the supremum is over in-plane strains, which equals the minimum of the three-dimensional ψ*
        over the out-of-plane stress; an approximate minimiser gives an upper bound.

        Args:
            stress: Stress, Mandel [stress]. Shape (n_s, ...).

        Returns:
            Shape (...); infinite where no strain has this stress.
        """
        ...


@runtime_checkable
class PlaneStrainPhase(Phase, Protocol):
    """A phase whose tangent is known in the direction normal to the plane too."""

    def tangent_33(self, tangent: Any) -> Any:
        """Return d stress_33 / d strain in plane strain, shape (n_s, ...), from the in-plane tangent of a response."""
        ...


def know_row_33(phases: Iterable[Phase], dim: int) -> bool:
    """Return whether d stress_33 / dE of an RVE is known: in plane strain, of phases that know their own."""
    return dim == 2 and all(isinstance(phase, PlaneStrainPhase) for phase in phases)


def fenchel_gap(phase: HyperelasticPhase, strain: Any, stress: Any) -> Any:
    """Return the Fenchel gap ψ(ε) + ψ*(σ) − σ : ε ≥ 0, which is zero where σ = dψ/dε [stress].

    The terms cancel, so that a small gap is dominated by the round-off of the energies. A phase may provide a method
    `fenchel_gap(strain, stress)` without cancellation, which is then used.

    Args:
        phase: The phase.
        strain: Strain, Mandel [-]. Shape (n_s, ...).
        stress: Stress, Mandel [stress]. Shape (n_s, ...).

    Returns:
        Shape (...); infinite where no strain has this stress.
    """
    if hasattr(phase, "fenchel_gap"):
        return phase.fenchel_gap(strain, stress)
    return phase.energy(strain, None) + phase.complementary_energy(stress) - (stress * strain).sum(0)


class PhaseLaw:
    """Macroscale law that evaluates a phase at every point.

    Args:
        phase: The constituent law.
        dim: 2 (plane strain) or 3.
    """

    strain_measure = StrainMeasure.SMALL_STRAIN

    def __init__(self, phase: Phase, dim: int) -> None:
        self.phase = phase
        self.dim = dim
        self.state_fields = phase.state_fields(dim)
        self.n_state = max((part.stop for part in self.state_fields.values()), default=0)

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Evaluate the phase at strains (n_qp, n_s); see `MaterialLaw.evaluate`."""
        if strain.shape[-1] != notation.n_strain(self.dim):
            raise ValueError(
                f"strain has {strain.shape[-1]} components, expected {notation.n_strain(self.dim)} in {self.dim}D"
            )
        response = self.phase.evaluate(np.ascontiguousarray(strain.T), np.ascontiguousarray(state.T))
        phase = self.phase
        row = phase.tangent_33(response.tangent) if self.dim == 2 and isinstance(phase, PlaneStrainPhase) else None
        return LawResponse(
            stress=np.ascontiguousarray(response.stress.T),
            tangent=np.ascontiguousarray(response.tangent.transpose(2, 0, 1)),
            state=np.ascontiguousarray(response.state.T),
            stress_33=response.stress_33,
            tangent_33=None if row is None else np.ascontiguousarray(row.T),
        )
