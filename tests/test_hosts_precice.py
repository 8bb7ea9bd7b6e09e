"""Laws as micro simulations, against a stub that makes the calls of the Micro Manager in their order."""

import pickle
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import SATURATING
from host_structures import J2, material

from femops import CaseError, LawResponse, NotConverged, load_law
from femops.conversions import ABAQUS
from femops.errors import Refused
from femops.hosts.precice import LawSimulation, switching_function

Array = np.ndarray
STRAIN = np.array([[0.011, -0.004, 0.006, 0.003, -0.005, 0.007], [0.001, 0.0, -0.001, 0.0005, 0.0002, -0.0003]])


def simulation(law: Any, **attributes: Any) -> type[LawSimulation]:
    """The class that a user writes."""
    return type("MicroSimulation", (LawSimulation,), {"law": law, **attributes})


class StubManager:
    """The calls of the Micro Manager 0.12 on one rank: initialisation, checkpoints and switching of models."""

    def __init__(self, models: Sequence[type[LawSimulation]], n: int, switch: Callable[..., int] | None = None) -> None:
        self.models, self.switch = models, switch
        self.points = [SimpleNamespace(id=i, model=0, simulation=models[0](i), states={}) for i in range(n)]
        test_instance = models[0](n + 1)
        assert type(test_instance.initialize()) is dict
        self.initial = [point.simulation.initialize() for point in self.points]
        self.write_checkpoints()

    def write_checkpoints(self) -> None:
        for point in self.points:
            point.states = {point.model: pickle.loads(pickle.dumps(point.simulation.get_state()))}

    def load_checkpoints(self) -> None:
        for point in self.points:
            point.simulation.set_state(point.states[point.model])

    def solve(self, strains: Array, dt: float = 1.0) -> list[dict[str, Any]]:
        """One iteration of the coupling, repeated until no point is switched."""
        inputs = [{"strains1to3": strain[:3], "strains4to6": strain[3:]} for strain in strains]
        output: list[Any] = [None] * len(inputs)
        switched = set(range(len(inputs)))
        while switched:
            for i in switched:
                output[i] = self.points[i].simulation.solve(inputs[i], dt)
            switched = {i for i, point in enumerate(self.points) if self._switched(point, inputs[i], output[i])}
        return output

    def _switched(self, point: Any, given: Any, output: Any) -> bool:
        if self.switch is None:
            return False
        change = self.switch(point.model, np.zeros(3), 0.0, given, output)
        target = min(max(point.model + change, 0), len(self.models) - 1)
        if target == point.model:
            return False
        known = target in point.states
        new = self.models[target](-1 if known else point.id)  # late initialisation
        if known:
            new.set_state(point.states[target])
        else:
            point.states[target] = new.get_state()
        point.model, point.simulation = target, new
        assert new.get_global_id() == point.id
        return True


def stress_and_tangent(data: dict[str, Any]) -> tuple[Array, Array]:
    """Stress and tangent from the data of the coupling: the upper triangle by rows."""
    upper = np.concatenate([data[f"cmat{i}"] for i in range(1, 8)])
    tangent, position = np.zeros((6, 6)), 0
    for i in range(6):
        for j in range(i, 6):
            tangent[i, j] = tangent[j, i] = upper[position]
            position += 1
    return np.concatenate([data["stresses1to3"], data["stresses4to6"]]), tangent


@pytest.mark.parametrize("name", ["saturating", "nested"])
@pytest.mark.parametrize("convention", [None, ABAQUS], ids=["mandel", "abaqus"])
def test_every_point_has_the_stress_and_tangent_of_the_law(name: str, convention: Any) -> None:
    law = load_law(material(name, 3), dim=3)
    manager = StubManager([simulation(law, convention=convention)], 2)
    expected = law.evaluate(STRAIN, np.zeros((2, law.n_state)), 1.0)
    stresses, tangents, strains = expected.stress, expected.tangent, STRAIN
    if convention is not None:
        strains = convention.strain_from_mandel(STRAIN)
        stresses, tangents = convention.stress_from_mandel(stresses), convention.tangent_from_mandel(tangents)
    for data, stress, tangent in zip(manager.solve(strains), stresses, tangents, strict=True):
        found, matrix = stress_and_tangent(data)
        np.testing.assert_allclose(found, stress, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(matrix, tangent, rtol=1e-5, atol=1e-3)
        assert data["valid"] == 1.0
        assert data["error"] == np.inf
    np.testing.assert_array_equal(stress_and_tangent(manager.initial[0])[0], np.zeros(6))


def test_iterations_of_the_coupling_start_from_the_checkpoint_and_steps_from_the_last_one() -> None:
    law = load_law(J2, dim=3)
    manager = StubManager([simulation(law)], 2)
    state = np.zeros((2, law.n_state))
    for factor in (1.0, -0.5):
        manager.write_checkpoints()
        manager.solve(1.7 * STRAIN)  # an iteration that is not the last one
        manager.load_checkpoints()
        found = manager.solve(factor * STRAIN)
        expected = law.evaluate(factor * STRAIN, state, 1.0)
        state = expected.state
        for data, stress in zip(found, expected.stress, strict=True):
            np.testing.assert_allclose(stress_and_tangent(data)[0], stress, rtol=1e-13)
    assert np.abs(state).max() > 1e-3


class Surrogate:
    """A wrong law that is valid up to a strain and states or certifies its error."""

    def __init__(self, error: float, valid: float = np.inf, *, certifies: bool = False) -> None:
        self.law = load_law({**SATURATING, "alpha1": 55.0}, dim=3)
        self.error, self.valid, self.certifies = error, valid, certifies
        self.strain_measure, self.dim = self.law.strain_measure, 3
        self.n_state, self.state_fields, self.metric = 0, {}, np.eye(6)
        self.kinds: list[str] = []

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        answer = self.law.evaluate(strain, state, dt)
        error = None if self.certifies else self._error(strain)
        valid = np.abs(strain).max(axis=1) <= self.valid
        return LawResponse(answer.stress, answer.tangent, answer.state, None, error, valid)

    def certify(self, strain: Array, response: LawResponse, kind: str) -> Array:
        self.kinds.append(kind)
        return self._error(strain)

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        raise NotImplementedError

    def _error(self, strain: Array) -> Array:
        return self.error * np.abs(strain).max(axis=1)


@pytest.mark.parametrize(
    "surrogate",
    [Surrogate(0.1), Surrogate(0.0, valid=0.002), Surrogate(0.1, certifies=True)],
    ids=["error", "valid", "certificate"],
)
def test_points_out_of_range_or_with_a_large_error_are_given_to_the_second_model(surrogate: Surrogate) -> None:
    reference = load_law(material("nested", 3), dim=3)
    models = [simulation(surrogate, out_of_range="extrapolate", certificate="bound"), simulation(reference)]
    manager = StubManager(models, 2, switching_function(2e-4))
    output = manager.solve(STRAIN)
    assert [point.model for point in manager.points] == [1, 0]
    expected = reference.evaluate(STRAIN[:1], np.zeros((1, reference.n_state)), 1.0).stress[0]
    np.testing.assert_allclose(stress_and_tangent(output[0])[0], expected, rtol=1e-7)
    own = surrogate.law.evaluate(STRAIN[1:], np.zeros((1, 0)), 1.0).stress[0]
    np.testing.assert_allclose(stress_and_tangent(output[1])[0], own, rtol=1e-13)
    assert set(surrogate.kinds) == ({"bound"} if surrogate.certifies else set())
    manager.write_checkpoints()
    manager.solve(0.1 * STRAIN)
    assert [point.model for point in manager.points] == [1, 0]  # it does not go back


def test_a_point_without_a_known_error_is_given_to_the_second_model() -> None:
    switch = switching_function(1e-3)
    for error in (np.inf, np.nan):
        assert switch(0, None, 0.0, {}, {"valid": 1.0, "error": error}) == 1
    assert switch(0, None, 0.0, {}, None) == 0
    assert switch(1, None, 0.0, {}, {"valid": 0.0, "error": np.inf}) == 0


def test_a_simulation_that_moves_to_another_rank_keeps_its_number_and_state() -> None:
    kind = simulation(load_law(J2, dim=3))
    first = kind(7)
    first.solve({"strains1to3": STRAIN[0, :3], "strains4to6": STRAIN[0, 3:]}, 1.0)
    second = kind(-1)  # late initialisation
    second.set_state(pickle.loads(pickle.dumps(first.get_state())))
    assert second.get_global_id() == 7
    back = {"strains1to3": np.zeros(3), "strains4to6": np.zeros(3)}
    assert stress_and_tangent(second.solve(back, 1.0))[0].any()  # plastic strain
    second.set_global_id(8)
    assert second.get_global_id() == 8


def test_leaving_the_range_stops_the_simulation_unless_the_user_decides_otherwise() -> None:
    surrogate = Surrogate(0.0, valid=0.002)
    with pytest.raises(Refused, match="1 of 1 strains are out of the range"):
        StubManager([simulation(surrogate)], 1).solve(STRAIN[:1])
    (data,) = StubManager([simulation(surrogate, out_of_range="extrapolate")], 1).solve(STRAIN[:1])
    assert data["valid"] == 0.0


def test_a_surrogate_that_does_not_converge_is_replaced_where_the_user_wants_it() -> None:
    class Failing(Surrogate):
        def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
            if strain.any():
                raise NotConverged("the iteration of the law")
            return super().evaluate(strain, state, dt)

    failing, reference = Failing(0.0, certifies=True), load_law(SATURATING, dim=3)
    with pytest.raises(NotConverged, match="the iteration of the law"):
        StubManager([simulation(failing)], 1).solve(STRAIN[:1])
    models = [simulation(failing, not_converged="nan"), simulation(reference)]
    (data,) = StubManager(models, 1, switching_function(1e-3)).solve(STRAIN[:1])
    expected = reference.evaluate(STRAIN[:1], np.zeros((1, 0)), 1.0).stress[0]
    np.testing.assert_allclose(stress_and_tangent(data)[0], expected, rtol=1e-13)


def test_a_law_in_plane_strain_is_refused() -> None:
    with pytest.raises(CaseError, match="the law is 2D, expected 3D"):
        simulation(load_law(SATURATING))(0)


def test_the_increment_is_that_of_the_coupling() -> None:
    seen = []

    class Timed(Surrogate):
        def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
            seen.append(dt)
            return super().evaluate(strain, state, dt)

    manager = StubManager([simulation(Timed(0.0))], 1)
    seen.clear()
    manager.solve(STRAIN[:1], 0.25)
    assert seen == [0.25]
