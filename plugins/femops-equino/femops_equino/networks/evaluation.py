"""Evaluation of potential and coefficient networks from plain arrays, by fused kernels.

Both networks have two hidden layers of swish units and the inputs z = (x, ρ_1 − δ, ρ_2 − δ, ...) with x = E / scale and
ρ_k² = |A_k x|² + δ²: beside its quadratic part, the energy of a saturating phase has a term of order |ε|³, which a
smooth function of E cannot represent. The expansion of the network N at z = 0 is subtracted, so that the linear limit
is exact:

    potential       W(E) = ½ E·C0·E + unit · (N − its expansion to second order at z = 0)
    coefficients    a(E) = A0·E + unit · (N − its expansion to first order at z = 0)

so that d²W/dE² = C0 and da/dE = A0 at E = 0 for any weights.

Stored weights are a dictionary of arrays:

    scale       largest strain of each component [-]      (n_s,)
    linear      C0 [stress] or A0                         (n_s, n_s) or (n_out, n_s)
    unit        scale of the outputs                      () or (n_out,)
    metric      A_k                                       (n_norms, n_s, n_s)
    weight_1, bias_1, weight_2, bias_2                    (width, n_in), (width,), (width, width), (width,)
    weight_3                                              (n_out, width); n_out is 1 for a potential
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from femops_equino.kernels.fused import TILE, coefficients, normal, potential, workspace

Weights = Mapping[str, npt.NDArray[Any]]
Precision = Literal["float64", "float32"]

FLOOR = 1e-3
"""δ: rounds off the cusp of the norms; a thousandth of the training range."""


class Expansion(NamedTuple):
    """A network at z = 0: value (n_out,), slope (n_out, n_in) and the curvature of its first output (n_in, n_in)."""

    value: Any
    slope: Any
    curvature: Any


def expansion(weights: Mapping[str, Any]) -> Expansion:
    """Expand a network at z = 0.

    Args:
        weights: See the module docstring; numpy arrays or torch tensors.
    """
    first, second, last = weights["weight_1"], weights["weight_2"], weights["weight_3"]
    value_1, slope_1, curvature_1 = swish(weights["bias_1"])
    value_2, slope_2, curvature_2 = swish(second @ value_1 + weights["bias_2"])
    hidden = second @ (slope_1[:, None] * first)
    back = (last[0] * slope_2) @ second
    curvature = first.T @ ((curvature_1 * back)[:, None] * first)
    curvature = curvature + hidden.T @ ((curvature_2 * last[0])[:, None] * hidden)
    return Expansion(last @ value_2, (last * slope_2) @ hidden, curvature)


def swish(argument: Any) -> tuple[Any, Any, Any]:
    """Return u/(1 + exp(−u)) and its first two derivatives, elementwise."""
    xp = array_namespace(argument)
    gate = 1.0 / (1.0 + xp.exp(-argument))
    rise = gate * (1.0 - gate)
    return argument * gate, gate + argument * rise, rise * (2.0 + argument * (1.0 - 2.0 * gate))


class Network(NamedTuple):
    """Kernel arrays, all of one precision; `width` is padded with idle units to whole tiles."""

    inverse_scale: npt.NDArray[Any]
    linear: npt.NDArray[Any]
    unit: npt.NDArray[Any]
    gram: npt.NDArray[Any]
    weight_1: npt.NDArray[Any]
    bias_1: npt.NDArray[Any]
    weight_2: npt.NDArray[Any]
    bias_2: npt.NDArray[Any]
    weight_3: npt.NDArray[Any]
    value: npt.NDArray[Any]
    slope: npt.NDArray[Any]
    curvature: npt.NDArray[Any]
    floor: npt.NDArray[Any]
    exponential: npt.NDArray[Any]


def prepare(weights: Weights, precision: Precision = "float64") -> Network:
    """Return the arrays for the kernels.

    Args:
        weights: See the module docstring.
        precision: Precision of the evaluation.
    """
    width, n_in = weights["weight_1"].shape
    n_out = len(weights["weight_3"])
    at_zero = expansion(weights)
    wide, tall = -(-width // TILE) * TILE, -(-n_out // TILE) * TILE
    linear = np.atleast_2d(weights["linear"])
    rows = max(tall, len(linear)) if n_out > 1 else len(linear)
    arrays = [
        1.0 / weights["scale"],
        _filled(linear, (rows, linear.shape[1])),
        _filled(np.broadcast_to(weights["unit"], (n_out,)), (tall,)),
        np.einsum("kij,kil->kjl", weights["metric"], weights["metric"]),
        _filled(weights["weight_1"], (wide, n_in)),
        _filled(weights["bias_1"], (wide,)),
        _filled(weights["weight_2"], (wide, wide)),
        _filled(weights["bias_2"], (wide,)),
        _filled(weights["weight_3"], (tall, wide)),
        _filled(at_zero.value, (tall,)),
        _filled(at_zero.slope, (tall, n_in)),
        at_zero.curvature,
        np.array([FLOOR]),
        _exponential(precision),
    ]
    return Network(*(np.ascontiguousarray(one, dtype=precision) for one in arrays))


def evaluate_potential(network: Network, strain: npt.NDArray[Any]) -> tuple[Any, Any, Any]:
    """Evaluate a potential network and its first two derivatives.

    Args:
        network: See `prepare`.
        strain: Macroscale strains, Mandel [-]. Shape (n, n_s).

    Returns:
        Energy W, shape (n,), stress dW/dE, (n, n_s), and tangent d²W/dE², (n, n_s, n_s), all [stress] and in the
        network's precision.
    """
    n, n_s = strain.shape
    kind = network.linear.dtype
    energy, stress, tangent = np.empty(n, kind), np.empty((n, n_s), kind), np.empty((n, n_s, n_s), kind)
    bits = workspace(n, kind)
    potential(network, np.ascontiguousarray(strain, dtype=kind), bits, bits.view(kind), (energy, stress, tangent))
    return energy, stress, tangent


def evaluate_coefficients(network: Network, strain: npt.NDArray[Any], n_out: int) -> npt.NDArray[Any]:
    """Evaluate a coefficient network.

    Args:
        network: See `prepare`.
        strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
        n_out: Number of coefficients.

    Returns:
        Coefficients in the network's precision. Shape (n, n_out).
    """
    kind = network.linear.dtype
    out = np.empty((len(strain), n_out), kind)
    bits = workspace(len(strain), kind)
    coefficients(network, np.ascontiguousarray(strain, dtype=kind), bits, bits.view(kind), out)
    return out


def evaluate_normal(network: Network, strain: npt.NDArray[Any]) -> tuple[Any, Any]:
    """Evaluate the network of the stress normal to the plane.

    Args:
        network: See `prepare`; of one output.
        strain: Macroscale strains, Mandel [-]. Shape (n, n_s).

    Returns:
        Stress, shape (n,), and its derivative by strain, (n, n_s), both [stress] and in the network's precision.
    """
    n, n_s = strain.shape
    kind = network.linear.dtype
    answer = np.empty(n, kind), np.empty((n, n_s), kind)
    bits = workspace(n, kind)
    normal(network, np.ascontiguousarray(strain, dtype=kind), bits, bits.view(kind), answer)
    return answer


def _filled(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Pad with zeros at the end of every axis."""
    out = np.zeros(shape)
    out[tuple(slice(size) for size in array.shape)] = array
    return out


def _exponential(precision: Precision) -> npt.NDArray[Any]:
    """Return the constants of exp: 1/ln 2, ln 2 in two parts, largest argument, exponent bias and width, 1/k!."""
    double = precision == "float64"
    high = 0.693147180369123816490 if double else 0.693359375
    head = [1.0 / math.log(2.0), high, 1.90821492927058770002e-10 if double else -2.12194440e-4]
    head += [700.0, 1023.0, 52.0] if double else [80.0, 127.0, 23.0]
    return np.array(head + [1.0 / math.factorial(k) for k in range(14)])
