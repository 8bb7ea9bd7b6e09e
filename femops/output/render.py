"""Off-screen rendering of a body with VTK, in a parallel projection with a window in length units."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyvista
from vtkmodules.vtkCommonCore import vtkLogger

from femops.notation import Array

SCALARS = "drawn"
_MARGIN = 0.03
_MAX_CELLS_WITH_EDGES = 4000
_SUBDIVISION = 3
_CURVED_CELL_TYPES = 21
_TOWARD_VIEWER = (1.0, -1.4, 0.9)


@dataclass(frozen=True)
class Frame:
    """A parallel projection and its window.

    Attributes:
        axes: Directions to the right, upwards and toward the viewer, as rows. Shape (3, 3).
        lower: Smallest coordinates of the window along `axes` [length]. Shape (3,).
        upper: Largest coordinates of the window along `axes` [length]. Shape (3,).
    """

    axes: Array
    lower: Array
    upper: Array

    @classmethod
    def around(cls, points: Array, flat: bool) -> "Frame":
        """Return a frame that contains points (n, 3), viewed from above (plane bodies) or obliquely."""
        axes = np.eye(3)
        if not flat:
            toward = np.array(_TOWARD_VIEWER) / np.linalg.norm(_TOWARD_VIEWER)
            right = np.cross([0.0, 0.0, 1.0], toward)
            right /= np.linalg.norm(right)
            axes = np.array([right, np.cross(toward, right), toward])
        seen = points @ axes.T
        lower, upper = seen.min(0), seen.max(0)
        margin = _MARGIN * float((upper - lower)[:2].max())
        return cls(axes, lower - margin, upper + margin)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the window [length]."""
        return float(self.lower[0]), float(self.upper[0]), float(self.lower[1]), float(self.upper[1])

    @property
    def size(self) -> Array:
        """Width and height of the window [length]. Shape (2,)."""
        return (self.upper - self.lower)[:2]


def render(
    body: pyvista.UnstructuredGrid,
    undeformed: pyvista.UnstructuredGrid | None,
    frame: Frame,
    pixels: tuple[int, int],
    colours: tuple[str, tuple[float, float]],
) -> npt.NDArray[np.uint8]:
    """Render an image of a body on a white background.

    Args:
        body: The body, with the values to draw in the field `SCALARS`.
        undeformed: The undeformed body, of which the outline is drawn.
        frame: The projection.
        pixels: Width and height of the image; their ratio should match the window.
        colours: Name and limits of the colour map.

    Returns:
        RGB image, shape (height, width, 3).
    """
    flat = bool(frame.axes[2, 2] == 1.0)
    with _quiet():
        plotter: Any = pyvista.Plotter(off_screen=True, window_size=list(pixels))
        plotter.set_background("white")
        plotter.enable_anti_aliasing("ssaa")
        plotter.add_mesh(
            _surface(body),
            scalars=SCALARS,
            cmap=colours[0],
            clim=colours[1],
            show_scalar_bar=False,
            nan_color="#d9d9d9",
            lighting=not flat,
            # They sum to 1, so that the brightest colours match the colour bar.
            ambient=1.0 if flat else 0.45,
            diffuse=0.0 if flat else 0.55,
        )
        _add_lines(plotter, body, undeformed, flat)
        _aim(plotter, frame)
        image = plotter.screenshot(None, return_img=True)
        plotter.close()
    return np.asarray(image, dtype=np.uint8)


def _add_lines(plotter: Any, body: Any, undeformed: Any, flat: bool) -> None:
    if body.n_cells <= _MAX_CELLS_WITH_EDGES:
        mesh = _edges(_surface(body.separate_cells()))
        plotter.add_mesh(mesh, color="black", line_width=1.5, opacity=0.3, lighting=False)
    plotter.add_mesh(_edges(_surface(body)), color="#1a1a1a", line_width=2.5, lighting=False)
    if undeformed is not None:
        plotter.add_mesh(_edges(_surface(undeformed)), color="#8c8c8c", line_width=2.5, lighting=False)


def _surface(body: Any) -> Any:
    """Return the surface; curved cells are subdivided."""
    curved = bool((body.celltypes >= _CURVED_CELL_TYPES).any())
    return body.extract_surface(nonlinear_subdivision=_SUBDIVISION if curved else 0, algorithm="dataset_surface")


def _edges(surface: Any) -> Any:
    """Return the boundary and feature edges of a surface."""
    return surface.extract_feature_edges(manifold_edges=False, non_manifold_edges=False, clear_data=True)


def _aim(plotter: Any, frame: Frame) -> None:
    centre = 0.5 * (frame.lower + frame.upper)
    distance = 10.0 * float(np.linalg.norm(frame.upper - frame.lower))
    camera = plotter.camera
    camera.focal_point = centre @ frame.axes
    camera.position = (centre + np.array([0.0, 0.0, distance])) @ frame.axes
    camera.up = frame.axes[1]
    plotter.enable_parallel_projection()
    camera.parallel_scale = 0.5 * float(frame.size[1])
    plotter.renderer.ResetCameraClippingRange()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress VTK's warnings about a missing window system."""
    before = vtkLogger.GetCurrentVerbosityCutoff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_ERROR)
    try:
        yield
    finally:
        vtkLogger.SetStderrVerbosity(before)
