"""Modes of components from snapshots of small arrangements.

Of the nonlinear part of a snapshot, each component has a sample: its values at the component's nodes. On a face, a
sample is the linear interpolation between its corners, in 3D what continues its edges linearly (see `sides.spread`),
plus a part that vanishes there; the modes of the faces are the proper orthogonal decomposition of these parts over all
faces of an orientation, in the mean elastic energy of the components, and those of edges likewise. They are the same in
all components that share a face or an edge, so that any arrangement is continuous for any coefficients
(component mode synthesis; static condensation reduced basis element method, J. L. Eftang and A. T. Patera, Int. J.
Numer. Meth. Engng 96, 2013).

A port continues into the interior in elastic equilibrium; bubbles are the modes of what is left in each kind of
component.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from femops.notation import Array
from femops_moe.components import Component
from femops_moe.sides import sides
from femops_moe.tiled import LocalModes


@dataclass(frozen=True)
class Trained:
    """Modes of the components.

    Attributes:
        counts: Number of modes of a side of each class without the corners; see `sides`.
        modes: Modes of each component.
        lost: Part of the samples' nonlinear fields lost by faces and edges, and by bubbles, in the energy norm.
    """

    counts: tuple[int, ...]
    modes: list[LocalModes]
    lost: tuple[float, float]


def local_modes(components: Sequence[Component], samples: Sequence[Array], tolerance: float, largest: int) -> Trained:
    """Return the modes of components.

    Args:
        components: The components.
        samples: Nonlinear fields of each component [length]. Shape (n_dofs, n_samples) each.
        tolerance: Part of the samples, in the energy norm, that may be lost, half of its square by faces and edges.
        largest: Largest number of modes of one face or edge, and of bubbles of one component.
    """
    pairs = list(zip(components, samples, strict=True))
    total = sum(float((fields * (one.stiffness @ fields)).sum()) for one, fields in pairs)
    allowed = 0.5 * tolerance**2 * total
    faces, lost = [], 0.0
    traces = [_traces(one, fields) for one, fields in pairs]
    n = len(components[0].counts)
    for number in range(n):
        given = np.concatenate([of_one[number] for of_one in traces], axis=1)
        of_class, lost_here = _proper_orthogonal(given, _mean_stiffness(components, number), allowed / n, largest)
        faces.append(of_class)
        lost += lost_here
    found, of_bubbles = [], 0.0
    for one, fields in pairs:
        modes, lost_here = _modes(one, fields, faces, allowed / len(pairs), largest)
        found.append(modes)
        of_bubbles += lost_here
    relative = tuple(float(np.sqrt(max(value, 0.0) / total)) for value in (lost, of_bubbles))
    return Trained(tuple(one.shape[1] for one in faces), found, (relative[0], relative[1]))


def _modes(
    one: Component, fields: Array, faces: Sequence[Array], allowed: float, largest: int
) -> tuple[LocalModes, float]:
    """Return the modes of a component, and the energy that its bubbles lose."""
    n_b, boundary = one.boundary, port_traces(one, faces)
    extension = one.interior.extension
    rest = fields[n_b:] - extension @ fields[:n_b]
    bubbles, lost = _proper_orthogonal(rest, one.stiffness[n_b:, n_b:], allowed, largest)
    ports = np.concatenate([boundary, extension @ boundary])
    return LocalModes(ports, np.concatenate([np.zeros((n_b, bubbles.shape[1])), bubbles])), lost


def port_traces(one: Component, modes: Sequence[Array]) -> Array:
    """Return the displacements of the boundary (n_boundary, n_p) of the ports, from modes of each class of sides."""
    of_class = [*modes, np.eye(one.dim)]
    return np.concatenate(
        [one.spread(side) @ of_class[number] for side, (number, _) in enumerate(sides(one.dim))], axis=1
    )


def _traces(one: Component, fields: Array) -> list[Array]:
    """Return the parts of samples that vanish where a side ends, on the own side of each class without the corners."""
    rest, found = fields[: one.boundary].copy(), {}
    for side, (number, _) in reversed(list(enumerate(sides(one.dim)))):  # corners first
        found[number] = rest[_dofs(one, side)].copy()  # last that of the own side
        rest -= one.spread(side) @ found[number]
    return [found[number] for number in range(len(one.counts))]


def _mean_stiffness(components: Sequence[Component], number: int) -> Array:
    """Return the elastic stiffness of the sides of a class, those of its kind zero elsewhere, as a mean."""
    own = [side for side, (of_side, _) in enumerate(sides(components[0].dim)) if of_side == number]
    blocks = []
    for one in components:
        for side in own:
            continued = one.spread(side)
            blocks.append(continued.T @ one.interior.stiffness @ continued)
    return np.asarray(np.mean(blocks, axis=0))


def _dofs(one: Component, side: int) -> slice:
    nodes = one.on_sides[side]
    return slice(one.dim * nodes.start, one.dim * nodes.stop)


def _proper_orthogonal(fields: Array, stiffness: Any, allowed: float, largest: int) -> tuple[Array, float]:
    """Return the modes (n_dofs, n_modes) that lose at most an energy of fields (n_dofs, n), and that energy."""
    gram = fields.T @ (stiffness @ fields)
    values, vectors = np.linalg.eigh(0.5 * (gram + gram.T))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    tail = np.append(np.cumsum(values[::-1])[::-1], 0.0)
    count = min(int((tail > allowed).sum()), largest, int((values > 1e-14 * max(values[0], 1e-300)).sum()))
    return fields @ (vectors[:, :count] / np.sqrt(values[:count])), float(tail[count])
