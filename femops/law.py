"""The interface between the host solver and material laws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from femops.notation import Array
from femops.validation import check_types, is_class, validated


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
        tangent_33: In plane strain, the row d stress_33 / d strain of the tangent, Mandel [stress], shape (n_qp, n_s);
            None in 3D or if the law does not provide it. femops itself does not need it, other codes may.
    """

    stress: Array
    tangent: Array
    state: Array
    stress_33: Array | None = None
    error: Array | None = None
    valid: Any = None
    solver_residual: Array | None = None
    tangent_33: Array | None = None


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
    """

    metric: Array

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


@runtime_checkable
class LearningLaw(CertifiedLaw, Protocol):
    """A surrogate that can learn from solutions of its reference law during a run.

    Attributes:
        learns: Whether it does with its present parameters; if not, cases with `trust.enrich` are refused.
    """

    learns: bool

    def enriched(self, strain: Array) -> "LearningLaw":
        """Return a law enriched with reference solutions at these strains.

        Its state variables are those of this law, followed by new ones that are initially zero.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s); the same on all ranks.
        """
        ...


@runtime_checkable
class MicroscaleLaw(MaterialLaw, Protocol):
    """A law whose stress is the average over an RVE.

    Attributes:
        rve: The RVE, a `femops.rve.spec.RVE`.
    """

    rve: Any

    def micro_fields(self, strain: Array, state: Array) -> Any:
        """Return the fields in the RVE at one point, consistent with `evaluate`.

        Args:
            strain: Total strain, Mandel [-]. Shape (n_s,).
            state: Committed state. Shape (n_state,).

        Returns:
            A `femops.rve.micro.MicroFields`.
        """
        ...


@runtime_checkable
class ExactMicroscaleLaw(CertifiedLaw, MicroscaleLaw, Protocol):
    """A surrogate of an RVE that also provides the fields of the reference solution."""

    def exact_micro_fields(self, strain: Array, state: Array) -> Any:
        """Return the fields in the RVE at one point, consistent with `solve_exactly`; see `micro_fields`."""
        ...


class LawParameters(BaseModel):
    """Base of the parameters that a case file gives a law; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    law: str

    @property
    def in_single_precision(self) -> bool:
        """Whether stresses are computed in single precision, which limits the accuracy of the macroscale solution."""
        return False


@dataclass(frozen=True)
class LawContext:
    """Context in which a law or an RVE is built.

    Attributes:
        dim: 2 (plane strain) or 3.
        base: Folder to which relative paths in the parameters refer.
        comm: MPI communicator whose ranks build the same law; None for a single process.
    """

    dim: int
    base: Path = field(default_factory=Path)
    comm: Any = None


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

    def read(self, mapping: Mapping[str, Any]) -> LawParameters:
        """Validate a law block of a case file.

        Raises:
            CaseError: A parameter is unknown, missing or out of range.
        """
        return validated(self.parameters, dict(mapping))

    def validate(self) -> None:
        """Check the types of the attributes.

        Raises:
            TypeError: An attribute is invalid.
        """
        check_types(
            self.name,
            {
                "name, expected text": isinstance(self.name, str) and self.name != "",
                "summary, expected text": isinstance(self.summary, str),
                "parameters, expected a class": is_class(self.parameters, LawParameters),
                "build, expected a function": callable(self.build),
                "phase, expected a function": self.phase is None or callable(self.phase),
            },
        )


@runtime_checkable
class TrainableSpec(Protocol):
    """What the registry needs to know of a `femops.surrogate.SurrogateSpec`."""

    def law(self) -> LawSpec:
        """Return the law that a trained model becomes in a case."""
        ...

    def validate(self) -> None:
        """Check the types of the attributes.

        Raises:
            TypeError: An attribute is invalid.
        """
        ...
