"""Error bars of results: exact to first order for known errors of the laws, and never below what they amount to."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import BOXES, ELASTIC, SATURATING, box_case, box_problem
from rich.console import Console

from femops import CaseError, load_law, notation
from femops.commands.prepare import Run
from femops.commands.reports import report_run
from femops.commands.run import solve
from femops.law import CertificateKind, LawResponse, StrainMeasure
from femops.macro.analysis import DisplacementAt, ReactionOn, Result, Trust
from femops.macro.probe import value_of
from femops.macro.problem import MacroProblem
from femops.macro.stepping import run_steps
from femops.macro.timers import Timers
from femops.notation import Array
from femops.output.picture import view

ONLY_COUNT = Trust(on_violation="warn")
REACTIONS = ("left.fx", "bottom.fy", "right.fx")
LAWS: dict[str, dict[str, Any]] = {"elastic": ELASTIC, "saturating": SATURATING}


class Off:
    """A law whose stress is off by w P ε with an anisotropic P, and that certifies what is left after `doubt`."""

    strain_measure = StrainMeasure.SMALL_STRAIN

    def __init__(self, parameters: Mapping[str, Any], dim: int, wrong: float, doubt: float = 1.0) -> None:
        self.true, self.dim, self.doubt = load_law(dict(parameters), dim=dim), dim, doubt
        self.state_fields: dict[str, slice] = {}
        self.n_state = 0
        n_s = notation.n_strain(dim)
        stiffness = self.true.evaluate(np.zeros((1, n_s)), np.zeros((1, 0)), 1.0).tangent[0]
        self.metric = np.linalg.inv(stiffness)
        random = np.random.default_rng(0).uniform(size=(n_s, n_s))
        self.off = wrong * 0.5 * stiffness.max() * (random + random.T)

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        right = self.true.evaluate(strain, state, dt)
        return replace(right, stress=right.stress + strain @ self.off, tangent=right.tangent + self.off)

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        squares = [np.einsum("ns,st,nt->n", one, self.metric, one) for one in (strain @ self.off, response.stress)]
        return self.doubt * np.sqrt(squares[0] / np.maximum(squares[1], 1e-300))

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        return replace(self.true.evaluate(strain, state, dt), error=np.zeros(len(strain)))


def solved(cell: str, law: str, wrong: float, trust: Trust = ONLY_COUNT, doubt: float = 1.0) -> MacroProblem:
    """Return a solved box that is clamped on the left, pulled on the right and loaded on its top."""
    dim = 2 if cell in BOXES[2] else 3
    clamp = {"ux": 0.0, "uy": 0.0, **({"uz": 0.0} if dim == 3 else {})}
    size = ELASTIC["K"] if law == "elastic" else SATURATING["K"]
    traction = [0.0, 2e-3 * size, *([1e-3 * size] * (dim - 2))]
    loads = {"top": {"traction": traction}, "right": {"displacement": {"ux": 0.01}}}
    given = box_problem(cell, supports={"left": clamp}, loads=loads, steps={"count": 2, "end": 1.0})
    laws = {"everywhere": Off(LAWS[law], dim, wrong, doubt)}
    problem = MacroProblem(replace(given.analysis, trust=trust), given.mesh, laws)
    list(run_steps(problem))
    return problem


def norms(vectors: Array, metric: Array) -> Array:
    return np.asarray(np.sqrt(np.einsum("ns,st,nt->n", vectors, metric, vectors)))


def results(dim: int) -> dict[str, Result]:
    corner = (1.0, 0.4, 0.7)[:dim]
    found: dict[str, Result] = {"tip": DisplacementAt(corner, 1), "clamp": ReactionOn("left", 0)}
    return found | {"pull": ReactionOn("right", 0)}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("cell", ["triangle", "quadrilateral", "hexahedron"])
def test_the_influence_of_the_stress_is_the_first_derivative_of_each_result(cell: str, law: str) -> None:
    wrong, dim = 1e-4, 2 if cell in BOXES[2] else 3
    off, right = solved(cell, law, wrong), solved(cell, law, 0.0)
    bars, strain = off.error_bars, off.quadrature.strain()
    off.assemble_tangent()
    change = -strain @ off.material.regions[0].law.off  # type: ignore[attr-defined]
    for name, result in results(dim).items():
        influence = bars.influence(result)
        predicted = float(off.quadrature.weights() @ (change * influence).sum(axis=1))
        true = value_of(right, result) - value_of(off, result)
        assert abs(true) > 1e-6 * abs(value_of(right, result)), name
        assert predicted == pytest.approx(true, rel=2e-3), name  # what is left is of order `wrong`


def test_what_bars_leave_out_is_bounded_by_the_error_of_the_tangent_of_a_strongly_monotone_law() -> None:
    """With D̃ = D + P, in the norm of D, where the constant of monotonicity of D is 1.

    ‖ε(δu)‖ ≤ ‖S − S̃‖, and the remainder is ∫ P ε(δu) : ε(z) up to its sign, at most θ ‖S − S̃‖ ‖ε(z)‖ with θ = ‖P‖.
    """
    for wrong in (1e-2, 1e-3):
        off, right = solved("triangle", "elastic", wrong), solved("triangle", "elastic", 0.0)
        law, weights = off.material.regions[0].law, off.quadrature.weights()
        assert isinstance(law, Off)
        theta = np.abs(np.linalg.eigvals(law.metric @ law.off)).max()
        assert 0.1 * wrong < theta < 10.0 * wrong
        change = -off.quadrature.strain() @ law.off
        size = np.sqrt(weights @ norms(change, law.metric) ** 2)
        for name, result in results(2).items():
            influence = off.error_bars.influence(result)
            first = weights @ (change * influence).sum(axis=1)
            remainder = abs(value_of(right, result) - value_of(off, result) - first)
            bound = theta * size * np.sqrt(weights @ norms(influence, np.linalg.inv(law.metric)) ** 2)
            assert 1e-3 * bound < remainder < bound, name


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("cell", ["triangle", "hexahedron"])
def test_bars_of_true_errors_contain_the_exact_result(cell: str, law: str) -> None:
    wrong, dim = 1e-4, 2 if cell in BOXES[2] else 3
    off, right = solved(cell, law, wrong), solved(cell, law, 0.0)
    bars, one = off.error_bars, off.material.regions[0].law
    found = bars.of(results(dim))
    size = norms(off.quadrature.strain() @ one.off, one.metric)  # type: ignore[attr-defined]
    for name, result in results(dim).items():
        missed, bar = abs(value_of(right, result) - value_of(off, result)), found[name]
        assert missed < bar.width < 30.0 * missed, name
        influence = norms(bars.influence(result), np.linalg.inv(one.metric))  # type: ignore[attr-defined]
        assert bar.width == pytest.approx(off.quadrature.weights() @ (size * influence), rel=1e-9), name
        assert bar.kind == "indicator"
    twice = solved(cell, law, wrong, doubt=2.0).error_bars.of(results(dim))
    for name, bar in found.items():
        assert twice[name].width == pytest.approx(2.0 * bar.width), name


def test_points_that_were_solved_exactly_have_no_part_in_the_bar() -> None:
    every = solved("triangle", "saturating", 1e-3)
    trust = Trust(tolerance=float(np.median(every.material.error)), on_violation="solve", certificate="bound")
    some = solved("triangle", "saturating", 1e-3, trust)
    bar = some.error_bars.of(results(2))["tip"]
    solved_points = some.material.regions[0].solved
    assert 0 < len(solved_points) < some.quadrature.n_points
    assert bar.kind == "bound"
    assert (bar.contribution[solved_points] == 0.0).all()
    others = np.setdiff1d(np.arange(some.quadrature.n_points), solved_points)
    assert (bar.contribution[others] > 0.0).all()


@pytest.mark.parametrize("name", ["tip", "pull"])
def test_points_are_solved_until_the_bar_of_a_goal_is_within_its_tolerance(name: str) -> None:
    goal, wrong = results(2)[name], 1e-2
    before, right = solved("triangle", "saturating", wrong), solved("triangle", "saturating", 0.0)
    bar = before.error_bars.of({name: goal})[name]
    tolerance = 0.4 * bar.width / abs(value_of(before, goal))
    after = solved("triangle", "saturating", wrong, Trust(tolerance, "solve", goal=goal))
    width, value = after.error_bars.of({name: goal})[name].width, value_of(after, goal)
    points = after.material.regions[0].solved
    assert 0 < len(points) < after.quadrature.n_points
    assert width <= tolerance * abs(value)
    assert abs(value - value_of(right, goal)) <= 1.1 * width  # up to what is of second order
    others = np.setdiff1d(np.arange(after.quadrature.n_points), points)
    assert bar.contribution[points].min() > 0.5 * bar.contribution[others].max()  # those with the largest parts
    few = np.sort(bar.contribution)[: -len(points) + 1].sum()
    assert few > 0.8 * 0.4 * bar.width  # fewer would not have been enough


def test_results_corrected_at_every_point_are_those_of_the_reference_law_up_to_the_square_of_the_errors() -> None:
    missed = {}
    for wrong in (1e-3, 1e-4):
        off, right = solved("triangle", "saturating", wrong), solved("triangle", "saturating", 0.0)
        values = {name: value_of(off, result) for name, result in results(2).items()}
        found = off.error_bars.corrected(results(2), values, 1.0)
        for name, result in results(2).items():
            exact = value_of(right, result)
            assert found[name].width == 0.0
            assert found[name].points == off.quadrature.n_points
            assert value_of(off, result) == values[name]
            missed[name, wrong] = abs(found[name].value - exact)
            assert missed[name, wrong] < 10.0 * wrong * abs(values[name] - exact), name
    for name in results(2):
        assert missed[name, 1e-4] == pytest.approx(1e-2 * missed[name, 1e-3], rel=0.1), name


def test_results_are_corrected_by_the_points_with_the_largest_parts_and_the_others_stay_in_the_bar() -> None:
    off = solved("triangle", "saturating", 1e-3)
    clamp, tip = (results(2)[name] for name in ("clamp", "tip"))
    strain, weights = off.quadrature.strain(), off.quadrature.weights()
    bar = off.error_bars.of({"tip": tip})["tip"].contribution
    one = off.error_bars.corrected({"tip": tip}, {"tip": 1.0}, 0.2)["tip"]
    assert one.points == int(np.ceil(0.2 * len(bar)))
    chosen = np.argsort(-bar)[: one.points]
    change = -strain @ off.material.regions[0].law.off  # type: ignore[attr-defined]
    signed = weights * (change * off.error_bars.influence(tip)).sum(axis=1)
    assert one.value == pytest.approx(1.0 + signed[chosen].sum(), abs=1e-9 * abs(signed).sum())
    assert one.width == pytest.approx(bar.sum() - bar[chosen].sum())
    both = off.error_bars.corrected({"tip": tip, "clamp": clamp}, {"tip": 1.0, "clamp": 0.0}, 0.2)
    assert both["tip"].points == both["clamp"].points == one.points
    assert both["tip"].width > one.width  # the points are shared with the other result


class Ageing(Off):
    """Its reference law is stiffer with every committed increment, which its state counts."""

    def __init__(self) -> None:
        super().__init__(ELASTIC, 2, 1e-3)
        self.n_state = 1

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        return replace(super().evaluate(strain, state[:, :0], dt), state=state + 1.0)

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        right = self.true.evaluate(strain, state[:, :0], dt)
        return replace(right, stress=(1.0 + dt * state) * right.stress, state=state + 1.0)


def test_exact_stresses_after_a_step_start_from_the_state_before_it() -> None:
    given = box_problem("triangle", steps={"times": [0.5, 1.0]})
    law = Ageing()
    problem = MacroProblem(replace(given.analysis, trust=ONLY_COUNT), given.mesh, {"everywhere": law})
    list(run_steps(problem))
    assert (problem.material.regions[0].state == 2.0).all()
    strain = problem.quadrature.strain()
    some = np.arange(problem.quadrature.n_points) < 3
    expected = 1.5 * law.true.evaluate(strain, np.zeros((len(strain), 0)), 0.5).stress
    found = problem.material.exact_stress(strain, some)
    assert found[some] == pytest.approx(expected[some])
    assert (found[~some] == problem.material.stress[~some]).all()


def test_a_run_reports_bars_and_corrections_and_the_bars_of_reactions_at_every_step(tmp_path: Path) -> None:
    asked = {"pull": {"reaction": "right", "component": "x"}, "tip": {"displacement": "uy", "at": [1.0, 1.0]}}
    trust, output = {"on_violation": "warn", "correct": 0.3}, {"error_bars": True, "picture": None}
    steps = {"count": 2, "end": 1.0}
    case = box_case("triangle", material=SATURATING, steps=steps, quantities=asked, trust=trust, output=output)
    mesh = box_problem("triangle").mesh
    problem = MacroProblem(case.analysis(), mesh, {"everywhere": Off(SATURATING, 2, 1e-3)})
    folder = tmp_path / "results"
    summary = solve(Run(case, problem, Timers()), tmp_path / "box.yaml", folder)
    with (folder / "curves.csv").open() as file:
        rows = [{key: float(text) for key, text in row.items()} for row in csv.DictReader(file)]
    assert [key for key in rows[0] if "error_bar" in key] == [f"{one}.error_bar" for one in REACTIONS]
    assert 0.0 < rows[0]["right.fx.error_bar"] < rows[1]["right.fx.error_bar"] < 0.1 * rows[1]["right.fx"]
    assert rows[1]["right.fx.error_bar"] == pytest.approx(summary["error_bars"]["pull"]["width"])
    corrected = summary["corrected"]["pull"]
    assert corrected == {**corrected, "kind": "indicator", "points": int(np.ceil(0.3 * problem.quadrature.n_points))}
    assert 0.0 < corrected["width"] < summary["error_bars"]["pull"]["width"]
    printed = io.StringIO()
    report_run(Console(file=printed, width=120), summary, folder, None)
    assert f"{corrected['value']:.8g} ± {corrected['width']:.2g}" in printed.getvalue()
    assert f"exact solutions at {corrected['points']} points" in printed.getvalue()
    assert [one.name for one in view(folder, ["error_bar_tip"])] == ["box_error_bar_tip.png"]


def test_bars_of_reactions_need_laws_that_certify() -> None:
    for trust, words in (
        (None, "without trust no error is certified"),
        ({}, "no law of the case can certify its error"),
    ):
        with pytest.raises((ValueError, CaseError), match=f"error_bars: true given, but {words}"):
            box_problem("triangle", trust=trust, output={"error_bars": True})


def test_correction_is_a_share_of_the_points_of_laws_that_solve_exactly() -> None:
    with pytest.raises(ValueError, match="correct 2 given, expected a number from 0 to 1"):
        Trust(correct=2.0)
    with pytest.raises(ValueError, match=r"correct: 0\.5 given, but the case has no quantities to correct"):
        box_case("triangle", trust={"correct": 0.5})
    asked = {"end": {"reaction": "right", "component": "x"}}
    with pytest.raises(CaseError, match=r"correct: 0\.5 given, but no law of the case can solve its points exactly"):
        box_problem("triangle", quantities=asked, trust={"correct": 0.5})


def test_the_last_bar_of_a_goal_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(2)
    problem = solved("triangle", "saturating", 1e-2, Trust(1e-3, "solve", goal=found["tip"]))
    calls: list[str] = []
    for name in ("solve_transposed", "assemble_tangent"):
        _count(monkeypatch, problem, name, calls)
    first = problem.error_bars.of({"tip": found["tip"]})["tip"].width
    assert calls == []  # known since the points were chosen
    problem.error_bars.of(found)
    assert calls == ["solve_transposed"] * 2
    problem.evaluate(0.5)
    assert problem.error_bars.of(found)["tip"].width == pytest.approx(first)
    assert calls[2:] == ["assemble_tangent", *["solve_transposed"] * 3]


def _count(monkeypatch: pytest.MonkeyPatch, problem: MacroProblem, name: str, calls: list[str]) -> None:
    """Note each call of a method."""
    method = getattr(problem, name)

    def counted(*given: Any) -> None:
        calls.append(name)
        method(*given)

    monkeypatch.setattr(problem, name, counted)


def test_a_goal_needs_exact_solves_and_a_quantity_of_the_case() -> None:
    with pytest.raises(ValueError, match="expected on_violation: solve"):
        Trust(goal=ReactionOn("left", 0))
    asked = {"end": {"reaction": "right", "component": "x"}}
    for trust, words in (
        ({"quantity": "tip", "on_violation": "solve"}, "the name of a quantity; there are: end"),
        ({"quantity": "end"}, "expected on_violation: solve"),
    ):
        with pytest.raises(ValueError, match=words):
            box_case("triangle", quantities=asked, trust=trust)
    case = box_case("triangle", quantities=asked, trust={"quantity": "end", "on_violation": "solve"})
    assert case.analysis().trust == Trust(on_violation="solve", goal=ReactionOn("right", 0))


def test_unknown_errors_make_infinite_bars() -> None:
    unknown = solved("triangle", "elastic", 1e-4, doubt=np.inf)
    assert unknown.error_bars.of(results(2))["tip"].width == np.inf


@pytest.mark.mpi
def test_two_ranks_give_the_bars_and_corrections_of_one(tmp_path: Path) -> None:
    program = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import femops\n"
        "from test_error_bars import results, solved\n"
        "problem = solved('quadrilateral', 'saturating', 1e-3)\n"
        "bars = {name: bar.width for name, bar in problem.error_bars.of(results(2)).items()}\n"
        "ones = dict.fromkeys(bars, 1.0)\n"
        "corrected = problem.error_bars.corrected(results(2), ones, 0.2)\n"
        "bars |= {f'corrected {name}': one.value for name, one in corrected.items()}\n"
        "bars |= {f'points {name}': one.points for name, one in corrected.items()}\n"
        "if problem.comm.rank == 0: print(json.dumps(bars))\n"
    )
    (tmp_path / "program.py").write_text(program)
    found = []
    for ranks in (1, 2):
        command = [str(Path(sys.executable).parent / "mpirun"), "-n", str(ranks), sys.executable]
        run = subprocess.run(
            [*command, str(tmp_path / "program.py"), str(Path(__file__).parent)],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        found.append(json.loads(run.stdout.strip().splitlines()[-1]))
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert len(found[0]) == 9
