"""Square components of RVEs: what one consists of, and which ones an RVE is composed of.

The first nodes of a component are those on its boundary: inside the left, right, lower and upper face, each in
ascending order, then the corners at the lower left, lower right, upper left and upper right. All components have the
same ones, so that their displacements on the boundary mean the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.notation import PAIRS, SQRT2, Array, Indices
from femops.rve.discretisation import Discretisation, discretise
from femops.rve.spec import RVE
from femops_moe.basis import elastic_stiffness

_GAP = 1e-6  # of nodes that are the same, relative to the component


@dataclass(frozen=True)
class Component:
    """A component, centred at the origin.

    Attributes:
        rve: Its mesh, nodes on the boundary first, and the phases that it has.
        counts: Nodes inside a vertical face and inside a horizontal one.
    """

    rve: RVE
    counts: tuple[int, int]

    @property
    def discretisation(self) -> Discretisation:
        """Its discretisation."""
        return self.rve.discretisation

    @property
    def points(self) -> Array:
        """Coordinates of the nodes [length]. Shape (n_nodes, 2)."""
        return self.discretisation.mesh.points

    @property
    def n_dofs(self) -> int:
        """Number of displacement components."""
        return self.points.size

    @property
    def boundary(self) -> int:
        """Number of displacement components on the boundary, which are the first ones."""
        return 2 * (2 * sum(self.counts) + 4)

    @cached_property
    def gradient(self) -> sp.csr_array:
        """Map from displacements to the strain at all points, component-major. Shape (n_s · n_points, n_dofs)."""
        mesh = self.discretisation.mesh
        return self.discretisation.gradient(np.arange(self.n_dofs), slice(0, len(mesh.cells)), self.n_dofs)

    @cached_property
    def stiffness(self) -> sp.csr_array:
        """Stiffness at zero strain, divided by the volume. Shape (n_dofs, n_dofs)."""
        return elastic_stiffness(self, self.rve)

    @cached_property
    def uniform(self) -> Array:
        """Displacements of the unit strains [length]. Shape (n_dofs, n_s)."""
        fields = np.zeros((len(self.points), 2, len(PAIRS[2])))
        for s, (i, j) in enumerate(PAIRS[2]):
            for row, column in {(i, j), (j, i)}:
                fields[:, row, s] += self.points[:, column] / (1.0 if i == j else SQRT2)
        return fields.reshape(self.n_dofs, -1)

    @cached_property
    def interior(self) -> "Interior":
        """Elastic equilibrium inside, for given displacements of the boundary."""
        return Interior(self)


class Interior:
    """Elastic equilibrium in the interior of a component.

    Args:
        component: The component.

    Attributes:
        extension: Displacements of the interior by those of the boundary. Shape (n_interior, n_boundary).
        response: The same under the unit strains, with zero displacements of the boundary [length]. Shape
            (n_interior, n_s).
        stiffness: Stiffness condensed to the boundary. Shape (n_boundary, n_boundary).
        force: Forces on the boundary at unit strains. Shape (n_boundary, n_s).
    """

    def __init__(self, component: Component) -> None:
        n_b, whole = component.boundary, component.stiffness
        inner = whole[n_b:]
        force = whole @ component.uniform
        right = np.concatenate([inner[:, :n_b].toarray(), force[n_b:]], axis=1)
        factor = splu(inner[:, n_b:].tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        found = -factor.solve(right)
        self.extension, self.response = found[:, :n_b], found[:, n_b:]
        condensed = whole[:n_b, :n_b].toarray() + whole[:n_b, n_b:] @ self.extension
        self.stiffness = 0.5 * (condensed + condensed.T)
        self.force = force[:n_b] + self.extension.T @ force[n_b:]


@dataclass(frozen=True)
class Arrangement:
    """The components of an RVE, row by row from the lower left.

    Attributes:
        shape: Number of rows and columns.
        kinds: The component at each place. Shape (K,).
        nodes: Node of the RVE's mesh for each node of the component, by place.
    """

    shape: tuple[int, int]
    kinds: Indices
    nodes: tuple[Indices, ...]


def arrangement(rve: RVE, size: Array, known: Sequence[Component]) -> tuple[Arrangement, list[Component]]:
    """Return the components of an RVE, and all components: the known ones and those that are new.

    Args:
        rve: The RVE.
        size: Edge lengths of the components [length]. Shape (2,).
        known: Components to look for first.

    Raises:
        CaseError: The RVE is no periodic arrangement of at least two components in each direction.
    """
    mesh = rve.discretisation.mesh
    low, high = mesh.bounds
    counts = np.rint((high - low) / size).astype(np.int64)
    if rve.boundary != "periodic" or mesh.dim != 2:
        raise CaseError("expected a periodic RVE in the plane, as components need one", key="rve")
    if (counts < 2).any() or (np.abs(counts * size - (high - low)) > _GAP * size).any():
        problem = f"{' × '.join(f'{one:g}' for one in high - low)} given, expected at least two components of"
        raise CaseError(f"{problem} {size[0]:g} × {size[1]:g} in each direction", key="rve")
    place = ((mesh.points[mesh.cells].mean(axis=1) - low) / size).astype(np.int64)
    tile = place[:, 1] * counts[0] + place[:, 0]
    phase = mesh.region_of_cell().astype(np.int64)
    components, kinds, nodes = list(known), [], []
    for number in range(int(counts.prod())):
        centre = low + (np.array([number % counts[0], number // counts[0]]) + 0.5) * size
        cells = np.flatnonzero(tile == number)
        matches = ((kind, _as_in(one, rve, cells, phase[cells], centre)) for kind, one in enumerate(components))
        kind, found = next(((kind, nodes) for kind, nodes in matches if nodes is not None), (len(components), None))
        if found is None:
            one, found = _new(rve, cells, phase[cells], centre, size)
            components.append(one)
        kinds.append(kind)
        nodes.append(found)
    return Arrangement((int(counts[1]), int(counts[0])), np.array(kinds), tuple(nodes)), components


def component(mesh: TaggedMesh, rve: RVE) -> Component:
    """Return the component with a mesh, nodes on the boundary first, and phases of an RVE.

    Args:
        mesh: The mesh, with `periods`.
        rve: An RVE with these phases.
    """
    assert mesh.periods is not None
    size = np.diag(mesh.periods)
    where = [(name, phase) for name, phase in zip(rve.discretisation.phases, rve.phases, strict=True)]
    present = [(name, phase) for name, phase in where if len(mesh.regions.get(name, ()))]
    discretisation = discretise(mesh, tuple(name for name, _ in present))
    counts = [len(_on_face(mesh.points, size, axis, -1)) - 2 for axis in (0, 1)]
    return Component(RVE(discretisation, tuple(phase for _, phase in present), "periodic"), (counts[0], counts[1]))


def _new(rve: RVE, cells: Indices, phase: Indices, centre: Array, size: Array) -> tuple[Component, Indices]:
    """Return the component that consists of some cells of an RVE, and its nodes there."""
    mesh = rve.discretisation.mesh
    nodes, local = np.unique(mesh.cells[cells], return_inverse=True)
    points = mesh.points[nodes] - centre
    corners = [_on_face(points, size, 1, side)[[0, -1]] for side in (-1, 1)]
    faces = [_on_face(points, size, axis, side)[1:-1] for axis in (0, 1) for side in (-1, 1)]
    boundary = np.concatenate([*faces, *corners])
    order = np.concatenate([boundary, np.setdiff1d(np.arange(len(nodes)), boundary)])
    number = np.argsort(order)
    names = list(mesh.regions)
    regions = {names[i]: np.flatnonzero(phase == i) for i in np.unique(phase)}
    own = TaggedMesh(points[order], number[local.reshape(len(cells), -1)], mesh.kind, regions, periods=np.diag(size))
    return component(own, rve), nodes[order]


def _as_in(one: Component, rve: RVE, cells: Indices, phase: Indices, centre: Array) -> Indices | None:
    """Return the nodes of an RVE in the order of a component, if some of its cells are this component."""
    mesh, own = rve.discretisation.mesh, one.discretisation.mesh
    nodes = np.unique(mesh.cells[cells])
    if (len(nodes), len(cells)) != (len(own.points), len(own.cells)):
        return None
    distance, order = (np.asarray(one) for one in cKDTree(mesh.points[nodes] - centre).query(own.points))
    extent = np.ptp(own.points, axis=0).max()
    if distance.max() > _GAP * extent or len(np.unique(order)) < len(order):
        return None
    found = nodes[order]
    names = list(mesh.regions)
    theirs = np.column_stack([np.sort(mesh.cells[cells], axis=1), phase])
    of_region = np.array([names.index(name) if name in names else -1 for name in own.regions])
    ours = np.column_stack([np.sort(found[own.cells], axis=1), of_region[own.region_of_cell()]])
    same = (theirs[np.lexsort(theirs.T)] == ours[np.lexsort(ours.T)]).all()
    return found if same else None


def _on_face(points: Array, size: Array, axis: int, side: int) -> Indices:
    """Return the points on a face in ascending order."""
    on_face = np.flatnonzero(np.abs(points[:, axis] - 0.5 * side * size[axis]) <= _GAP * size[axis])
    return on_face[np.argsort(points[on_face, 1 - axis])]


def numbering(shape: tuple[int, int], counts: tuple[int, int]) -> Indices:
    """Return the numbers of unknowns of the interfaces of a periodic arrangement of components.

    Args:
        shape: Number of rows and columns.
        counts: Number of unknowns of a vertical and of a horizontal face; corners have two.

    Returns:
        Numbers of the unknowns of each component: left, right, lower and upper face, then corners; −1 for those of the
        corner that is fixed, since a translation strains nothing. Shape (K, 2 · sum(counts) + 8).
    """
    rows, columns = np.indices(shape).reshape(2, -1)
    up, right = (rows + 1) % shape[0], (columns + 1) % shape[1]

    def numbers(row: Indices, column: Indices, count: int, first: int) -> Indices:
        return first + (row * shape[1] + column)[:, None] * count + np.arange(count)

    vertical, horizontal = counts
    n, middle = len(rows), len(rows) * vertical
    last = middle + n * horizontal
    corners = [numbers(row, column, 2, last) for row in (rows, up) for column in (columns, right)]
    found = np.concatenate(
        [
            numbers(rows, columns, vertical, 0),
            numbers(rows, right, vertical, 0),
            numbers(rows, columns, horizontal, middle),
            numbers(up, columns, horizontal, middle),
            *corners,
        ],
        axis=1,
    )
    return np.where(found >= last, np.where(found < last + 2, -1, found - 2), found)


def elastic_fields(found: Arrangement, components: Sequence[Component]) -> list[Array]:
    """Return the elastic fluctuations W₀ of the unit strains in each component [length], by static condensation.

    Args:
        found: The arrangement.
        components: The components.

    Returns:
        For each place, shape (n_dofs, n_s).
    """
    vertical, horizontal = components[0].counts
    number = numbering(found.shape, (2 * vertical, 2 * horizontal))
    n, width = int(number.max()) + 1, number.shape[1]
    inside = [components[kind].interior for kind in found.kinds]
    values = np.stack([one.stiffness for one in inside])
    row, column = np.broadcast_arrays(number[:, :, None], number[:, None, :])
    free = (row >= 0) & (column >= 0)
    stiffness = sp.coo_array((values[free], (row[free], column[free])), shape=(n, n)).tocsc()
    force = np.zeros((n + 1, inside[0].force.shape[1]))
    np.add.at(force, number.ravel(), np.stack([one.force for one in inside]).reshape(len(inside) * width, -1))
    factor = splu(stiffness, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    solved = np.concatenate([-factor.solve(force[:-1]), np.zeros_like(force[:1])])  # the last one is fixed
    traces = solved[number]
    return [
        np.concatenate([trace, one.extension @ trace + one.response]) for one, trace in zip(inside, traces, strict=True)
    ]
