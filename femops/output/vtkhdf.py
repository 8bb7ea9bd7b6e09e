"""Time series of fields on a fixed mesh in one temporal VTKHDF file, readable by ParaView and VTK.

Format: https://docs.vtk.org/en/latest/vtk_file_formats/vtkhdf_file_format/index.html. The mesh is stored once; every
step refers to it by zero offsets, and to its own rows of the fields.
"""

import fcntl
import os
import time as clock
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from femops.notation import PAIRS, Array, dimension, weights
from femops.output.atomic import atomic_path, shielded
from femops.output.grid import Fields, Grid, checked_fields

_STEP_OFFSETS = ("PartOffsets", "PointOffsets", "CellOffsets", "ConnectivityIdOffsets")
_VTK_PAIRS = ((0, 1, 2, 0, 1, 0), (0, 1, 2, 1, 2, 2))
_PATIENCE = 0.2  # [s]

Checked = dict[str, dict[str, npt.NDArray[Any]]]


class VtkHdfSeries:
    """A `.vtkhdf` file to which `append` adds one step per call, at constant cost.

    The first step creates the file, preallocated for all steps, and atomically replaces an existing one; unused space
    takes no room on file systems with sparse files. Each later step writes its rows, syncs them to disk and only then
    increases the number of steps, the only HDF5 metadata that changes. An interruption at any time therefore leaves a
    valid file with all complete steps.

    Args:
        path: The file to write.
        grid: The mesh of all steps.
        n_steps: Largest number of steps.
        remarks: ASCII texts by name, stored as field data; a remark on a field has the name of the field.

    Attributes:
        n_steps: Number of steps written.
    """

    def __init__(
        self, path: Path | str, grid: Grid, n_steps: int = 1, remarks: Mapping[str, str] | None = None
    ) -> None:
        self.path = Path(path)
        self.grid = grid
        self.remarks = remarks or {}
        self.n_steps = 0
        self._room = n_steps
        self._layout: dict[str, tuple[int, ...]] = {}

    def append(self, time: float, point_data: Fields | None = None, cell_data: Fields | None = None) -> None:
        """Add one step.

        Args:
            time: Time or load parameter of the step.
            point_data: Arrays by name. Shape (n_points,) or (n_points, k) each; k = 2 is padded to 3. For symmetric
                tensors see `tensor_components`.
            cell_data: Arrays by name. Shape (n_cells,) or (n_cells, k) each; k = 2 is padded to 3.

        Raises:
            ValueError: A shape does not match the mesh, the fields differ from those of the first step, or all
                `n_steps` steps are written.
        """
        fields = {
            "PointData": checked_fields(point_data or {}, len(self.grid.points)),
            "CellData": checked_fields(cell_data or {}, len(self.grid.cells)),
        }
        layout = {f"{group}/{name}": a.shape for group, arrays in fields.items() for name, a in arrays.items()}
        if self.n_steps and layout != self._layout:
            raise ValueError(f"fields of step {self.n_steps} are {layout}, those of the first step {self._layout}")
        if self.n_steps == self._room:
            raise ValueError(f"the file has room for {self._room} steps")
        with shielded():
            if self.n_steps:
                with h5py.File(self.path, "r+", locking=False) as file:
                    _write(file, self.n_steps, time, fields)
            else:
                self._create(time, fields)
            self._layout = layout
            self.n_steps += 1

    def _create(self, time: float, fields: Checked) -> None:
        with atomic_path(self.path) as temporary:
            with h5py.File(temporary, "w") as file:
                _make_room(file, self.grid, self._room, fields)
                _write_remarks(file["VTKHDF"], self.remarks, self._room)
            with h5py.File(temporary, "r+") as file:
                _write(file, 0, time, fields)


def tensor_components(mandel: npt.ArrayLike, stress_33: npt.ArrayLike | None = None) -> Array:
    """Convert Mandel vectors to VTK tensor components XX, YY, ZZ, XY, YZ, XZ (without factors).

    Args:
        mandel: Stress or strain in Mandel notation. Shape (n, n_s).
        stress_33: In plane strain, the component normal to the plane, shape (n,); zero by default, as for strains.

    Returns:
        Components, same unit. Shape (n, 6).

    Raises:
        ValueError: `stress_33` is given in 3D.
    """
    vector = np.asarray(mandel, dtype=np.float64)
    dim = dimension(vector.shape[-1])
    components = np.zeros((len(vector), len(_VTK_PAIRS[0])))
    places = [list(zip(*_VTK_PAIRS, strict=True)).index(pair) for pair in PAIRS[dim]]
    components[:, places] = vector / weights(dim)
    if stress_33 is not None:
        if dim == 3:
            raise ValueError("stress_33 is part of a 3D stress, it was given besides")
        components[:, 2] = stress_33
    return components


def tensors(components: Array) -> Array:
    """Convert tensor components in the order of `tensor_components` to symmetric tensors.

    Args:
        components: Components. Shape (n, 6).

    Returns:
        Tensors, same unit. Shape (n, 3, 3).
    """
    tensor = np.empty((len(components), 3, 3))
    rows, columns = _VTK_PAIRS
    tensor[:, rows, columns] = tensor[:, columns, rows] = components
    return tensor


def _make_room(file: Any, grid: Grid, n_steps: int, fields: Checked) -> None:
    """Write the mesh and the step metadata, and allocate times and fields.

    The number of steps and the times come first, so that they are adjacent in the file and updated by one write.
    """
    root = file.create_group("VTKHDF")
    steps = root.create_group("Steps")
    steps.attrs.create("NSteps", 0, dtype=np.int64)
    # VTK 9.7 reads all times regardless of NSteps and corrupts its heap if there are more, so the data set must grow.
    times = steps.create_dataset("Values", (n_steps,), np.float64, chunks=(n_steps,), maxshape=(n_steps,))
    times[...] = 0.0
    file.flush()
    times.resize(1, axis=0)
    root.attrs["Version"] = np.array([2, 0])
    root.attrs["Type"] = np.bytes_("UnstructuredGrid")
    n_cells, n_nodes = grid.cells.shape
    root["NumberOfPoints"] = np.array([len(grid.points)])
    root["NumberOfCells"] = np.array([n_cells])
    root["NumberOfConnectivityIds"] = np.array([n_cells * n_nodes])
    root["Points"] = grid.points
    root["Connectivity"] = grid.cells.ravel()
    root["Offsets"] = np.arange(n_cells + 1) * n_nodes
    root["Types"] = np.full(n_cells, grid.cell_type, dtype=np.uint8)
    steps["NumberOfParts"] = np.ones(n_steps, dtype=np.int64)
    for name in _STEP_OFFSETS:
        # VTK expects one column per topology here; unstructured grids have one.
        shape = (n_steps, 1) if name in ("CellOffsets", "ConnectivityIdOffsets") else (n_steps,)
        steps[name] = np.zeros(shape, dtype=np.int64)
    for group, arrays in fields.items():
        root.create_group(group)
        steps.create_group(f"{group}Offsets")
        for name, values in arrays.items():
            steps[f"{group}Offsets"][name] = np.arange(n_steps) * len(values)
            _make_rows(root[group], name, (n_steps * len(values), *values.shape[1:]), values.dtype)


def _write_remarks(root: Any, remarks: Mapping[str, str], n_steps: int) -> None:
    """Write texts as field data, the same for every step."""
    for name, text in remarks.items():
        plain = text.encode("ascii", "replace")  # VTK reads ASCII strings only
        root.require_group("FieldData").create_dataset(name, data=[plain], dtype=h5py.string_dtype("ascii"))
        root["Steps"].require_group("FieldDataOffsets")[name] = np.zeros(n_steps, dtype=np.int64)
        root["Steps"].require_group("FieldDataSizes")[name] = np.ones((n_steps, 2), dtype=np.int64)


def _make_rows(group: Any, name: str, shape: tuple[int, ...], kind: Any) -> None:
    """Allocate a contiguous data set without writing it."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_layout(h5py.h5d.CONTIGUOUS)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(kind), h5py.h5s.create_simple(shape), how)


def _write(file: Any, step: int, time: float, fields: Checked) -> None:
    """Write the rows of a step, then increase the number of steps.

    The rows bypass HDF5, which would write the whole chunk of times and 64 KiB buffers around small fields.
    """
    root, handle = file["VTKHDF"], file.id.get_vfd_handle()
    times = root["Steps/Values"]
    _put(handle, np.array([time], dtype=np.float64), times.id.get_chunk_info(0).byte_offset, step)
    for group, arrays in fields.items():
        for name, values in arrays.items():
            _put(handle, values, root[group][name].id.get_offset(), step)
    getattr(os, "fdatasync", os.fsync)(handle)  # not every system has the former
    with _readers_kept_out(handle):
        times.id.set_extent((step + 1,))
        root["Steps"].attrs.modify("NSteps", np.int64(step + 1))
        file.flush()


def _put(handle: int, values: npt.NDArray[Any], start: int, step: int) -> None:
    """Write the values of a step into an array of equally sized steps that begins at byte `start`."""
    remaining, place = values.tobytes(), start + step * values.nbytes
    while remaining:
        written = os.pwrite(handle, remaining, place)
        remaining, place = remaining[written:], place + written


@contextmanager
def _readers_kept_out(handle: int) -> Iterator[None]:
    """Exclude readers during an update.

    HDF5 locks a file while reading. Readers that keep the file open have read its metadata already, so the wait is
    limited to `_PATIENCE`.
    """
    until = clock.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if clock.monotonic() > until:
                break
            clock.sleep(0.005)
        except OSError:  # a file system without locks
            break
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
