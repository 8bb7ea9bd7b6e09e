"""Laws that break the contract are refused, in runs and by `check_law`; rate-dependent laws are supported."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from helpers import BOXES, ELASTIC, box_case
from mpi4py import MPI

from femops import CaseError, load_law, notation
from femops.checks import check_law
from femops.contract import RESULT_FIELDS
from femops.inputs.case import FieldName, MeshBlock
from femops.law import CertificateKind, LawContext, LawResponse, StrainMeasure
from femops.macro.mesh import macro_mesh
from femops.macro.problem import MacroProblem
from femops.macro.stepping import run_steps
from femops.macro.timers import Timers
from femops.meshing.box import box
from femops.meshing.writing import write_mesh
from femops.plugins import law_parameters
from femops.rve.family import Family
from femops.rve.spec import RVEParameters, build_rve

DIMS = pytest.mark.parametrize("dim", [2, 3])
Array = np.ndarray
Change = Callable[[LawResponse], Any]


class Stranger:
    """Elastic with one state variable, the number of increments; what it answers is changed by a function."""

    strain_measure: Any = StrainMeasure.SMALL_STRAIN
    n_state: Any = 1

    def __init__(self, dim: int = 2, change: Change = lambda response: response, **attributes: Any) -> None:
        self.law, self.dim, self.change = load_law(ELASTIC, dim=dim), dim, change
        self.state_fields: Any = {"count": slice(0, 1)}
        for name, value in attributes.items():
            setattr(self, name, value)

    def evaluate(self, strain: Array, state: Array, dt: float) -> Any:
        return self.change(replace(self.law.evaluate(strain, state[:, :0], dt), state=state + 1.0))


def problem_of(law: Any, dim: int = 2, **changes: Any) -> MacroProblem:
    mesh = macro_mesh(lambda: box([1.0] * dim, [1] * dim, "quad" if dim == 2 else "hexahedron"), dim, MPI.COMM_WORLD)
    return MacroProblem(box_case(BOXES[dim][1], **changes).analysis(), mesh, {"everywhere": law}, Timers())


def told(law: Any, dim: int = 2) -> str:
    """Return why a run refuses a law; `check_law` has to say the same of it."""
    with pytest.raises(CaseError) as refused:
        problem_of(law, dim)
    assert refused.value.key == "material"
    who, _, problem = refused.value.problem.partition(": ")
    assert who == "law of everywhere ('elastic')"
    with pytest.raises(AssertionError) as complaint:
        check_law(law)
    for where in ("", " at zero strain and state"):
        if problem == str(complaint.value).replace(where, ""):
            return problem.replace("(1, ", "(n, ").replace("(1,)", "(n,)")
    raise AssertionError(f"{problem!r} in a run, {complaint.value!r} in check_law")


@DIMS
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: replace(r, stress=r.stress + 0j), "stress has the type complex128, expected float64"),
        (lambda r: replace(r, tangent=r.tangent.astype(np.float32)), "tangent has the type float32, expected float64"),
        (lambda r: replace(r, state=r.state.astype(object)), "state has the type object, expected float64"),
        (lambda r: replace(r, state=r.state.astype(int)), "state has the type int64, expected float64"),
        (lambda r: replace(r, stress=r.stress[:, :2]), "stress has the shape (n, 2), expected (n, {n_s})"),
        (lambda r: replace(r, tangent=r.stress), "tangent has the shape (n, {n_s}), expected (n, {n_s}, {n_s})"),
        (lambda r: replace(r, stress=r.stress.tolist()), "stress is list, expected a numpy array"),
        (lambda r: replace(r, state=None), "state is NoneType, expected a numpy array"),
        (lambda r: replace(r, error=-np.ones(len(r.stress))), "error is negative somewhere, expected 0 or more"),
        (lambda r: replace(r, error=0.0), "error is float, expected a numpy array"),
        (lambda r: replace(r, error=np.zeros((len(r.stress), 1))), "error has the shape (n, 1), expected (n,)"),
        (lambda r: replace(r, valid=np.ones(len(r.stress))), "valid has the type float64, expected bool"),
        (lambda r: (r.stress, r.tangent, r.state), "evaluate returns tuple, expected a LawResponse"),
        (lambda r: None, "evaluate returns NoneType, expected a LawResponse"),
    ],
)
def test_a_wrong_answer_is_refused_at_the_first_call(dim: int, change: Change, problem: str) -> None:
    assert told(Stranger(dim, change), dim) == problem.format(n_s=notation.n_strain(dim))


def test_the_stress_normal_to_the_plane_belongs_to_plane_strain() -> None:
    missing = Stranger(2, lambda r: replace(r, stress_33=None))
    assert told(missing) == "stress_33 is NoneType, expected a numpy array"
    given = Stranger(3, lambda r: replace(r, stress_33=np.zeros(len(r.stress))))
    assert told(given, 3) == "stress_33 is given, expected None in 3D"


def test_the_tangent_of_the_stress_normal_to_the_plane_may_be_missing() -> None:
    without = Stranger(2, lambda r: replace(r, tangent_33=None))
    check_law(without)
    problem_of(without).solve(1.0, 1.0)
    short = Stranger(2, lambda r: replace(r, tangent_33=r.tangent_33[:, :2]))
    assert told(short) == "tangent_33 has the shape (n, 2), expected (n, 3)"
    given = Stranger(3, lambda r: replace(r, tangent_33=r.stress))
    assert told(given, 3) == "tangent_33 is given, expected None in 3D"


class Finite(Enum):
    GREEN_LAGRANGE = "green_lagrange"


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        (
            {"strain_measure": Finite.GREEN_LAGRANGE},
            "strain_measure is <Finite.GREEN_LAGRANGE: 'green_lagrange'>, expected StrainMeasure.SMALL_STRAIN",
        ),
        ({"strain_measure": "finite_strain"}, "strain_measure is 'finite_strain', expected StrainMeasure.SMALL_STRAIN"),
        ({"n_state": 1.0}, "n_state is 1.0, expected an int"),
        ({"n_state": -1}, "n_state is -1, expected 0 or more"),
        (
            {"state_fields": {"p": slice(0, 2)}},
            "state_fields['p'] is slice(0, 2, None), expected a part of the 1 state variables",
        ),
        ({"state_fields": {"p": 0}}, "state_fields['p'] is 0, expected a part of the 1 state variables"),
        ({"state_fields": {"a/b": slice(0, 1)}}, "state_fields has the name 'a/b', expected text without '/'"),
        ({"state_fields": {0: slice(0, 1)}}, "state_fields has the name 0, expected text without '/'"),
    ],
)
def test_what_a_law_says_about_itself_is_read(attributes: dict[str, Any], problem: str) -> None:
    assert told(Stranger(**attributes)) == problem


@pytest.mark.parametrize("name", sorted({*get_args(FieldName), "law_error"}))
def test_a_part_of_the_state_is_not_named_like_a_field_of_the_results(name: str) -> None:
    assert name in RESULT_FIELDS
    problem = f"state_fields[{name!r}] is named like a field of the results"
    assert told(Stranger(state_fields={name: slice(0, 1)})) == problem


def test_one_field_of_two_laws_has_one_size() -> None:
    unit = box([1.0, 1.0], [2, 1], "quad")
    unit = replace(unit, regions={"a": np.array([0]), "b": np.array([1])})
    mesh = macro_mesh(lambda: unit, 2, MPI.COMM_WORLD)
    laws = {"a": Stranger(), "b": Stranger(n_state=2, state_fields={"count": slice(0, 2)})}
    problem = r"material\.b: the state field 'count' has 2 components, but 1 in 'a'; expected as many"
    with pytest.raises(CaseError, match=problem):
        MacroProblem(box_case("quadrilateral", material={"a": ELASTIC, "b": ELASTIC}).analysis(), mesh, laws, Timers())


class Writer(Stranger):
    """Counts by writing into what it is given."""

    def evaluate(self, strain: Array, state: Array, dt: float) -> Any:
        given = {"strain": strain, "state": state}[self.part]
        given += 1.0
        return super().evaluate(strain, state, dt)


class Reuser(Stranger):
    """Answers with the same array each time, which becomes the committed state."""

    def evaluate(self, strain: Array, state: Array, dt: float) -> Any:
        new = state + 1.0
        if not hasattr(self, "kept") or len(self.kept) != len(state):
            self.kept = np.empty_like(state)
        self.kept[:] = new
        return replace(super().evaluate(strain, state, dt), state=self.kept)


@DIMS
@pytest.mark.parametrize("part", ["strain", "state"])
def test_a_law_cannot_write_into_what_it_is_given(dim: int, part: str) -> None:
    with pytest.raises(RuntimeError, match=r"law of everywhere \('elastic'\): ValueError: .*read-only"):
        problem_of(Writer(dim, part=part), dim)


@pytest.mark.parametrize("way", ["torch", "base", "flag"])
def test_a_law_that_goes_around_the_protection_changes_a_copy_only(way: str) -> None:
    from femops.devices.torch_library import torch

    class Cunning(Stranger):
        def evaluate(self, strain: Array, state: Array, dt: float) -> Any:
            response = super().evaluate(strain, state, dt)
            if way == "torch":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    torch.from_numpy(state).add_(1.0)
            elif way == "base":
                state.base[...] += 1.0
            else:
                state.base.flags.writeable = True
                state.flags.writeable = True
                state += 1.0
            return response

    problem = problem_of(Cunning())
    for t in (1.0, 2.0):
        problem.solve(t, 1.0)
    assert (problem.material.regions[0].state == 2.0).all()


@DIMS
def test_a_law_cannot_change_the_committed_state_later(dim: int) -> None:
    problem = problem_of(Reuser(dim), dim)
    problem.solve(1.0, 1.0)
    with pytest.raises(CaseError, match="state is a view of the input state, expected a new array"):
        problem.solve(2.0, 1.0)
    honest = problem_of(Stranger(dim), dim)
    for t in (1.0, 2.0):
        honest.solve(t, 1.0)
    assert (honest.material.regions[0].state == 2.0).all()
    assert not honest.material.regions[0].state.flags.writeable


class Certifying(Stranger):
    """States no error, but certifies; writes into what it is given or answers nonsense."""

    metric, learns = np.eye(3), True
    answer: Any = None
    part = ""

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Any:
        given = {"strain": strain, "stress": response.stress, "state": response.state, "": np.zeros(1)}[self.part]
        given += 1.0
        return np.zeros(len(strain)) if self.answer is None else self.answer

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> Any:
        return self.evaluate(strain, state, dt)

    def enriched(self, strain: Array) -> "Certifying":
        return self


@pytest.mark.parametrize("part", ["strain", "stress", "state"])
def test_a_certificate_leaves_the_answer_as_it_is(part: str) -> None:
    problem = problem_of(Certifying(), trust={"tolerance": 1.0})
    problem.material.regions[0].law.part = part
    with pytest.raises(RuntimeError, match=r"law of everywhere .*read-only"):
        problem.solve(1.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (np.zeros(3), r"certificate has the shape \(3,\), expected \(1,\)"),
        (np.zeros(1, dtype=complex), "certificate has the type complex128, expected float64"),
        (-np.ones(1), "certificate is negative somewhere"),
        ([0.0], "certificate is list, expected a numpy array"),
    ],
)
def test_a_wrong_certificate_is_refused_at_the_first_call(answer: Any, problem: str) -> None:
    with pytest.raises(CaseError, match=problem):
        problem_of(Certifying(answer=answer), trust={"tolerance": 1.0})


def test_whatever_a_law_raises_names_it() -> None:
    def broken(response: LawResponse) -> LawResponse:
        raise TypeError("no such thing")

    def lost(response: LawResponse) -> LawResponse:
        raise CaseError("no GPU here", key="device")

    with pytest.raises(RuntimeError, match=r"^law of everywhere \('elastic'\): TypeError: no such thing$"):
        problem_of(Stranger(2, broken))

    def leaving(response: LawResponse) -> LawResponse:
        raise SystemExit(0)

    with pytest.raises(RuntimeError, match=r"^law of everywhere \('elastic'\): SystemExit: 0$"):
        problem_of(Stranger(2, leaving))
    with pytest.raises(CaseError, match=r"^material\.device: law of everywhere \('elastic'\): no GPU here$"):
        problem_of(Stranger(2, lost))


# -- time ---------------------------------------------------------------------------------------------------------


class Dashpot:
    """σ = η (ε − ε_n)/dt, exact for a constant rate; the state is ε_n."""

    strain_measure, eta = StrainMeasure.SMALL_STRAIN, 3.0

    def __init__(self, dim: int) -> None:
        self.dim, self.n_state, self.state_fields = dim, notation.n_strain(dim), {}

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        slope = self.eta / dt
        tangent = np.broadcast_to(slope * np.eye(self.n_state), (len(strain), self.n_state, self.n_state)).copy()
        normal = np.zeros(len(strain)) if self.dim == 2 else None
        return LawResponse(slope * (strain - state), tangent, strain.copy(), normal)


class Maxwell:
    """Elastic in volume; the deviatoric stress s relaxes, s' = 2 G e' − s/τ, exactly for a constant rate in a step.

    The state is s and the strain at the start.
    """

    strain_measure, K, G, tau = StrainMeasure.SMALL_STRAIN, 7.0, 2.0, 0.8

    def __init__(self, dim: int) -> None:
        n_s = notation.n_strain(dim)
        self.dim, self.n_state, self.state_fields = dim, 2 * n_s, {"overstress": slice(0, n_s)}

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        n, n_s = strain.shape
        one = notation.identity(self.dim)
        deviator = np.eye(n_s) - np.outer(one, one) / 3.0
        decay, gain = np.exp(-dt / self.tau), -2.0 * self.G * np.expm1(-dt / self.tau) * self.tau / dt
        s = decay * state[:, :n_s] + gain * (strain - state[:, n_s:]) @ deviator
        pressure = self.K * strain @ one
        tangent = np.broadcast_to(self.K * np.outer(one, one) + gain * deviator, (n, n_s, n_s)).copy()
        normal = pressure - s[:, 0] - s[:, 1] if self.dim == 2 else None
        return LawResponse(pressure[:, None] * one + s, tangent, np.hstack([s, strain]), normal)


@DIMS
@pytest.mark.parametrize("law", [Dashpot, Maxwell])
def test_laws_that_know_time_keep_the_contract(law: Any, dim: int) -> None:
    check_law(law(dim))


@DIMS
def test_a_dashpot_is_pulled_with_the_force_of_its_rate(dim: int) -> None:
    """At the strain rate 0.01 the force is η · 0.01 at all times, however long the steps are."""
    problem = problem_of(Dashpot(dim), dim, steps={"times": [0.1, 0.5, 3.0]})
    forces = [problem.reaction_on("right")[0] for _ in run_steps(problem)]
    assert forces == pytest.approx([0.03] * 3, rel=1e-10)


@DIMS
def test_stress_relaxes_as_the_closed_form_does(dim: int) -> None:
    """Uniaxial strain, ε = r t up to T and held: σ11 = K ε + 4/3 G τ r (1 − exp(−t/τ)), then decaying from its end."""
    held = {side: {f"u{axis}": 0.0} for axis, sides in (("x", ["left"]), ("y", ["bottom", "top"])) for side in sides}
    if dim == 3:
        held |= {"back": {"uz": 0.0}, "front": {"uz": 0.0}}
    pulled = {"right": {"displacement": {"ux": [[0.0, 0.0], [1.0, 0.02], [9.0, 0.02]]}}}
    times = [0.01, 0.3, 1.0, 1.7, 4.0]
    problem = problem_of(Maxwell(dim), dim, supports=held, loads=pulled, steps={"times": times})
    forces = [problem.reaction_on("right")[0] for _ in run_steps(problem)]
    t = np.array(times)
    risen = 4.0 / 3.0 * 2.0 * 0.8 * 0.02 * (1.0 - np.exp(-np.minimum(t, 1.0) / 0.8))
    expected = 7.0 * 0.02 * np.minimum(t, 1.0) + risen * np.exp(-np.maximum(t - 1.0, 0.0) / 0.8)
    assert forces == pytest.approx(expected, rel=1e-9)


@DIMS
def test_check_law_finds_what_goes_wrong_with_short_or_long_increments(dim: int) -> None:
    class Forgetful(Maxwell):
        """Its tangent is that of increments of length 1."""

        def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
            return replace(super().evaluate(strain, state, dt), tangent=super().evaluate(strain, state, 1.0).tangent)

    class Rounding(Dashpot):
        """Answers with too few components where dt is short."""

        def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
            answer = super().evaluate(strain, state, dt)
            return answer if dt > 0.5 else replace(answer, stress=answer.stress[:, :2])

    with pytest.raises(AssertionError, match=r"from the virgin state, dt = 0\.001 differs from central differences"):
        check_law(Forgetful(dim))
    with pytest.raises(AssertionError, match=r"stress .*has the shape"):
        check_law(Rounding(dim))


# -- blocks in programs -------------------------------------------------------------------------------------------


@DIMS
def test_the_block_of_an_rve_is_validated_in_a_program(dim: int) -> None:
    block = {"homogeneous": {"phase": "matrix", "dim": dim}, "phases": {"matrix": ELASTIC}}
    parameters = RVEParameters.model_validate(block)
    assert parameters == law_parameters({"law": "nested", "rve": block}).rve
    assert build_rve(parameters, LawContext(dim)).discretisation.dim == dim
    with pytest.raises(ValueError, match=r"matrix\.law: 'elastik' is not installed; installed: "):
        RVEParameters.model_validate({**block, "phases": {"matrix": {"law": "elastik"}}})


def test_the_block_of_a_family_is_validated_in_a_program() -> None:
    block = {
        "count": 2,
        "mesh": {"cells": 8},
        "inclusions": {"shape": "circles", "number": [1, 2], "volume_fraction": [0.1, 0.2], "spread": 0.3},
        "phases": {"matrix": ELASTIC, "fibre": ELASTIC},
    }
    assert Family.model_validate(block).phases["fibre"] == law_parameters(ELASTIC)


@pytest.mark.parametrize("cell", [*BOXES[2], *BOXES[3]])
def test_a_mesh_block_reads_boxes_as_well_as_files(cell: str, tmp_path: Path) -> None:
    dim = 2 if cell in BOXES[2] else 3
    made = MeshBlock.model_validate({"box": {"size": [1.0] * dim, "cells": [2] * dim, "cell": cell}}).read()
    write_mesh(made, tmp_path / "box.msh")
    read = MeshBlock.model_validate({"file": "box.msh"}).read(tmp_path)
    assert len(made.cells) == len(read.cells) == 2**dim * {"triangle": 2, "tetrahedron": 6}.get(cell, 1)
    assert set(made.boundaries) == set(read.boundaries)
