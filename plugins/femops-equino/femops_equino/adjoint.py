"""The stress of a reduced RVE without a Newton correction: the network's coefficients, corrected by the adjoint.

With the reduced energy W(E, a) and the network's a(E), the derivative of W(E, a(E)) is

    S = ∂W/∂E + Xᵀ ∂W/∂a,     X = da/dE.

At the minimum ∂W/∂a vanishes, and a first change of a moves ∂W/∂E and Xᵀ ∂W/∂a by opposite amounts: the error of S is
that of a times that of X, where that of ∂W/∂E alone is of first order. X is never made: its transpose is applied by
going back through the network. The network has no sensitivity to the strain normal to the plane; there it is the one
of linear elasticity.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from femops.notation import Array
from femops_equino import fused
from femops_equino.kernels import GROUP
from femops_equino.potential import Precision, Weights, prepare
from femops_equino.reduced import ReducedModel

_SMALLEST = 1e-4  # part of the training range; below, the network's round-off is no error worth telling


class AdjointAnswer(NamedTuple):
    """What the adjoint path answers.

    Attributes:
        stress: Homogenized stress. Shape (n, n_s).
        stress_33: Shape (n,) in plane strain; None in 3D.
        decrement: Estimate of the Newton decrement relative to S : E, or to the work of a strain of a ten-thousandth
            of the training range if that is more. Shape (n,).
    """

    stress: Array
    stress_33: Array | None
    decrement: Array


class Energy(NamedTuple):
    """Arrays that the kernel reads: a reduced energy with z = (a, E), both filled up with zeros to whole tiles."""

    quadratic: npt.NDArray[Any]
    projection: npt.NDArray[Any]
    transposed: npt.NDArray[Any]
    parameters: npt.NDArray[Any]
    linear: npt.NDArray[Any]
    factor: npt.NDArray[Any]
    smallest: npt.NDArray[Any]


class Adjoint:
    """The adjoint path by the fused kernel.

    Args:
        weights: Of the coefficient network, see `potential`.
        model: The reduced model that its coefficients belong to.
        precision: Of the computation.
    """

    def __init__(self, weights: Weights, model: ReducedModel, precision: Precision = "float64") -> None:
        self._network = prepare(weights, precision)
        self._n_s, self._n_e = len(weights["scale"]), model.n_e
        self._energy = _energy(model, weights, precision)

    def evaluate(self, strain: Array, inside: Array) -> AdjointAnswer:
        """Evaluate at strains (n, n_s).

        Args:
            strain: Macroscale strains, Mandel [-].
            inside: The nearest strains inside the training range, where the network is asked; beyond them a is linear.
        """
        kind = self._network.linear.dtype
        stress = np.empty((len(strain), self._n_e), kind)
        decrement = np.empty(len(strain), kind)
        strain, inside = (np.ascontiguousarray(one, dtype=kind) for one in (strain, inside))
        bits = np.empty(fused.BLOCK, np.int64 if kind == np.float64 else np.int32)
        fused.adjoint(self._network, self._energy, strain, inside, bits, bits.view(kind), (stress, decrement))
        return answer_of(stress.astype(np.float64), decrement.astype(np.float64), self._n_s)


def answer_of(stress: Array, decrement: Array, n_s: int) -> AdjointAnswer:
    """Take the stress normal to the plane off the stresses (n, n_e)."""
    normal = stress[:, n_s].copy() if stress.shape[1] > n_s else None
    return AdjointAnswer(np.ascontiguousarray(stress[:, :n_s]), normal, decrement)


class Elasticity(NamedTuple):
    """The reduced model at zero strain.

    |factor · ∂W/∂a|² is at most the Newton decrement: the phases soften, and nowhere is the Hessian larger than here.

    Attributes:
        sensitivity: da/dE, the network's and, in plane strain, that to the strain normal to the plane. Shape (r, n_e).
        factor: L⁻¹ of the Hessian L Lᵀ of the energy in a. Shape (r, r).
        smallest: Work that decrements are relative to at least [stress].
    """

    sensitivity: Array
    factor: Array
    smallest: float


def elasticity(model: ReducedModel, weights: Weights) -> Elasticity:
    """Return what the adjoint path takes from elasticity; see `Adjoint`."""
    linear, scale = weights["linear"], _SMALLEST * weights["scale"]
    n_e, n_s = model.n_e, len(scale)
    hessian = model.derivatives(np.zeros((1, len(model.quadratic))))[1][0]
    stiffness = hessian[n_e:, n_e:]
    normal = -np.linalg.solve(stiffness, hessian[n_e:, n_s:n_e])
    z = model.extended(scale[None], scale[None] @ linear.T)[0]
    return Elasticity(np.hstack([linear, normal]), np.linalg.inv(np.linalg.cholesky(stiffness)), z @ hessian @ z)


def _energy(model: ReducedModel, weights: Weights, precision: Precision) -> Energy:
    n_e, r, (n_c, n_d, _) = model.n_e, model.n_modes, model.projection.shape
    tall, tile = -(-r // fused.TILE) * fused.TILE, fused.TILE
    size, groups = tall + -(-n_e // tile) * tile, -(-n_c // GROUP)
    place = np.r_[tall : tall + n_e, :r]
    quadratic, projection = np.zeros((size, size)), np.zeros((groups * GROUP, n_d, size))
    quadratic[np.ix_(place, place)] = model.quadratic
    projection[:n_c, :, place] = model.projection
    weight, alpha1, alpha2 = model.parameters.T
    parameters = np.tile([0.0, 1.0], (groups * GROUP, 1))
    parameters[:n_c] = np.stack([weight * alpha1, alpha2], axis=1)
    sensitivity, factor = np.zeros((size - tall, tall)), np.zeros((tall, tall))
    elastic = elasticity(model, weights)
    sensitivity[:n_e, :r], factor[:r, :r] = elastic.sensitivity.T, elastic.factor
    of_groups = projection.reshape(groups, GROUP * n_d, size)
    arrays = [quadratic, of_groups, of_groups.transpose(0, 2, 1), parameters.reshape(groups, GROUP, 2)]
    arrays += [sensitivity, factor, np.array([elastic.smallest])]
    return Energy(*(np.ascontiguousarray(one, dtype=precision) for one in arrays))
