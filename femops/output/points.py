"""Values at quadrature points as a point cloud for ParaView."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from femops.notation import Array
from femops.output.atomic import atomic_path, shielded
from femops.output.grid import Fields, checked_fields


def write_points(path: Path | str, coordinates: Array, data: Fields, remarks: Mapping[str, str] | None = None) -> None:
    """Write point values to a `.vtp` file, one vertex per point.

    Args:
        path: The file to write, with the suffix `.vtp`.
        coordinates: Points [length]. Shape (n, dim).
        data: Arrays by name. Shape (n,) or (n, k) each; k = 2 is padded to 3.
        remarks: Texts by name, stored as field data; see `VtkHdfSeries`.

    Raises:
        ValueError: An array does not have one row per point.
    """
    import pyvista

    fields = checked_fields(data, len(coordinates))
    points = np.zeros((len(coordinates), 3))
    points[:, : coordinates.shape[1]] = coordinates
    cloud = pyvista.PolyData(points)
    for name, values in fields.items():
        cloud.point_data[name] = values
    for name, text in (remarks or {}).items():
        cloud.field_data[name] = [text]
    with shielded(), atomic_path(path) as temporary:
        cloud.save(temporary)
