"""Handling of points at which a surrogate law is not accurate enough (the option `trust`)."""

import io
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import SATURATING, box_case
from mpi4py import MPI
from rich.console import Console

from femops import CaseError, NotConverged, load_law
from femops.commands.reports import report_trust
from femops.errors import Refused
from femops.law import CertificateKind, CertifiedLaw, LawResponse
from femops.macro import balance
from femops.macro.mesh import macro_mesh
from femops.macro.problem import MacroProblem
from femops.macro.stepping import run_steps
from femops.macro.timers import Timers
from femops.macro.trust import choose_snapshots
from femops.meshing.box import box

BENDING = {"top": {"traction": ["3 * t", 0.0]}}
FIXED = {"bottom": {"ux": 0.0, "uy": 0.0}}


class Detuned:
    """Answers (1 + slope |ε|) times the truth, so that its relative error is slope |ε|; learns to be 100 times better.

    Its first state variable is the norm of the strain, the others are of no use.
    """

    def __init__(self, slope: float = 0.5, *, stated: bool = False, limit: float = np.inf, n_state: int = 1) -> None:
        self.truth = load_law(SATURATING)
        self.metric, self.learns = np.eye(3), True
        self.strain_measure, self.dim, self.state_fields = self.truth.strain_measure, 2, {"size": slice(0, 1)}
        self.slope, self.stated, self.limit, self.n_state = slope, stated, limit, n_state
        self.solved: list[int] = []
        self.certified = 0
        self.learned: list[np.ndarray] = []

    def evaluate(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
        answer = self.truth.evaluate(strain, np.zeros((len(strain), 0)), dt)
        size = np.linalg.norm(strain, axis=1)
        along = self.slope * strain / np.where(size > 0.0, size, 1.0)[:, None]
        factor = 1.0 + self.slope * size
        tangent = factor[:, None, None] * answer.tangent + answer.stress[:, :, None] * along[:, None]
        valid = size < self.limit
        stress = np.where(valid[:, None], factor[:, None] * answer.stress, np.nan)
        error = abs(self.slope) * size if self.stated else None
        normal, row = answer.stress_33, answer.tangent_33
        row = factor[:, None] * row + normal[:, None] * along
        return LawResponse(stress, tangent, self._state(strain), factor * normal, error, valid, tangent_33=row)

    def certify(self, strain: np.ndarray, response: LawResponse, kind: CertificateKind) -> np.ndarray:
        assert len(response.stress) == len(strain)
        self.certified += len(strain)
        return (2.0 if kind == "bound" else 1.0) * abs(self.slope) * np.linalg.norm(strain, axis=1)

    def solve_exactly(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
        assert len(strain)
        assert state.shape == (len(strain), self.n_state)
        self.solved.append(len(strain))
        return replace(self.truth.evaluate(strain, np.zeros((len(strain), 0)), dt), state=self._state(strain))

    def enriched(self, strain: np.ndarray) -> "Detuned":
        learned = Detuned(self.slope / 100.0, stated=self.stated, n_state=self.n_state + len(strain))
        learned.learned = [*self.learned, strain]
        return learned

    def _state(self, strain: np.ndarray) -> np.ndarray:
        state = np.zeros((len(strain), self.n_state))
        state[:, 0] = np.linalg.norm(strain, axis=1)
        return state


def problem_of(law: Any, trust: dict[str, Any] | None, **changes: Any) -> MacroProblem:
    given = {"supports": FIXED, "loads": BENDING, "solver": {"rtol": 1e-10}, **changes}
    case = box_case("quadrilateral", **given, **({} if trust is None else {"trust": trust}))
    mesh = macro_mesh(lambda: box([1.0, 1.0], [2, 2], "quad"), 2, MPI.COMM_WORLD)
    return MacroProblem(case.analysis(), mesh, {"everywhere": law}, Timers())


def solving(tolerance: float, **more: Any) -> dict[str, Any]:
    return {"tolerance": tolerance, "on_violation": "solve", **more}


def test_the_toy_keeps_the_contract_of_certified_laws() -> None:
    assert isinstance(Detuned(), CertifiedLaw)
    assert not isinstance(load_law(SATURATING), CertifiedLaw)


def test_a_law_that_cannot_learn_is_refused_before_anything_is_solved() -> None:
    stubborn = Detuned()
    stubborn.learns = False
    parts = ("strain_measure", "dim", "n_state", "state_fields", "metric", "evaluate", "certify", "solve_exactly")
    unable: Any = SimpleNamespace(**{name: getattr(Detuned(), name) for name in parts})
    assert isinstance(unable, CertifiedLaw)
    for law in (stubborn, unable):
        with pytest.raises(CaseError, match=r"trust\.enrich: true given, but the law of everywhere cannot learn"):
            problem_of(law, {"on_violation": "solve", "enrich": True})


@pytest.mark.parametrize("law", [Detuned(stated=True), Detuned(), Detuned(limit=1e-12)], ids=["error", "cert", "range"])
def test_solving_every_point_gives_the_answer_of_the_truth(law: Detuned) -> None:
    problem, truth = problem_of(law, solving(1e-15)), problem_of(load_law(SATURATING), None)
    for one in (problem, truth):
        one.solve(1.0, 1.0)
    expected = truth.displacement.x.array
    assert np.abs(problem.displacement.x.array - expected).max() < 1e-8 * np.abs(expected).max()
    assert np.array_equal(problem.material.error, np.zeros(16))
    assert problem.material.state_fields()["size"][:, 0] == pytest.approx(
        np.linalg.norm(problem.quadrature.strain(), axis=1), rel=1e-6
    )


def test_points_within_the_tolerance_keep_the_answer_of_the_law_and_the_others_get_the_truth() -> None:
    law = Detuned()
    problem = problem_of(law, solving(3e-3))
    problem.solve(1.0, 1.0)
    strain, (region,) = problem.quadrature.strain(), problem.material.regions
    exact = region.reason > 0
    assert 0 < exact.sum() < 16
    error = 0.5 * np.linalg.norm(strain, axis=1)
    assert error[~exact].max() <= 3e-3
    assert problem.material.error == pytest.approx(np.where(exact, 0.0, error), rel=1e-9)
    truth = law.truth.evaluate(strain, np.zeros((16, 0)), 1.0).stress
    factor = np.where(exact, 1.0, 1.0 + error)[:, None]
    assert np.abs(problem.material.stress - factor * truth).max() < 1e-9 * np.abs(truth).max()
    residual, force = problem.residual_norms()
    assert residual < 1e-10 * force


@pytest.mark.parametrize("silent", [None, "evaluate", "solve_exactly"])
def test_merged_answers_have_the_row_33_if_the_law_gives_it_wherever_it_is_asked(silent: str | None) -> None:
    law = Detuned()
    if silent is not None:
        ask = getattr(law, silent)
        setattr(law, silent, lambda *given: replace(ask(*given), tangent_33=None))
    problem = problem_of(law, solving(3e-3))
    problem.solve(1.0, 1.0)
    strain, (region,) = problem.quadrature.strain(), problem.material.regions
    exact = region.reason > 0
    assert 0 < exact.sum() < 16 and region.trial is not None
    if silent is not None:
        assert region.trial.tangent_33 is None
        return
    step = 1e-7 * np.eye(3)
    for answer, points in ((law.solve_exactly, exact), (law.evaluate, ~exact)):
        at, none = strain[points], np.zeros((points.sum(), 1))
        slope = [answer(at + h, none, 1.0).stress_33 - answer(at - h, none, 1.0).stress_33 for h in step]
        expected = np.stack(slope, axis=1) / 2e-7
        row = region.trial.tangent_33[points]
        np.testing.assert_allclose(row, expected, rtol=0.0, atol=1e-6 * np.abs(expected).max())


def test_every_count_of_the_statistics_is_that_of_the_law() -> None:
    law = Detuned()
    problem = problem_of(law, solving(3e-3, certificate="bound"))
    law.solved.clear()
    law.certified = 0
    report = problem.solve(1.0, 1.0)
    found = problem.material.statistics
    assert found.points_solved_exactly == sum(law.solved) > 0
    assert found.solved_because == {"out_of_range": 0, "stated_error": 0, "certificate": sum(law.solved)}
    assert found.points_certified == law.certified
    assert len(law.solved) < report.iterations + 3  # one batch for an evaluation
    assert found.points_above_tolerance == (problem.material.regions[0].memory > 0).sum()
    assert (found.points_invalid, found.points_out_of_range, found.certificate) == (0, 0, "bound")
    assert found.largest_error == np.linalg.norm(problem.material.error, np.inf) <= 3e-3
    assert {"law", "certificate", "exact solves"} <= set(problem.timers.seconds)


def test_the_reason_of_each_exact_solve_is_counted() -> None:
    for law, name in ((Detuned(stated=True), "stated_error"), (Detuned(limit=6e-3), "out_of_range")):
        problem = problem_of(law, solving(3e-3))
        problem.solve(1.0, 1.0)
        assert problem.material.statistics.solved_because[name] > 0
    assert problem.material.statistics.points_out_of_range > 0


def test_without_trust_nothing_is_certified_and_points_out_of_range_stop_the_step() -> None:
    law = Detuned()
    problem = problem_of(law, None)
    problem.solve(1.0, 1.0)
    assert (law.certified, law.solved, problem.material.statistics.certificate) == (0, [], None)
    assert not problem.material.states_error
    with pytest.raises(NotConverged, match="stress is not finite"):
        problem_of(Detuned(limit=1e-3), None).solve(1.0, 1.0)


def test_stopping_names_the_points_the_error_and_what_to_do() -> None:
    message = (
        r"exceeds trust\.tolerance at \d+ points \(largest \d\.\de-03, tolerance 0\.001\); solve them with trust: "
    )
    with pytest.raises(NotConverged, match=message + r"\{on_violation: solve\}, or train the law on a larger range"):
        problem_of(Detuned(), {"tolerance": 1e-3, "on_violation": "stop"}).solve(1.0, 1.0)


def test_warning_counts_and_certifies_and_solves_nothing_exactly() -> None:
    law = Detuned()
    problem = problem_of(law, {"tolerance": 1e-3, "on_violation": "warn"})
    problem.solve(1.0, 1.0)
    error = 0.5 * np.linalg.norm(problem.quadrature.strain(), axis=1)
    assert problem.material.statistics.points_above_tolerance == (error > 1e-3).sum() > 0
    assert problem.material.statistics.largest_error == pytest.approx(error.max(), rel=1e-12)
    assert law.solved == []


def test_points_where_a_law_cannot_tell_its_error_are_counted_and_named() -> None:
    class Clueless(Detuned):
        known = np.inf

        def certify(self, strain: np.ndarray, response: LawResponse, kind: CertificateKind) -> np.ndarray:
            size = np.linalg.norm(strain, axis=1)
            return np.where(size > self.known, np.inf, super().certify(strain, response, kind))

    law = Clueless()
    problem = problem_of(law, {"tolerance": 1e3, "on_violation": "warn", "certificate": "bound"})
    law.known = 6e-3
    problem.solve(1.0, 1.0)
    size, found = np.linalg.norm(problem.quadrature.strain(), axis=1), problem.material.statistics
    infinite = int((size > 6e-3).sum())
    assert 0 < infinite < 16
    assert (found.points_judged, found.points_infinite) == (16, infinite)
    assert found.largest_error == pytest.approx(size[size <= 6e-3].max(), rel=1e-9)
    printed = said_of(asdict(found))
    assert (
        f"Largest error of the answers used: {found.largest_error:.1e} (bound), infinite at {infinite} of 16" in printed
    )
    printed = said_of({**asdict(found), "largest_error": None, "points_infinite": 16})
    assert "Error of the answers used (bound): infinite at 16 of 16 points." in printed


def said_of(statistics: dict[str, Any]) -> str:
    """Return what the command line prints of the statistics of a run."""
    console = Console(file=io.StringIO(), width=200)
    report_trust(console, statistics)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_what_a_law_says_of_its_own_iteration_is_no_error_of_its_answers() -> None:
    class Iterating(Detuned):
        def evaluate(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
            residual = 1e-3 * np.linalg.norm(strain, axis=1)
            return replace(super().evaluate(strain, state, dt), solver_residual=residual)

    problem = problem_of(Iterating(), None)
    problem.solve(1.0, 1.0)
    found, largest = problem.material.statistics, np.linalg.norm(problem.quadrature.strain(), axis=1).max()
    assert found.largest_solver_residual == pytest.approx(1e-3 * largest, rel=1e-9)
    assert (found.largest_error, found.points_judged, problem.material.states_error) == (None, 0, False)
    printed = said_of(asdict(found))
    assert "No error of the answers was estimated" in printed and "Largest error" not in printed
    assert (
        f"Largest solver residual of a law: {found.largest_solver_residual:.1e}; it is no error of the stress."
        in printed
    )
    exact = problem_of(Iterating(), solving(1e-15))
    exact.solve(1.0, 1.0)
    assert exact.material.statistics.largest_solver_residual is None  # no answer of the law is left


def test_points_stay_exact_for_the_rest_of_the_run() -> None:
    problem = problem_of(Detuned(), solving(3e-3))
    problem.solve(1.0, 1.0)
    memory = problem.material.regions[0].memory.copy()
    problem.solve(0.5, 0.5)
    assert memory.any()
    assert np.array_equal(problem.material.regions[0].memory, memory)


def test_a_failed_increment_leaves_no_trace() -> None:
    class Fragile(Detuned):
        broken = False

        def solve_exactly(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
            if self.broken:
                raise NotConverged("the RVE failed")
            return super().solve_exactly(strain, state, dt)

    law = Fragile()
    problem = problem_of(law, solving(3e-3))
    problem.solve(0.85, 0.85)
    (region,) = problem.material.regions
    before = [one.copy() for one in (region.memory, region.state, problem.material.error, problem.material.stress)]
    law.broken = True
    with pytest.raises(NotConverged, match="the RVE failed"):
        problem.solve(1.0, 0.15)
    after = (region.memory, region.state, problem.material.error, problem.material.stress)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    law.broken = False
    problem.solve(1.0, 0.15)
    assert (region.memory > 0).sum() > (before[0] > 0).sum()


def test_points_found_in_doubt_by_an_increment_that_fails_are_not_remembered() -> None:
    class Overtaxed(Detuned):
        most = 16

        def solve_exactly(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
            if len(strain) > self.most:
                raise NotConverged("too many RVEs")
            return super().solve_exactly(strain, state, dt)

    law = Overtaxed()
    problem = problem_of(law, solving(3e-3))
    problem.solve(0.85, 0.85)
    (region,) = problem.material.regions
    before, certified = region.memory.copy(), law.certified
    law.most = int((before > 0).sum())  # fails only when the certificate of an equilibrium has found more points
    with pytest.raises(NotConverged, match="too many RVEs"):
        problem.solve(1.0, 0.15)
    assert law.certified > certified
    assert np.array_equal(region.memory, before)


def test_a_point_between_two_laws_does_not_keep_newton_from_converging() -> None:
    """Under this traction the law ends beyond its range, where the stiffer truth brings the point back into it."""
    traction = {"supports": {"left": {"ux": 0.0}, "bottom": {"uy": 0.0}}, "loads": {"right": {"traction": ["3*t", 0]}}}
    sizes = []
    for law in (Detuned(-10.0), load_law(SATURATING)):
        problem = problem_of(law, None, **traction)
        problem.solve(1.0, 1.0)
        sizes.append(np.linalg.norm(problem.quadrature.strain()[0]))
    limit = sum(sizes) / 2
    assert sizes[1] < 0.99 * limit
    problem = problem_of(Detuned(-10.0, limit=limit), solving(1e9), **traction)
    assert problem.solve(1.0, 1.0).iterations < 15
    assert np.linalg.norm(problem.quadrature.strain()[0]) == pytest.approx(sizes[1], rel=1e-8)


def test_a_law_that_learned_needs_no_exact_solves_in_later_steps() -> None:
    problem = problem_of(Detuned(), solving(3e-3, enrich=True), steps={"count": 3, "end": 1.5})
    solved = [problem.material.statistics.points_solved_exactly for _ in run_steps(problem)]
    assert solved[0] == 0 < solved[1] == solved[2]
    (enrichment,) = problem.material.statistics.enrichments
    (region,) = problem.material.regions
    assert (enrichment.step, enrichment.region, enrichment.snapshots) == (2, "everywhere", len(region.law.learned[0]))
    assert region.state.shape == (16, 1 + enrichment.snapshots)
    assert not region.memory.any()


def test_without_enrichment_later_steps_solve_again() -> None:
    problem = problem_of(Detuned(), solving(3e-3), steps={"count": 3, "end": 1.5})
    solved = [problem.material.statistics.points_solved_exactly for _ in run_steps(problem)]
    assert solved[0] == 0 < solved[1] < solved[2]


def test_snapshots_are_those_of_large_error_that_are_far_from_each_other() -> None:
    strain = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1e-3, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    error = np.array([0.1, 1.0, 0.99, 0.5, 1.0])
    chosen = choose_snapshots(strain, error, 3)
    assert chosen.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    mixed = np.random.default_rng(0).permutation(5)
    assert np.array_equal(choose_snapshots(strain[mixed], error[mixed], 3), chosen)
    assert len(choose_snapshots(strain, error)) == 4  # one stands twice
    assert choose_snapshots(strain, np.array([0.1, 0.2, np.inf, 0.3, 0.2]), 1).tolist() == [[1.0, 1e-3, 0.0]]
    assert choose_snapshots(strain[:0], error[:0]).shape == (0, 3)


class Extrapolating(Detuned):
    """Answers beyond its range too, says that it must not be used there, and counts its calls."""

    calls = 0

    def __init__(self, slope: float, limit: float = np.inf, *, stated: bool = False) -> None:
        super().__init__(slope, stated=stated)
        self.beyond = limit

    def evaluate(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
        self.calls += 1
        return replace(super().evaluate(strain, state, dt), valid=np.linalg.norm(strain, axis=1) < self.beyond)


@pytest.mark.parametrize(
    ("trust", "law", "problem"),
    [
        (None, Extrapolating(0.5, 6e-3), r"a law marked its response as invalid at \d+ points; solve them with"),
        ({"tolerance": 1.0, "on_violation": "stop"}, Extrapolating(0.5, 6e-3), "a law marked its response as invalid"),
        ({"tolerance": 3e-3}, Extrapolating(0.5), r"the error stated by a law exceeds trust\.tolerance"),
        ({"tolerance": 3e-3}, Extrapolating(0.5, stated=True), r"the error stated by a law exceeds trust\.tolerance"),
    ],
    ids=["range", "range, stop", "certificate", "stated error"],
)
def test_a_violation_in_equilibrium_ends_the_run_at_once(trust: Any, law: Extrapolating, problem: str) -> None:
    """As many calls as a run takes whose answers nobody refuses; the step before is left as it was."""
    free = Extrapolating(0.5)
    steps = {"steps": {"count": 3, "end": 1.5}}
    allowed = problem_of(free, {"on_violation": "warn", "tolerance": 1e9}, **steps)
    before = free.calls
    reports = list(run_steps(allowed))
    needed = before + sum(report.iterations for report in reports[:2])
    law.calls = 0
    refused, accepted = problem_of(law, trust, **steps), []
    with pytest.raises(Refused, match=rf"^step 2 stopped at t = 0\.5: at t = 1 {problem}"):
        accepted.extend(run_steps(refused))
    assert law.calls == needed
    assert [(one.t, one.cutbacks) for one in accepted] == [(0.5, 0)]
    allowed.solve(0.5, 0.5)
    assert np.abs(refused.displacement.x.array - allowed.displacement.x.array).max() < 1e-12


def test_an_iterate_may_leave_the_range_that_the_solution_stays_in() -> None:
    """Under a traction a law that grows stiffer overshoots in its first iterate, and is back at the end."""
    traction = {"supports": {"left": {"ux": 0.0}, "bottom": {"uy": 0.0}}, "loads": {"right": {"traction": ["9*t", 0]}}}
    seen: list[float] = []

    class Seen(Extrapolating):
        def evaluate(self, strain: np.ndarray, state: np.ndarray, dt: float) -> LawResponse:
            seen.append(np.linalg.norm(strain, axis=1).max(initial=0.0))
            return super().evaluate(strain, state, dt)

    free = problem_of(Seen(60.0), None, **traction)
    free.solve(1.0, 1.0)
    limit = 0.5 * (max(seen) + seen[-1])
    assert max(seen) > 1.2 * seen[-1]
    problem = problem_of(Extrapolating(60.0, limit), None, **traction, steps={"count": 1, "end": 1.0})
    reports = list(run_steps(problem))
    assert reports[0].cutbacks == 0
    assert np.array_equal(problem.displacement.x.array, free.displacement.x.array)
    assert problem.material.statistics.points_out_of_range > 0


def test_newton_that_fails_out_of_range_says_both() -> None:
    law = Extrapolating(0.5, 1e-9)
    problem = problem_of(law, None, solver={"rtol": 1e-10, "max_iter": 1})
    with pytest.raises(NotConverged, match="stayed above 1e-10 in 1 iterations; in the last one a law marked its"):
        problem.solve(1.0, 1.0)


def test_trust_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(CaseError, match=r"trust\.on_violation: 'solve' given, but no law of the case can solve"):
        problem_of(load_law(SATURATING), solving(1e-3))
    with pytest.raises(ValueError, match="enrich with on_violation 'warn' given, expected on_violation: solve"):
        box_case("quadrilateral", trust={"on_violation": "warn", "enrich": True})


def report() -> None:
    """Print what a run on the ranks at hand found, for the next test; half of the points of rank 0 move to rank 1."""
    balance.plan = lambda counts, costs: [balance.Move(0, 1, int(counts[0]) // 2)] if counts[0] > 1 else []
    problem = problem_of(Detuned(), solving(3e-3, enrich=True), steps={"count": 3, "end": 1.5})
    list(run_steps(problem))
    moved = problem.mean_displacement_of("top")
    if MPI.COMM_WORLD.rank == 0:
        found = problem.material.statistics
        assert (found.points_moved > 0) == (MPI.COMM_WORLD.size > 1)
        learned = problem.material.regions[0].law.learned[0]
        sys.stdout.write(f"{found.points_solved_exactly} {found.points_certified} {found.enrichments}\n")
        sys.stdout.write(f"{np.array2string(learned, precision=8)} {moved[0]:.9e}\n")


@pytest.mark.mpi
def test_two_ranks_solve_and_learn_what_one_does() -> None:
    here = Path(__file__).parent
    script = f"import sys; sys.path.insert(0, {str(here)!r}); import femops, test_trust; test_trust.report()"
    outputs = []
    for ranks in ("1", "2"):
        command = [str(Path(sys.executable).parent / "mpirun"), "-n", ranks, sys.executable, "-c", script]
        outputs.append(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    assert "Enrichment(step=2" in outputs[0]
    assert outputs[1] == outputs[0]
