"""Statistics of the laws in a run, and the treatment of responses in doubt."""

from dataclasses import astuple, dataclass, field, fields
from enum import IntEnum
from typing import Any

import numpy as np
from mpi4py import MPI

from femops.errors import Refused
from femops.law import CertificateKind
from femops.macro.analysis import Trust
from femops.notation import Array

MOST_SNAPSHOTS = 8
"""Largest number of snapshots used to enrich a law after a step."""
# Significant digits: points equal by symmetry differ by round-off, which depends on the number of ranks.
_DIGITS = 9


class Reason(IntEnum):
    """Why a point was solved exactly."""

    NOT_SOLVED = 0
    OUT_OF_RANGE = 1
    STATED_ERROR = 2
    CERTIFICATE = 3


@dataclass(frozen=True)
class Enrichment:
    """Enrichment of a law after a step.

    Attributes:
        step: Number of the step.
        region: Region of the law.
        snapshots: Number of exact solutions used.
    """

    step: int
    region: str
    snapshots: int


@dataclass
class LawStatistics:
    """Statistics of the laws in a run, over all ranks; a point counts once per evaluation.

    Attributes:
        points_evaluated: Points at which a law was evaluated.
        points_out_of_range: Points where the law marked its response as invalid.
        points_invalid: Points out of range, or with a response or error that is not finite.
        points_above_tolerance: Points whose error exceeded `trust.tolerance`.
        points_solved_exactly: Points at which the reference law was evaluated.
        solved_because: Points solved exactly, by reason.
        points_certified: Points whose certificate was computed.
        points_moved: Points that another rank evaluated or solved, see `femops.macro.balance`.
        largest_error: Largest finite error in accepted increments; None if no law provides one.
        points_judged: Points of accepted increments with an error, finite or infinite.
        points_infinite: Points of accepted increments with an infinite error.
        largest_solver_residual: Largest relative residual of a law's local iteration in accepted increments; None if
            no law reports one. It is not an error of the response.
        can_certify: Whether any law can certify its error.
        certificate: Kind of certificate; None without certificates.
        enrichments: Enrichments of the laws.
    """

    points_evaluated: int = 0
    points_out_of_range: int = 0
    points_invalid: int = 0
    points_above_tolerance: int = 0
    points_solved_exactly: int = 0
    solved_because: dict[str, int] = field(
        default_factory=lambda: {"out_of_range": 0, "stated_error": 0, "certificate": 0}
    )
    points_certified: int = 0
    points_moved: int = 0
    largest_error: float | None = None
    points_judged: int = 0
    points_infinite: int = 0
    largest_solver_residual: float | None = None
    can_certify: bool = False
    certificate: CertificateKind | None = None
    enrichments: list[Enrichment] = field(default_factory=list)

    def accept(self, comm: MPI.Comm, error: Array, solver_residual: Array) -> None:
        """Record the errors of an accepted increment; collective.

        Args:
            comm: The ranks.
            error: Errors at the points of this rank, NaN where unknown. Shape (n_qp,).
            solver_residual: Values of `LawResponse.solver_residual` on this rank, NaN where unknown. Shape (n,).
        """
        judged = comm.allreduce(np.array([np.sum(~np.isnan(error)), np.sum(np.isinf(error))]), op=MPI.SUM)
        self.points_judged += int(judged[0])
        self.points_infinite += int(judged[1])
        for name, values in (("largest_error", error), ("largest_solver_residual", solver_residual)):
            largest = comm.allreduce(float(values[np.isfinite(values)].max(initial=-1.0)), op=MPI.MAX)
            if largest >= 0.0:
                setattr(self, name, max(largest, getattr(self, name) or 0.0))

    def add(self, counts: "Counts") -> None:
        """Add the counts of one evaluation, summed over all ranks."""
        self.points_evaluated += counts.evaluated
        self.points_out_of_range += counts.out_of_range
        self.points_invalid += counts.invalid
        self.points_above_tolerance += counts.above_tolerance
        self.points_certified += counts.certified
        self.points_moved += counts.moved
        solved = (counts.solved_out_of_range, counts.solved_stated_error, counts.solved_certificate)
        self.points_solved_exactly += sum(solved)
        for name, count in zip(self.solved_because, solved, strict=True):
            self.solved_because[name] += count


@dataclass
class Counts:
    """Point counts of one evaluation; `worst` is the largest finite error of the points in doubt, −1 for none."""

    evaluated: int = 0
    out_of_range: int = 0
    invalid: int = 0
    above_tolerance: int = 0
    certified: int = 0
    solved_out_of_range: int = 0
    solved_stated_error: int = 0
    solved_certificate: int = 0
    unsolved_invalid: int = 0
    unsolved_above: int = 0
    remembered: int = 0
    moved: int = 0
    worst: float = -1.0

    def add(self, other: "Counts") -> None:
        """Add the counts of another region."""
        worst = max(self.worst, other.worst)
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        self.worst = worst

    def solved(self, reason: Any) -> None:
        """Count the points that were solved exactly, by their reason."""
        numbers = np.bincount(reason, minlength=len(Reason))
        self.solved_out_of_range += int(numbers[Reason.OUT_OF_RANGE])
        self.solved_stated_error += int(numbers[Reason.STATED_ERROR])
        self.solved_certificate += int(numbers[Reason.CERTIFICATE])

    def doubted(self, error: Array) -> None:
        """Record the errors of points in doubt."""
        self.worst = max(self.worst, float(error[np.isfinite(error)].max(initial=-1.0)))

    def over_ranks(self, comm: MPI.Comm) -> "Counts":
        """Return the sum over all ranks; collective."""
        *numbers, worst = astuple(self)
        summed = comm.allreduce(np.array(numbers, dtype=np.int64), op=MPI.SUM)
        return Counts(*[*summed.tolist(), comm.allreduce(worst, op=MPI.MAX)])


def violation(counts: Counts, trust: Trust | None, *, solvable: bool) -> str:
    """Return why a response must not be used and what to do; empty if it may be used.

    Args:
        counts: Counts over all ranks.
        trust: Trust settings of the case; None refuses invalid responses only.
        solvable: Whether a law of the case can solve its points exactly.
    """
    if trust is not None and trust.on_violation == "warn":
        return ""
    solving = trust is not None and trust.on_violation == "solve"
    instead = "solve them with trust: {on_violation: solve}, or " if solvable and not solving else ""
    advice = f"; {instead}train the law on a larger range" if solvable else ""
    if counts.unsolved_invalid:
        return f"a law marked its response as invalid at {counts.unsolved_invalid} points{advice}"
    if counts.unsolved_above and trust is not None:
        worst = f" (largest {counts.worst:.1e}, tolerance {trust.tolerance:g})" if counts.worst >= 0.0 else ""
        where = f"at {counts.unsolved_above} points{worst}"
        return f"the error stated by a law exceeds trust.tolerance {where}{advice}"
    return ""


def refuse(counts: Counts, trust: Trust | None, *, solvable: bool) -> None:
    """Raise an error if a response must not be used; arguments as in `violation`.

    Raises:
        Refused: Points in doubt were not solved exactly; the message gives their number and a remedy.
    """
    if problem := violation(counts, trust, solvable=solvable):
        raise Refused(problem)


def choose_snapshots(strain: Array, error: Array, count: int = MOST_SNAPSHOTS) -> Array:
    """Choose strains for the enrichment of a law: large errors, far from each other.

    Greedy selection: the first strain has the largest error; each further one maximises the product of its error and
    its distance to the strains already chosen. The result does not depend on the order of the candidates.

    Args:
        strain: Candidates, Mandel [-]. Shape (n, n_s).
        error: Errors of the candidates; infinite where unknown. Shape (n,).
        count: Largest number to choose.

    Returns:
        Distinct strains, Mandel [-]. Shape (at most count, n_s).
    """
    finite = error[np.isfinite(error)]
    weight = np.where(np.isfinite(error), error, finite.max(initial=1.0))
    weight = np.round(weight / max(weight.max(initial=0.0), np.finfo(float).tiny), _DIGITS)
    scale = max(np.abs(strain).max(initial=0.0), np.finfo(float).tiny)
    place = np.round(strain / scale, _DIGITS)
    order = np.lexsort((*place.T, -weight))
    weight, place, strain = weight[order], place[order], strain[order]
    chosen: list[int] = []
    distance = np.full(len(strain), np.inf)
    merit = weight.copy()
    while len(chosen) < min(count, len(strain)) and (not chosen or merit.max() > 0.0):
        chosen.append(int(np.argmax(np.round(merit, _DIGITS))))
        distance = np.minimum(distance, np.linalg.norm(place - place[chosen[-1]], axis=1))
        merit = weight * np.where(distance > 10.0**-_DIGITS, distance, 0.0)
    return strain[chosen]


def gathered(comm: MPI.Comm, values: Any) -> Any:
    """Return the rows of all ranks concatenated, on every rank; collective."""
    return np.concatenate(comm.allgather(values))
