"""Plot of a comparison: force-displacement curves of both solutions, and errors over the load steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from femops.notation import Array
from femops.output.atomic import atomic_path


@dataclass(frozen=True)
class Curve:
    """A quantity over the displacement of a boundary, for both solutions.

    Attributes:
        name: Boundary and component, for the legend.
        quantity: Label of the quantity.
        law: Displacement and quantity with the law. Shape (2, n_steps).
        reference: Displacement and quantity with the reference law. Shape (2, n_steps).
    """

    name: str
    quantity: str
    law: Array
    reference: Array


def draw_comparison(
    path: Path, curves: Sequence[Curve], errors: Mapping[str, Sequence[float]], titles: tuple[str, str]
) -> None:
    """Plot a comparison to a PNG file.

    Args:
        path: The file.
        curves: Curves over the displacement.
        errors: Relative errors at the ends of the steps, by name.
        titles: Names of law and reference law.
    """
    figure = Figure(figsize=(11.0, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, curve in enumerate(curves):
        colour = f"C{number}"
        left.plot(*curve.reference, "-", color=colour, linewidth=3.0, alpha=0.4, label=f"{curve.name}, {titles[1]}")
        left.plot(*curve.law, "o--", color=colour, markersize=4.0, label=f"{curve.name}, {titles[0]}")
    _dress(left, "displacement [length]", ", ".join(dict.fromkeys(curve.quantity for curve in curves)))
    for name, values in errors.items():
        right.plot(range(1, len(values) + 1), values, "o-", markersize=4.0, label=name)
    if any(value > 0.0 for values in errors.values() for value in values):
        right.set_yscale("log", nonpositive="mask")
    right.xaxis.get_major_locator().set_params(integer=True)
    _dress(right, "load step [-]", "relative difference [-]")
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small")
