"""Error bounds and indicators of predictions, from the energy gap of two admissible fields.

ε = E + B Φ a is kinematically and σ = Ψ b statically admissible. With the complementary energy ψ* of the phases,

    η² = ⟨ψ(ε) + ψ*(σ) − σ : ε⟩ ≥ 0,      W(E) ≤ ⟨ψ(ε)⟩ ≤ W(E) + η²

(Prager and Synge 1947; constitutive-relation error, Kerfriden, Ródenas and Bordas, arXiv 1301.6330). For the stress:
for any X, f(H) = ⟨ψ(ε + H + B Φ X H)⟩ is an upper bound of W(E + H), and W is convex, so that for every H

    W(E) + S : H ≤ W(E + H) ≤ f(H) ≤ f(0) + S̃ : H + ½ H : C̃ : H,       f(0) ≤ W(E) + η²,

with S̃ = f'(0) and C̃ the same quadratic form of the phases' stiffness at zero strain, where it is largest. Hence
(S − S̃) : H ≤ η² + ½ H : C̃ : H, and the optimal H gives ‖S − S̃‖ ≤ √2 η in the norm of C̃⁻¹.

The gap is infinite where |dev σ| of `saturating` phases reaches α₁, which happens at some points if a saturated stress
is represented by few modes. There, and where the gap is large, b is recomputed, see `admissible`.

With all quadrature points this is a bound. With few weighted points, η² relative to the energy is an indicator: the
gap and the error of the stress are both of second order in the error of the fields.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from femops.law import CertificateKind
from femops.notation import Array
from femops.phases.saturating import Saturating
from femops.surrogate import CheckedArrays, chunks
from femops_equino.reduced.admissible import CACHE_BYTES, Dual, least_gap
from femops_equino.reduced.model import ReducedModel

if TYPE_CHECKING:
    from femops.rve.spec import RVE

_FIELDS_AT_ONCE = 12
_POOR = 1e-2  # of the energy: above this gap a better stress is computed
NO_STRAIN = 1e-30  # up to which a law may answer round-off
ROUND_OFF = 1e-15  # of the energy: cancellation error in the gap of linear phases


@dataclass(frozen=True)
class CertificatePoints:
    """Points of the nonlinear phases at which the certificate is evaluated.

    Attributes:
        strain: Strain as a map of z. Shape (n_s, C, m).
        stress: Stress as a map of b [stress]. Shape (n_s, C, n_b).
        projection: Maps deviatoric stresses, in the basis of `DEVIATOR`, to their share of b. Shape (n_b, C, n_d).
        phases: Ranges of points with their phases.
        model: Reduced energy summed over these points, with their weights.
    """

    strain: Array
    stress: Array
    projection: Array
    phases: tuple[tuple[slice, Saturating], ...]
    model: ReducedModel

    def sampled(self, points: npt.NDArray[np.int64], factor: Array) -> "CertificatePoints":
        """Return a subset of the points, in ascending order, with weights multiplied by a factor."""
        cuts = [np.searchsorted(points, (part.start, part.stop)) for part, _ in self.phases]
        phases = tuple((slice(int(a), int(b)), phase) for (a, b), (_, phase) in zip(cuts, self.phases, strict=True))
        arrays = (self.strain[:, points], self.stress[:, points], self.projection[:, points])
        strain, stress, projection = (np.ascontiguousarray(one) for one in arrays)
        return CertificatePoints(strain, stress, projection, phases, self.model.sampled(points, factor))

    def to_arrays(self) -> dict[str, Any]:
        """Return the arrays to store."""
        stops = np.array([part.stop for part, _ in self.phases], dtype=np.int64)
        return {
            "points.strain": self.strain,
            "points.stress": self.stress,
            "points.projection": self.projection,
            "points.stops": stops,
            **self.model.to_arrays("points.model"),
        }

    @staticmethod
    def from_arrays(arrays: CheckedArrays, rve: "RVE") -> "CertificatePoints":
        """Return the stored points of an RVE."""
        nonlinear = [phase for phase in rve.phases if isinstance(phase, Saturating)]
        strain, stress, projection, model = stored_points(arrays)
        stops = arrays.stops("points.stops", len(nonlinear), last=strain.shape[1])
        ranges = [slice(a, b) for a, b in pairwise([0, *stops])]
        return CertificatePoints(strain, stress, projection, tuple(zip(ranges, nonlinear, strict=True)), model)

    @cached_property
    def compiled(self) -> tuple[Array, Array, Array]:
        """The arrays of the kernel: strain, stress, and weight, K, α₁ and α₂ of the points (C, 4)."""
        bulk = np.empty(len(self.model.parameters))
        for part, phase in self.phases:
            bulk[part] = phase.K
        weight, alpha1, alpha2 = self.model.parameters.T
        return self.strain, self.stress, np.stack([weight, bulk, alpha1, alpha2], axis=1)

    @property
    def bytes_of_one(self) -> int:
        """Memory of one prediction."""
        return 8 * self.strain.shape[0] * self.strain.shape[1] * _FIELDS_AT_ONCE


def stored_points(arrays: CheckedArrays) -> tuple[Array, Array, Array, ReducedModel]:
    """Return the stored arrays of `CertificatePoints`: strain, stress, projection and model."""
    strain = arrays.take("points.strain", "n_s", "P", "m")
    stress = arrays.take("points.stress", "n_s", "P", "n_b")
    projection = arrays.take("points.projection", "n_b", "P", "n_d")
    return strain, stress, projection, ReducedModel.from_arrays("points.model", arrays, "P")


class Quadratics(NamedTuple):
    """Exact contributions of linear phases and bulk parts.

    Attributes:
        projection: b of the stresses that are linear in z. Shape (n_b, m).
        gap: Energy gap of the linear phases as a quadratic form of (z, b). Shape (m + n_b, m + n_b).
        elastic: Hessian of the reduced energy at zero strain [stress]. Shape (m, m).
        metric: Inverse of the elastic homogenized tangent, the norm of stresses [1/stress]. Shape (n_s, n_s).
    """

    projection: Array
    gap: Array
    elastic: Array
    metric: Array

    def to_arrays(self) -> dict[str, Array]:
        """Return the arrays to store."""
        return {f"quadratics.{name}": values for name, values in self._asdict().items()}

    @staticmethod
    def from_arrays(arrays: CheckedArrays) -> "Quadratics":
        """Return the stored contributions."""
        both = arrays.sizes["m"] + arrays.sizes["n_b"]
        return Quadratics(
            arrays.take("quadratics.projection", "n_b", "m"),
            arrays.take("quadratics.gap", both, both),
            arrays.take("quadratics.elastic", "m", "m"),
            arrays.take("quadratics.metric", "n_s", "n_s"),
        )


class Gap(NamedTuple):
    """Energy gap of the two admissible fields of a prediction, with the terms of its stress bound.

    Attributes:
        energy: η² [stress]. Shape (n,).
        stress: S̃ [stress]. Shape (n, n_s).
        stiffening: Largest eigenvalue of C̃ relative to the elastic tangent. Shape (n,).
        coefficients: a of the kinematically admissible field. Shape (n, r).
    """

    energy: Array
    stress: Array
    stiffening: Array
    coefficients: Array


def relative_error(strain: Array, stress: Array, gap: Gap, metric: Array, kind: CertificateKind) -> Array:
    """Return the bound or indicator of the relative error of a stress, in the norm of `metric`.

    Args:
        strain: E. Shape (n, n_s).
        stress: Stress to certify. Shape (n, n_s).
        gap: Energy gap of the prediction.
        metric: The norm of stresses is √(s · metric · s). Shape (n_s, n_s).
        kind: `bound` or `indicator`.
    """
    size = norm(stress, metric)
    away = norm(stress - gap.stress, metric)
    work = np.maximum(0.5 * np.einsum("ns,ns->n", stress, strain), 0.0)  # negative work does not imply a small error
    eta = np.maximum(gap.energy, ROUND_OFF * work)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (away + np.sqrt(2.0 * eta * gap.stiffening)) / size if kind == "bound" else away / size + eta / work
    return settled(error, strain, np.maximum(size, away), metric)


def settled(error: Array, strain: Array, size: Array, metric: Array) -> Array:
    """Return relative errors with 0 where no strain has no stress up to rounding, and infinity for NaN.

    Args:
        error: Shape (n,).
        strain: E. Shape (n, n_s).
        size: Norm of the stress and of what it may be wrong by [-]. Shape (n,).
        metric: The norm of stresses. Shape (n_s, n_s).
    """
    nothing = NO_STRAIN / np.sqrt(np.linalg.norm(metric, 2))  # what rounding may answer to no strain
    unstrained = ~strain.any(axis=1) & (size <= nothing)
    error = np.where(unstrained | (size == 0.0), 0.0, error)
    return np.where(np.isnan(error), np.inf, error)


def energy_gap(
    points: CertificatePoints, quadratics: Quadratics, solver: ReducedModel, strain: Array, coefficients: Array
) -> Gap:
    """Return the energy gap of predictions after one Newton step with the stiffness of `solver`.

    Args:
        points: Points over which energies are summed.
        quadratics: Exact contributions of linear phases and bulk parts.
        solver: Reduced model for stiffness and sensitivities.
        strain: E. Shape (n, n_s).
        coefficients: a. Shape (n, r).
    """
    slices = list(chunks(len(strain), points.bytes_of_one, CACHE_BYTES)) or [slice(0, 0)]
    parts = (_gap(points, quadratics, solver, strain[part], coefficients[part]) for part in slices)
    return Gap(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _gap(
    points: CertificatePoints, quadratics: Quadratics, solver: ReducedModel, strain: Array, coefficients: Array
) -> Gap:
    z, lift = improved(points, solver, strain, coefficients)
    gradient, force = _derivative(points, z)
    total = np.einsum("nms,nm->ns", lift, gradient)
    b = z @ quadratics.projection.T + np.tensordot(force, points.projection, axes=([0, 1], [1, 2]))
    dual = _dual(points, quadratics, z)
    eta = dual.value(b)
    poor = ~(eta <= _POOR * 0.5 * np.abs(np.einsum("ns,ns->n", total, strain)))
    if poor.any():
        eta[poor] = np.fmin(eta[poor], least_gap(dual.some(poor))[1])
    stiffness = np.einsum("nis,ij,njt->nst", lift, quadratics.elastic, lift, optimize=True)
    root = np.linalg.cholesky(quadratics.metric)
    stiffening = np.linalg.eigvalsh(root.T @ stiffness @ root)[:, -1]
    return Gap(eta, total, np.maximum(stiffening, 1.0), z[:, solver.n_e :])


def improved(
    points: CertificatePoints, solver: ReducedModel, strain: Array, coefficients: Array
) -> tuple[Array, Array]:
    """Return z after one Newton step with the stiffness of `solver`, and its sensitivity dz/dE (n, m, n_s)."""
    n, n_s = strain.shape
    n_e = solver.n_e
    z = solver.extended(strain, coefficients)
    _, hessian = solver.derivatives(z)
    gradient, _ = _derivative(points, z)
    right = np.concatenate([hessian[:, n_e:, :n_s], gradient[:, n_e:, None]], axis=2)
    solution = np.linalg.solve(hessian[:, n_e:, n_e:], right)
    z[:, n_e:] -= solution[:, :, -1]
    lift = np.zeros((n, z.shape[1], n_s))
    lift[:, :n_s], lift[:, n_e:] = np.eye(n_s), -solution[:, :, :-1]
    return z, lift


def _dual(points: CertificatePoints, quadratics: Quadratics, z: Array) -> Dual:
    """Return the gap as a function of the admissible stress at some z (n, m)."""
    m = z.shape[1]
    local = np.tensordot(points.strain, z, axes=([2], [1]))
    constant = 0.5 * np.einsum("ni,ij,nj->n", z, quadratics.gap[:m, :m], z, optimize=True)
    weight = points.model.parameters[:, 0]
    return Dual(
        points.stress, points.phases, weight, local, quadratics.gap[m:, m:], z @ quadratics.gap[:m, m:], constant
    )


def _derivative(points: CertificatePoints, z: Array) -> tuple[Array, Array]:
    """Return the gradient (n, m) of the energy and the weighted deviatoric stress (C, n_d, n) at the points."""
    model = points.model
    weight, alpha1, alpha2 = model.parameters.T[:, :, None]
    deviator = np.tensordot(model.projection, z, axes=([2], [1]))
    secant = alpha1 / (alpha2 + np.sqrt(np.einsum("gan,gan->gn", deviator, deviator)))
    force = deviator * (secant * weight)[:, None]
    return z @ model.quadratic + np.tensordot(force, model.projection, axes=([0, 1], [0, 1])), force


def norm(stress: Array, metric: Array) -> Array:
    """Return √(s · metric · s) of stresses (n, n_s). Shape (n,)."""
    return np.sqrt(np.einsum("ns,st,nt->n", stress, metric, stress))
