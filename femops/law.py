"""The interface between the host solver and material laws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from femops.notation import Array


class StrainMeasure(Enum):
    """The strain measure that a law works with."""

    SMALL_STRAIN = "small_strain"


@dataclass(frozen=True)
class LawResponse:
    """Response of a law at a batch of points: newly allocated float64 arrays (`valid`: bool).

    Attributes:
        stress: Stress, Mandel [stress]. Shape (n_qp, n_s).
        tangent: Consistent tangent d stress / d strain, Mandel [stress]. Shape (n_qp, n_s, n_s).
        state: Trial state at the end of the increment. Shape (n_qp, n_state).
        stress_33: In plane strain, the stress normal to the plane [stress], shape (n_qp,); None in 3D.
        error: Relative error bound or indicator, not negative, shape (n_qp,); None if the law provides none.
        valid: False where the response must not be used, shape (n_qp,); None means valid everywhere.
        solver_residual: Relative residual of the law's local iteration, shape (n_qp,); None if the law does not
            iterate or report it. It is not an error estimate: the error of the response can be far larger.
    """

    stress: Array
    tangent: Array
    state: Array
    stress_33: Array | None = None
    error: Array | None = None
    valid: Any = None
    solver_residual: Array | None = None


@runtime_checkable
class MaterialLaw(Protocol):
    """Anything that maps a strain to a stress.

    A law is pure (same input, same output, no hidden state) and batched (one call evaluates all points of a process).
    The virgin state is zero. Violations of the contract raise an error that names the law, at the first call in a run
    and in `femops.checks.check_law`.

    Attributes:
        strain_measure: The strain measure; unsupported ones are refused.
        dim: 2 (plane strain) or 3.
        n_state: Number of state variables per point.
        state_fields: Slices of the state to write as result fields, by name; names in
            `femops.contract.RESULT_FIELDS` are reserved.
    """

    strain_measure: StrainMeasure
    dim: int
    n_state: int
    state_fields: Mapping[str, slice]

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return stress, consistent tangent and trial state.

        Args:
            strain: Total strain at the end of the increment, Mandel [-]; read-only. Shape (n_qp, n_s).
            state: Committed state at the start of the increment; read-only. Shape (n_qp, n_state).
            dt: Length of the increment [time], positive.

        Returns:
            The response; its arrays are newly allocated and must not be reused by the law.

        Raises:
            NotConverged: The local iteration did not converge at some point.
        """
        ...


CertificateKind = Literal["bound", "indicator"]
"""A guaranteed bound from full quadrature over the RVE, or an estimate from a few of its points."""


@runtime_checkable
class CertifiedLaw(MaterialLaw, Protocol):
    """A surrogate of a reference law that can certify its error and evaluate the reference law.

    Attributes:
        metric: Matrix M of the stress norm √(s · M · s) in which errors are certified. Shape (n_s, n_s).
        learns: Whether `enriched` is supported; if not, cases with `trust.enrich` are refused.
    """

    metric: Array
    learns: bool

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the relative error of the stresses of a response.

        Args:
            strain: Total strain at the end of the increment, Mandel [-]. Shape (n_qp, n_s).
            response: The response of `evaluate` at this strain.
            kind: `bound` is never below the error in the norm of `metric`, `indicator` estimates it.

        Returns:
            Shape (n_qp,); infinite where the error is unknown.
        """
        ...

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Evaluate the reference law; arguments and shapes as in `evaluate`."""
        ...

    def enriched(self, strain: Array) -> "CertifiedLaw":
        """Return a law enriched with reference solutions at these strains.

        Its state variables are those of this law, followed by new ones that are initially zero.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s); the same on all ranks.
        """
        ...


class LawParameters(BaseModel):
    """Base of the parameters that a case file gives a law; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    law: str


@dataclass(frozen=True)
class LawContext:
    """Context in which a law is built.

    Attributes:
        dim: 2 (plane strain) or 3.
        base: Folder to which relative paths in the parameters refer.
        comm: MPI communicator whose ranks build the same law; None for a single process.
        phase: Builds a phase from its validated parameters; set by `femops.plugins`.
        trained: Returns the model folder of a study file, training the surrogate first if necessary; None if
            surrogates must name a model folder.
    """

    dim: int
    base: Path = field(default_factory=Path)
    comm: Any = None
    phase: Callable[[LawParameters], Any] | None = None
    trained: Callable[[Path], Path] | None = None


@dataclass(frozen=True)
class LawSpec:
    """A law that can be named in a case file.

    Attributes:
        name: The value of `law:`.
        summary: One line for `femops plugins`.
        parameters: Pydantic model of the parameters.
        build: Builds the law from its parameters.
        phase: Builds the law as a phase of an RVE (see `femops.phases`); None if it cannot be one.
    """

    name: str
    summary: str
    parameters: type[LawParameters]
    build: Callable[[Any, LawContext], MaterialLaw]
    phase: Callable[[Any], Any] | None = None
