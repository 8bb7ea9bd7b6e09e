"""Picture of the phases in the middle layer of an RVE of pixels or voxels."""

from pathlib import Path

import numpy as np

from femops.meshing import TaggedMesh
from femops.output.atomic import atomic_path


def write_layer(mesh: TaggedMesh, path: Path) -> None:
    """Draw the regions of the quadrilaterals of a mesh, or of the hexahedra in its middle layer along z, as PNG.

    Args:
        mesh: A mesh of quadrilaterals or hexahedra along the axes.
        path: The file.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    nodes = mesh.points[mesh.cells]
    shown = np.ones(len(nodes), dtype=bool)
    if mesh.dim == 3:
        height = nodes[..., 2]
        middle = height.mean(axis=1)[np.abs(height.mean(axis=1) - np.mean(mesh.bounds, axis=0)[2]).argmin()]
        shown = (height.min(axis=1) < middle) & (middle < height.max(axis=1))
    region = mesh.region_of_cell()[shown]
    colours = np.array([f"C{i}" for i in range(len(mesh.regions))])
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.add_collection(PolyCollection(list(nodes[shown, :4, :2]), facecolors=colours[region], edgecolors="face"))
    axes.autoscale()
    axes.set(aspect="equal", xlabel="x", ylabel="y")
    axes.legend(handles=[Patch(color=colour, label=name) for colour, name in zip(colours, mesh.regions, strict=True)])
    with atomic_path(path) as new:
        figure.savefig(new, format="png", dpi=110)
