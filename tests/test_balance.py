"""Points move between ranks, so that all ranks work equally long."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import BIN

from femops.macro.balance import Move, plan


def test_ranks_that_take_equally_long_keep_their_points() -> None:
    assert plan(np.array([100, 100]), np.array([0.01, 0.0102])) == []
    assert plan(np.array([100, 100]), np.array([1e-5, 3e-5])) == []  # the exchange would cost more
    assert plan(np.array([100, 0]), np.zeros(2)) == []  # nothing is known
    assert plan(np.array([100, 0]), np.array([0.01, 0.0])) == [Move(0, 1, 50)]


def test_moves_leave_every_rank_with_the_mean_time() -> None:
    rng = np.random.default_rng(0)
    for n_ranks in (2, 3, 7, 100):
        counts, costs = rng.integers(20, 200, n_ranks), 0.01 * rng.uniform(0.3, 3.0, n_ranks)
        loads = counts * costs
        moves = plan(counts, costs)
        for source, target, count in moves:
            assert count > 0
            loads[source] -= count * costs[source]
            loads[target] += count * costs[source]
        assert {move.source for move in moves}.isdisjoint(move.target for move in moves)
        assert len(moves) < 2 * n_ranks
        assert np.abs(loads - loads.mean()).max() < costs.max()


TWO_RANKS = """
import time
from dataclasses import replace
import numpy as np
from mpi4py import MPI
from femops import CaseError, NotConverged
from femops.law import LawResponse
from femops.macro.balance import Balance

comm = MPI.COMM_WORLD
sizes = []

def work(strain, state, storage):
    sizes.append(len(strain))
    if (strain > 90.0).any():
        raise NotConverged(f"lost on rank {comm.rank}")
    end = time.process_time() + 0.0005 * len(strain) * (4.0 if strain.max() > 5.0 else 1.0)
    while time.process_time() < end:
        pass
    tangent = strain[:, :, None] * state[:, None, :1]
    return LawResponse(2.0 * strain, tangent, state + 1.0, error=strain[:, 0], valid=strain[:, 0] > 3.0)

balance = Balance(comm)
n = 80 - 40 * comm.rank
strain = np.arange(3.0 * n).reshape(n, 3) / n if comm.rank else 6.0 + np.arange(3.0 * n).reshape(n, 3) / n
state = np.random.default_rng(comm.rank).normal(size=(n, 5))
storage = {"tangent": np.empty((n, 3, 3))}
for _ in range(3):
    sizes.clear()
    answer = balance.evaluate(work, strain, state, storage)
    expected = work(strain, state, {})
    for name in ("stress", "tangent", "state", "error", "valid"):
        assert (getattr(answer, name) == getattr(expected, name)).all(), name
solved = sum(sizes[:-1])
assert np.array(comm.allgather(balance.moved)).tolist()[1] == 0 < comm.bcast(balance.moved)
assert comm.allreduce(solved) == 120
if comm.rank:
    assert 60 <= solved and sizes[0] == 40, sizes  # 80 points of 2 ms and 40 of 0.5 ms: 35 move
assert (answer.tangent is storage["tangent"]) == (comm.rank == 0)
try:
    balance.evaluate(lambda *a: replace(work(*a), valid=None) if comm.rank else work(*a), strain, state, {})
except CaseError as error:
    assert "returns valid at some points only" in str(error)
else:
    raise AssertionError("no error")
try:
    balance.evaluate(work, strain + 90.0 * (comm.rank == 0), state, {})
except NotConverged as error:
    assert "lost on rank" in str(error)
else:
    raise AssertionError("no error")
assert balance.evaluate(work, strain[: 40 * comm.rank], state[: 40 * comm.rank], {}) is None or comm.rank == 1
print("done", flush=True)
"""


@pytest.mark.mpi
def test_moved_points_get_the_response_of_their_rank() -> None:
    command = [str(BIN / "mpirun"), "-n", "2", sys.executable, "-c", TWO_RANKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parent)
    assert done.stdout.count("done") == 2, done.stderr  # the lines of two ranks may mix
