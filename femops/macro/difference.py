"""Differences between two solutions on the same macroscale mesh."""

from dataclasses import dataclass, field

import numpy as np
import ufl
from dolfinx import fem

from femops.macro.boundary import total
from femops.macro.problem import MacroProblem
from femops.macro.stepping import StepReport
from femops.notation import Array


@dataclass(frozen=True)
class Observation:
    """A solution at the end of a step.

    Attributes:
        step: Number of the step.
        t: Time at its end.
        displacement: Displacement dofs of this rank [length].
        stress: Stress at the points of this rank, Mandel [stress]. Shape (n_qp, n_s).
        moved: Mean displacement of each named boundary [length]. Shape (dim,) each.
        force: Reaction on each boundary with prescribed displacement; 0 along free axes [force]. Shape (dim,) each.
    """

    step: int
    t: float
    displacement: Array
    stress: Array
    moved: dict[str, Array]
    force: dict[str, Array]


@dataclass(frozen=True)
class WorstPoint:
    """The quadrature point with the largest stress difference.

    Attributes:
        at: Coordinates [length].
        difference: |σ − σ_ref| [stress].
        reference: |σ_ref| [stress].
    """

    at: tuple[float, ...]
    difference: float
    reference: float


@dataclass(frozen=True)
class Difference:
    """The difference of two solutions at the end of a step.

    Attributes:
        step: Number of the step.
        t: Time at its end.
        displacement_rel_l2: ‖u − u_ref‖ / ‖u_ref‖ in L2 over the body [-].
        stress_rel_l2: ‖σ − σ_ref‖ / ‖σ_ref‖ in L2, integrated with the quadrature of the body [-].
        stress_rel_max: max |σ − σ_ref| / max |σ_ref| over the quadrature points [-].
        stress_worst: The point with the largest |σ − σ_ref|.
    """

    step: int
    t: float
    displacement_rel_l2: float
    stress_rel_l2: float
    stress_rel_max: float
    stress_worst: WorstPoint = field(repr=False)


def observe(problem: MacroProblem, report: StepReport) -> Observation:
    """Return a copy of the solution at the end of a step; collective."""
    moved = {name: problem.mean_displacement_of(name) for name in problem.mesh.boundaries}
    force = {}
    for name, axes in problem.analysis.prescribed().items():
        reaction = problem.reaction_on(name)
        force[name] = np.array([reaction[axis] if axis in axes else 0.0 for axis in range(problem.dim)])
    stress = problem.material.stress.copy()
    return Observation(report.number, report.t, problem.displacement.x.array.copy(), stress, moved, force)


class Comparer:
    """Compares solutions on the mesh and spaces of a problem.

    Args:
        problem: The macroscale problem; solutions must come from it or from another problem on the same mesh.
    """

    def __init__(self, problem: MacroProblem) -> None:
        self._comm = problem.comm
        self._function = fem.Function(problem.displacement.function_space)
        self._squared = fem.form(ufl.inner(self._function, self._function) * ufl.dx)
        self._weights = problem.quadrature.weights()
        self._coordinates = problem.quadrature.coordinates()

    def __call__(self, found: Observation, expected: Observation) -> Difference:
        """Return the difference of two solutions at the end of the same step; collective."""
        stress = found.stress - expected.stress
        worst, largest = self._worst(stress, expected.stress)
        return Difference(
            found.step,
            found.t,
            ratio(self._norm(found.displacement - expected.displacement), self._norm(expected.displacement)),
            ratio(self._stress_norm(stress), self._stress_norm(expected.stress)),
            ratio(worst.difference, largest),
            worst,
        )

    def _norm(self, displacement: Array) -> float:
        self._function.x.array[:] = displacement
        return float(np.sqrt(total(self._comm, fem.assemble_scalar(self._squared))))

    def _stress_norm(self, stress: Array) -> float:
        return float(np.sqrt(total(self._comm, self._weights @ (stress**2).sum(axis=1))))

    def _worst(self, difference: Array, reference: Array) -> tuple[WorstPoint, float]:
        """Return the point with the largest difference and the largest reference stress, over all ranks."""
        here, sizes = np.linalg.norm(difference, axis=1), np.linalg.norm(reference, axis=1)
        mine = None
        if len(here):
            point = int(np.argmax(here))
            at = tuple(float(x) for x in self._coordinates[point])
            mine = WorstPoint(at, float(here[point]), float(sizes[point]))
        every = self._comm.allgather((mine, float(sizes.max(initial=0.0))))
        points = [one for one, _ in every if one is not None]
        return max(points, key=lambda one: one.difference), max(largest for _, largest in every)


def ratio(difference: float, reference: float) -> float:
    """Return difference / reference; 0 if both vanish, infinite if only the reference does."""
    if difference == 0.0:
        return 0.0
    return difference / reference if reference > 0.0 else float("inf")


def boundary_differences(found: list[Observation], expected: list[Observation], of: str) -> dict[str, float]:
    """Return the largest difference of each boundary over all steps, relative to the largest value of any boundary.

    Args:
        found: Solutions at the ends of all steps.
        expected: Reference solutions at the ends of all steps.
        of: `moved` or `force`.
    """
    names = list(getattr(expected[0], of))
    values = [np.array([[getattr(one, of)[name] for name in names] for one in run]) for run in (found, expected)]
    if not names:
        return {}
    largest = float(np.linalg.norm(values[1], axis=2).max())
    differences = np.linalg.norm(values[0] - values[1], axis=2).max(axis=0)
    return {name: ratio(float(one), largest) for name, one in zip(names, differences, strict=True)}
