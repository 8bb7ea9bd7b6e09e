"""Threads that share the batches of a law."""

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import BLOCK, ended, written
from helpers import ELASTIC, SATURATING

import femops
from femops import CaseError, NotConverged, threads
from femops.rve import solver as rve_solver
from femops.rve.solver import RVESolver, SolverOptions
from femops.threads import in_threads, thread_count

J2 = {"law": "j2", "E": 9000.0, "nu": 0.3, "yield_stress": 40.0, "hardening": 90.0}
PLANE = {"circles": {"circles": [{"center": [0.1, 0.2], "radius": 0.25}], "mesh_size": 0.3}}
GRID = {"voxels": {"cells": 4, "cell": "hexahedron", "inclusions": [{"center": [0.0, 0.1, 0.2], "radius": 0.35}]}}


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads, however small the RVEs."""
    monkeypatch.setattr(rve_solver, "_UNKNOWNS_OF_THREAD", {2: 1, 3: 1})
    monkeypatch.setenv("FEMOPS_NUM_THREADS", "3")


def nested(rve: dict[str, Any], matrix: dict[str, Any], linear: str = "auto") -> Any:
    phases = {"matrix": matrix, "fibre": ELASTIC}
    return femops.load_law(
        {"law": "nested", "rve": {**rve, "phases": phases}, "solver": {"linear": linear}}, dim=2 if rve is PLANE else 3
    )


@pytest.mark.parametrize(("rve", "linear"), [(PLANE, "auto"), (GRID, "auto"), (GRID, "fft")])
def test_threads_change_no_answer(
    rve: dict[str, Any], linear: str, shared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = nested(rve, J2, linear)
    strain = np.random.default_rng(3).uniform(-0.02, 0.02, (11, 3 if rve is PLANE else 6))
    seen, attempt, together = set(), law.solver._method.attempt, threading.Barrier(3, timeout=60.0)

    def watched(*given: Any) -> Any:
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            together.wait()
        return attempt(*given)

    with monkeypatch.context() as patch:
        patch.setattr(law.solver._method, "attempt", watched)
        found = law.evaluate(strain, np.zeros((11, law.n_state)), 1.0)
        together.reset()
        seen.clear()
        found = law.evaluate(1.3 * strain, found.state, 1.0)
    assert len(seen) == 3
    monkeypatch.setenv("FEMOPS_NUM_THREADS", "1")
    expected = law.evaluate(strain, np.zeros((11, law.n_state)), 1.0)
    expected = law.evaluate(1.3 * strain, expected.state, 1.0)
    for name in ("stress", "tangent", "state"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11 * np.abs(other).max())


def test_a_host_may_call_a_law_from_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where femops itself uses one thread: the multigrid cycle has work vectors of its own."""
    law = nested(GRID, J2, "multigrid")
    strain, state = np.random.default_rng(3).uniform(-0.02, 0.02, (3, 6)), np.zeros((3, law.n_state))
    expected = law.evaluate(strain, state, 1.0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        found = in_threads(lambda _: law.evaluate(strain, state, 1.0), range(6), 3)
    finally:
        sys.setswitchinterval(interval)
    for one in found:
        np.testing.assert_allclose(one.stress, expected.stress, rtol=1e-11)


def test_threads_of_a_host_may_be_the_first_to_use_an_iterative_solver() -> None:
    law = nested(GRID, J2, "fft")
    solver = RVESolver(law.rve.discretisation, law.rve.phases, law.rve.boundary, SolverOptions(linear="fft"))
    method, together = solver._candidate[0], threading.Barrier(2, timeout=60.0)
    solved = method._solved

    def watched(*given: Any) -> Any:
        together.wait()
        return solved(*given)

    method._solved = watched
    for one in in_threads(lambda _: solver.elastic_sensitivity, range(2), 2):
        np.testing.assert_array_equal(one, law.solver.elastic_sensitivity)


def test_a_point_that_fails_in_a_thread_is_named(shared: None) -> None:
    law = nested(PLANE, SATURATING)
    strain = np.full((9, 3), 1e-3)
    strain[7] = np.nan
    with pytest.raises(NotConverged, match=r"1 of 3 RVEs did not converge: number 7 at the strain \[nan"):
        law.evaluate(strain, np.zeros((9, law.n_state)), 1.0)


def test_results_are_in_order_and_the_first_exception_is_raised() -> None:
    late = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            late.wait(60.0)
        if item == 4:
            late.set()
        if item in {2, 3}:
            raise ValueError(f"{item}")
        return item

    assert in_threads(lambda item: work(item) * 2, [0, 1, 4], 3) == [0, 2, 8]
    with pytest.raises(ValueError, match="2"):
        in_threads(work, [1, 2, 3], 2)


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_core_count", lambda: 8)
    monkeypatch.setattr(threads, "_LIBRARIES_HAVE_THE_CORES", False)
    assert thread_count({}) == 8
    assert thread_count({"MPI_LOCALNRANKS": "3"}) == 2
    assert thread_count({"PMI_SIZE": "16"}) == 1
    assert thread_count({"FEMOPS_NUM_THREADS": "5", "PMI_SIZE": "16"}) == 5
    monkeypatch.setattr(threads, "_LIBRARIES_HAVE_THE_CORES", True)
    assert thread_count({}) == 1
    assert thread_count({"FEMOPS_NUM_THREADS": "2"}) == 2
    with pytest.raises(CaseError, match="FEMOPS_NUM_THREADS: 'all' given, expected a positive integer"):
        thread_count({"FEMOPS_NUM_THREADS": "all"})


@pytest.mark.parametrize(("limit", "cores"), [("350000 100000", 3), ("50000 100000", 1), ("max 100000", 8), (None, 8)])
def test_a_container_uses_the_cores_of_its_limit(
    limit: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "_LIMIT", tmp_path / "cpu.max")
    if limit is not None:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert threads._core_count() == cores


def test_a_wrong_number_of_threads_is_refused_before_anything_is_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEMOPS_NUM_THREADS", "all")
    assert ended("run", written(tmp_path, BLOCK), "--output", tmp_path / "results") == 2
    assert capsys.readouterr().err == "femops: FEMOPS_NUM_THREADS: 'all' given, expected a positive integer\n"
    assert not (tmp_path / "results").exists()
