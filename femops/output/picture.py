"""Pictures of result fields: the body rendered by VTK, axes and colour bar drawn by matplotlib."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyvista
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from vtkmodules.vtkIOHDF import vtkHDFReader

from femops.errors import CaseError
from femops.notation import Array
from femops.output.atomic import atomic_path, shielded
from femops.output.render import SCALARS, Frame, render

_DPI = 200
_BODY_INCHES = np.array([6.4, 5.0])
_WIDE = 2.2
_AUTOMATIC_WARP = 0.05
# Weights of the components of a symmetric tensor in its Frobenius norm, VTK order.
_TENSOR_WEIGHTS = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
_UNITS = {
    "displacement": "length",
    "fluctuation": "length",
    "reaction": "force",
    "strain": "-",
    "stress": "stress",
    "von_mises": "stress",
    "law_error": "-",
    "phase": "-",
}
_DRAWN_INSTEAD = {"stress": "von_mises"}


def picture(
    dataset: pyvista.UnstructuredGrid,
    field: str,
    path: Path | str,
    *,
    warp: str | None = "displacement",
    warp_factor: float | None = None,
    title: str = "",
) -> None:
    """Draw a field on the deformed body, with the outline of the undeformed one, to a PNG file.

    The magnitude of fields with several components is drawn.

    Args:
        dataset: The body with its fields.
        field: Name of a point or cell field.
        path: The PNG file to write.
        warp: Name of the displacement field; a body without it is drawn undeformed.
        warp_factor: Scale of the displacement; by default 1, or magnified to 5 % of the body size if smaller.
        title: Heading.

    Raises:
        CaseError: The data set has no such field.
    """
    if field not in _fields(dataset):
        raise CaseError(f"no field '{field}'; fields: {', '.join(_fields(dataset))}", key="fields")
    values, label = _scalars(dataset, field)
    body = _body(dataset, values, field in dataset.point_data)
    factor, deformed = 0.0, body
    if warp is not None and warp in dataset.point_data:
        displacement = np.nan_to_num(np.asarray(dataset.point_data[warp], dtype=np.float64))
        factor = _automatic_factor(dataset.length, displacement) if warp_factor is None else warp_factor
        deformed = body.copy()
        deformed.points = np.asarray(body.points) + factor * displacement
    points = np.vstack([body.points, deformed.points])
    flat = float(np.ptp(points[:, 2])) == 0.0
    frame = Frame.around(points, flat)
    figure = _figure(deformed, body if factor else None, frame, _colours(values), label)
    remark = f"\n{field} {dataset.field_data[field][0]}" if field in dataset.field_data else ""
    figure.axes[0].set_title(_heading(title, factor) + remark, fontsize=10, loc="left", color="0.2")
    _decorate(figure.axes[0], frame, flat)
    with shielded(), atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, bbox_inches="tight", pad_inches=0.12)


def view(results: Path | str, fields: list[str] | None = None, step: int = -1) -> list[Path]:
    """Draw the fields of a run into `results/pictures/`, one PNG per file and field.

    Instead of the magnitude of `stress`, `von_mises` is drawn if the file contains it.

    Args:
        results: Results folder of `femops run`.
        fields: Names of the fields; by default all.
        step: Number of the load step; negative numbers count from the end.

    Returns:
        The pictures.

    Raises:
        CaseError: There are no results, or no such field or step.
    """
    folder = Path(results)
    files = sorted(file for file in folder.glob("*.vtkhdf") if not file.name.startswith("."))
    if not files:
        raise CaseError("no results here (expected files *.vtkhdf)", file=folder)
    bodies = {file: read_step(file, step) for file in files}
    known = list(dict.fromkeys(name for body, _ in bodies.values() for name in _fields(body)))
    for name in fields or []:
        if name not in known:
            raise CaseError(f"no field '{name}'; fields: {', '.join(known)}", file=folder, key="fields")
    pictures = []
    for file, (body, title) in bodies.items():
        for name in _chosen(_fields(body), fields):
            target = folder / "pictures" / f"{file.stem}_{name}.png"
            instead = _DRAWN_INSTEAD.get(name, name)
            picture(body, instead if instead in _fields(body) else name, target, title=title)
            pictures.append(target)
    return pictures


def read_step(file: Path, step: int = -1) -> tuple[pyvista.UnstructuredGrid, str]:
    """Return one step of a `.vtkhdf` file, and a heading with file, step and time.

    Raises:
        CaseError: The file has no such step.
    """
    reader = vtkHDFReader()
    reader.SetFileName(str(file))
    reader.UpdateInformation()
    count = reader.GetNumberOfSteps()
    if not -count <= step < count:
        raise CaseError(f"no step {step}; the file has {count} steps, the first is 0", file=file, key="step")
    number = step % count
    reader.SetStep(number)
    reader.Update()
    with h5py.File(file) as content:  # the reader provides no times for a single step
        time = float(content["VTKHDF/Steps/Values"][number])
    body = pyvista.wrap(reader.GetOutput())
    source = f"   ·   {body.field_data['source'][0]}" if "source" in body.field_data else ""
    return body, f"{file.stem}   ·   step {number}, t = {time:g}{source}"


def _fields(dataset: Any) -> list[str]:
    return list(dict.fromkeys([*dataset.point_data.keys(), *dataset.cell_data.keys()]))


def _chosen(present: list[str], wanted: list[str] | None) -> list[str]:
    """Return the fields to draw; by default all, without duplicates."""
    if wanted is not None:
        return [name for name in wanted if name in present]
    return [name for name in present if _DRAWN_INSTEAD.get(name) not in present]


def _scalars(dataset: Any, field: str) -> tuple[Array, str]:
    """Return the values to draw and their label."""
    data = dataset.point_data if field in dataset.point_data else dataset.cell_data
    values = np.asarray(data[field], dtype=np.float64)
    unit = f" [{_UNITS[field]}]" if field in _UNITS else ""  # the units of plugin fields are unknown
    if values.ndim == 1:
        infinite = int(np.isinf(values).sum())
        return values, f"{field}{unit}" + (f", infinite at {infinite} of {len(values)}" if infinite else "")
    weights = _TENSOR_WEIGHTS if values.shape[1] == 6 else np.ones(values.shape[1])
    return np.sqrt((values**2) @ weights), f"{field}, magnitude{unit}"


def _body(dataset: Any, values: Array, at_points: bool) -> Any:
    """Return the mesh with the values to draw as its only field."""
    body = dataset.copy()
    body.clear_data()
    (body.point_data if at_points else body.cell_data)[SCALARS] = values
    return body


def _automatic_factor(length: float, displacement: Array) -> float:
    """Return 1, or the magnification to 5 % of the body length, rounded down to one digit."""
    largest = float(np.linalg.norm(displacement, axis=1).max())
    if largest <= 1e-12 * length or largest >= _AUTOMATIC_WARP * length:
        return 1.0
    wanted = _AUTOMATIC_WARP * length / largest
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(np.floor(wanted / power) * power)


def _colours(values: Array) -> tuple[str, tuple[float, float]]:
    """Return the colour map and its limits; diverging and symmetric for fields of both signs."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    largest = max(abs(low), abs(high))
    if min(-low, high) > 0.1 * largest:
        return "RdBu_r", (-largest, largest)
    if high - low <= 1e-9 * largest:
        half = 0.5 * (largest or 1.0)
        return "viridis", (low - half, high + half)
    return "viridis", (low, high)


def _heading(title: str, factor: float) -> str:
    deformation = "" if factor in (0.0, 1.0) else f"displacement × {factor:g}"
    return "   ·   ".join(part for part in (title, deformation) if part)


def _figure(body: Any, undeformed: Any, frame: Frame, colours: tuple[str, tuple[float, float]], label: str) -> Figure:
    """Return a figure with the rendered body in its first axes and a colour bar beside or below it."""
    inches = frame.size * float((_BODY_INCHES / frame.size).min())
    width, height = np.maximum(1, np.round(inches * _DPI)).astype(int)
    image = render(body, undeformed, frame, (int(width), int(height)), colours)
    figure = Figure(figsize=(float(inches[0]), float(inches[1])))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(image, extent=frame.extent, interpolation="none")
    wide = bool(inches[0] > _WIDE * inches[1])
    # A colour bar 0.16 inches thick, clear of the axis labels.
    box = (
        (0.2, -0.82 / inches[1], 0.6, 0.16 / inches[1])
        if wide
        else (1.0 + 0.22 / inches[0], 0.1, 0.16 / inches[0], 0.8)
    )
    bar = figure.colorbar(
        ScalarMappable(Normalize(*colours[1]), colours[0]),
        cax=figure.add_axes(box),
        orientation="horizontal" if wide else "vertical",
    )
    bar.set_label(label, fontsize=10)
    bar.ax.tick_params(labelsize=8)
    bar.formatter = ScalarFormatter(useMathText=True)
    bar.formatter.set_powerlimits((-3, 4))
    bar.update_ticks()
    bar.ax.xaxis.offsetText.set_fontsize(8)
    bar.ax.yaxis.offsetText.set_fontsize(8)
    bar.outline.set_linewidth(0.4)
    return figure


def _decorate(axes: Any, frame: Frame, flat: bool) -> None:
    """Draw coordinate axes around a plane body, or the coordinate directions next to a solid one."""
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(labelsize=8, color="0.6", labelcolor="0.35")
    axes.locator_params(nbins=6)
    if flat:
        axes.set_xlabel("x [length]", fontsize=8, color="0.35")
        axes.set_ylabel("y [length]", fontsize=8, color="0.35")
        return
    axes.set_axis_off()
    corner, length = frame.lower[:2], 0.07 * float(frame.size.max())
    tails = np.repeat((corner + length)[None], 3, axis=0)
    for tail, arrow, name in zip(tails, length * frame.axes[:2].T, "xyz", strict=True):
        axes.annotate("", tail + arrow, tail, arrowprops={"arrowstyle": "-|>", "color": "0.3", "lw": 1.0})
        axes.annotate(name, tail + 1.25 * arrow, ha="center", va="center", fontsize=8, color="0.3")
