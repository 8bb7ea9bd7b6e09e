"""Equilibrium stresses of minimal energy gap, for strains where a cheaper choice has a large or infinite gap.

σ = Ψ b is in equilibrium for every b, so that every b gives a bound by the energy gap

    F(b) = ⟨ψ(ε) + ψ*(Ψ b) − Ψ b : ε⟩,

which is convex, and infinite if |dev σ| reaches α₁ at a point. At its minimum the strains e(s) of the local stresses s
satisfy

    ⟨(e(s) − ε) : Ψ⟩ = 0,     s = Ψ b.

Newton's method is applied to both equations, so that s differs from Ψ b until convergence. The step of each point
from s towards Ψ b is damped: its linearisation predicts a strain, and the point takes the stress of that strain, which
is below α₁ for any strain. To evaluate a bound, Ψ b is scaled by some θ ≤ 1 for which |dev σ| < α₁ at all points.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from femops.notation import Array
from femops.phases import isotropic
from femops.phases.saturating import Saturating
from femops.surrogate import chunks

_STEPS = 8
_ENOUGH = 1e-2  # relative change of the gap in a step that ends the iteration
_BORNE = (0.999, 0.97)  # fractions of α₁ that |dev σ| is limited to; ψ* is steep near α₁
_RIDGE = 1e-14
_TINY = np.finfo(np.float64).tiny
CACHE_BYTES = 32e6
"""Memory of the fields that are computed at once, about the size of the cache."""


@dataclass(frozen=True)
class Dual:
    """The energy gap as a function of b, at given strains.

    In plane strain σ_33 is that of `Saturating.fenchel_gap`: at every point a fixed multiple of the in-plane trace.

    Attributes:
        modes: Ψ at the points [stress]. Shape (n_s, C, n_b).
        phases: Ranges of points with their phases.
        weight: Weights of the points [-]. Shape (C,).
        strain: ε at the points [-]. Shape (n_s, C, n).
        quadratic: Second derivative of the gap in the linear phases. Shape (n_b, n_b).
        linear: First derivative of that gap at b = 0. Shape (n, n_b).
        constant: That gap at b = 0. Shape (n,).
    """

    modes: Array
    phases: tuple[tuple[slice, Saturating], ...]
    weight: Array
    strain: Array
    quadratic: Array
    linear: Array
    constant: Array

    def some(self, which: Any) -> "Dual":
        """Return the gap at a subset of the strains."""
        strain = np.ascontiguousarray(self.strain[:, :, which])
        return replace(self, strain=strain, linear=self.linear[which], constant=self.constant[which])

    def stress(self, b: Array) -> Array:
        """Return Ψ b at the points. Shape (n_s, C, n)."""
        return np.tensordot(self.modes, b, axes=([2], [1]))

    def value(self, b: Array) -> Array:
        """Return F (n,) at b (n, n_b)."""
        stress = self.stress(b)
        value = self.constant + np.einsum("nk,nk->n", self.linear + 0.5 * b @ self.quadratic, b)
        for part, phase in self.phases:
            value = value + self.weight[part] @ phase.fenchel_gap(self.strain[:, part], stress[:, part])
        return value

    def utilisation(self, stress: Array) -> Array:
        """Return |dev σ|/α₁ of stresses (n_s, C, n). Shape (C, n)."""
        used = np.empty(stress.shape[1:])
        for part, phase, _, deviator in self._of_phases(stress):
            used[part] = isotropic.norm(*deviator) / phase.alpha1
        return used

    def strains(self, stress: Array) -> tuple[Array, Array]:
        """Return the strains e(s) of stresses s (n_s, C, n), and the weighted de/ds : Ψ (n, n_s, C, n_b)."""
        n_s, n_c, n_b = self.modes.shape
        dim = 2 if n_s == 3 else 3
        strain, slope = np.empty_like(stress), np.empty((stress.shape[2], n_s, n_c, n_b))
        for part, phase, ratio, (s, s_33) in self._of_phases(stress):
            size = isotropic.norm(s, s_33)
            along = s.copy()  # derivative of |dev σ|²/2 with respect to the in-plane components
            if s_33 is not None:
                along[:dim] += ratio * s_33
            shear = phase.alpha2 / (phase.alpha1 - size)
            bulk = (1.0 + ratio) ** 2 / (9.0 * phase.K)
            strain[:, part] = shear * along
            strain[:dim, part] += bulk * isotropic.trace(stress[:, part])
            spherical = bulk + shear * (ratio**2 - (1.0 + ratio) ** 2 / 3.0)
            along /= np.maximum(size, _TINY)
            modes = self.modes[:, part]
            change = shear.T[:, None, :, None] * modes
            change[:, :dim] += (spherical.T[:, :, None] * isotropic.trace(modes))[:, None]
            radial = np.einsum("sgn,sgk->ngk", along, modes)
            along *= shear * size / (phase.alpha1 - size)
            change += along.transpose(2, 0, 1)[..., None] * radial[:, None]
            slope[:, :, part] = self.weight[part, None] * change
        return strain, slope

    def newton(self, stress: Array) -> Array:
        """Return b (n, n_b) that solves ⟨(e − ε) : Ψ⟩ = 0 with e linearised about stresses (n_s, C, n)."""
        strain, slope = self.strains(stress)
        flat = self.modes.reshape(-1, self.modes.shape[2])
        matrix = self.quadratic + flat.T @ slope.reshape(len(slope), *flat.shape)
        right = np.tensordot((self.strain - strain) * self.weight[:, None], self.modes, axes=([0, 1], [0, 1]))
        right += np.einsum("sgn,nsgk->nk", stress, slope) - self.linear
        matrix += _RIDGE * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(flat.shape[1])
        return np.asarray(np.linalg.solve(matrix, right[:, :, None])[:, :, 0])

    def towards(self, stress: Array, target: Array) -> Array:
        """Return damped stresses between `stress`, which is below α₁, and `target`, which may exceed it."""
        now, then = self.utilisation(stress), self.utilisation(target)
        more = np.maximum(then - now, 0.0)
        ahead = now / (1.0 - now) + more / (1.0 - now) ** 2  # strain over α₂, linearised as in `newton`
        way = np.where(more > 0.0, (ahead / (1.0 + ahead) - now) / np.maximum(more, _TINY), 1.0)
        return stress + np.clip(way, 0.0, 1.0) * (target - stress)

    @property
    def bytes_of_one(self) -> int:
        """Memory of a step at one strain."""
        return 2 * self.modes.nbytes

    def _of_phases(self, stress: Array) -> Iterator[tuple[slice, Saturating, Any, tuple[Array, Array | None]]]:
        """Yield points, phase, σ_33 relative to the in-plane trace (0 in 3D), and deviator of each phase."""
        for part, phase in self.phases:
            n = isotropic.norm(*isotropic.deviator(self.strain[:, part]))
            secant = phase.alpha1 / (phase.alpha2 + n)
            normal = isotropic.stress_33(stress[:, part], phase.K, secant)
            ratio = np.zeros_like(n) if normal is None else isotropic.normal_ratio(phase.K, secant)
            _, components, out_of_plane = isotropic.split(stress[:, part], normal)
            yield part, phase, ratio, (components, out_of_plane)


def least_gap(dual: Dual) -> tuple[Array, Array]:
    """Return b (n, n_b) that approximately minimises the gap, and the gap (n,), which is finite."""
    n = len(dual.constant)
    b, value = np.zeros((n, dual.modes.shape[2])), np.full(n, np.inf)
    for part in chunks(n, dual.bytes_of_one, CACHE_BYTES):
        here, going = dual.some(part), np.arange(n)[part]
        stress, last = _of_the_strain(here), np.full(len(going), np.inf)
        for _ in range(_STEPS):
            balanced = here.newton(stress)
            tried, found = _borne(here, balanced)
            better = found < value[going]
            b[going[better]], value[going[better]] = tried[better], found[better]
            still = ~(np.abs(found - last) <= _ENOUGH * found)
            if not still.any():
                break
            stress = here.towards(stress, here.stress(balanced))[:, :, still]
            going, last, here = going[still], found[still], here.some(still)
    return b, value


def _of_the_strain(dual: Dual) -> Array:
    """Return the stress of the phases at the given strains. Shape (n_s, C, n)."""
    stress = np.empty_like(dual.strain)
    for part, phase in dual.phases:
        stress[:, part] = phase.evaluate(dual.strain[:, part], dual.strain[:0, part]).stress
    return stress


def _borne(dual: Dual, b: Array) -> tuple[Array, Array]:
    """Return multiples θ b with |dev σ| < α₁ at all points, and their gap."""
    largest = dual.utilisation(dual.stress(b)).max(axis=0, initial=_TINY)
    tried = [np.minimum(1.0, part / largest)[:, None] * b for part in _BORNE]
    gaps = [dual.value(one) for one in tried]
    return np.where((gaps[0] <= gaps[1])[:, None], *tried), np.minimum(*gaps)
