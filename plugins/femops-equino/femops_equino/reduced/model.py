"""The reduced energy of an RVE: displacement modes, an exact quadratic part and a sampled deviatoric energy.

With ε = E + B Φ a and z = (E, a), the energy of linear phases and the bulk energy of the others are an exact quadratic
form; only the deviatoric energy of nonlinear phases is summed over points, either all or few cubature points. In plane
strain the last entry of E is its component 33, which is zero; the derivative with respect to it is the stress normal to
the plane.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from femops.errors import CaseError
from femops.notation import Array
from femops.phases.saturating import Saturating
from femops.surrogate import CheckedArrays
from femops_equino.kernels import newton
from femops_equino.kernels.blocks import block_size

if TYPE_CHECKING:
    from femops.rve.spec import RVE
    from femops_equino.reduced.pod import ElasticRVE

# Orthonormal deviators: of (11, 22, 12, 33) in plane strain and of (11, 22, 33, 23, 13, 12) in 3D.
_R2, _R6 = 2.0**-0.5, 6.0**-0.5
DEVIATOR = {
    2: np.array([[_R2, -_R2, 0, 0], [_R6, _R6, 0, -2 * _R6], [0, 0, 1, 0]]),
    3: np.array([[_R2, -_R2, 0, 0, 0, 0], [_R6, _R6, -2 * _R6, 0, 0, 0], *np.eye(6)[3:]]),
}
TRACE = {2: np.array([1.0, 1.0, 0.0, 1.0]), 3: np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])}


@dataclass(frozen=True)
class ReducedSolution:
    """Minima of the reduced energy.

    Attributes:
        coefficients: a. Shape (n, r).
        stress: Homogenized stress. Shape (n, n_s).
        tangent: Shape (n, n_s, n_s).
        stress_33: Shape (n,) in plane strain; None in 3D.
        tangent_33: Its derivative by the strain. Shape (n, n_s) in plane strain; None in 3D.
        decrement: Newton decrement of the last evaluation relative to S : E. Shape (n,).
        evaluations: Average number of evaluations of the energy's derivatives per point.
    """

    coefficients: Array
    stress: Array
    tangent: Array
    stress_33: Array | None
    tangent_33: Array | None
    decrement: Array
    evaluations: float

    @staticmethod
    def of(
        coefficients: Array, stress: Array, tangent: Array, decrement: Array, n_s: int, evaluations: int
    ) -> "ReducedSolution":
        """Return the solution from stress (n, n_e) and tangent (n, n_e, n_e) with the components 33, in any precision.

        Args:
            coefficients: See the attributes.
            stress: With the component 33.
            tangent: With the components 33.
            decrement: See the attributes.
            n_s: Number of Mandel components.
            evaluations: Number of evaluations at all points.
        """
        plane, double = stress.shape[1] > n_s, np.float64
        return ReducedSolution(
            coefficients.astype(double),
            stress[:, :n_s].astype(double),
            tangent[:, :n_s, :n_s].astype(double),
            stress[:, n_s].astype(double) if plane else None,
            tangent[:, n_s, :n_s].astype(double) if plane else None,
            decrement.astype(double),
            evaluations / max(len(stress), 1),
        )


@dataclass(frozen=True)
class ReducedModel:
    """A reduced energy and its minimisation.

    Attributes:
        quadratic: Q of ½ zᵀ Q z [stress]. Shape (m, m).
        projection: Deviatoric strain at the sampled points as a map of z. Shape (C, n_d, m).
        parameters: Weight [-], α₁ [stress] and α₂ [-] of the sampled points. Shape (C, 3).
    """

    quadratic: Array
    projection: Array
    parameters: Array

    @property
    def dim(self) -> int:
        """Dimension, 2 or 3."""
        return 2 if self.projection.shape[1] == 3 else 3

    @property
    def n_e(self) -> int:
        """Components of E in z: 4 in plane strain, 6 in 3D."""
        return len(TRACE[self.dim])

    @property
    def n_modes(self) -> int:
        """Number of coefficients a."""
        return len(self.quadratic) - self.n_e

    def sampled(self, points: npt.NDArray[np.int64], factor: Array) -> "ReducedModel":
        """Return the model with a subset of the points, and weights multiplied by a factor."""
        parameters = self.parameters[points].copy()
        parameters[:, 0] *= factor
        return ReducedModel(self.quadratic, self.projection[points], parameters)

    def solve(
        self, strain: Array, start: Array, largest: int, tolerance: float, dtype: npt.DTypeLike = np.float64
    ) -> ReducedSolution:
        """Minimise the energy over a by Newton's method.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
            start: Initial coefficients. Shape (n, r).
            largest: Maximum number of evaluations per point.
            tolerance: Relative decrement that ends the iteration.
            dtype: Precision of the computation.
        """
        n, n_s = strain.shape
        macro = np.zeros((n, self.n_e), dtype)
        macro[:, :n_s] = strain
        a, stress = np.array(start, dtype), np.empty((n, self.n_e), dtype)
        tangent, decrement = np.empty((n, self.n_e, self.n_e), dtype), np.empty(n, dtype)
        unfinished, evaluations = np.arange(n), 0
        for _ in range(largest):
            answer = (a, stress, tangent, decrement)
            newton.newton(macro, unfinished, self._compiled(dtype), block_size(len(unfinished)), answer)
            evaluations += len(unfinished)
            unfinished = unfinished[~(decrement[unfinished] <= tolerance)]
            if not len(unfinished):
                break
        return ReducedSolution.of(a, stress, tangent, decrement, n_s, evaluations)

    def derivatives(self, z: Array) -> tuple[Array, Array]:
        """Return gradient (n, m) and Hessian (n, m, m) of the energy at z (n, m)."""
        gradient, hessian = np.empty(z.shape), np.empty((*z.shape, z.shape[1]))
        newton.derivatives(np.ascontiguousarray(z), self._compiled(np.float64), gradient, hessian)
        return gradient, hessian

    def energy(self, z: Array) -> Array:
        """Return W (n,) at z (n, m)."""
        weight, alpha1, alpha2 = self.parameters.T
        norm = np.linalg.norm(np.einsum("cai,ni->nca", self.projection, z, optimize=True), axis=2)
        sampled = alpha1 * (norm - alpha2 * np.log1p(norm / alpha2))
        return 0.5 * np.einsum("ni,ij,nj->n", z, self.quadratic, z, optimize=True) + sampled @ weight

    def extended(self, strain: Array, coefficients: Array) -> Array:
        """Return z (n, m) of strains (n, n_s) and coefficients (n, r)."""
        z = np.zeros((len(strain), len(self.quadratic)))
        z[:, : strain.shape[1]] = strain
        z[:, self.n_e :] = coefficients
        return z

    def to_arrays(self, name: str) -> dict[str, Array]:
        """Return the arrays to store."""
        parts = {"quadratic": self.quadratic, "projection": self.projection, "parameters": self.parameters}
        return {f"{name}.{part}": values for part, values in parts.items()}

    @staticmethod
    def from_arrays(name: str, arrays: CheckedArrays, points: str) -> "ReducedModel":
        """Return the model stored under a name.

        Args:
            name: Name of the model.
            arrays: Arrays of the trained model; must bind the sizes m and n_d.
            points: Name of the size that is the number of points.
        """
        own = f"{name}.parameters"
        parameters = arrays.take(own, points, 3)
        arrays.check(own, (parameters[:, 1:] > 0.0).all(), "positive α₁ and α₂")
        return ReducedModel(
            arrays.take(f"{name}.quadratic", "m", "m"),
            arrays.take(f"{name}.projection", points, "n_d", "m"),
            parameters,
        )

    def _compiled(self, dtype: npt.DTypeLike) -> tuple[Array, Array, Array, Array]:
        """Return the kernel arrays: points padded to whole groups, with the squares of their projections."""
        return self._double if np.dtype(dtype) == np.float64 else self._single

    @cached_property
    def _double(self) -> tuple[Array, Array, Array, Array]:
        missing = -len(self.projection) % newton.GROUP
        projection = np.concatenate([self.projection, np.zeros((missing, *self.projection.shape[1:]))])
        parameters = np.concatenate([self.parameters, np.tile([0.0, 1.0, 1.0], (missing, 1))])
        row, column = np.tril_indices(projection.shape[2])
        squares = np.zeros((len(projection), len(row)))
        for a in range(projection.shape[1]):
            squares += projection[:, a, row] * projection[:, a, column]
        return np.ascontiguousarray(self.quadratic), np.ascontiguousarray(projection), squares, parameters

    @cached_property
    def _single(self) -> tuple[Array, Array, Array, Array]:
        return tuple(one.astype(np.float32) for one in self._double)  # type: ignore[return-value]


def assemble(rve: "RVE", elastic: "ElasticRVE", modes: Array) -> tuple[ReducedModel, Array]:
    """Return the reduced model with all points, and the strain at all points as a map of z.

    Args:
        rve: The RVE.
        elastic: Its elastic operators.
        modes: Displacement modes. Shape (n_free, r).

    Returns:
        The model, and the maps from z to strains, shape (n_e, n_points, m).
    """
    d = rve.discretisation
    n_e, r = len(TRACE[d.dim]), modes.shape[1]
    maps = np.zeros((n_e, d.n_points, n_e + r))
    maps[: d.n_s, :, n_e:] = (elastic.gradient @ modes).reshape(d.n_s, d.n_points, r)
    maps[:, :, :n_e] = np.eye(n_e)[:, None]
    weight = elastic.weight / elastic.volume
    quadratic = np.zeros((n_e + r, n_e + r))
    projection, parameters = [], []
    for position, phase in enumerate(rve.phases):
        part = d.points_of_phase(position)
        local, w = maps[:, part], weight[part]
        if phase.linear:
            stiff = np.einsum("st,tgi->sgi", _linear_tangent(phase, d.dim), local)
            quadratic += np.tensordot(local * w[:, None], stiff, axes=([0, 1], [0, 1]))
            continue
        bulk, alpha1, alpha2 = _saturating(phase, d.phases[position])
        trace = np.tensordot(TRACE[d.dim], local, axes=1)
        quadratic += bulk * (trace.T * w) @ trace
        projection.append(np.einsum("as,sgi->gai", DEVIATOR[d.dim], local))
        parameters.append(np.stack([w, np.full_like(w, alpha1), np.full_like(w, alpha2)], axis=1))
    empty = (np.zeros((0, len(DEVIATOR[d.dim]), n_e + r)), np.zeros((0, 3)))
    model = ReducedModel(
        0.5 * (quadratic + quadratic.T),
        np.concatenate([empty[0], *projection]),
        np.concatenate([empty[1], *parameters]),
    )
    return model, maps


def check_phases(rve: "RVE") -> None:
    """Refuse phases whose energy a reduced model cannot represent.

    Raises:
        CaseError: A phase is neither linear nor `saturating`.
    """
    for name, phase in zip(rve.discretisation.phases, rve.phases, strict=True):
        if not phase.linear:
            _saturating(phase, name)


def _linear_tangent(phase: object, dim: int) -> Array:
    """Return D of a linear phase; in plane strain with the row and column of 33."""
    n_s = len(TRACE[dim]) - (dim == 2)
    answer = phase.evaluate(np.eye(n_s), np.zeros((0, n_s)))  # type: ignore[attr-defined]
    if answer.stress_33 is None:
        return np.asarray(answer.stress)
    extended = np.zeros((n_s + 1, n_s + 1))
    extended[:n_s, :n_s] = answer.stress
    extended[n_s, :n_s] = extended[:n_s, n_s] = answer.stress_33
    return extended  # the last entry only affects the derivative of the normal stress with respect to ε_33


def _saturating(phase: object, name: str) -> tuple[float, float, float]:
    if not isinstance(phase, Saturating):
        expected = "expected linear phases and `saturating`, whose deviatoric energy EquiNO samples"
        raise CaseError(f"the law {type(phase).__name__} given, {expected}", key=f"rve.phases.{name}")
    return phase.K, phase.alpha1, phase.alpha2
