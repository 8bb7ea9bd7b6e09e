"""Experts taken literally: disjoint, each in equilibrium in its own subdomain only, with no data on its interfaces."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse.linalg import splu

from femops.notation import Array, Indices
from femops.rve.spec import RVE
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops_moe.partition import Partition

_MODES = 3  # beside the elastic ones
_STEPS = 8


@dataclass(frozen=True)
class _Part:
    """The subdomain of an expert.

    Attributes:
        points: Its quadrature points.
        weight: Their weights relative to the volume of the RVE.
        inside: Dofs of its inner nodes.
        gradient: Map from dofs to the strain at its points.
        modes: Shape (n_dofs, r).
        inverse: Inverse of the elastic stiffness of the inner nodes.
    """

    points: Indices
    weight: Array
    inside: Indices
    gradient: Any
    modes: Array
    inverse: Callable[[Array], Array]


def disjoint_experts(
    rve: RVE,
    space: FluctuationSpace,
    partition: Partition,
    stiffness: Any,
    fields: tuple[Array, Array],
    strain: Array,
) -> tuple[Array, float]:
    """Return the homogenized stress of disjoint experts, and how far their fields are apart.

    The residual at the inner nodes of each subdomain is made small, in the norm of the inverse elastic stiffness, by
    Gauss–Newton steps; coefficients that it does not determine stay small.

    Args:
        rve: The RVE, in plane strain.
        space: Its fluctuations.
        partition: The subdomains.
        stiffness: Elastic stiffness. Shape (n_dofs, n_dofs).
        fields: Elastic fluctuations and nonlinear fields, of which the modes are. Shapes (n_dofs, ·).
        strain: Macroscale strains. Shape (n, 3).

    Returns:
        Stress (n, 3), and the root mean square of the fields' distance from their mean on the interface, relative to
        that of the mean.
    """
    owner = np.repeat(partition.owner, 2)
    stress, values = np.zeros_like(strain), np.zeros((len(strain), partition.n_experts, space.n_dofs))
    touched = np.zeros((partition.n_experts, space.n_dofs))
    for k in range(partition.n_experts):
        nodes = np.unique(space.cells[partition.expert == k])
        touched[k, (nodes[:, None] * 2 + np.arange(2)).ravel()] = 1.0
        part = _part(rve, space, partition, k, stiffness, fields)
        for i, macro in enumerate(strain):
            share, values[i, k] = _equilibrium(rve, part, macro)
            stress[i] += share
    mean = (values * touched).sum(1, keepdims=True) / touched.sum(0)
    away = ((values - mean) * touched)[..., owner < 0]
    size = (mean[..., owner < 0] ** 2).mean()
    return stress, float(np.sqrt((away**2).sum() / touched[:, owner < 0].sum() / len(strain) / size))


def at_points(rve: RVE, strain: Array) -> tuple[Array, Array]:
    """Return stress (3, n_points) and tangent (3, 3, n_points) at strains (3, n_points)."""
    answers = []
    for position, phase in enumerate(rve.phases):
        part = rve.discretisation.points_of_phase(position)
        answers.append(phase.evaluate(strain[:, part], np.zeros((0, part.stop - part.start))))
    stress, tangent = (np.concatenate([getattr(one, name) for one in answers], -1) for name in ("stress", "tangent"))
    return stress, tangent


def _part(
    rve: RVE, space: FluctuationSpace, partition: Partition, k: int, stiffness: Any, fields: tuple[Array, Array]
) -> _Part:
    mesh = rve.discretisation
    inside = np.flatnonzero(np.repeat(partition.owner, 2) == k)
    points = np.flatnonzero(np.repeat(partition.expert, mesh.n_q) == k)
    gradient = space.gradient[np.concatenate([s * mesh.n_points + points for s in range(3)])]
    weight = mesh.weight.ravel()[points] / mesh.volume
    tangent = at_points(rve, np.zeros((3, mesh.n_points)))[1][:, :, points] * weight
    modes = np.zeros((space.n_dofs, 0))
    for some, count in zip(fields, (fields[0].shape[1], _MODES), strict=True):
        modes = np.concatenate([modes, _more_modes(some, modes, gradient, tangent, count)], axis=1)
    return _Part(points, weight, inside, gradient, modes, splu(stiffness[inside][:, inside].tocsc()).solve)


def _more_modes(fields: Array, modes: Array, gradient: Any, tangent: Array, count: int) -> Array:
    """Return modes of fields in a subdomain, orthonormal in its elastic energy, beside given ones."""
    n_points = tangent.shape[2]
    local, before = ((gradient @ one).reshape(3, n_points, -1) for one in (fields, modes))
    stiff = np.einsum("stg,tgi->sgi", tangent, local)
    share = np.tensordot(before, stiff, axes=([0, 1], [0, 1]))
    values, vectors = np.linalg.eigh(np.tensordot(local, stiff, axes=([0, 1], [0, 1])) - share.T @ share)
    best = vectors[:, -count:] / np.sqrt(values[-count:])
    return fields @ best - modes @ (share @ best)


def _equilibrium(rve: RVE, part: _Part, macro: Array) -> tuple[Array, Array]:
    """Return the share of an expert in the stress (3,), and its field (n_dofs,)."""
    maps = (part.gradient @ part.modes).reshape(3, len(part.points), -1)
    every, b = np.zeros((3, rve.discretisation.n_points)), np.zeros(maps.shape[2])
    for _ in range(_STEPS):
        every[:, part.points] = maps @ b + macro[:, None]
        stress, tangent = (one[..., part.points] * part.weight for one in at_points(rve, every))
        residual = (part.gradient.T @ stress.ravel())[part.inside]
        change = np.einsum("stg,tgi->sgi", tangent, maps)
        slope = (part.gradient.T @ change.reshape(3 * len(part.points), -1))[part.inside]
        solved = part.inverse(np.column_stack([slope, residual]))
        normal = np.linalg.pinv(slope.T @ solved[:, :-1], rcond=1e-8, hermitian=True)
        b = b - normal @ (slope.T @ solved[:, -1])
    every[:, part.points] = maps @ b + macro[:, None]
    return at_points(rve, every)[0][:, part.points] @ part.weight, part.modes @ b
