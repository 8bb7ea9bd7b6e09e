"""The stress in equilibrium that comes closest to a strain, where a cheaper one is poor, or more than the phases bear.

σ = Ψ b is in equilibrium for every b, so that every b makes a bound of

    F(b) = ⟨ψ(ε) + ψ*(Ψ b) − Ψ b : ε⟩,

which is convex, and infinite where |dev σ| reaches α₁ at a point. Its minimum is where the strains e of stresses s at
the points are in balance with ε, and the stresses are in equilibrium,

    ⟨(e(s) − ε) : Ψ⟩ = 0,     s = Ψ b.

Newton's method for both at once keeps s apart from Ψ b until the end. Along s → Ψ b a point goes as far as the strain
that the step predicts has its stress: that strain may be any, the stress stays below α₁. Each Ψ b becomes a bound by
taking θ Ψ b with 0 ≤ θ ≤ 1 that all points bear; there always is one, since they bear no stress at all.
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
_ENOUGH = 1e-2  # change of the gap in a step that ends the iteration
_BORNE = (0.999, 0.97)  # parts of α₁ that are tried: ψ* is steep at its end
_RIDGE = 1e-14
_TINY = np.finfo(np.float64).tiny
_BYTES_AT_ONCE = 32e6  # about what caches hold


@dataclass(frozen=True)
class Dual:
    """The gap as a function of b, at given strains.

    In plane strain σ_33 is the one of `Saturating.fenchel_gap`, a fixed part of tr σ at every point.

    Attributes:
        modes: Ψ at the points [stress]. Shape (n_s, C, n_b).
        phases: The phase of each range of points.
        weight: Of the points [-]. Shape (C,).
        strain: ε at the points [-]. Shape (n_s, C, n).
        quadratic: Second derivative of the gap of the linear phases. Shape (n_b, n_b).
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
        """Return the gap at some of the strains."""
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
        """Return the strains e (n_s, C, n) of stresses (n_s, C, n), and de/db of Ψ b, weighted, (n, n_s, C, n_b)."""
        n_s, n_c, n_b = self.modes.shape
        dim = 2 if n_s == 3 else 3
        strain, slope = np.empty_like(stress), np.empty((stress.shape[2], n_s, n_c, n_b))
        for part, phase, ratio, (s, s_33) in self._of_phases(stress):
            size = isotropic.norm(s, s_33)
            along = s.copy()  # derivative of |dev σ|²/2 with respect to the components of the plane
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
        """Return b (n, n_b) with which strains linearised about stresses (n_s, C, n) are in balance."""
        strain, slope = self.strains(stress)
        flat = self.modes.reshape(-1, self.modes.shape[2])
        matrix = self.quadratic + flat.T @ slope.reshape(len(slope), *flat.shape)
        right = np.tensordot((self.strain - strain) * self.weight[:, None], self.modes, axes=([0, 1], [0, 1]))
        right += np.einsum("sgn,nsgk->nk", stress, slope) - self.linear
        matrix += _RIDGE * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(flat.shape[1])
        return np.asarray(np.linalg.solve(matrix, right[:, :, None])[:, :, 0])

    def towards(self, stress: Array, target: Array) -> Array:
        """Return stresses between given ones, which the phases bear, and others, which they need not bear."""
        now, then = self.utilisation(stress), self.utilisation(target)
        more = np.maximum(then - now, 0.0)
        ahead = now / (1.0 - now) + more / (1.0 - now) ** 2  # strain over α₂, linearised as the step does
        way = np.where(more > 0.0, (ahead / (1.0 + ahead) - now) / np.maximum(more, _TINY), 1.0)
        return stress + np.clip(way, 0.0, 1.0) * (target - stress)

    @property
    def bytes_of_one(self) -> int:
        """Memory that a step at one strain needs."""
        return 2 * self.modes.nbytes

    def _of_phases(self, stress: Array) -> Iterator[tuple[slice, Saturating, Any, tuple[Array, Array | None]]]:
        """Yield points, phase, the part of tr σ that σ_33 is (0 in 3D), and the deviator."""
        for part, phase in self.phases:
            n = isotropic.norm(*isotropic.deviator(self.strain[:, part]))
            secant = phase.alpha1 / (phase.alpha2 + n)
            normal = isotropic.stress_33(stress[:, part], phase.K, secant)
            ratio = np.zeros_like(n) if normal is None else isotropic.normal_ratio(phase.K, secant)
            _, components, out_of_plane = isotropic.split(stress[:, part], normal)
            yield part, phase, ratio, (components, out_of_plane)


def least_gap(dual: Dual) -> tuple[Array, Array]:
    """Return b (n, n_b) of about the least gap, and that gap (n,), which is finite."""
    n = len(dual.constant)
    b, value = np.zeros((n, dual.modes.shape[2])), np.full(n, np.inf)
    for part in chunks(n, dual.bytes_of_one, _BYTES_AT_ONCE):
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
    """Return the stress of the phases. Shape (n_s, C, n)."""
    stress = np.empty_like(dual.strain)
    for part, phase in dual.phases:
        stress[:, part] = phase.evaluate(dual.strain[:, part], dual.strain[:0, part]).stress
    return stress


def _borne(dual: Dual, b: Array) -> tuple[Array, Array]:
    """Return the multiples θ b that all points bear, and their gap."""
    largest = dual.utilisation(dual.stress(b)).max(axis=0, initial=_TINY)
    tried = [np.minimum(1.0, part / largest)[:, None] * b for part in _BORNE]
    gaps = [dual.value(one) for one in tried]
    return np.where((gaps[0] <= gaps[1])[:, None], *tried), np.minimum(*gaps)
