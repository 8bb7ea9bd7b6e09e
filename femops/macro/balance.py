"""Dynamic load balancing: points of costly laws move between ranks, so that all ranks work equally long.

Nested laws take longer where the material flows, and points are solved exactly where a surrogate is in doubt; both may
happen on one rank alone. Every rank holds the law, so that only strain and state are sent, and the response returns.
Which points move depends on measured times. The response at a point does not depend on the other points of a batch, so
that results change by round-off at most, as with another number of ranks.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from femops.law import LawResponse
from femops.macro.blocks import joined
from femops.notation import Array, Indices
from femops.parallel import on_every_rank

# Imbalance that is tolerated, the longest time above the mean: relative, and in seconds.
_IMBALANCE, _WORTH = 0.1, 0.02

Work = Callable[[Array, Array, Mapping[str, Array]], LawResponse]
"""Evaluates strains and states, shapes as in `Balance.evaluate`; may write into the arrays of the last argument."""


class Move(NamedTuple):
    """Points that one rank evaluates for another."""

    source: int
    target: int
    points: int


def plan(counts: Any, costs: Array) -> list[Move]:
    """Return the moves after which all ranks take about the mean time; none if they would not pay.

    Args:
        counts: Number of points of each rank. Shape (n_ranks,).
        costs: Time of a point of each rank [s]; 0 if unknown, where the mean of the others is taken. Shape (n_ranks,).
    """
    if not costs.any():
        return []
    costs = np.where(costs > 0.0, costs, costs[costs > 0.0].mean())
    loads = counts * costs
    room = loads.mean() - loads
    if -room.min() < max(_WORTH, _IMBALANCE * loads.mean()):
        return []
    moves, targets = [], iter(np.flatnonzero(room > 0.0).tolist())
    target: int | None = next(targets)
    for source in np.flatnonzero(room < 0.0).tolist():
        left = round(-room[source] / costs[source])
        while left > 0 and target is not None:
            count = min(left, round(room[target] / costs[source]))
            if count > 0:
                moves.append(Move(source, target, count))
                left -= count
                room[target] -= count * costs[source]
            if left > 0:
                target = next(targets, None)
    return moves


@dataclass
class Balance:
    """Evaluation of the points of all ranks by a law, with a memory of the time that they take.

    Attributes:
        comm: The ranks.
        moved: Number of points of this rank that others evaluated the last time.
    """

    comm: Any
    moved: int = 0
    _cost: float = field(default=0.0, init=False)

    def evaluate(self, work: Work, strain: Array, state: Array, storage: Mapping[str, Array]) -> LawResponse | None:
        """Return the response at the points of this rank, None if it has none; collective.

        Args:
            work: Evaluates points, see `Work`; must not communicate.
            strain: Total strain at the end of the increment, Mandel [-]. Shape (n, n_s).
            state: Committed state. Shape (n, n_state).
            storage: Arrays that the response may be written into, by field.

        Raises:
            NotConverged: The law on any rank did not converge.
            CaseError: The law on any rank returns a field at some points only.
        """
        n, comm = len(strain), self.comm
        if comm.size == 1:
            return work(strain, state, storage) if n else None
        counts, costs = np.array(comm.allgather((n, self._cost))).T
        moves = plan(counts, costs)
        out, into = ([move for move in moves if move[side] == comm.rank] for side in (0, 1))
        shares = _spread(n, [move.points for move in out])
        sent = [(move.target, (strain[rows], state[rows])) for move, rows in zip(out, shares, strict=True)]
        guests = _exchanged(comm, sent, [move.source for move in into])
        kept: Any = np.setdiff1d(np.arange(n), np.concatenate(shares)) if out else slice(None)

        def solve() -> list[tuple[LawResponse, float]]:
            ours = (strain[kept], state[kept], {} if out else storage)
            batches = [*([ours] if len(ours[0]) else []), *((*guest, {}) for guest in guests)]
            return [_timed(work, *batch) for batch in batches]

        answers = on_every_rank(comm, solve)
        own = answers[: len(answers) - len(guests)]
        back = [(move.source, answer) for move, answer in zip(into, answers[len(own) :], strict=True)]
        returned = _exchanged(comm, back, [move.target for move in out])
        self.moved = sum(move.points for move in out)
        self._cost = sum(seconds for _, seconds in (*own, *returned)) / max(n, 1)

        def join() -> LawResponse | None:
            if not returned:
                return own[0][0] if own else None
            places = [*([kept] if own else []), *shares]
            parts = [(place, response) for place, (response, _) in zip(places, (*own, *returned), strict=True)]
            return joined(n, parts, storage)

        return on_every_rank(comm, join) if moves else join()


def _spread(n: int, counts: list[int]) -> list[Indices]:
    """Return disjoint sets of `counts` of n points, evenly spread, as neighbours often cost the same."""
    chosen = np.arange(sum(counts)) * n // max(sum(counts), 1)
    return np.split(chosen, np.cumsum(counts)[:-1]) if counts else []


def _exchanged(comm: Any, messages: list[tuple[int, Any]], sources: list[int]) -> list[Any]:
    """Send messages to ranks and return those of the given ranks."""
    requests = [comm.isend(message, rank) for rank, message in messages]
    received = [comm.recv(source=rank) for rank in sources]
    for request in requests:
        request.wait()
    return received


def _timed(work: Work, *batch: Any) -> tuple[LawResponse, float]:
    begin = time.process_time()  # that of this rank alone, whatever else the machine does
    return work(*batch), time.process_time() - begin
