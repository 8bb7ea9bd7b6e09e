"""Pictures of a training: how the fit went, and how good its answers are."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from femops.notation import Array
from femops.output.atomic import atomic_path, shielded

_DPI = 150
_INCHES = (6.4, 4.2)
_FLOOR = 1e-16  # what a logarithmic axis shows for zero


def draw_curves(folder: Path, title: str, curves: Mapping[str, npt.ArrayLike], over: str) -> Path:
    """Draw values over their index on a logarithmic axis into a PNG named after the title.

    Args:
        folder: Where the picture goes.
        title: Heading, for example `loss`.
        curves: Dimensionless values by legend entry.
        over: What their index counts.
    """
    figure, axes = _axes(title, f"{over} [-]", f"{title[:1].lower()}{title[1:]} [-]")
    for name, values in curves.items():
        axes.plot(_positive(np.asarray(values, dtype=np.float64)), label=name)
    axes.set_yscale("log")
    return _saved(figure, axes, folder / f"{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_') or 'curve'}.png")


def draw_errors(folder: Path, over: str, where: Array, errors: Mapping[str, Array]) -> Path:
    """Draw relative errors over what they may depend on into `error_over_...png`.

    Args:
        folder: Where the picture goes.
        over: `strain` for the norms of strains, or another word for the axis.
        where: Values on the axis. Shape (n,).
        errors: Errors by legend entry. Shape (n,) each.
    """
    axis = "norm of the strain |E|" if over == "strain" else over
    figure, axes = _axes("Errors at what the training did not see", f"{axis} [-]", "relative error [-]")
    for name, values in errors.items():
        axes.plot(where, _positive(values), ".", label=name)
    axes.set_yscale("log")
    return _saved(figure, axes, folder / f"error_over_{over.replace(' ', '_')}.png")


def draw_certificates(folder: Path, error: Array, certificates: Mapping[str, Array]) -> Path:
    """Draw what a law says about its error over its error into `bound_against_error.png`. Shape (n,) each."""
    figure, axes = _axes("What the law says about its error", "relative error of the stress [-]", "certificate [-]")
    true = _positive(error)
    ends = np.array([true.min(), true.max()])
    axes.plot(ends, ends, "k-", linewidth=0.8, label="equal")
    for name, values in certificates.items():
        finite = np.isfinite(values)
        beyond = "" if finite.all() else f", infinite at {np.sum(~finite)} of {len(values)}"
        axes.plot(true[finite], _positive(values[finite]), ".", label=name + beyond)
    axes.set_xscale("log")
    axes.set_yscale("log")
    return _saved(figure, axes, folder / "bound_against_error.png")


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def _positive(values: Array) -> Array:
    return np.where(np.isfinite(values), np.maximum(values, _FLOOR), np.nan)


def _saved(figure: Figure, axes: Axes, path: Path) -> Path:
    axes.legend(fontsize=8)
    with shielded(), atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)
    return path
