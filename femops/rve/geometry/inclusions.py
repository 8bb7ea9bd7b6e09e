"""Meshes of periodic cells with ellipses, spheres or polygons, by gmsh and OpenCASCADE."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import gmsh
import numpy as np
from scipy.spatial import cKDTree

from femops.errors import CaseError
from femops.meshing.cells import CELLS, CellKind
from femops.meshing.gmsh_model import gmsh_session, tagged_mesh_from_gmsh
from femops.meshing.tagged import TaggedMesh
from femops.notation import Array
from femops.rve.geometry.cell import VOID
from femops.rve.geometry.gaps import gap_sizes
from femops.rve.geometry.packing import periodic_offsets
from femops.rve.geometry.polygon_inclusion import PolygonInclusion
from femops.rve.geometry.round_inclusion import RoundInclusion

_TOLERANCE = 1e-6  # distance regarded as touching, relative to the cell
_PER_TURN = 12  # minimum number of cells around a full circle
_ATTEMPTS, _FINER = 4, 0.95  # attempts to mesh, and mesh size of each relative to the previous
_Entities = list[tuple[int, int]]
_Inclusion = RoundInclusion | PolygonInclusion


def mesh_inclusions[T: (RoundInclusion, PolygonInclusion)](
    extent: Array, matrix: str, inclusions: Sequence[T], mesh_size: float, cell: str
) -> TaggedMesh:
    """Mesh a periodic cell centred at the origin, with matching nodes on opposite faces.

    Args:
        extent: Edge lengths of the cell [length]. Shape (dim,).
        matrix: Name of the phase around the inclusions.
        inclusions: Inclusions, continued periodically across faces; the phase `void` is a hole.
        mesh_size: Edge length of the cells [length].
        cell: Kind of the cells.

    Returns:
        The mesh with a region for each phase.

    Raises:
        CaseError: inclusions overlap or touch a face, or gmsh found no valid mesh.
    """
    inclusions = [replace(one, centre=one.centre - extent * np.rint(one.centre / extent)) for one in inclusions]
    _check_apart(inclusions, extent)
    kind = CELLS[cell]
    for attempt in range(_ATTEMPTS):
        try:
            return _with_equal_faces(_mesh(extent, matrix, inclusions, mesh_size * _FINER**attempt, kind), extent)
        except CaseError as error:  # gmsh occasionally folds a cell; a slightly smaller mesh size avoids it
            problem = error.problem
    raise CaseError(f"{problem}; choose another mesh_size or larger gaps")


def _mesh(extent: Array, matrix: str, inclusions: Sequence[_Inclusion], mesh_size: float, kind: CellKind) -> TaggedMesh:
    with gmsh_session(_options(kind, mesh_size)):
        try:
            phases = _geometry(extent, matrix, inclusions)
            _pair_faces(extent)
            for name, entities in phases.items():
                gmsh.model.addPhysicalGroup(kind.dim, [tag for _, tag in entities], name=name)
            _generate(inclusions, extent, mesh_size, kind)
            gmsh.model.mesh.setOrder(kind.degree)
        except Exception as error:  # gmsh raises nothing more specific
            raise CaseError(f"gmsh cannot mesh the cell: {error}") from error
        return tagged_mesh_from_gmsh()


def _options(kind: CellKind, mesh_size: float) -> dict[str, float]:
    # Quadrilaterals: recombining a mesh of twice the size and subdividing it once removes all triangles.
    quads = kind.shape == "quadrilateral"
    size = mesh_size * (2.0 if quads else 1.0)
    return {
        "Mesh.Algorithm": 6,
        "Mesh.Algorithm3D": 1,
        "Mesh.MeshSizeMin": 0.05 * size,
        "Mesh.MeshSizeMax": size,
        "Mesh.MeshSizeFromCurvature": _PER_TURN / (2 if quads else 1),
        "Mesh.RecombineAll": float(quads),
        "Mesh.RecombinationAlgorithm": 1,
        "Mesh.SubdivisionAlgorithm": float(quads),
        "Mesh.ElementOrder": 1,
        "Mesh.SecondOrderIncomplete": float(kind.serendipity),
        "Mesh.SecondOrderLinear": 0,
        "Mesh.RandomSeed": 1,
    }


def _check_apart[T: (RoundInclusion, PolygonInclusion)](inclusions: Sequence[T], extent: Array) -> None:
    """Check that inclusions do not overlap, including periodic images, and do not touch faces."""
    for index, one in enumerate(inclusions):
        if (touched := one.touched(extent)) is not None:
            raise CaseError(f"{_name(inclusions, index)} touches {touched}; move it")
    reach = np.array([one.reach for one in inclusions])
    centres = np.array([one.centre for one in inclusions])
    offsets = periodic_offsets(extent, int(np.ceil(2.0 * (reach / extent).max())))
    radius = np.array([one.radius for one in inclusions])
    apart = np.linalg.norm(centres[:, None, None, :] - centres[None, :, None, :] - offsets, axis=-1)
    near = apart <= (radius[:, None] + radius[None, :])[..., None] + _TOLERANCE * extent.max()
    for first, second, image in np.argwhere(near):
        same = first == second
        if second < first or (same and image == 0):
            continue
        moved = replace(inclusions[second], centre=centres[second] + offsets[image])
        if inclusions[first].meets(moved):
            other = "its periodic image" if same else _name(inclusions, second)
            raise CaseError(f"{_name(inclusions, first)} and {other} overlap; expected inclusions apart")


def _name(inclusions: Sequence[_Inclusion], index: int) -> str:
    return f"inclusion {index} at ({', '.join(f'{x:g}' for x in inclusions[index].centre)})"


def _geometry(extent: Array, matrix: str, inclusions: Sequence[_Inclusion]) -> dict[str, _Entities]:
    """Build the cell in OpenCASCADE; return the entities of each phase, the matrix first."""
    occ, dim = gmsh.model.occ, len(extent)
    low = [*(-0.5 * extent), 0.0][:3]
    cell = (dim, occ.addRectangle(*low, *extent) if dim == 2 else occ.addBox(*low, *extent))
    offsets = periodic_offsets(extent, 1 + int(max((one.reach / extent).max() for one in inclusions)))
    images = [replace(one, centre=one.centre + offset) for one in inclusions for offset in offsets]
    images = [one for one in images if (np.abs(one.centre) < 0.5 * extent + one.reach).all()]
    _, parts = occ.fragment([cell], [(dim, _add(one)) for one in images])
    inside, pieces = set(parts[0]), [set(part) for part in parts[1:]]
    included = set().union(*pieces)
    phases: dict[str, _Entities] = {matrix: sorted(inside - included)}
    for image, piece in zip(images, pieces, strict=True):
        phases.setdefault(image.phase, []).extend(sorted(piece & inside))
    occ.remove([*sorted(included - inside), *phases.pop(VOID, [])], recursive=True)
    occ.synchronize()
    return {name: entities for name, entities in phases.items() if entities}


def _add(one: _Inclusion) -> int:
    occ = gmsh.model.occ
    if isinstance(one, PolygonInclusion):
        corners = [occ.addPoint(*point, 0.0) for point in one.points]
        edges = [occ.addLine(start, end) for start, end in zip(corners, corners[1:] + corners[:1], strict=True)]
        return int(occ.addPlaneSurface([occ.addCurveLoop(edges)]))
    if len(one.centre) == 3:
        return int(occ.addSphere(*one.centre, one.semi_axes[0]))
    order = np.argsort(-one.semi_axes, kind="stable")  # OpenCASCADE expects the major axis first
    major, minor = one.semi_axes[order]
    direction = one.frame[:, order[0]]
    return int(occ.addDisk(*one.centre, 0.0, major, minor, zAxis=[0.0, 0.0, 1.0], xAxis=[*direction, 0.0]))


def _generate(inclusions: Sequence[_Inclusion], extent: Array, mesh_size: float, kind: CellKind) -> None:
    """Generate the mesh, with refinement in narrow gaps by a background field read from a file."""
    grid = gap_sizes(inclusions, extent, mesh_size)
    if grid is None:
        gmsh.model.mesh.generate(kind.dim)
        return
    factor = 2.0 if kind.shape == "quadrilateral" else 1.0
    origin, spacing = np.zeros(3), np.ones(3)
    origin[: kind.dim], spacing[: kind.dim] = grid.origin, grid.spacing
    sizes = grid.sizes if kind.dim == 3 else np.repeat(grid.sizes[..., None], 2, axis=2)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sizes.txt"
        with path.open("w") as file:
            np.savetxt(file, [origin, spacing], fmt="%.17g")
            np.savetxt(file, [sizes.shape], fmt="%d")
            np.savetxt(file, factor * sizes.ravel(), fmt="%.6g")
        field = gmsh.model.mesh.field.add("Structured")
        gmsh.model.mesh.field.setString(field, "FileName", str(path))
        gmsh.model.mesh.field.setNumber(field, "TextFormat", 1)
        gmsh.model.mesh.field.setAsBackgroundMesh(field)
        gmsh.model.mesh.generate(kind.dim)


def _pair_faces(extent: Array) -> None:
    """Constrain the mesh of each face x_i = +size/2 to be the translated mesh of the opposite face."""
    dim = len(extent)
    faces = [tag for _, tag in gmsh.model.getEntities(dim - 1)]
    centres = np.array([gmsh.model.occ.getCenterOfMass(dim - 1, tag) for tag in faces])
    masses = np.array([gmsh.model.occ.getMass(dim - 1, tag) for tag in faces])
    boxes = np.array([gmsh.model.getBoundingBox(dim - 1, tag) for tag in faces]).reshape(-1, 2, 3)
    tolerance = 1e-5 * extent.max()
    for axis, length in enumerate(extent):
        masters, slaves = (
            np.flatnonzero((np.abs(boxes[:, :, axis] - place) < tolerance).all(axis=1))
            for place in (-0.5 * length, 0.5 * length)
        )
        shift = length * np.eye(3)[axis]
        affine = np.eye(4)
        affine[:3, 3] = shift
        for slave in slaves:
            distance = np.abs(centres[masters] + shift - centres[slave]).max(axis=1)
            distance += np.abs(masses[masters] - masses[slave])
            master = masters[distance.argmin()]
            gmsh.model.mesh.setPeriodic(dim - 1, [faces[slave]], [faces[master]], affine.ravel().tolist())


def _with_equal_faces(mesh: TaggedMesh, extent: Array) -> TaggedMesh:
    """Remove round-off differences between opposite faces; raise if they differ by more."""
    points = mesh.points.copy()
    for axis, length in enumerate(extent):
        low, high = (
            np.flatnonzero(np.abs(points[:, axis] - place) < _TOLERANCE * length)
            for place in (-0.5 * length, 0.5 * length)
        )
        others = [other for other in range(len(extent)) if other != axis]
        distance, nearest = map(np.asarray, cKDTree(points[low][:, others]).query(points[high][:, others]))
        if len(low) != len(high) or distance.max() > _TOLERANCE * length or len(np.unique(nearest)) < len(low):
            raise CaseError("gmsh meshed opposite faces of the cell differently")
        points[low, axis], points[high, axis] = -0.5 * length, 0.5 * length
        points[np.ix_(high, others)] = points[np.ix_(low[nearest], others)]
    return replace(mesh, points=points)
