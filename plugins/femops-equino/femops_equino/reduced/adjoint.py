"""Stress of a reduced RVE from the network's coefficients with an adjoint correction, without Newton iterations.

With the reduced energy W(E, a) and the network's a(E), the derivative of W(E, a(E)) is

    S = ∂W/∂E + Xᵀ ∂W/∂a,     X = da/dE.

At the minimum ∂W/∂a vanishes, and the first-order effects of an error in a on ∂W/∂E and on Xᵀ ∂W/∂a cancel: the error
of S is of the order of the error of a times the error of X, whereas ∂W/∂E alone has a first-order error. X is never
formed: Xᵀ is applied by backpropagation. The network does not depend on the strain normal to the plane; that column of
X is taken from linear elasticity.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from femops.notation import Array
from femops_equino.kernels import fused
from femops_equino.kernels.newton import GROUP
from femops_equino.networks.evaluation import Precision, Weights, prepare
from femops_equino.reduced.model import ReducedModel

_SMALLEST = 1e-4  # fraction of the training range; at smaller strains the decrement is round-off of the network


class AdjointResponse(NamedTuple):
    """Response of the adjoint path.

    Attributes:
        stress: Homogenized stress. Shape (n, n_s).
        stress_33: Shape (n,) in plane strain; None in 3D.
        decrement: Estimated Newton decrement relative to S : E, or to the work at 1e-4 of the training range if that is
            larger. Shape (n,).
    """

    stress: Array
    stress_33: Array | None
    decrement: Array


class Energy(NamedTuple):
    """Kernel arrays of a reduced energy with z = (a, E), both zero-padded to whole tiles."""

    quadratic: npt.NDArray[Any]
    projection: npt.NDArray[Any]
    transposed: npt.NDArray[Any]
    parameters: npt.NDArray[Any]
    linear: npt.NDArray[Any]
    factor: npt.NDArray[Any]
    smallest: npt.NDArray[Any]


class Adjoint:
    """Adjoint path, evaluated by the fused kernel.

    Args:
        weights: Weights of the coefficient network, see `networks.evaluation`.
        model: Reduced model of these coefficients.
        precision: Precision of the computation.
    """

    def __init__(self, weights: Weights, model: ReducedModel, precision: Precision = "float64") -> None:
        self._network = prepare(weights, precision)
        self._n_s, self._n_e = len(weights["scale"]), model.n_e
        self._energy = _energy(model, weights, precision)

    def evaluate(self, strain: Array, inside: Array) -> AdjointResponse:
        """Evaluate at strains (n, n_s).

        Args:
            strain: Macroscale strains, Mandel [-].
            inside: Nearest strains in the training range, at which the network is evaluated; a is linear beyond them.
        """
        kind = self._network.linear.dtype
        stress = np.empty((len(strain), self._n_e), kind)
        decrement = np.empty(len(strain), kind)
        strain, inside = (np.ascontiguousarray(one, dtype=kind) for one in (strain, inside))
        bits = np.empty(fused.BLOCK, np.int64 if kind == np.float64 else np.int32)
        fused.adjoint(self._network, self._energy, strain, inside, bits, bits.view(kind), (stress, decrement))
        return response_of(stress.astype(np.float64), decrement.astype(np.float64), self._n_s)


def response_of(stress: Array, decrement: Array, n_s: int) -> AdjointResponse:
    """Split stresses (n, n_e) into the first n_s components and the stress normal to the plane."""
    normal = stress[:, n_s].copy() if stress.shape[1] > n_s else None
    return AdjointResponse(np.ascontiguousarray(stress[:, :n_s]), normal, decrement)


class Elasticity(NamedTuple):
    """Linear elasticity of the reduced model at zero strain.

    |factor · ∂W/∂a|² is a lower bound of the Newton decrement, as the phases soften and the Hessian is largest here.

    Attributes:
        sensitivity: da/dE of the network and, in plane strain, for the strain normal to the plane. Shape (r, n_e).
        factor: L⁻¹ of the Hessian L Lᵀ of the energy in a. Shape (r, r).
        smallest: Lower limit of the work that decrements are divided by [stress].
    """

    sensitivity: Array
    factor: Array
    smallest: float


def elasticity(model: ReducedModel, weights: Weights) -> Elasticity:
    """Return the elastic quantities of the adjoint path."""
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
