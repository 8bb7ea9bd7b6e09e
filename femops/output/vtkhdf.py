"""Time series of fields on a fixed mesh in one temporal VTKHDF file, which ParaView and VTK read.

Format: https://docs.vtk.org/en/latest/vtk_file_formats/vtkhdf_file_format/index.html. The mesh is stored once; every
step points to it with offsets of zero and to its own rows of the fields.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from femops.notation import Array, dimension, to_tensor
from femops.output.atomic import atomic_path, shielded
from femops.output.grid import Fields, Grid, checked_fields

_STEP_OFFSETS = ("PartOffsets", "PointOffsets", "CellOffsets", "ConnectivityIdOffsets")
_CHUNK_ROWS = 16384
_VTK_PAIRS = ((0, 1, 2, 0, 1, 0), (0, 1, 2, 1, 2, 2))


class VtkHdfSeries:
    """A `.vtkhdf` file that grows by one step per call of `append`.

    Every append works on a copy that then replaces the file, so that a kill at any moment leaves the last complete
    file. The first append replaces a file of an earlier run.

    Args:
        path: The file to write.
        grid: The mesh of all steps.
        remarks: Texts by name, in ASCII, that become field data; one named like a field belongs to that field.
    """

    def __init__(self, path: Path | str, grid: Grid, remarks: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self.grid = grid
        self.remarks = remarks or {}
        self.n_steps = 0
        self._layout: dict[str, tuple[int, ...]] = {}

    def append(self, time: float, point_data: Fields | None = None, cell_data: Fields | None = None) -> None:
        """Add one step.

        Args:
            time: Time or load parameter of the step.
            point_data: Arrays by name. Shape (n_points,) or (n_points, k) each; vectors of 2 components get a third,
                symmetric tensors come from `tensor_components`.
            cell_data: The same over cells. Shape (n_cells,) or (n_cells, k) each.

        Raises:
            ValueError: a shape does not fit the mesh, or the fields differ from those of the first step.
        """
        fields = {
            "PointData": checked_fields(point_data or {}, len(self.grid.points)),
            "CellData": checked_fields(cell_data or {}, len(self.grid.cells)),
        }
        layout = {f"{group}/{name}": a.shape for group, arrays in fields.items() for name, a in arrays.items()}
        if self.n_steps and layout != self._layout:
            raise ValueError(f"fields of step {self.n_steps} are {layout}, those of the first step {self._layout}")
        with shielded():
            with atomic_path(self.path) as temporary:
                if self.n_steps:
                    shutil.copyfile(self.path, temporary)
                with h5py.File(temporary, "a" if self.n_steps else "w") as file:
                    root = file["VTKHDF"] if self.n_steps else _create(file, self.grid, self.remarks)
                    _append(root, self.n_steps, time, fields)
            self._layout = layout
            self.n_steps += 1


def tensor_components(mandel: npt.ArrayLike, stress_33: npt.ArrayLike | None = None) -> Array:
    """Convert Mandel vectors to the symmetric tensors of VTK: XX, YY, ZZ, XY, YZ, XZ without factors.

    Args:
        mandel: Stress or strain in Mandel notation. Shape (n, n_s).
        stress_33: In plane strain, the component normal to the plane, shape (n,); zero (a strain) if not given.

    Returns:
        Components, same unit. Shape (n, 6).

    Raises:
        ValueError: `stress_33` was given in 3D.
    """
    vector = np.asarray(mandel, dtype=np.float64)
    dim = dimension(vector.shape[-1])
    tensor = np.zeros((len(vector), 3, 3))
    tensor[:, :dim, :dim] = to_tensor(vector)
    if stress_33 is not None:
        if dim == 3:
            raise ValueError("stress_33 is part of a 3D stress, it was given besides")
        tensor[:, 2, 2] = stress_33
    return tensor[:, _VTK_PAIRS[0], _VTK_PAIRS[1]]


def _create(file: Any, grid: Grid, remarks: Mapping[str, str]) -> Any:
    root = file.create_group("VTKHDF")
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
    steps = root.create_group("Steps")
    for group in ("PointData", "CellData"):
        root.create_group(group)
        steps.create_group(f"{group}Offsets")
    if remarks:
        data = root.create_group("FieldData")
        for name, text in remarks.items():
            plain = text.encode("ascii", "replace")  # VTK reads no other strings
            data.create_dataset(name, data=[plain], dtype=h5py.string_dtype("ascii"))
        steps.create_group("FieldDataOffsets")
        steps.create_group("FieldDataSizes")
    return root


def _append(root: Any, step: int, time: float, fields: dict[str, dict[str, npt.NDArray[Any]]]) -> None:
    steps = root["Steps"]
    steps.attrs["NSteps"] = step + 1
    _extend(steps, "Values", np.array([float(time)]))
    _extend(steps, "NumberOfParts", np.array([1]))
    for name in _STEP_OFFSETS:
        # One column per topology where VTK asks for it; unstructured grids have one topology.
        shape = (1, 1) if name in ("CellOffsets", "ConnectivityIdOffsets") else (1,)
        _extend(steps, name, np.zeros(shape, dtype=np.int64))
    for name in root.get("FieldData", ()):
        _extend(steps["FieldDataOffsets"], name, np.array([0]))
        _extend(steps["FieldDataSizes"], name, np.array([[1, 1]]))  # one component, one text
    for group, arrays in fields.items():
        for name, values in arrays.items():
            _extend(steps[f"{group}Offsets"], name, np.array([step * len(values)]))
            _extend(root[group], name, values)


def _extend(group: Any, name: str, values: npt.NDArray[Any]) -> None:
    """Append rows to a data set, which is made on first use."""
    if name not in group:
        chunks = (max(1, min(len(values), _CHUNK_ROWS)), *values.shape[1:])
        group.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), chunks=chunks)
        return
    rows = group[name].shape[0]
    group[name].resize(rows + len(values), axis=0)
    group[name][rows:] = values
