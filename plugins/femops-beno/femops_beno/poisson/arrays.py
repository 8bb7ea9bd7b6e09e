"""The array layout in which the data of BENO were published (Wang et al., arXiv 2401.09323).

Three arrays hold n problems on the N = m² cells of a grid of the unit square:

- `RHS` (n, N, 4): x and y of the centre of a cell, f, and the state of the cell, 0 inside the domain;
- `SOL` (n, N, 1): u at the centres, 0 outside;
- `BC` (n, n_b, 4): x and y of the middle of an edge between inside and outside, u there, and an unused column.

The equation is Δu = f, without the minus sign of femops. In the published files x and y of BC are exchanged; of both
orders, the one that fits the domain and the solution is taken. A triple is stored as files `RHS_NAME.npy`,
`SOL_NAME.npy` and `BC_NAME.npy`, beside each other or in an archive (`.zip`, `.npz`) with any number of triples.

Read as a finite-element problem, a cell is a square of the mesh, so that the domain is exactly that of the data. Its f
is constant, the value of u at a node on the boundary is the mean of the two adjacent edges along the contour. The
published solutions are by finite differences at the centres; they are kept beside the finite-element solutions. They
differ by 5 to 9 % in the ten published samples whose boundary values vary over two or three cells, once the values on
one side are taken from the solution: the published ones there are copies of those of another side, and the solutions
do not satisfy them (50 to 90 % difference).
"""

import io
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.notation import Array, Indices
from femops.output.atomic import write_bytes
from femops_beno.poisson.generate import Sample, with_dirichlet
from femops_beno.poisson.meshes import grid_mesh
from femops_beno.poisson.shapes import Mask

PARTS = ("RHS", "SOL", "BC")
_COLUMNS = {"RHS": 4, "SOL": 1, "BC": 4}
_USED_COLUMNS = {"RHS": 4, "SOL": 1, "BC": 3}
_ARCHIVES = (".zip", ".npz")
_TOLERANCE = 1e-2  # of half a cell
_EXPECTED = "RHS_NAME.npy, SOL_NAME.npy and BC_NAME.npy"
_DAMAGED = (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


def read_samples(file: Path) -> list[Sample]:
    """Read all problems of a triple of files, named by any of the three, or of an archive, and solve them.

    Raises:
        CaseError: A file is missing or damaged, or the arrays are not in the layout above.
    """
    samples = []
    for name, triple in _triples(file).items():
        try:
            samples += _samples(triple)
        except CaseError as error:
            key = ".".join(part for part in (name, error.key) if part)
            raise CaseError(error.problem, file=file, key=key) from error
    return samples


def write_samples(file: Path, samples: Sequence[Sample]) -> None:
    """Write problems with boundary values on the whole contour of squares with cut corners.

    Args:
        file: An archive (`.zip`, `.npz`), or one of three files `RHS_NAME.npy`, `SOL_NAME.npy`, `BC_NAME.npy`.
        samples: The problems, on grids of equal size.

    Raises:
        CaseError: The layout cannot hold the problems.
    """
    arrays: dict[str, Any] = dict(zip(PARTS, _arrays(samples), strict=True))
    if file.suffix in _ARCHIVES:
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)
        write_bytes(file, packed.getvalue())
        return
    for part, path in _siblings(file).items():
        content = io.BytesIO()
        np.save(content, arrays[part], allow_pickle=False)
        write_bytes(path, content.getvalue())


def files_of(file: Path) -> list[Path]:
    """Return the files that `read_samples` reads.

    Raises:
        CaseError: The file is named neither as one of a triple nor as an archive.
    """
    return [file] if file.suffix in _ARCHIVES else list(_siblings(file).values())


def _triples(file: Path) -> dict[str, dict[str, Array]]:
    """Return the arrays of each triple, by the name of the triple and the part."""
    if file.suffix not in _ARCHIVES:
        return {"": {part: _loaded(path, path.read_bytes) for part, path in _siblings(file).items()}}
    members: dict[str, dict[str, str]] = defaultdict(dict)
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                path = PurePosixPath(member)
                if found := re.fullmatch(r"(RHS|SOL|BC)(.*)\.npy", path.name):
                    members[str(path.parent / f"*{found[2]}")][found[1]] = member
            triples = {}
            for name, parts in members.items():
                if missing := [part for part in PARTS if part not in parts]:
                    raise CaseError(f"no {missing[0]} beside {parts.popitem()[1]}, expected {', '.join(PARTS)}", file)
                found_parts = {part: (lambda member=parts[part]: archive.read(member)) for part in PARTS}
                triples[name] = {part: _loaded(file, read, parts[part]) for part, read in found_parts.items()}
    except _DAMAGED as error:
        raise CaseError(f"cannot be read ({_reason(error)}), expected an archive of {_EXPECTED}", file) from error
    if not triples:
        raise CaseError(f"holds no arrays, expected {_EXPECTED}", file)
    return triples


def _siblings(file: Path) -> dict[str, Path]:
    """Return the three files of a triple by part."""
    found = re.fullmatch(r"(RHS|SOL|BC)(.*\.npy)", file.name)
    if found is None:
        raise CaseError(f"is named {file.name}, expected {_EXPECTED}, or an archive (.zip, .npz) of these", file)
    return {part: file.with_name(f"{part}{found[2]}") for part in PARTS}


def _loaded(file: Path, read: Callable[[], bytes], member: str = "") -> Array:
    """Return an array of numbers from the bytes of a .npy file."""
    try:
        array = np.lib.format.read_array(io.BytesIO(read()), allow_pickle=False)
    except FileNotFoundError as error:
        raise CaseError("does not exist, expected one of RHS, SOL and BC", file) from error
    except _DAMAGED as error:
        raise CaseError(f"cannot be read ({_reason(error)}), expected an array (.npy)", file, member) from error
    if array.dtype.kind not in "fiu":
        raise CaseError(f"an array of {array.dtype} given, expected numbers", file, member)
    return array.astype(np.float64)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _samples(triple: Mapping[str, Array]) -> list[Sample]:
    """Return the problems of a triple, solved."""
    n, m = _checked(triple)
    fields: list[_Fields] = []
    for i in range(n):
        try:
            fields.append(_fields(triple["RHS"][i], triple["SOL"][i, :, 0], m))
        except CaseError as error:
            raise error.within(key=f"sample {i}") from error
    boundary = _ordered(triple["BC"], fields)
    samples = []
    for i, one in enumerate(fields):
        try:
            samples.append(_sample(one, boundary[i]))
        except CaseError as error:
            raise error.within(key=f"sample {i}") from error
    return samples


def _checked(triple: Mapping[str, Array]) -> tuple[int, int]:
    """Return the number of problems and of cells along each side, after checking shapes and values."""
    n, n_cells = triple["RHS"].shape[:2] if triple["RHS"].ndim == 3 else (0, 0)
    m = round(float(np.sqrt(n_cells)))
    if not n or m * m != n_cells:
        raise CaseError(f"shape {triple['RHS'].shape} given, expected (n, m², 4)", key="RHS")
    for part in PARTS:
        shape, columns = triple[part].shape, _COLUMNS[part]
        points = n_cells if part != "BC" else "n_b"
        if len(shape) != 3 or shape[0] != n or shape[2] != columns or (part != "BC" and shape[1] != n_cells):
            raise CaseError(f"shape {shape} given, expected ({n}, {points}, {columns})", key=part)
        finite = np.isfinite(triple[part][:, :, : _USED_COLUMNS[part]]).all(axis=(1, 2))
        if not finite.all():
            raise CaseError(f"NaN or infinite in sample {int(finite.argmin())}, expected finite numbers", key=part)
    return n, m


@dataclass(frozen=True)
class _Fields:
    """f of femops, u and the domain on the grid; the first axis is x. Shape (m, m) each."""

    source: Array
    solution: Array
    inside: Mask


def _fields(rhs: Array, solution: Array, m: int) -> _Fields:
    """Return the fields of a problem; shapes (m², 4) and (m²,)."""
    x, y = _grid_positions(rhs[:, :2], m, "RHS", "centres of the cells").T
    if not ((x % 2 == 1) & (y % 2 == 1)).all() or len(np.unique(x * 2 * m + y)) < m * m:
        raise CaseError(f"points given that are not the centres of all cells of a {m} × {m} grid", key="RHS")
    place = x // 2, y // 2
    source, values, inside = np.empty((m, m)), np.empty((m, m)), np.empty((m, m), dtype=bool)
    source[place], values[place], inside[place] = -rhs[:, 2], solution, rhs[:, 3] == 0.0
    return _Fields(source, values, inside)


def _ordered(boundary: Array, fields: Sequence[_Fields]) -> Array:
    """Return BC with x before y: the order that fits the domains and, where both do, the solutions better."""
    exchanged = boundary[:, :, [1, 0, 2, 3]]
    misfit = [sum(map(_misfit, one, fields)) for one in (boundary, exchanged)]
    return exchanged if misfit[1] < misfit[0] else boundary


def _misfit(boundary: Array, fields: _Fields) -> float:
    """Return Σ (u on the edge − u in its cell)² over the edges of a contour; infinite if a value is missing."""
    given, inside, total = _at_half_cells(boundary, len(fields.inside)), fields.inside, 0.0
    around = np.pad(inside, 1)
    x, y = np.nonzero(inside)
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        edge = ~around[x + 1 + dx, y + 1 + dy]
        difference = given[2 * x + 1 + dx, 2 * y + 1 + dy] - fields.solution[x, y]
        total += float((difference[edge] ** 2).sum())
    return np.inf if np.isnan(total) else total


def _sample(fields: _Fields, boundary: Array) -> Sample:
    """Return a problem, solved."""
    inside = fields.inside
    try:
        mesh = grid_mesh(inside)
    except CaseError as error:
        raise error.within(key="RHS") from error
    source = fields.source[inside]
    system = with_dirichlet(mesh, source, _boundary_values(mesh, boundary, len(inside))).solved()
    return Sample(system, f"corners {_cut_corners(inside)}", source, fields.solution[inside])


def _grid_positions(points: Array, m: int, part: str, what: str) -> Indices:
    """Return coordinates as multiples of half a cell. Shape (n, 2)."""
    position = 2 * m * points
    found = np.rint(position).astype(np.int64)
    off = (np.abs(position - found) > _TOLERANCE) | (found < 0) | (found > 2 * m)
    if off.any():
        x, y = points[off.any(axis=1)][0]
        raise CaseError(f"point ({x:g}, {y:g}) given, expected {what} of a {m} × {m} grid of the unit square", key=part)
    return found


def _at_half_cells(boundary: Array, m: int) -> Array:
    """Return boundary values at multiples of half a cell, NaN where none is given. Shape (2 m + 1, 2 m + 1)."""
    at = _grid_positions(boundary[:, :2], m, "BC", "middles of edges of the cells")
    given = np.full((2 * m + 1, 2 * m + 1), np.nan)
    given[at[:, 0], at[:, 1]] = boundary[:, 2]
    return given


def _boundary_values(mesh: TaggedMesh, boundary: Array, m: int) -> Array:
    """Return the values at the nodes on the boundary from those in the middle of its edges. Shape (n_nodes,)."""
    given = _at_half_cells(boundary, m)
    edges = np.vstack(list(mesh.boundaries.values()))
    middles = np.rint(2 * m * mesh.points[edges].mean(axis=1)).astype(np.int64)
    values = given[middles[:, 0], middles[:, 1]]
    if np.isnan(values).any():
        x, y = middles[np.isnan(values)][0] / (2 * m)
        raise CaseError(f"no value at ({x:g}, {y:g}), the middle of an edge of the boundary", key="BC")
    total = np.bincount(edges.ravel(), np.repeat(values, 2), len(mesh.points))
    return np.asarray(total / np.maximum(np.bincount(edges.ravel(), minlength=len(mesh.points)), 1))


def _cut_corners(inside: Mask) -> int:
    return int((~inside[[0, 0, -1, -1], [0, -1, 0, -1]]).sum())


def _arrays(samples: Sequence[Sample]) -> tuple[Array, Array, Array]:
    """Return RHS, SOL and BC."""
    rows = [_rows(sample) for sample in samples]
    for part, several in zip(PARTS, zip(*rows, strict=True), strict=True):
        if len({one.shape for one in several}) > 1:
            shapes = " and ".join(map(str, sorted({one.shape for one in several})))
            raise CaseError(f"{part} of shapes {shapes} given, expected equal ones: one grid, cut at corners only")
    rhs, solution, boundary = (np.stack(several) for several in zip(*rows, strict=True))
    return rhs, solution, boundary


def _rows(sample: Sample) -> tuple[Array, Array, Array]:
    """Return the rows of a problem in RHS, SOL and BC."""
    system, mesh = sample.system, sample.system.mesh
    edges = np.vstack(list(mesh.boundaries.values()))
    if mesh.kind.name != "quad" or not system.prescribed[edges].all() or system.solution is None:
        raise CaseError("a problem of triangles or with a flux given, expected quadrilaterals and u on the boundary")
    m = round(1.0 / float(np.linalg.norm(mesh.points[edges[0, 1]] - mesh.points[edges[0, 0]])))
    at_nodes = len(sample.source) == len(mesh.points)
    source = sample.source[mesh.cells].mean(axis=1) if at_nodes else sample.source
    solution = at_centres(mesh, system.solution) if sample.given is None else sample.given
    x, y = np.floor(m * mesh.points[mesh.cells].mean(axis=1)).astype(np.int64).T
    inside, grid = np.zeros((m, m), dtype=bool), np.zeros((2, m, m))
    inside[x, y], grid[:, x, y] = True, [-source, solution]
    column, row = np.divmod(np.arange(m * m), m)
    state = np.where(inside.ravel(), 0, 1 + (2 * column >= m) + 2 * (2 * row >= m))
    rhs = np.stack([(column + 0.5) / m, (row + 0.5) / m, grid[0].ravel(), state], axis=1)
    middle, value = mesh.points[edges].mean(axis=1), system.lifting[edges].mean(axis=1)
    return rhs, grid[1].reshape(-1, 1), np.column_stack([middle, value, np.zeros(len(value))])


def at_centres(mesh: TaggedMesh, values: Array) -> Array:
    """Return a finite-element function at the centres of squares: the mean of its corners. Shape (n_cells,)."""
    return np.asarray(values[mesh.cells].mean(axis=1))
