"""Description of an analysis: supports, loads, steps and settings, as plain objects for use in programs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from femops.law import CertificateKind

Value = float | Callable[[float], float]
"""A number, or a function of time that raises ValueError where it is not defined."""


@dataclass(frozen=True)
class Displacement:
    """Prescribed displacement of a boundary [length], for each component a `Value`; None leaves it free."""

    ux: Value | None = None
    uy: Value | None = None
    uz: Value | None = None

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


@dataclass(frozen=True)
class Steps:
    """Load steps from time 0.

    Attributes:
        ends: Times at the ends of the steps, positive and increasing.
        smallest: Smallest part of a step that cutback may reach.
    """

    ends: Sequence[float] = (1.0,)
    smallest: float = 1e-3


@dataclass(frozen=True)
class Newton:
    """Settings of Newton's method on the macroscale.

    Attributes:
        rtol: Largest residual relative to the internal forces.
        max_iter: Largest number of iterations.
    """

    rtol: float = 1e-8
    max_iter: int = 20


@dataclass(frozen=True)
class Trust:
    """Treatment of points whose error exceeds a tolerance or whose response is marked invalid.

    Attributes:
        tolerance: Largest relative error of a stress.
        on_violation: Solve these points exactly, stop the run, or only count them.
        enrich: Whether laws learn between steps from the points that were solved exactly.
        certificate: How the error of a converged step is computed.
    """

    tolerance: float = 1e-3
    on_violation: Literal["solve", "stop", "warn"] = "stop"
    enrich: bool = False
    certificate: CertificateKind = "indicator"


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
