"""The nested law (FE²): a finite-element solve of an RVE at every macroscale point."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from femops.devices import DeviceName
from femops.errors import CaseError
from femops.law import LawContext, LawParameters, LawResponse, LawSpec, StrainMeasure
from femops.notation import Array
from femops.rve.micro import MicroFields, micro_fields
from femops.rve.solution import SOLVER_HELP, Solution, SolverName, SolverOptions
from femops.rve.solver import RVESolver
from femops.rve.spec import RVE, RVEParameters, build_rve


class RVESolverParameters(BaseModel):
    """Settings of the RVE solver."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rtol: float = Field(1e-8, gt=0, description="largest residual relative to the internal forces")
    max_iter: int = Field(30, gt=0, description="largest number of Newton iterations")
    linear: SolverName = Field("auto", description=SOLVER_HELP)
    device: DeviceName = Field(
        "auto", description="where fft solves linear systems; cuda needs a grid, auto takes a GPU for large grids"
    )
    predictor: bool = Field(True, description="start from the point's last step and its sensitivities")


class NestedParameters(LawParameters):
    """Parameters of `nested`."""

    law: Literal["nested"] = "nested"
    rve: RVEParameters
    solver: RVESolverParameters = RVESolverParameters()


class NestedLaw:
    """FE² law.

    The state of a point contains, in this order: volume averages of the states of the phases (for output), the states
    of the phases at every RVE point, and the data of a first-order predictor: strain, fluctuation, and its
    sensitivities minus their elastic values (not for large RVEs that are solved iteratively, which do with the elastic
    ones). The initial state is zero.

    Args:
        rve: The RVE.
        options: Settings of the RVE solver.
        predictor: Keep the data of the predictor in the state.
    """

    strain_measure = StrainMeasure.SMALL_STRAIN

    def __init__(self, rve: RVE, options: SolverOptions | None = None, *, predictor: bool = True) -> None:
        self.rve = rve
        self.dim = rve.discretisation.dim
        self.solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, options or SolverOptions())
        self._phase_shapes = [one.shape[:2] for one in self.solver.virgin_state(0)]
        self.state_fields, n_means = self._mean_fields()
        n_s, n_free = rve.discretisation.n_s, self.solver.free.count
        sizes = [n_means, sum(a * b for a, b in self._phase_shapes)]
        sizes += [n_s, n_free, 0 if self.solver.iterative else n_free * n_s] if predictor else [0, 0, 0]
        stops = np.cumsum(sizes)
        self._parts = [slice(int(stop - size), int(stop)) for stop, size in zip(stops, sizes, strict=True)]
        self.n_state = int(stops[-1])
        self._predictor = predictor

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Solve the RVE of every point, in batches that threads share; see `MaterialLaw.evaluate`.

        Raises:
            NotConverged: An RVE did not converge.
        """
        n_qp, n_s = strain.shape
        if n_qp > 1 and not strain.any() and not state.any():  # set-up asks this of every point
            return _repeated(self.evaluate(strain[:1], state[:1], dt), n_qp)
        stress = np.empty((n_qp, n_s))
        tangent = np.empty((n_qp, n_s, n_s))
        stress_33 = np.empty(n_qp) if self.dim == 2 else None
        tangent_33 = np.empty((n_qp, n_s)) if self.solver.knows_tangent_33 else None
        new_state = np.empty((n_qp, self.n_state))

        def solve(part: slice) -> None:
            solution = self._solve(strain[part], state[part], part.start)
            stress[part] = solution.stress.T
            tangent[part] = solution.tangent.transpose(2, 0, 1)
            if stress_33 is not None and solution.stress_33 is not None:
                stress_33[part] = solution.stress_33
            if tangent_33 is not None and solution.tangent_33 is not None:
                tangent_33[part] = solution.tangent_33.T
            new_state[part] = self._pack(strain[part], solution)

        self.solver.in_parts(n_qp, solve)
        return LawResponse(stress, tangent, new_state, stress_33, tangent_33=tangent_33)

    def micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Solve the RVE of one point again and return its fields.

        Args:
            strain: Macroscale strain, Mandel. Shape (n_s,).
            state: Committed state at the start of the increment. Shape (n_state,).
        """
        columns, of_phases = strain[:, None], self._unpack_phases(state[None])
        start, _ = self._guesses(columns, state[None])
        fluctuation = self.solver.equilibrium(columns, of_phases, start).fluctuation[:, 0]
        return micro_fields(self.rve, self.solver, strain, fluctuation, [one[:, :, 0] for one in of_phases])

    def _mean_fields(self) -> tuple[Mapping[str, slice], int]:
        """Return the slices of the phase averages at the start of the state by name, and their total size."""
        found, offset = {}, 0
        for name, phase in zip(self.rve.discretisation.phases, self.rve.phases, strict=True):
            of_phase = phase.state_fields(self.dim)
            for field, part in of_phase.items():
                found[f"{name}_{field}"] = slice(offset + part.start, offset + part.stop)
            offset += max((part.stop for part in of_phase.values()), default=0)
        return found, offset

    def _solve(self, strain: Array, state: Array, first: int | None = None) -> Solution:
        columns = np.ascontiguousarray(strain.T)
        return self.solver.solve(columns, self._unpack_phases(state), *self._guesses(columns, state), first)

    def _guesses(self, columns: Array, state: Array) -> tuple[Array | None, Array | None]:
        """Return the predicted fluctuations, shape (n_free, N), and sensitivities; None where there are none."""
        if not self._predictor:
            return None, None
        last_strain, fluctuation, deviation = (np.ascontiguousarray(state[:, part].T) for part in self._parts[2:])
        elastic = self.solver.elastic_sensitivity
        if self.solver.iterative:
            return fluctuation + elastic @ (columns - last_strain), None
        sensitivity = deviation.reshape(*elastic.shape, -1) + elastic[:, :, None]
        return fluctuation + np.einsum("fsn,sn->fn", sensitivity, columns - last_strain), sensitivity

    def _unpack_phases(self, state: Array) -> list[Array]:
        flat = state[:, self._parts[1]]
        of_phases, offset = [], 0
        for n_state, n_points in self._phase_shapes:
            size = n_state * n_points
            part = np.ascontiguousarray(flat[:, offset : offset + size].T)
            of_phases.append(part.reshape(n_state, n_points, len(state)))
            offset += size
        return of_phases

    def _pack(self, strain: Array, solution: Solution) -> Array:
        rve = self.rve.discretisation
        means = []
        for position, of_points in enumerate(solution.state):
            weight = rve.weight[rve.cells_of_phase[position]].ravel()
            means.append(np.einsum("g,sgn->ns", weight / weight.sum(), of_points))
        n = len(strain)
        parts = [*means, *(one.reshape(-1, n).T for one in solution.state)]
        if self._predictor:
            parts += [strain, solution.fluctuation.T]
            if not self.solver.iterative:
                deviation = solution.sensitivity - self.solver.elastic_sensitivity[:, :, None]
                parts.append(deviation.reshape(-1, n).T)
        return np.concatenate(parts, axis=1)


def _repeated(response: LawResponse, count: int) -> LawResponse:
    """Return the response of one point for `count` points."""
    given = {field.name: getattr(response, field.name) for field in fields(response)}
    return LawResponse(**{name: np.repeat(one, count, axis=0) for name, one in given.items() if one is not None})


def _law(parameters: NestedParameters, context: LawContext) -> NestedLaw:
    solver = parameters.solver
    options = SolverOptions(solver.rtol, solver.max_iter, solver.linear, device=solver.device)
    try:
        return NestedLaw(build_rve(parameters.rve, context), options, predictor=solver.predictor)
    except CaseError as error:
        raise error.within(key="solver" if error.key == "device" else "rve") from error


SPEC = LawSpec("nested", "FE²: a finite-element solve of an RVE at every point", NestedParameters, _law)
