"""Square or cubic components of RVEs: what one consists of, and which ones an RVE is composed of.

The first nodes of a component are those on its boundary, by side (see `sides`). All components have the same ones, so
that their displacements on the boundary mean the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from femops.devices.torch_library import torch
from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.notation import PAIRS, SQRT2, Array, Indices
from femops.rve.discretisation import Discretisation, discretise
from femops.rve.spec import RVE
from femops_moe.basis import elastic_stiffness
from femops_moe.dissection import Condensation, dissection
from femops_moe.sides import nodes_of, numbering, sides, slices, spread

_GAP = 1e-6  # of nodes that are the same, relative to the component


@dataclass(frozen=True)
class Component:
    """A component, centred at the origin.

    Attributes:
        rve: Its mesh, nodes on the boundary first, and the phases that it has.
        size: Edge lengths [length]. Shape (dim,).
        counts: Nodes inside a side of each class, the corners without it.
    """

    rve: RVE
    size: Array
    counts: tuple[int, ...]

    @property
    def discretisation(self) -> Discretisation:
        """Its discretisation."""
        return self.rve.discretisation

    @property
    def points(self) -> Array:
        """Coordinates of the nodes [length]. Shape (n_nodes, dim)."""
        return self.discretisation.mesh.points

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.size)

    @property
    def n_dofs(self) -> int:
        """Number of displacement components."""
        return self.points.size

    @property
    def boundary(self) -> int:
        """Number of displacement components on the boundary, which are the first ones."""
        return self.dim * self.on_sides[-1].stop

    @property
    def on_sides(self) -> list[slice]:
        """The nodes inside each side."""
        return slices(self.dim, [*self.counts, 1])

    def spread(self, side: int) -> Array:
        """Return the boundary displacements (n_boundary, n) that continue those of a side; see `sides.spread`."""
        n = self.on_sides[-1].stop
        return np.asarray(np.kron(spread(self.points[:n], [*self.counts, 1], self.size, side), np.eye(self.dim)))

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
        fields = np.zeros((len(self.points), self.dim, len(PAIRS[self.dim])))
        for s, (i, j) in enumerate(PAIRS[self.dim]):
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
    """The components of an RVE, x running first.

    Attributes:
        shape: Number of rows and columns, in 3D of layers, rows and columns.
        kinds: The component at each place. Shape (K,).
        nodes: Node of the RVE's mesh for each node of the component, by place.
    """

    shape: tuple[int, ...]
    kinds: Indices
    nodes: tuple[Indices, ...]


def arrangement(rve: RVE, size: Array, known: Sequence[Component]) -> tuple[Arrangement, list[Component]]:
    """Return the components of an RVE, and all components: the known ones and those that are new.

    Args:
        rve: The RVE.
        size: Edge lengths of the components [length]. Shape (dim,).
        known: Components to look for first.

    Raises:
        CaseError: The RVE is no periodic arrangement of at least two components in each direction.
    """
    mesh = rve.discretisation.mesh
    low, high = mesh.bounds
    counts = np.rint((high - low) / size).astype(np.int64)
    if rve.boundary != "periodic":
        raise CaseError("expected a periodic RVE, as components need one", key="rve")
    if (counts < 2).any() or (np.abs(counts * size - (high - low)) > _GAP * size).any():
        given, wanted = (" × ".join(f"{length:g}" for length in one) for one in (high - low, size))
        raise CaseError(f"{given} given, expected at least two components of {wanted} in each direction", key="rve")
    shape = tuple(int(one) for one in counts[::-1])
    place = ((mesh.points[mesh.cells].mean(axis=1) - low) / size).astype(np.int64)
    tile = np.ravel_multi_index(tuple(place.T[::-1]), shape)
    phase = mesh.region_of_cell().astype(np.int64)
    components, kinds, nodes = list(known), [], []
    for number in range(int(counts.prod())):
        centre = low + (np.array(np.unravel_index(number, shape))[::-1] + 0.5) * size
        cells = np.flatnonzero(tile == number)
        matches = ((kind, _as_in(one, rve, cells, phase[cells], centre)) for kind, one in enumerate(components))
        kind, found = next(((kind, nodes) for kind, nodes in matches if nodes is not None), (len(components), None))
        if found is None:
            one, found = _new(rve, cells, phase[cells], centre, size)
            components.append(one)
        kinds.append(kind)
        nodes.append(found)
    return Arrangement(shape, np.array(kinds), tuple(nodes)), components


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
    first = {number: side for number, side in reversed(sides(len(size)))}  # of each class
    counts = tuple(len(nodes_of(mesh.points, size, first[number], _GAP)) for number in range(len(first) - 1))
    return Component(RVE(discretisation, tuple(phase for _, phase in present), "periodic"), size, counts)


def _new(rve: RVE, cells: Indices, phase: Indices, centre: Array, size: Array) -> tuple[Component, Indices]:
    """Return the component that consists of some cells of an RVE, and its nodes there."""
    mesh = rve.discretisation.mesh
    nodes, local = np.unique(mesh.cells[cells], return_inverse=True)
    points = mesh.points[nodes] - centre
    boundary = np.concatenate([nodes_of(points, size, side, _GAP) for _, side in sides(mesh.dim)])
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


def elastic_fields(found: Arrangement, components: Sequence[Component]) -> list[Array]:
    """Return the elastic fluctuations W₀ of the unit strains in each component [length], by static condensation.

    Args:
        found: The arrangement.
        components: The components.

    Returns:
        For each place, shape (n_dofs, n_s).
    """
    one, n_s = components[0], len(PAIRS[components[0].dim])
    number = numbering(found.shape, [one.dim * count for count in one.counts])
    inside = [components[kind].interior for kind in found.kinds]
    width = n_s + number.shape[1]
    matrix = torch.zeros(len(inside), 1, width, width).double()
    matrix[:, 0, n_s:, n_s:] = torch.as_tensor(np.stack([one.stiffness for one in inside]))
    matrix[:, 0, n_s:, :n_s] = torch.as_tensor(np.stack([one.force for one in inside]))
    matrix[:, 0, :n_s, n_s:] = matrix[:, 0, n_s:, :n_s].mT
    condensed = Condensation(dissection(number, found.shape, n_s), matrix)
    traces = condensed.solve(matrix[..., :n_s])[0][:, 0, n_s:].numpy()
    return [
        np.concatenate([trace, one.extension @ trace + one.response]) for one, trace in zip(inside, traces, strict=True)
    ]
