"""RVEs from images: each pixel or voxel is a cell, its phase given by its label.

The axes of an image array are (y, x) or (z, y, x): the first row of a picture is at the lower face.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, model_validator

from femops.errors import CaseError
from femops.meshing.box import grid
from femops.meshing.tagged import TaggedMesh
from femops.notation import Array
from femops.rve.geometry.cell import VOID, Model, edges

_PICTURES = (".tif", ".tiff", ".png", ".bmp")
_GRIDS = (".vti", ".nrrd")
_KNOWN = ", ".join((".npy", *_PICTURES, *_GRIDS))
_MOST_NAMED = 5


class ImageFile(Model):
    """A segmented image; every label has a phase, `void` makes holes."""

    file: Path = Field(description=f"{_KNOWN}, or a folder of slices along z; path, relative to the case file")
    phases: dict[str, int | list[int]] = Field(min_length=1, description="Label or labels of each phase.")
    spacing: PositiveFloat | list[PositiveFloat] = Field(1.0, description="Edge lengths of a pixel, x first [length].")
    crop: list[tuple[int, int]] | None = Field(
        None, description="First pixel and the one after the last along each axis, x first; default: all."
    )

    @model_validator(mode="after")
    def _one_phase_per_label(self) -> "ImageFile":
        labels = [label for several in self.labels.values() for label in several]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"label {twice[0]} has several phases, expected one")
        if set(self.phases) == {VOID}:
            raise ValueError(f"only {VOID} given, expected a phase")
        return self

    @property
    def labels(self) -> dict[str, list[int]]:
        """Labels of each phase."""
        return {name: [one] if isinstance(one, int) else one for name, one in self.phases.items()}

    def read(self, base: Path = Path()) -> TaggedMesh:
        """Return the mesh of the image, with its periods.

        Args:
            base: Folder to which a relative path refers.

        Raises:
            CaseError: The image cannot be read, has a label without a phase or a phase without a label, or holes
                cover two opposite faces.
        """
        image = self._cropped(read_image(base / self.file))
        dim = image.ndim
        phase = self._phase_of(image).ravel()  # x runs fastest, as in `grid`
        spacing = self._spacing(dim)
        counts = np.array(image.shape[::-1])
        lines = [length * (np.arange(n + 1) - 0.5 * n) for length, n in zip(spacing, counts, strict=True)]
        mesh = grid(lines, "quad" if dim == 2 else "hexahedron")
        names = list(self.phases)
        solid = phase != (names.index(VOID) if VOID in names else -1)
        regions = {name: np.flatnonzero(phase[solid] == i) for i, name in enumerate(names) if name != VOID}
        for name, members in regions.items():
            if not len(members):
                raise CaseError(f"no pixel has a label of {name!r}: {self.labels[name]}", key="phases")
        place = np.rint((mesh.points - mesh.bounds[0]) / spacing).astype(np.int64)
        image_of = np.ravel_multi_index(tuple((place % counts).T), tuple(counts))
        used = np.zeros(counts.prod(), dtype=bool)
        used[image_of[mesh.cells[solid]]] = True
        kept = used[image_of]  # with the periodic images of used nodes, which may lie in a pore
        for axis, (left, whole) in enumerate(zip(np.ptp(place[kept], axis=0), counts, strict=True)):
            if left < whole:
                name = "xyz"[axis]
                raise CaseError(
                    f"{VOID} covers both faces normal to {name}, expected solid on one; see crop", key="phases"
                )
        cells = (np.cumsum(kept) - 1)[mesh.cells[solid]]
        return TaggedMesh(mesh.points[kept], cells, mesh.kind, regions, periods=np.diag(spacing * counts))

    def _spacing(self, dim: int) -> Array:
        try:
            return edges(self.spacing, dim)
        except CaseError as error:
            raise CaseError(error.problem, key="spacing") from error

    def _cropped(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.crop is None:
            return image
        sizes = image.shape[::-1]
        if len(self.crop) != image.ndim:
            raise CaseError(f"{len(self.crop)} ranges for a {image.ndim}D image; expected {image.ndim}", key="crop")
        for (start, stop), size in zip(self.crop, sizes, strict=True):
            if not 0 <= start < stop <= size:
                raise CaseError(f"[{start}, {stop}] given, expected a range within [0, {size}]", key="crop")
        return image[tuple(slice(*one) for one in reversed(self.crop))]

    def _phase_of(self, image: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the position in `phases` of the phase of each pixel."""
        found, place = np.unique(image, return_inverse=True)
        phases = {label: i for i, several in enumerate(self.labels.values()) for label in several}
        unknown = [label for label in found.tolist() if label not in phases]
        if unknown:
            named = ", ".join(f"{label:g}" for label in unknown[:_MOST_NAMED])
            rest = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
            problem = f"the image has the labels {named}{rest} without a phase"
            raise CaseError(f"{problem}; expected only {', '.join(map(str, sorted(phases)))}", key="phases")
        return np.array([phases[label] for label in found.tolist()])[place].reshape(image.shape)


def read_image(path: Path) -> npt.NDArray[Any]:
    """Return the labels of an image, shape (n_y, n_x) or (n_z, n_y, n_x); a folder holds slices along z.

    Raises:
        CaseError: The file is missing, cannot be read or holds no grey-scale image.
    """
    if path.is_dir():
        slices = sorted((one for one in path.iterdir() if one.suffix.lower() in _PICTURES), key=_natural)
        if not slices:
            raise CaseError(f"the folder has no slices ({', '.join(_PICTURES)})", file=path)
        images = [read_image(one) for one in slices]
        if len({image.shape for image in images}) > 1 or images[0].ndim != 2:
            shapes = ", ".join(sorted({" × ".join(map(str, image.shape)) for image in images}))
            raise CaseError(f"slices of {shapes} pixels; expected 2D ones of one size", file=path)
        image = np.stack(images)
    elif not path.exists():
        raise CaseError("no such file", file=path)
    else:
        image = _read_file(path)
    if image.ndim not in (2, 3) or image.dtype.kind not in "iufb":
        problem = f"an array of {' × '.join(map(str, image.shape))} {image.dtype} values"
        raise CaseError(f"{problem}; expected one number per pixel, in 2D or 3D", file=path)
    return image


def _read_file(path: Path) -> npt.NDArray[Any]:
    kind = path.suffix.lower()
    try:
        if kind == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if kind in (".tif", ".tiff"):
            import tifffile

            return np.asarray(tifffile.imread(path))
        if kind in _PICTURES:
            from PIL import Image

            with Image.open(path) as picture:
                return np.asarray(picture)
        if kind in _GRIDS:
            return _read_grid(path)
    except CaseError:
        raise
    except Exception as error:
        raise CaseError(f"cannot be read as an image: {error}", file=path) from error
    raise CaseError(f"'{kind}' is no known image; expected {_KNOWN} or a folder of slices", file=path)


def _read_grid(path: Path) -> npt.NDArray[Any]:
    """Return the only array of an image of VTK, on its cells if there are any, otherwise on its points."""
    import pyvista

    data = pyvista.read(path)
    on_cells = len(data.cell_data) > 0
    arrays = data.cell_data if on_cells else data.point_data
    if len(arrays) != 1:
        problem = f"{len(arrays)} arrays ({', '.join(arrays.keys()) or 'none'}); expected one, with the labels"
        raise CaseError(problem, file=path)
    counts = np.array(data.dimensions)
    if on_cells:
        counts = np.maximum(counts - 1, 1)
    # the NRRD reader takes x, if it is not declared to be an axis of space, for components at each point
    return np.asarray(next(iter(arrays.values()))).reshape(*counts[::-1], -1).squeeze()


def _natural(path: Path) -> list[Any]:
    """Return the sorting key by which slice 2 comes before slice 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
