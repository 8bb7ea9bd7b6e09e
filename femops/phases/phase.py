"""What a constituent law provides, and its use as a macroscale law.

Inside a phase the components come first and the points last: strain has shape (n_s, ...). Arrays are then traversed
along the points, which is several times faster than along three or six components. `PhaseLaw` turns them over for
the host, whose arrays lead with the points.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from femops import notation
from femops.law import LawResponse, StrainMeasure
from femops.notation import Array


@dataclass(frozen=True)
class PhaseResponse:
    """Answer of a phase, components first.

    Attributes:
        stress: Shape (n_s, ...).
        tangent: Shape (n_s, n_s, ...).
        state: Trial state. Shape (n_state, ...).
        stress_33: In plane strain the stress normal to the plane, shape (...); None in 3D.
    """

    stress: Any
    tangent: Any
    state: Any
    stress_33: Any | None


class Phase(Protocol):
    """A closed-form law, written against the array API so that the same code serves numpy and torch.

    Attributes:
        linear: True if the tangent is the same at every strain and there is no state.
    """

    linear: bool

    def state_fields(self, dim: int) -> Mapping[str, slice]:
        """Return the parts of the state by name; together they are the whole state."""
        ...

    def evaluate(self, strain: Any, state: Any) -> PhaseResponse:
        """Return the response to strain (n_s, ...) from committed state (n_state, ...)."""
        ...

    def energy(self, strain: Any, state: Any) -> Any:
        """Return the (incremental) energy density whose derivative is the stress [stress]. Shape (...)."""
        ...


@runtime_checkable
class HyperelasticPhase(Phase, Protocol):
    """A phase without state whose energy is convex, so that it has a complementary energy."""

    def complementary_energy(self, stress: Any) -> Any:
        """Return ψ*(σ) = sup over ε of σ : ε − ψ(ε), or slightly more, but never less [stress].

        In plane strain the supremum is over in-plane strains, which is the minimum of the three-dimensional ψ* over
        the stress normal to the plane; an approximate minimiser gives an upper bound.

        Args:
            stress: Shape (n_s, ...).

        Returns:
            Shape (...); infinite where no strain has this stress.
        """
        ...


def fenchel_gap(phase: HyperelasticPhase, strain: Any, stress: Any) -> Any:
    """Return ψ(ε) + ψ*(σ) − σ : ε ≥ 0, which is zero where σ is the stress of ε [stress].

    The sum cancels: what is left of a small gap is round-off of the energies. A phase that has a method `fenchel_gap`
    of strain and stress answers itself, without that loss.

    Args:
        phase: The phase.
        strain: Shape (n_s, ...).
        stress: Shape (n_s, ...).

    Returns:
        Shape (...); infinite where no strain has this stress.
    """
    if hasattr(phase, "fenchel_gap"):
        return phase.fenchel_gap(strain, stress)
    return phase.energy(strain, None) + phase.complementary_energy(stress) - (stress * strain).sum(0)


class PhaseLaw:
    """A phase as a macroscale law.

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
        """Return the response to strains (n_qp, n_s); see `MaterialLaw.evaluate`."""
        if strain.shape[-1] != notation.n_strain(self.dim):
            raise ValueError(
                f"strain has {strain.shape[-1]} components, expected {notation.n_strain(self.dim)} in {self.dim}D"
            )
        answer = self.phase.evaluate(np.ascontiguousarray(strain.T), np.ascontiguousarray(state.T))
        return LawResponse(
            stress=np.ascontiguousarray(answer.stress.T),
            tangent=np.ascontiguousarray(answer.tangent.transpose(2, 0, 1)),
            state=np.ascontiguousarray(answer.state.T),
            stress_33=answer.stress_33,
        )
