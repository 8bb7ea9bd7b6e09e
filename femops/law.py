"""The contract between the host and every material law."""

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
    """What a law answers for a batch of points: new numpy arrays of float64 (`valid` of bool).

    Attributes:
        stress: Stress, Mandel [stress]. Shape (n_qp, n_s).
        tangent: Consistent tangent d stress / d strain, Mandel [stress]. Shape (n_qp, n_s, n_s).
        state: Trial state at the end of the increment. Shape (n_qp, n_state).
        stress_33: In plane strain, the stress normal to the plane [stress], shape (n_qp,); None in 3D.
        error: Relative bound or indicator of the error of the answer, 0 or more, shape (n_qp,); None if none is stated.
        valid: False where the law says that its answer must not be used, shape (n_qp,); None means all are valid.
        solver_residual: How far the law's own iteration was from its end, relative, shape (n_qp,): no error of the
            answer, which it can be far below; None if it does not iterate or tell.
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

    A law is pure (same input, same output, no hidden history) and batched (it sees all points of a process at once).
    A state of zeros is the virgin state. What breaks the contract is refused by name, in a run at the first call as
    in `femops.checks.check_law`.

    Attributes:
        strain_measure: The strain measure; the host refuses others than it knows.
        dim: 2 (plane strain) or 3.
        n_state: Number of state variables of a point.
        state_fields: The parts of the state worth looking at, by name; they become fields of the results and are
            named like none of theirs (`femops.contract.RESULT_FIELDS`).
    """

    strain_measure: StrainMeasure
    dim: int
    n_state: int
    state_fields: Mapping[str, slice]

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return stress, consistent tangent and trial state.

        Args:
            strain: Total strain at the end of the increment, Mandel [-]; cannot be written to. Shape (n_qp, n_s).
            state: Committed state at the start of the increment; cannot be written to. Shape (n_qp, n_state).
            dt: Length of the increment [time], always positive.

        Returns:
            The response; its arrays are new, the law may not use them again.

        Raises:
            NotConverged: The law could not find its answer at some point.
        """
        ...


CertificateKind = Literal["bound", "indicator"]
"""A guarantee from full quadrature over the RVE, or an estimate from few points of it."""


@runtime_checkable
class CertifiedLaw(MaterialLaw, Protocol):
    """A law that stands in for another one, knows how wrong it is, and has the other one at hand.

    Attributes:
        metric: The norm of stresses in which errors are certified, √(s · metric · s). Shape (n_s, n_s).
        learns: Whether `enriched` works; where it does not, cases with trust.enrich are refused.
    """

    metric: Array
    learns: bool

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the relative error of the stresses that the law answered.

        Args:
            strain: Total strain at the end of the increment, Mandel [-]. Shape (n_qp, n_s).
            response: What `evaluate` answered for it.
            kind: `bound` is never below the error in the norm of `metric`, `indicator` estimates it.

        Returns:
            Shape (n_qp,); infinite where the law cannot tell.
        """
        ...

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Answer with the law that this one stands in for; arguments and shapes as in `evaluate`."""
        ...

    def enriched(self, strain: Array) -> "CertifiedLaw":
        """Return a law that has learned from exact solutions at these strains.

        Its state variables are those of this law followed by new ones, which may start as zeros.

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
    """What the surroundings tell a law that is being built.

    Attributes:
        dim: 2 (plane strain) or 3.
        base: Folder that relative paths of the parameters start from.
        comm: MPI communicator whose ranks build the same law; None for a single process.
        phase: Makes a constituent from its validated parameters; filled in by `femops.plugins`.
        trained: Returns the model folder of a study file, which it trains first where there is none; None where
            surrogates have to name a model folder.
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
        parameters: pydantic model of the law's parameters.
        build: Makes the law from its parameters.
        phase: Makes the law as constituent of an RVE (see `femops.phases`); None if it cannot be one.
    """

    name: str
    summary: str
    parameters: type[LawParameters]
    build: Callable[[Any, LawContext], MaterialLaw]
    phase: Callable[[Any], Any] | None = None
