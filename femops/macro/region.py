"""A region: its law, the state at its points on this rank, and the points that are solved exactly."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from femops.contract import check_attributes, check_error, check_response, read_only
from femops.errors import CaseError, NotConverged
from femops.law import CertificateKind, CertifiedLaw, LawResponse, LearningLaw, MaterialLaw
from femops.macro.analysis import Trust
from femops.macro.balance import Balance
from femops.macro.blocks import blocks, joined
from femops.macro.timers import Timers
from femops.macro.trust import Counts, Reason
from femops.meshing import EVERYWHERE
from femops.notation import Array
from femops.parallel import on_every_rank

# A point in doubt this often within an increment is solved exactly until its end, so that Newton's method does not
# alternate between two laws.
_OFTEN = 2

_Ask = Callable[[Array, Array, float], LawResponse]


@dataclass
class Region:
    """A law and its quadrature points on this rank; for points in doubt see `femops.macro.material.Material`.

    Attributes:
        name: Name of the region, or `everywhere`.
        law: Its law.
        points: Quadrature points of the region on this rank.
        comm: The ranks that share the body.
        state: Committed state, read-only. Shape (n_points, n_state).
        law_name: Name of the law, for messages.
        storage: Where stress and tangent of responses at all points of a large region are written, so that they exist
            once; by default, arrays of their own.
        trial: The last response.
        asked: Committed state and length of the increment with which it was evaluated.
        error: Relative error of the last response; 0 where solved exactly, NaN where unknown. Shape (n_points,).
        reason: Why each point of the last response was solved exactly, see `Reason`. Shape (n_points,).
        memory: Why each point is solved exactly in all further evaluations, until `forget`. Shape (n_points,).
        doubt: Error that caused the exact solve; infinite for an invalid response. Shape (n_points,).
        flags: Number of times each point was in doubt within the increment. Shape (n_points,).
    """

    name: str
    law: MaterialLaw
    points: Any
    comm: Any
    state: Array = field(init=False)
    law_name: str = ""
    storage: Mapping[str, Array] = field(default_factory=dict)
    trial: LawResponse | None = None
    asked: tuple[Array, float] = field(init=False)
    error: Array = field(init=False)
    reason: Any = field(init=False)
    memory: Any = field(init=False)
    doubt: Array = field(init=False)
    flags: Any = field(init=False)

    def __post_init__(self) -> None:
        with self.attributed_to_law():
            check_attributes(self.law)
        self.state = read_only(np.zeros((len(self.points), self.law.n_state)))
        self._balance, self._exact_balance = Balance(self.comm), Balance(self.comm)
        self.forget()
        self.error = np.full(len(self.points), np.nan)
        self.keep()

    @property
    def certified(self) -> CertifiedLaw | None:
        """The law, if it can certify its error and solve exactly; otherwise None."""
        return self.law if isinstance(self.law, CertifiedLaw) else None

    @property
    def solved(self) -> Any:
        """Indices of the points that were solved exactly in the last response."""
        return np.flatnonzero(self.reason)

    def part_of(self, values: Array) -> Array:
        """Return the values at the points of the region, of values at all points of the rank."""
        return values if len(values) == len(self.points) else values[self.points]

    @contextmanager
    def attributed_to_law(self) -> Iterator[None]:
        """Add the name of the law to every exception raised inside the block.

        Raises:
            NotConverged: The law did not converge.
            CaseError: The law violates the contract.
            OSError: Unchanged.
            RuntimeError: Any other exception of the law.
        """
        who = f"law of {self.name}" + (f" ({self.law_name!r})" if self.law_name else "")
        try:
            yield
        except NotConverged as error:
            raise NotConverged(f"law of {self.name}: {error.what}", error.residuals) from error
        except CaseError as error:
            key = "material" if self.name == EVERYWHERE else f"material.{self.name}"
            raise CaseError(f"{who}: {error.problem}", error.file, error.key).within(key=key) from error
        except OSError:  # names its file already
            raise
        except (Exception, SystemExit) as error:
            raise RuntimeError(f"{who}: {type(error).__name__}: {error}") from error

    def warm_up(self, strain: Array, dt: float, trust: Trust | None) -> None:
        """Call every method of the law used in the run once, at one virgin point, to trigger compilation and loading.

        Args:
            strain: Strain, Mandel [-]. Shape (1, n_s).
            dt: Length of the increment [time].
            trust: Trust settings of the case.
        """
        state = np.zeros((1, self.law.n_state))
        response = self._asked(self.law.evaluate, strain, state, dt)
        if trust is None or (law := self.certified) is None:
            return
        self._certified(law, strain, response, trust.certificate)
        if trust.on_violation == "solve" or trust.correct:
            self._asked(law.solve_exactly, strain, state, dt)

    def commit(self) -> None:
        """Make the last response the committed state."""
        if self.trial is not None:
            self.state = read_only(self.trial.state)

    def forget(self) -> None:
        """Reset which points are solved exactly."""
        n = len(self.points)
        self.reason, self.memory, self.flags = (np.zeros(n, dtype=np.int64) for _ in range(3))
        self.doubt = np.zeros(n)

    def keep(self) -> None:
        """Save the errors and the set of exactly solved points for `restore`."""
        self.flags[:] = 0
        self._kept = (self.error.copy(), self.reason.copy(), self.memory.copy(), self.doubt.copy())

    def restore(self) -> None:
        """Return to the errors and exactly solved points saved by `keep`."""
        self.trial = None
        self.flags[:] = 0
        self.error, self.reason, self.memory, self.doubt = (one.copy() for one in self._kept)

    def ask(self, strain: Array, dt: float, trust: Trust | None, timers: Timers) -> Counts:
        """Evaluate the law at all points; points in doubt are solved exactly if the case asks for it; collective.

        Args:
            strain: Strain at the points of the region, Mandel [-]. Shape (n_points, n_s).
            dt: Length of the increment [time].
            trust: Trust settings of the case.
            timers: Timers of exact solves.

        Raises:
            NotConverged: The law did not converge, or its response is not finite.
        """
        self.trial, self.asked = None, (self.state, dt)
        counts = Counts(evaluated=len(strain))
        exactly = self.certified if trust is not None and trust.on_violation == "solve" else None
        known = (self.memory > 0) | (self.flags >= _OFTEN)
        own = np.flatnonzero(~known)
        self.reason = np.where(known, np.where(self.memory > 0, self.memory, self.reason), Reason.NOT_SOLVED)
        self.error = np.full(len(strain), np.nan)
        parts: list[tuple[Any, LawResponse]] = []
        response = self._answer(self.law.evaluate, self._balance, strain, own, dt)
        counts.moved = self._balance.moved

        def judge() -> None:
            if len(own) or not len(strain):
                answer = response or self._asked_at_once(self.law.evaluate, strain, self.state, dt)
                parts.append((own, answer))
                self._judge(answer, own, trust, counts, solvable=exactly is not None)

        on_every_rank(self.comm, judge)
        if exactly is not None and self.comm.allreduce(len(self.solved)):
            with timers.part("exact solves"):
                parts += self._solve(exactly, strain, dt, counts)
        self.trial = parts[0][1] if len(parts) == 1 and len(parts[0][0]) == len(strain) else _merged(parts, self.error)
        return counts

    def _solve(self, law: CertifiedLaw, strain: Array, dt: float, counts: Counts) -> list[tuple[Any, LawResponse]]:
        """Solve the points in doubt exactly; return them with their response, if there are any; collective."""
        response = self._answer(law.solve_exactly, self._exact_balance, strain, self.solved, dt)
        on_every_rank(self.comm, lambda: None if response is None else self._check_finite(response))
        counts.moved += self._exact_balance.moved
        counts.solved(self.reason)
        if response is None:
            return []
        self.error[self.solved] = 0.0
        return [(self.solved, response)]

    def certify(self, strain: Array, trust: Trust) -> Counts:
        """Certify the points that were not solved exactly; the certificates replace the errors of the response.

        Points above the tolerance are solved exactly in further evaluations if the case asks for it.
        """
        counts, law, own = Counts(), self.certified, np.flatnonzero(self.reason == Reason.NOT_SOLVED)
        if law is None or self.trial is None or not len(own):
            return counts
        error = self._certified(law, strain[own], _taken(self.trial, own, self.error), trust.certificate)
        self.error[own] = error
        above = ~(error <= trust.stress_tolerance)
        counts.certified, counts.above_tolerance = len(own), int(above.sum())
        counts.doubted(error[above])
        if trust.on_violation == "solve":
            self.remember(own[above])
            counts.remembered = counts.above_tolerance
        else:
            counts.unsolved_above = counts.above_tolerance
        return counts

    def remember(self, points: Any) -> None:
        """Solve points exactly in further evaluations, given as indices in the region."""
        self.memory[points] = Reason.CERTIFICATE
        self.doubt[points] = self.error[points]

    def exact_stress(self, strain: Array, points: Any) -> Array:
        """Return the stress of the reference law in place of the last response, also after `commit`.

        Args:
            strain: Strain of the last response, Mandel [-]. Shape (n_points, n_s).
            points: Indices in the region, of a law that can certify. Shape (n,).

        Returns:
            Stress, Mandel [stress]. Shape (n, n_s).

        Raises:
            NotConverged: The reference law did not converge, or its response is not finite.
        """
        law, (state, dt) = self.certified, self.asked
        assert law is not None, "only certified laws have a reference law"
        response = self._asked(law.solve_exactly, strain[points], state[points], dt)
        self._check_finite(response)
        return response.stress

    def enrich(self, strain: Array) -> None:
        """Enrich the law with exact solutions at the given strains; new state variables are initially zero."""
        if not isinstance(self.law, LearningLaw):
            raise ValueError(f"the law of {self.name} cannot learn")
        with self.attributed_to_law():
            law = self.law.enriched(read_only(strain))
            check_attributes(law)
            more = law.n_state - self.law.n_state
            if more < 0:
                raise CaseError(f"enriched, it has {-more} state variables less than before")
        self.law, self.trial = law, None
        self.state = read_only(np.pad(self.state, ((0, 0), (0, more))))
        self.forget()
        self.keep()

    def _answer(self, ask: _Ask, balance: Balance, strain: Array, own: Any, dt: float) -> LawResponse | None:
        """Evaluate the law at some points, None if there are none on this rank; collective."""
        every = len(own) == len(strain)
        part = slice(None) if every else own

        def work(strain: Array, state: Array, storage: Mapping[str, Array]) -> LawResponse:
            return self._asked(ask, strain, state, dt, storage)

        return balance.evaluate(work, strain[part], self.state[part], self.storage if every else {})

    def _asked(
        self, ask: _Ask, strain: Array, state: Array, dt: float, storage: Mapping[str, Array] | None = None
    ) -> LawResponse:
        """Evaluate the law block by block; the response of several blocks is written into `storage`, if given."""
        parts = blocks(len(strain))
        if len(parts) == 1:
            return self._asked_at_once(ask, strain, state, dt)
        answers = ((part, self._asked_at_once(ask, strain[part], state[part], dt)) for part in parts)
        return joined(len(strain), answers, storage or {})

    def _asked_at_once(self, ask: _Ask, strain: Array, state: Array, dt: float) -> LawResponse:
        """Evaluate the law with read-only copies and check its response."""
        given = read_only(strain.copy()), read_only(state.copy())  # libraries may ignore that a view is read-only
        with self.attributed_to_law():
            response = ask(*given, dt)
            check_response(self.law, response, *given, committed=self.state)
        return response

    def _certified(self, law: CertifiedLaw, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the certificates of the law."""
        with self.attributed_to_law():
            error = law.certify(read_only(strain), response, kind)
            check_error(error, "certificate", len(strain))
        return error

    def _judge(self, response: LawResponse, own: Any, trust: Trust | None, counts: Counts, *, solvable: bool) -> None:
        """Find the points in doubt; a response or error that is not finite is invalid."""
        if solvable:
            invalid = ~np.logical_and.reduce([_finite(values) for values in _arrays(response).values()])
        else:
            self._check_finite(response)
            invalid = np.zeros(len(own), dtype=bool)
        if response.valid is not None:
            out_of_range = ~response.valid
            counts.out_of_range += int(out_of_range.sum())
            invalid |= out_of_range
        above = np.zeros(len(own), dtype=bool)
        if response.error is not None:
            self.error[own] = response.error
            invalid |= ~np.isfinite(response.error)
            above = ~invalid & (response.error > (np.inf if trust is None else trust.stress_tolerance))
        counts.invalid += int(invalid.sum())
        counts.above_tolerance += int(above.sum())
        doubt = invalid | above
        counts.doubted(self.error[own[above]])
        if not solvable:
            counts.unsolved_invalid += int(invalid.sum())
            counts.unsolved_above += int(above.sum())
            return
        self.reason[own[invalid]] = Reason.OUT_OF_RANGE
        self.reason[own[above]] = Reason.STATED_ERROR
        self.doubt[own[doubt]] = np.where(invalid, np.inf, self.error[own])[doubt]
        self.flags[own[doubt]] += 1

    def _check_finite(self, response: LawResponse) -> None:
        """Raise NotConverged if the response is not finite."""
        for name, values in _arrays(response).items():
            if count := int((~_finite(values)).sum()):
                raise NotConverged(f"law of {self.name}: {name} is not finite at {count} of {len(values)} points")


def _arrays(response: LawResponse) -> Mapping[str, Array]:
    arrays = {name: getattr(response, name) for name in ("stress", "tangent", "state")}
    return arrays if response.stress_33 is None else {**arrays, "stress_33": response.stress_33}


def _finite(values: Array) -> Any:
    """Return a mask of the points at which all values are finite. Shape (n_points,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):  # faster, and without a mask of all values
            return np.ones(len(values), dtype=bool)
    return np.isfinite(values).reshape(len(values), -1).all(axis=1)


def _taken(response: LawResponse, own: Any, error: Array) -> LawResponse:
    """Return the response at some points as read-only arrays."""
    part = slice(None) if len(own) == len(error) else own
    arrays = {name: read_only(values[part]) for name, values in _arrays(response).items()}
    response = replace(response, valid=None, solver_residual=None, tangent_33=None)
    return replace(response, **arrays, error=read_only(error[part]))


def _merged(parts: list[tuple[Any, LawResponse]], error: Array) -> LawResponse:
    """Merge responses of two laws at subsets of points into one; later ones take precedence."""
    rows = all(response.tangent_33 is not None for _, response in parts)

    def comparable(own: Any, response: LawResponse) -> LawResponse:
        residual = np.full(len(own), np.nan) if response.solver_residual is None else response.solver_residual
        row = response.tangent_33 if rows else None
        return replace(response, valid=None, error=None, solver_residual=residual, tangent_33=row)

    merged = joined(len(error), ((own, comparable(own, response)) for own, response in parts), {})
    return replace(merged, error=error)
