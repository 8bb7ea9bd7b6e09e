"""A library of trained components: their meshes, modes and cubature, and the arrays that store it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.notation import Array, Indices
from femops.rve.discretisation import discretise
from femops.rve.geometry.tiles import joined
from femops.rve.spec import RVE
from femops.surrogate import CheckedArrays
from femops.surrogate.exact import ExactRVE
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.spec import Arrays
from femops_moe.components import Arrangement, Component, arrangement, component, elastic_fields
from femops_moe.sides import classes, slices
from femops_moe.tiled import LocalModes, TiledExperts, tiled, with_points


@dataclass(frozen=True)
class Library:
    """Trained components.

    Attributes:
        components: The components.
        size: Their edge lengths [length]. Shape (dim,).
        counts: Number of modes of a side of each class without the corners.
        modes: Modes of each component.
        factors: Factors of the quadrature weights of each component, mostly zero. Shape (n_points,) each.
    """

    components: list[Component]
    size: Array
    counts: tuple[int, ...]
    modes: list[LocalModes]
    factors: list[Array]

    def experts(self, rve: RVE) -> tuple[TiledExperts, tuple[Indices, ...]]:
        """Return the experts of an RVE, and the nodes of its mesh in each component.

        Raises:
            CaseError: It is no arrangement of these components.
        """
        found, components = arrangement(rve, self.size, self.components)
        if len(components) > len(self.components):
            strange = int((found.kinds >= len(self.components)).sum())
            problem = f"{strange} of {len(found.kinds)} components are none of the {len(self.components)} trained ones"
            raise CaseError(f"{problem}; expected an arrangement of these", key="rve")
        elastic = elastic_fluctuation(rve, found, self.components)
        whole = tiled(found, self.components, self.modes, self.counts, elastic)
        return with_points(whole, found.kinds, self.factors), found.nodes

    def arrays(self, rve: RVE) -> dict[str, np.ndarray]:
        """Return the arrays of a model; phases are numbered as in an RVE."""
        names = list(rve.discretisation.phases)
        found: dict[str, np.ndarray] = {"size": self.size, "face_modes": np.array(self.counts)}
        for number, (one, modes, factor) in enumerate(zip(self.components, self.modes, self.factors, strict=True)):
            mesh = one.discretisation.mesh
            phase = np.array([names.index(name) for name in mesh.regions])[mesh.region_of_cell()]
            own = {"points": mesh.points, "cells": mesh.cells, "phase": phase, "ports": modes.ports}
            own |= {"bubbles": modes.bubbles, "factor": factor}
            found |= {f"component/{number}/{name}": array for name, array in own.items()}
        return found


def stored_library(arrays: Arrays, n_components: int, rve: RVE) -> Library:
    """Return the library of a model.

    Args:
        arrays: The arrays of the model.
        n_components: Number of components.
        rve: An RVE with the phases of the training and cells of the same kind.

    Raises:
        StoredArrayError: The arrays describe no components.
    """
    dim = rve.discretisation.dim
    checked = CheckedArrays(arrays, dim=dim, n_classes=len(classes(dim)) - 1)
    size, counts = checked.take("size", "dim"), checked.take("face_modes", "n_classes", dtype=np.integer)
    checked.check("size", (size > 0.0).all(), "positive lengths")
    checked.check("face_modes", (counts >= 0).all(), "numbers of modes")
    found = [_component(arrays, f"component/{number}/", size, rve) for number in range(n_components)]
    n_ports = slices(dim, [*counts, dim])[-1].stop
    for number, (_, modes, _) in enumerate(found):
        fits = modes.ports.shape[1] == n_ports
        checked.check(f"component/{number}/ports", fits, f"{n_ports} ports as face_modes say")
    return Library(
        [one for one, _, _ in found],
        size,
        tuple(int(one) for one in counts),
        [modes for _, modes, _ in found],
        [factor for _, _, factor in found],
    )


def _component(arrays: Arrays, prefix: str, size: Array, rve: RVE) -> tuple[Component, LocalModes, Array]:
    mesh = rve.discretisation.mesh
    checked = CheckedArrays(arrays, dim=len(size), n_local=mesh.kind.n_nodes)
    points = checked.take(prefix + "points", "n_nodes", "dim")
    cells = checked.indices(prefix + "cells", "n_cells", "n_local", below=len(points))
    phase = checked.indices(prefix + "phase", "n_cells", below=len(rve.phases))
    regions = {name: np.flatnonzero(phase == i) for i, name in enumerate(rve.discretisation.phases)}
    present = {name: members for name, members in regions.items() if len(members)}
    one = component(TaggedMesh(points, cells, mesh.kind, present, periods=np.diag(size)), rve)
    checked = CheckedArrays(arrays, n_dofs=one.n_dofs, n_points=one.discretisation.n_points)
    modes = LocalModes(checked.take(prefix + "ports", "n_dofs", "n_p"), checked.take(prefix + "bubbles", "n_dofs", "b"))
    checked.check(prefix + "bubbles", (modes.bubbles[: one.boundary] == 0.0).all(), "zeros on the boundary")
    factor = checked.take(prefix + "factor", "n_points")
    checked.check(prefix + "factor", (factor >= 0.0).all(), "no negative factors")
    return one, modes, factor


def elastic_fluctuation(rve: RVE, found: Arrangement, components: Sequence[Component]) -> list[Array]:
    """Return the elastic fluctuations of each component: by static condensation, in 3D by the solver of the RVE.

    In 3D the boundaries of the components are most of the RVE, and condensation took thirty times as long.
    """
    if rve.discretisation.dim == 2:
        return elastic_fields(found, components)
    space = FluctuationSpace(rve)
    every = space.from_free(ExactRVE(rve).solver.elastic_sensitivity)
    nodal = every.reshape(space.n_nodes, rve.discretisation.dim, -1)
    return [nodal[space.node_of[nodes]].reshape(-1, nodal.shape[2]) for nodes in found.nodes]


def joined_rve(meshes: Sequence[TaggedMesh], places: Indices, rve: RVE) -> RVE:
    """Return the RVE of components at places (see `tiles.joined`), with the phases of an RVE."""
    mesh, periods = joined(meshes, places), meshes[0].periods
    assert periods is not None
    pairs = zip(rve.discretisation.phases, rve.phases, strict=True)
    present = [(name, phase) for name, phase in pairs if name in mesh.regions]
    size = np.diag(periods) * np.array(places.shape[::-1])
    mesh = TaggedMesh(mesh.points, mesh.cells, mesh.kind, mesh.regions, periods=np.diag(size))
    discretisation = discretise(mesh, tuple(name for name, _ in present))
    return RVE(discretisation, tuple(phase for _, phase in present), "periodic")
