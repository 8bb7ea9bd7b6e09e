"""Plots of a training: loss curves, validation errors and certificates."""

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
_FLOOR = 1e-16  # replaces zero on logarithmic axes


def draw_curves(folder: Path, title: str, curves: Mapping[str, npt.ArrayLike], over: str) -> Path:
    """Plot curves over their index with a logarithmic ordinate, to a PNG file named after the title.

    Args:
        folder: Folder of the plot.
        title: Heading, for example `loss`.
        curves: Values by legend entry [-].
        over: Label of the index.
    """
    figure, axes = _axes(title, f"{over} [-]", f"{title[:1].lower()}{title[1:]} [-]")
    for name, values in curves.items():
        axes.plot(_positive(np.asarray(values, dtype=np.float64)), label=name)
    axes.set_yscale("log")
    return _saved(figure, axes, folder / f"{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_') or 'curve'}.png")


def draw_errors(folder: Path, over: str, where: Array, errors: Mapping[str, Array]) -> Path:
    """Plot relative errors over a quantity such as the strain norm, to `error_over_OVER.png`.

    Args:
        folder: Folder of the plot.
        over: `strain` for strain norms, or another label of the abscissa.
        where: Abscissa. Shape (n,).
        errors: Relative errors by legend entry [-]. Shape (n,) each.
    """
    axis = "norm of the strain |E|" if over == "strain" else over
    figure, axes = _axes("Errors at what the training did not see", f"{axis} [-]", "relative error [-]")
    for name, values in errors.items():
        axes.plot(where, _positive(values), ".", label=name)
    axes.set_yscale("log")
    return _saved(figure, axes, folder / f"error_over_{over.replace(' ', '_')}.png")


def draw_certificates(folder: Path, error: Array, certificates: Mapping[str, Array]) -> Path:
    """Plot certificates over the error of the stress, to `bound_against_error.png`. Shape (n,) each."""
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
