"""Description of an analysis: supports, loads, steps and settings, as plain objects for use in programs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from femops.errors import CaseError
from femops.law import CertificateKind

Value = float | Callable[[float], float]
"""A number, or a function of time that raises ValueError where it is not defined."""

Treatment = Literal["solve", "stop", "warn"]


def at_time(value: Value, t: float) -> float:
    """Return a value at time t.

    Raises:
        ValueError: It is not defined there, or not finite.
    """
    try:
        number = float(value(t) if callable(value) else value)
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"{value} gives no number at t = {t:g} ({error})") from error
    if not math.isfinite(number):
        raise ValueError(f"{number:g} given at t = {t:g}, expected a finite number")
    return number


@dataclass(frozen=True)
class Displacement:
    """Prescribed displacement of a boundary [length], for each component a `Value`; None leaves it free."""

    ux: Value | None = None
    uy: Value | None = None
    uz: Value | None = None

    def __post_init__(self) -> None:
        if not self.given():
            raise ValueError("expected at least one of ux, uy, uz")

    def given(self) -> dict[int, Value]:
        """Return the prescribed components by axis."""
        values = (self.ux, self.uy, self.uz)
        return {axis: value for axis, value in enumerate(values) if value is not None}


@dataclass(frozen=True)
class Load:
    """Loads on a boundary or region.

    Attributes:
        traction: Force per area on a boundary [stress], a value for each axis.
        pressure: Pressure against the outward normal of a boundary [stress].
        body_force: Force per volume in a region [stress/length], a value for each axis.
        displacement: Prescribed displacement of a boundary.
    """

    traction: Sequence[Value] | None = None
    pressure: Value | None = None
    body_force: Sequence[Value] | None = None
    displacement: Displacement | None = None

    def __post_init__(self) -> None:
        if all(value is None for value in (self.traction, self.pressure, self.body_force, self.displacement)):
            raise ValueError("expected at least one of traction, pressure, body_force, displacement")


@dataclass(frozen=True)
class Steps:
    """Load steps from time 0.

    Attributes:
        ends: Times at the ends of the steps, positive and increasing.
        smallest: Smallest part of a step that cutback may reach, above 0 and at most 1.
    """

    ends: Sequence[float] = (1.0,)
    smallest: float = 1e-3

    def __post_init__(self) -> None:
        ends = list(self.ends)
        if not ends or not all(a < b < math.inf for a, b in zip([0.0, *ends], ends, strict=False)):
            raise ValueError(f"{ends} given, expected times that increase from above 0")
        if not 0.0 < self.smallest <= 1.0:
            raise ValueError(f"smallest {self.smallest:g} given, expected a number above 0 and at most 1")


PetscOption = bool | int | float | str | None
"""Value of an option of PETSc; None for an option without value."""


@dataclass(frozen=True)
class Newton:
    """Settings of Newton's method on the macroscale.

    Attributes:
        rtol: Largest residual relative to the internal forces.
        max_iter: Largest number of iterations.
        petsc: Options of PETSc for its linear systems, without prefix; none leaves the choice to their size.
    """

    rtol: float = 1e-8
    max_iter: int = 20
    petsc: Mapping[str, PetscOption] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.rtol > 0.0 and self.max_iter > 0):
            raise ValueError(f"rtol {self.rtol:g} and max_iter {self.max_iter} given, expected positive numbers")


@dataclass(frozen=True)
class DisplacementAt:
    """A component of the displacement at a point [length]."""

    at: tuple[float, ...]
    axis: int


@dataclass(frozen=True)
class ReactionOn:
    """A component of the reaction on a named boundary [force]."""

    boundary: str
    axis: int


Result = DisplacementAt | ReactionOn


@dataclass(frozen=True)
class Trust:
    """Treatment of points whose error exceeds a tolerance or whose response is marked invalid.

    Attributes:
        tolerance: Largest relative error of a stress; with `goal`, of that result.
        on_violation: Solve these points exactly, stop the run, or only count them.
        enrich: Whether laws learn between steps from the points that were solved exactly.
        certificate: How the error of a converged step is computed.
        goal: A result. Points are then solved exactly, those with the largest part in its error bar first, until the
            bar is within the tolerance, whatever the error of a single stress.
    """

    tolerance: float = 1e-3
    on_violation: Treatment = "stop"
    enrich: bool = False
    certificate: CertificateKind = "indicator"
    goal: Result | None = None

    def __post_init__(self) -> None:
        if not self.tolerance > 0.0:
            raise ValueError(f"tolerance {self.tolerance:g} given, expected a positive number")
        for name, kinds in (("on_violation", Treatment), ("certificate", CertificateKind)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} {getattr(self, name)!r} given, expected one of {', '.join(get_args(kinds))}")
        if self.enrich and self.on_violation != "solve":
            raise ValueError(f"enrich with on_violation {self.on_violation!r} given, expected on_violation: solve")
        if self.goal is not None and self.on_violation != "solve":
            raise ValueError(f"quantity with on_violation {self.on_violation!r} given, expected on_violation: solve")

    @property
    def stress_tolerance(self) -> float:
        """Largest relative error of a single stress; infinite with a goal."""
        return self.tolerance if self.goal is None else math.inf


@dataclass(frozen=True)
class Analysis:
    """An analysis of a body, without its mesh and laws.

    Attributes:
        supports: Prescribed displacements by boundary.
        loads: Loads by boundary or region; `everywhere` denotes the whole body.
        steps: Load steps.
        order: Order of the displacement elements, 1 or 2.
        quadrature_degree: Degree of the quadrature; None chooses it by order and cells.
        newton: Settings of Newton's method.
        trust: Treatment of points in doubt; None stops at invalid points only.
        law_names: Name of the law of each region, for messages.
    """

    supports: Mapping[str, Displacement]
    loads: Mapping[str, Load] = field(default_factory=dict)
    steps: Steps = field(default_factory=Steps)
    order: int = 1
    quadrature_degree: int | None = None
    newton: Newton = field(default_factory=Newton)
    trust: Trust | None = None
    law_names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order {self.order} given, expected 1 or 2")
        if self.quadrature_degree is not None and self.quadrature_degree < 0:
            raise ValueError(f"quadrature_degree {self.quadrature_degree} given, expected at least 0")

    def check(self, dim: int) -> None:
        """Check that components fit the dimension, and that all values are finite at the end of every step.

        Raises:
            CaseError: They do not; the message begins with the key.
        """
        for key, vector in self._vectors():
            if len(vector) != dim:
                raise CaseError(f"{len(vector)} components given, expected {dim}", key=key)
        for key, displacement in self._displacements():
            if max(displacement.given()) >= dim:
                raise CaseError("uz given, expected ux and uy in plane strain", key=key)
        for key, value in self._values():
            for t in self.steps.ends:
                try:
                    at_time(value, t)
                except ValueError as error:
                    raise CaseError(str(error), key=key) from error

    def prescriptions(self) -> list[tuple[str, Displacement]]:
        """Return the boundaries and components of all supports and prescribed displacements."""
        loads = [(name, load.displacement) for name, load in self.loads.items() if load.displacement is not None]
        return [*self.supports.items(), *loads]

    def prescribed(self) -> dict[str, set[int]]:
        """Return the axes of prescribed displacement of each boundary, by name."""
        axes: dict[str, set[int]] = {}
        for name, components in self.prescriptions():
            axes.setdefault(name, set()).update(components.given())
        return axes

    def _displacements(self) -> Iterator[tuple[str, Displacement]]:
        yield from ((f"supports.{name}", support) for name, support in self.supports.items())
        for name, load in self.loads.items():
            if load.displacement is not None:
                yield f"loads.{name}.displacement", load.displacement

    def _vectors(self) -> Iterator[tuple[str, Sequence[Value]]]:
        for name, load in self.loads.items():
            for kind, vector in (("traction", load.traction), ("body_force", load.body_force)):
                if vector is not None:
                    yield f"loads.{name}.{kind}", vector

    def _values(self) -> Iterator[tuple[str, Value]]:
        for key, displacement in self._displacements():
            yield from ((f"{key}.u{'xyz'[axis]}", value) for axis, value in displacement.given().items())
        for key, vector in self._vectors():
            yield from ((f"{key}.{axis}", value) for axis, value in enumerate(vector))
        for name, load in self.loads.items():
            if load.pressure is not None:
                yield f"loads.{name}.pressure", load.pressure
