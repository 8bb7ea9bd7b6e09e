"""Snapshots: converged RVE solutions with their sensitivities.

Fields of a snapshot, in Mandel notation; stored arrays have the snapshots as leading axis:

    strain                     E [-]                        (n_s,)
    stress, stress_33          S [stress]; S_33 in 2D       (n_s,), ()
    tangent                    dS/dE [stress]               (n_s, n_s)
    fluctuation                q, free dofs [length]        (n_free,)
    sensitivity                dq/dE [length]               (n_free, n_s)
    phase_stress               σ at the RVE's points        (n_s, n_points)
    phase_stress_sensitivity   dσ/dE                        (n_s, n_points, n_s)
    history/PHASE              state after the step         (n_state, n_points_of_phase), phases with state only
    path, step                 its load path and step       ()

RVE points and free dofs are numbered as in `Discretisation` and `RVESolver.free`. Derivatives are taken at fixed
state at the start of the step.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from femops.notation import Array
from femops.rve.solver import RVESolver, Solution, SolverOptions
from femops.rve.spec import RVE, RVEParameters

Fields = Mapping[str, npt.NDArray[Any]]
RVE_INTERFACE = 1
"""Version of the stored arrays, increased when their meaning changes; part of every content hash."""
_STATE = "history/"  # stored name of the state of a phase


def content_hash(rve: RVE, parameters: RVEParameters) -> str:
    """Return a hash of an RVE: mesh, phases with their parameters, boundary condition and interface version.

    Args:
        rve: The RVE.
        parameters: The parameters from which it was built.
    """
    mesh = rve.discretisation.mesh
    laws = {name: parameters.phases[name].model_dump(mode="json") for name in rve.discretisation.phases}
    cells = [[part.start, part.stop] for part in rve.discretisation.cells_of_phase]
    head = [RVE_INTERFACE, rve.boundary, mesh.kind.name, mesh.points.shape, mesh.cells.shape, list(laws), cells, laws]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(mesh.points, dtype="<f8").tobytes())
    digest.update(np.ascontiguousarray(mesh.cells, dtype="<i8").tobytes())
    outline = rve.discretisation.outline
    if outline.cell is None or outline.crack_faces.any() or not outline.cell.aligned:  # not for boxes without cracks
        shape = "none" if outline.cell is None else outline.cell.periods.tolist()
        digest.update(json.dumps(["outline", shape, int(outline.crack_faces.sum())]).encode())
    return digest.hexdigest()


class SnapshotSolver:
    """Computes snapshots of an RVE.

    Args:
        rve: The RVE.
        options: Settings of the RVE solver; sensitivities are always exact.
    """

    def __init__(self, rve: RVE, options: SolverOptions) -> None:
        exact = SolverOptions(options.rtol, options.max_iter, options.linear, exact_sensitivities=True)
        self.rve = rve
        self.solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, exact)
        free = self.solver.free
        self._gradients = [rve.discretisation.gradient(free.of, part, free.count) for part in self._cells()]

    def solve(self, strain: Array, previous: Fields | None = None) -> dict[str, Array]:
        """Compute the snapshots at given macroscale strains.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
            previous: Snapshots of the previous step; None starts from the initial state.

        Returns:
            The fields of the snapshots except path and step.

        Raises:
            NotConverged: An RVE did not converge.
        """

        def solve(part: slice) -> dict[str, Array]:
            before = None if previous is None else {name: previous[name][part] for name in self.needed}
            return self._solve(strain[part], before)

        parts = self.solver.in_parts(len(strain), solve)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _solve(self, strain: Array, previous: Fields | None) -> dict[str, Array]:
        columns = np.ascontiguousarray(strain.T)
        if previous is None:
            state = self.solver.virgin_state(len(strain))
            solution = self.solver.solve(columns, state)
        else:
            state = self._state(previous, len(strain))
            sensitivity = np.moveaxis(previous["sensitivity"], 0, -1).copy()
            change = columns - previous["strain"].T
            start = previous["fluctuation"].T + np.einsum("fsn,sn->fn", sensitivity, change)
            solution = self.solver.solve(columns, state, start, sensitivity)
        stress, stress_sensitivity = self._phase_stress(columns, solution, state)
        fields = {
            "strain": columns,
            "stress": solution.stress,
            "tangent": solution.tangent,
            "fluctuation": solution.fluctuation,
            "sensitivity": solution.sensitivity,
            "phase_stress": stress,
            "phase_stress_sensitivity": stress_sensitivity,
            **{_STATE + name: solution.state[position] for position, name in self._with_state()},
        }
        if solution.stress_33 is not None:
            fields["stress_33"] = solution.stress_33
        return {name: np.ascontiguousarray(np.moveaxis(values, -1, 0)) for name, values in fields.items()}

    @property
    def needed(self) -> list[str]:
        """Names of the fields of the previous step that `solve` needs."""
        return ["strain", "fluctuation", "sensitivity", *(_STATE + name for _, name in self._with_state())]

    def _cells(self) -> tuple[slice, ...]:
        return self.rve.discretisation.cells_of_phase

    def _with_state(self) -> list[tuple[int, str]]:
        sizes = self.solver.n_state_of_phase
        return [(i, name) for i, name in enumerate(self.rve.discretisation.phases) if sizes[i]]

    def _state(self, previous: Fields, n: int) -> list[Array]:
        state = self.solver.virgin_state(n)
        for position, name in self._with_state():
            state[position] = np.moveaxis(previous[_STATE + name], 0, -1).copy()
        return state

    def _phase_stress(self, strain: Array, solution: Solution, state: list[Array]) -> tuple[Array, Array]:
        """Return σ at all points, shape (n_s, n_points, n), and D (1 + B X), shape (n_s, n_points, n_s, n)."""
        n_s, n = strain.shape
        identity = np.eye(n_s)[:, None, :, None]
        flat = solution.sensitivity.reshape(len(solution.sensitivity), -1)
        stress, sensitivity = [], []
        for position, gradient in enumerate(self._gradients):
            local = (gradient @ solution.fluctuation).reshape(n_s, -1, n) + strain[:, None]
            response = self.rve.phases[position].evaluate(local, state[position])
            change = (gradient @ flat).reshape(n_s, -1, n_s, n) + identity
            stress.append(response.stress)
            sensitivity.append(np.einsum("stgn,tgkn->sgkn", response.tangent, change, optimize=True))
        return np.concatenate(stress, axis=1), np.concatenate(sensitivity, axis=1)
