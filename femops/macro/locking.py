"""Detection of volumetric locking in first-order cells.

First-order cells have too few isochoric deformation modes. They are much too stiff if the bulk modulus is far above
the shear modulus (Hughes, The Finite Element Method, 1987, section 4.2), and overestimate the collapse load in plastic
flow at constant volume (Nagtegaal, Parks and Rice, doi 10.1016/0045-7825(74)90032-2).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from mpi4py import MPI

from femops import notation
from femops.law import MicroscaleLaw
from femops.macro.blocks import blocks
from femops.macro.material import Material
from femops.macro.region import Region
from femops.meshing import EVERYWHERE
from femops.notation import Array
from femops.rve.spec import RVE

LARGEST_RATIO = 20.0
"""Largest admissible K/G for first-order cells; corresponds to ν = 0.475."""
_ROUND_OFF = 1e-9
_SHARE = 0.05  # of the points; smaller shares are not reported
# State fields of laws with plastic flow. Averages over an RVE are not matched: their names start with that of a phase.
_FLOWS = ("plastic_strain", "equivalent_plastic_strain")
_HIGHER = {"triangle": "triangle6", "quad": "quad8", "tetra": "tetra10", "hexahedron": "hexahedron20"}


@dataclass(frozen=True)
class Moduli:
    """Bulk and shear moduli of tangents.

    Attributes:
        bulk: K of the isotropic part [stress]. Shape (n,).
        shear: G of the isotropic part [stress]. Shape (n,).
        tangent: The tangents, Mandel [stress]. Shape (n, n_s, n_s).
    """

    bulk: Array
    shear: Array
    tangent: Array

    @cached_property
    def deviatoric(self) -> Array:
        """Symmetric part of P C P in an orthonormal basis of the deviators [stress]. Shape (n, n_s - 1, n_s - 1)."""
        n, n_s, _ = self.tangent.shape
        shapes = _deviators(n_s)
        of_shapes = (self.tangent.reshape(n, n_s * n_s) @ np.kron(shapes, shapes)).reshape(n, n_s - 1, n_s - 1)
        return np.asarray(0.5 * (of_shapes + of_shapes.transpose(0, 2, 1)))

    @property
    def softest(self) -> Array:
        """Half the smallest deviatoric stiffness; G for an isotropic tangent [stress]. Shape (n,)."""
        return np.asarray(0.5 * np.linalg.eigvalsh(self.deviatoric)[:, 0], dtype=np.float64)

    def lock(self) -> Any:
        """Return a mask of the points where K exceeds `LARGEST_RATIO` times the softest modulus. Shape (n,).

        Few points need eigenvalues: with the mean m and the deviation s of the eigenvalues, none of n is below
        m − √(n − 1) s.
        """
        n = self.deviatoric.shape[1]
        mean = np.trace(self.deviatoric, axis1=1, axis2=2) / n
        variance = np.einsum("nij,nij->n", self.deviatoric, self.deviatoric) / n - mean**2
        least = 0.5 * (mean - np.sqrt((n - 1) * np.maximum(variance, 0.0)))
        found = ~(LARGEST_RATIO * least * (1.0 - _ROUND_OFF) > self.bulk)
        few = Moduli(self.bulk[found], self.shear[found], self.tangent[found])
        found[found] = ratio(few.bulk, few.softest) > LARGEST_RATIO
        return found


def moduli(tangent: Array) -> Moduli:
    """Return the bulk and shear moduli of the isotropic part of tangents.

    With the second-order identity m and the deviatoric projection P (both in-plane for plane strain), dim² κ = m C m
    and 2 (n_s − 1) G = tr(P C P). In 3D κ = K; in plane strain C m = 2 (K + G/3) m, so κ = K + G/3.

    Args:
        tangent: Mandel [stress]. Shape (n, n_s, n_s).
    """
    n, n_s, _ = tangent.shape
    dim, shapes = notation.dimension(n_s), _deviators(n_s)
    flat, volume = tangent.reshape(n, n_s * n_s), notation.identity(dim)
    shear = flat @ (shapes @ shapes.T).ravel() / (2.0 * (n_s - 1))
    kappa = flat @ np.outer(volume, volume).ravel() / dim**2
    return Moduli(kappa - shear / 3.0 if dim == 2 else kappa, shear, tangent)


def _deviators(n_s: int) -> Array:
    """Return an orthonormal basis of the deviators as columns. Shape (n_s, n_s - 1)."""
    volume = notation.identity(notation.dimension(n_s))
    return np.linalg.svd(volume[:, None])[0][:, 1:]


def ratio(bulk: Array, shear: Array) -> Array:
    """Return K/G; infinite where K > 0 and G ≤ 0, 0 where neither is positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(shear > 0.0, bulk / shear, np.where(bulk > 0.0, np.inf, 0.0))


@dataclass
class _Found:
    """Findings in a region: K/G of the virgin material, and the largest shares of points over all steps."""

    virgin: float = 0.0
    above: float = 0.0
    flowing: float = 0.0


@dataclass
class Locking:
    """Monitors the laws of a body with first-order cells for locking.

    Args:
        material: The laws, evaluated once at zero strain.
        order: Order of the displacement.
    """

    material: Material
    order: int
    _found: dict[str, _Found] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for region in self._watched():
            found = (ratio(one.bulk, one.shear).max(initial=0.0) for one in self._moduli(region))
            largest = float(max(found))
            self._found[region.name] = _Found(self._comm.allreduce(largest, op=MPI.MAX))

    def look(self) -> None:
        """Update the findings with the tangents and states at the end of a step; collective."""
        for region in self._watched():
            found = self._found[region.name]
            above = sum(int(one.lock().sum()) for one in self._moduli(region))
            counts = np.array([len(region.points), above, _flowing(region).sum()], dtype=np.int64)
            n, n_above, n_flowing = self._comm.allreduce(counts, op=MPI.SUM)
            found.above = max(found.above, n_above / max(n, 1))
            found.flowing = max(found.flowing, n_flowing / max(n, 1))

    def notes(self) -> tuple[str, ...]:
        """Return warnings about locking, one line each."""
        lines = []
        for name, found in self._found.items():
            if found.virgin > LARGEST_RATIO:
                what = f"K/G = {found.virgin:.4g} is above {LARGEST_RATIO:g}"
            elif found.flowing > _SHARE:
                what = f"{found.flowing:.0%} of the points flow plastically"
            elif found.above > _SHARE:
                what = f"K/G of the tangent is above {LARGEST_RATIO:g} at {found.above:.0%} of the points"
            else:
                continue
            body = "the body" if name == EVERYWHERE else name
            lines.append(f"{body}: {what}, where cells of order: 1 can be much too stiff (locking); take order: 2")
        rves = [(one.name, one.law.rve) for one in self.material.regions if isinstance(one.law, MicroscaleLaw)]
        return (*lines, *(line for name, rve in rves for line in _of_rve(name, rve)))

    @property
    def _comm(self) -> MPI.Comm:
        return self.material.mesh.mesh.comm

    def _moduli(self, region: Region) -> Iterator[Moduli]:
        """Yield the moduli of the tangents of a region, block by block."""
        for part in blocks(len(region.points)):
            yield moduli(self.material.tangent[region.points[part]])

    def _watched(self) -> list[Region]:
        return self.material.regions if self.order == 1 else []


def _flowing(region: Region) -> Any:
    """Return a mask of the points with plastic strain. Shape (n_points,)."""
    parts = [part for name, part in region.law.state_fields.items() if name in _FLOWS]
    flowing = np.zeros(len(region.points), dtype=bool)
    for part in parts:
        flowing |= (region.state[:, part] != 0.0).any(axis=1)
    return flowing


def _of_rve(region: str, rve: RVE) -> Iterator[str]:
    """Yield a warning for each phase that may lock in an RVE of linear cells."""
    mesh = rve.discretisation.mesh
    uniform = len(rve.phases) == 1 and rve.discretisation.volume_fraction(0) > 1.0 - _ROUND_OFF
    if mesh.kind.degree > 1 or uniform:
        return
    for name, phase in zip(rve.discretisation.phases, rve.phases, strict=True):
        fields = phase.state_fields(mesh.dim)
        n_state = max((part.stop for part in fields.values()), default=0)
        virgin = phase.evaluate(np.zeros((notation.n_strain(mesh.dim), 1)), np.zeros((n_state, 1)))
        found = moduli(virgin.tangent.transpose(2, 0, 1))
        largest = float(ratio(found.bulk, found.shear)[0])
        if largest > LARGEST_RATIO:
            what = f"K/G = {largest:.4g} of {name} is above {LARGEST_RATIO:g}"
        elif not set(_FLOWS).isdisjoint(fields):
            what = f"{name} flows plastically"
        else:
            continue
        instead = f"{_HIGHER[mesh.kind.name]} cells"
        yield f"RVE of {region}: {what}, where {mesh.kind.name} cells can be much too stiff (locking); take {instead}"
