"""RVEs composed of square components, whose meshes match on their faces."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np
from pydantic import Field, model_validator
from scipy.spatial import cKDTree

from femops.errors import CaseError
from femops.meshing.tagged import TaggedMesh
from femops.notation import Array, Indices
from femops.rve.geometry.cell import Model, edges
from femops.rve.geometry.generators import (
    Circles,
    Ellipses,
    Generator,
    Homogeneous,
    Laminate,
    Polygons,
    RandomCircles,
    Spheres,
    generate,
)
from femops.rve.geometry.voxels import Voxels
from femops.validation import NestedError

_GAP = 1e-6  # of nodes that are the same, relative to the component


class Component(Model):
    """A component: exactly one generator of cells."""

    circles: Circles | None = None
    ellipses: Ellipses | None = None
    polygons: Polygons | None = None
    random_circles: RandomCircles | None = None
    spheres: Spheres | None = None
    laminate: Laminate | None = None
    homogeneous: Homogeneous | None = None
    voxels: Voxels | None = None

    @model_validator(mode="after")
    def _one_generator(self) -> Self:
        if len(given := self.model_fields_set) != 1:
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"expected exactly one of {names}; given: {', '.join(sorted(given)) or 'none'}")
        return self

    @property
    def generator(self) -> Generator:
        """The generator."""
        return next(one for name in type(self).model_fields if (one := getattr(self, name)) is not None)


class Tiles(Model):
    """Components side by side; all have the same size, and the same nodes on their faces."""

    components: dict[str, Component] = Field(min_length=1, description="the components by name")
    rows: list[list[str]] | None = Field(None, min_length=1, description="names of the components, the upper row first")
    layers: list[list[list[str]]] | None = Field(
        None, min_length=1, description="in 3D instead of rows: the rows of each layer, the lowest first"
    )

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        if (self.rows is None) == (self.layers is None):
            raise ValueError("expected either rows or, in 3D, layers of rows")
        key = "rows" if self.layers is None else "layers"
        if not all(self._layers) or len({len(layer) for layer in self._layers}) > 1:
            counts = ", ".join(str(len(layer)) for layer in self._layers)
            raise NestedError(CaseError(f"layers of {counts} rows given, expected equal layers", key=key))
        rows = [row for layer in self._layers for row in layer]
        if not rows[0] or len({len(row) for row in rows}) > 1:
            lengths = ", ".join(str(len(row)) for row in rows)
            raise NestedError(CaseError(f"rows of {lengths} components given, expected equal rows", key=key))
        for name in (one for row in rows for one in row):
            if name not in self.components:
                problem = f"{name!r} given, expected one of {', '.join(self.components)}"
                raise NestedError(CaseError(problem, key=key))
        return self

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return 2 if self.layers is None else 3

    @property
    def places(self) -> list[list[list[str]]]:
        """Names of the components by layer, row and column, all ascending."""
        return [layer[::-1] for layer in self._layers]

    @property
    def size(self) -> list[float]:
        """Edge lengths of the RVE [length]."""
        layers = self._layers
        counts = np.array([len(layers[0][0]), len(layers[0]), len(layers)])[: self.dim]
        lengths: list[float] = (counts * edges(self.components[layers[0][0][0]].generator.size, self.dim)).tolist()
        return lengths

    @property
    def _layers(self) -> list[list[list[str]]]:
        return self.layers or ([self.rows] if self.rows else [])


def tile_mesh(spec: Tiles) -> TaggedMesh:
    """Return the mesh centred at the origin, with a region for each phase.

    Raises:
        CaseError: A component is invalid, has another dimension, or does not match the others.
    """
    names = np.array(spec.places)
    used = list(dict.fromkeys(names.ravel().tolist()))
    meshes, size = [], None
    for name in used:
        key = f"components.{name}"
        try:
            generator = spec.components[name].generator
            mesh = generate(generator)
            if mesh.dim != spec.dim:
                given, expected = ("three", "the plane") if spec.dim == 2 else ("two", "3D, as layers are given")
                raise CaseError(f"is {given}-dimensional, expected a component in {expected}")
            own = edges(generator.size, spec.dim)
        except CaseError as error:
            raise error.within(key=key) from error
        size = own if size is None else size
        if (own != size).any():
            raise CaseError(f"has edges of {own.tolist()}, expected {size.tolist()} as the others", key=key)
        meshes.append(replace(mesh, periods=np.diag(own)))
    kinds = np.array([used.index(one) for one in names.ravel()]).reshape(names.shape)
    try:
        return joined(meshes, kinds[0] if spec.dim == 2 else kinds)
    except CaseError as error:
        raise error.within(key="components") from error


def joined(meshes: Sequence[TaggedMesh], arrangement: Indices) -> TaggedMesh:
    """Return the mesh of components side by side, centred at the origin.

    Args:
        meshes: The meshes of the components, each centred at the origin, with `periods`.
        arrangement: The component at each place, lower ones first. Shape (n_rows, n_columns), in 3D (n_layers, n_rows,
            n_columns).

    Raises:
        CaseError: The components have cells of different kinds, or different nodes on their faces.
    """
    assert meshes[0].periods is not None
    size = np.diag(meshes[0].periods)
    _check_faces(meshes, size)
    place = np.indices(arrangement.shape).reshape(arrangement.ndim, -1)[::-1]
    corner = place.T - 0.5 * (np.array(arrangement.shape[::-1]) - 1)
    chosen = [meshes[int(kind)] for kind in arrangement.ravel()]
    first = np.cumsum([0, *(len(one.points) for one in chosen)])
    points = np.concatenate([one.points + offset * size for one, offset in zip(chosen, corner, strict=True)])
    cells = [one.cells + start for one, start in zip(chosen, first[:-1], strict=True)]
    on_face = np.concatenate([_on_face(one, size) for one in chosen])
    new, kept = _merged(points, np.flatnonzero(on_face), np.repeat(np.arange(len(chosen)), np.diff(first)), size)
    starts = np.cumsum([0, *(len(one) for one in cells)])
    names = dict.fromkeys(name for one in chosen for name in one.regions)
    regions = {
        name: np.concatenate([m.regions.get(name, np.zeros(0, int)) + s for m, s in zip(chosen, starts, strict=False)])
        for name in names
    }
    return TaggedMesh(points[kept], new[np.concatenate(cells)], meshes[0].kind, regions)


def _on_face(mesh: TaggedMesh, size: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.asarray((np.abs(np.abs(mesh.points) - 0.5 * size) <= _GAP * size).any(axis=1))


def _merged(points: Array, on_face: Indices, tile: Indices, size: Array) -> tuple[Indices, Indices]:
    """Return the new number of each node, coincident ones of different tiles merged, and the nodes that are kept."""
    pairs = cKDTree(points[on_face]).query_pairs(_GAP * size.max(), output_type="ndarray")
    pairs = on_face[pairs]
    pairs = pairs[tile[pairs[:, 0]] != tile[pairs[:, 1]]]
    first = np.arange(len(points))
    np.minimum.at(first, pairs.max(axis=1), pairs.min(axis=1))
    kept = np.flatnonzero(first == np.arange(len(points)))
    return np.searchsorted(kept, first), kept


def _check_faces(meshes: Sequence[TaggedMesh], size: Array) -> None:
    """Check that all faces across an axis have the same nodes."""
    for number, mesh in enumerate(meshes):
        if mesh.kind is not meshes[0].kind:
            raise CaseError(f"have cells of kinds {meshes[0].kind.name} and {mesh.kind.name}, expected one kind")
        for axis in range(len(size)):
            expected = _face(meshes[0], size, axis, -1)
            for side in (-1, 1):
                found = _face(mesh, size, axis, side)
                if not _same(found, expected, _GAP * size.max()):
                    problem = f"number {number + 1} has {len(found)} nodes on a face where the first has"
                    where = f"{len(expected)}, or others" if len(found) != len(expected) else "others"
                    raise CaseError(f"{problem} {where}; expected the same nodes on the faces of all")


def _face(mesh: TaggedMesh, size: Array, axis: int, side: int) -> Array:
    """Return the positions of the nodes along a face. Shape (n, dim − 1)."""
    on_face = np.abs(mesh.points[:, axis] - 0.5 * side * size[axis]) <= _GAP * size[axis]
    return np.asarray(np.delete(mesh.points[on_face], axis, axis=1))


def _same(found: Array, expected: Array, gap: float) -> bool:
    """Return whether two sets of positions are the same."""
    return len(found) == len(expected) and bool((np.asarray(cKDTree(expected).query(found)[0]) <= gap).all())
