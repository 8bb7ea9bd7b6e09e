"""Modes of components from snapshots of small arrangements.

Of the nonlinear part of a snapshot, each component has a sample: its values at the component's nodes. On a face, a
sample is the linear interpolation between its corners plus a part that vanishes there; the modes of the faces are the
proper orthogonal decomposition of these parts over all faces of an orientation, in the mean elastic energy of the
components. They are the same on both sides of a face, so that any arrangement is continuous for any coefficients
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
from femops_moe.tiled import LocalModes


@dataclass(frozen=True)
class Trained:
    """Modes of the components.

    Attributes:
        counts: Number of modes of a vertical and of a horizontal face.
        modes: Modes of each component.
        lost: Part of the samples' nonlinear fields lost by faces and by bubbles, in the energy norm.
    """

    counts: tuple[int, int]
    modes: list[LocalModes]
    lost: tuple[float, float]


def local_modes(components: Sequence[Component], samples: Sequence[Array], tolerance: float, largest: int) -> Trained:
    """Return the modes of components.

    Args:
        components: The components.
        samples: Nonlinear fields of each component [length]. Shape (n_dofs, n_samples) each.
        tolerance: Part of the samples, in the energy norm, that may be lost, half of its square by faces.
        largest: Largest number of modes of one face, and of bubbles of one component.
    """
    pairs = list(zip(components, samples, strict=True))
    total = sum(float((fields * (one.stiffness @ fields)).sum()) for one, fields in pairs)
    allowed = 0.5 * tolerance**2 * total
    faces, lost = [], 0.0
    for axis in (0, 1):
        traces = np.concatenate([_traces(one, fields)[axis] for one, fields in pairs], axis=1)
        of_faces, lost_here = _proper_orthogonal(traces, _mean_stiffness(components, axis), 0.5 * allowed, largest)
        faces.append(of_faces)
        lost += lost_here
    found, of_bubbles = [], 0.0
    for one, fields in pairs:
        modes, lost_here = _modes(one, fields, faces, allowed / len(pairs), largest)
        found.append(modes)
        of_bubbles += lost_here
    relative = tuple(float(np.sqrt(max(value, 0.0) / total)) for value in (lost, of_bubbles))
    return Trained((faces[0].shape[1], faces[1].shape[1]), found, (relative[0], relative[1]))


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


def port_traces(one: Component, faces: Sequence[Array]) -> Array:
    """Return the displacements of the boundary (n_boundary, n_p) of the ports, from modes of faces (n_face, m)."""
    blocks = [faces[0], faces[0], faces[1], faces[1], np.eye(8)]
    rows, columns = (np.cumsum([0, *(block.shape[i] for block in blocks)]) for i in (0, 1))
    found = np.zeros((rows[-1], columns[-1]))
    for block, row, column in zip(blocks, rows, columns, strict=False):
        found[row : row + block.shape[0], column : column + block.shape[1]] = block
    found[: rows[4], columns[4] :] = _linear(one)
    return found


def _linear(one: Component) -> Array:
    """Return the displacements of the faces (n_faces, 8) that interpolate linearly between those of the corners."""
    found, first = np.zeros((one.boundary // 2 - 4, 4)), 0
    corners = one.points[one.boundary // 2 - 4 : one.boundary // 2]
    for axis, ends in ((0, (0, 2)), (0, (1, 3)), (1, (0, 1)), (1, (2, 3))):
        rows = np.arange(first, first + one.counts[axis])
        low, high = corners[list(ends), 1 - axis]
        found[rows, ends[1]] = (one.points[rows, 1 - axis] - low) / (high - low)
        found[rows, ends[0]] = 1.0 - found[rows, ends[1]]
        first += one.counts[axis]
    return np.asarray(np.kron(found, np.eye(2)), dtype=np.float64)


def _traces(one: Component, fields: Array) -> list[Array]:
    """Return the parts of samples that vanish at the corners, on the left and on the lower face (n_face, n)."""
    inside = fields[: one.boundary - 8] - _linear(one) @ fields[one.boundary - 8 : one.boundary]
    vertical, horizontal = (2 * count for count in one.counts)
    return [inside[:vertical], inside[2 * vertical : 2 * vertical + horizontal]]


def _mean_stiffness(components: Sequence[Component], axis: int) -> Array:
    """Return the elastic stiffness of one face, other displacements of the boundary zero, averaged over components."""
    vertical, horizontal = (2 * count for count in components[0].counts)
    starts, size = ((0, vertical), vertical) if axis == 0 else ((2 * vertical, 2 * vertical + horizontal), horizontal)
    blocks = [
        one.interior.stiffness[first : first + size, first : first + size] for one in components for first in starts
    ]
    return np.asarray(np.mean(blocks, axis=0))


def _proper_orthogonal(fields: Array, stiffness: Any, allowed: float, largest: int) -> tuple[Array, float]:
    """Return the modes (n_dofs, n_modes) that lose at most an energy of fields (n_dofs, n), and that energy."""
    gram = fields.T @ (stiffness @ fields)
    values, vectors = np.linalg.eigh(0.5 * (gram + gram.T))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    tail = np.append(np.cumsum(values[::-1])[::-1], 0.0)
    count = min(int((tail > allowed).sum()), largest, int((values > 1e-14 * max(values[0], 1e-300)).sum()))
    return fields @ (vectors[:, :count] / np.sqrt(values[:count])), float(tail[count])
