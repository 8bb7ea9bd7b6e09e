"""Fused numba kernels of `networks.evaluation` and `reduced.adjoint`, vectorised over blocks of points.

Points are the last axis of all block arrays; the innermost loops run over them and are vectorised. Names are those of
`evaluation.Network` and `adjoint.Energy`.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from femops_equino.kernels.blocks import block_size

TILE = 4
"""Network widths are padded to a multiple of this."""


def workspace(n: int, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return the workspace of the exponential for n points; its length sets the size of the blocks."""
    return np.empty(block_size(n), np.int64 if np.dtype(kind) == np.float64 else np.int32)


# The numpy error model divides without a branch, as vectorisation requires.
_compiled = numba.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})


@_compiled
def _swish_row(exponential, u, value, slope, curvature):  # type: ignore[no-untyped-def]
    """Evaluate swish and two derivatives of a row; exp is written as 2^k · exp(r) to vectorise without SVML."""
    block = len(u)
    numbers, bits, power = exponential  # bits and power share memory, as integers and floats
    to_two, high, low, limit = numbers[0], numbers[1], numbers[2], numbers[3]
    bias, shift = np.int64(numbers[4]), np.int64(numbers[5])
    one, half = numbers[6], numbers[8]
    two = one + one
    c = numbers[6:]
    c3, c4, c5, c6, c7, c8, c9 = c[3], c[4], c[5], c[6], c[7], c[8], c[9]
    c10, c11, c12, c13 = c[10], c[11], c[12], c[13]
    for p in range(block):
        t = -u[p]
        t = limit if t > limit else t
        t = -limit if t < -limit else t
        k = np.floor(t * to_two + half)
        r = (t - k * high) - k * low
        q = c9 + r * (c10 + r * (c11 + r * (c12 + r * c13)))
        q = c4 + r * (c5 + r * (c6 + r * (c7 + r * (c8 + r * q))))
        value[p] = one + r * (one + r * (half + r * (c3 + r * q)))
        bits[p] = (np.int64(k) + bias) << shift
    for p in range(block):
        gate = one / (one + value[p] * power[p])
        rise = gate * (one - gate)
        value[p] = u[p] * gate
        slope[p] = gate + u[p] * rise
        curvature[p] = rise * (two + u[p] * (one - two * gate))


@_compiled
def _affine(weight, bias, n_biased, x, y):  # type: ignore[no-untyped-def]
    """Set y = weight x, plus the bias in the first `n_biased` columns."""
    for i in range(weight.shape[0]):
        y[i] = 0.0
        y[i, :n_biased] = bias[i]
    _add_product(weight, x, y)


@_compiled
def _add_product(weight, x, y):  # type: ignore[no-untyped-def]
    """Add weight x to y, in tiles of 4 × 4 weights that stay in registers."""
    for i in range(0, weight.shape[0], 4):
        y0, y1, y2, y3 = y[i], y[i + 1], y[i + 2], y[i + 3]
        for j in range(0, weight.shape[1], 4):
            x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
            w00, w01, w02, w03 = weight[i, j], weight[i, j + 1], weight[i, j + 2], weight[i, j + 3]
            w10, w11, w12, w13 = weight[i + 1, j], weight[i + 1, j + 1], weight[i + 1, j + 2], weight[i + 1, j + 3]
            w20, w21, w22, w23 = weight[i + 2, j], weight[i + 2, j + 1], weight[i + 2, j + 2], weight[i + 2, j + 3]
            w30, w31, w32, w33 = weight[i + 3, j], weight[i + 3, j + 1], weight[i + 3, j + 2], weight[i + 3, j + 3]
            for p in range(x.shape[1]):
                a, b, c, d = x0[p], x1[p], x2[p], x3[p]
                y0[p] += w00 * a + w01 * b + w02 * c + w03 * d
                y1[p] += w10 * a + w11 * b + w12 * c + w13 * d
                y2[p] += w20 * a + w21 * b + w22 * c + w23 * d
                y3[p] += w30 * a + w31 * b + w32 * c + w33 * d


@_compiled
def _inputs(net, x, z, turn, inverse):  # type: ignore[no-untyped-def]
    """Compute inputs z (n_in, block), dρ/dx (n_norms, n_s, block) and 1/ρ (n_norms, block) of x (n_s, block)."""
    block = x.shape[1]
    n_s, floor = x.shape[0], net.floor[0]
    z[:n_s] = x
    for k in range(net.gram.shape[0]):
        rho = z[n_s + k]
        rho[:] = floor * floor
        for i in range(n_s):
            turn[k, i] = 0.0
            for j in range(n_s):
                m = net.gram[k, i, j]
                for p in range(block):
                    turn[k, i, p] += m * x[j, p]
            for p in range(block):
                rho[p] += x[i, p] * turn[k, i, p]
        for p in range(block):
            root = np.sqrt(rho[p])
            inverse[k, p] = net.exponential[6] / root
            rho[p] = root - floor
        for i in range(n_s):
            for p in range(block):
                turn[k, i, p] *= inverse[k, p]


@_compiled
def _load(net, strain, start, x):  # type: ignore[no-untyped-def]
    """Scale a block of strains and return their number; unused entries of the block are unchanged."""
    block = x.shape[1]
    count = min(block, strain.shape[0] - start)
    for p in range(count):
        for i in range(x.shape[0]):
            x[i, p] = strain[start + p, i] * net.inverse_scale[i]
    return count


@_compiled
def potential(net, strain, bits, power, answer):  # type: ignore[no-untyped-def]
    """Evaluate all points; rows of `layer` hold the value, then the derivatives by strain component."""
    block = len(bits)
    n_s, n_norms, (width, n_in) = strain.shape[1], net.gram.shape[0], net.weight_1.shape
    kind, exponential = strain.dtype, (net.exponential, bits, power)
    x, z, hz = np.zeros((n_s, block), kind), np.empty((n_in, block), kind), np.empty((n_in, block), kind)
    turn, inverse = np.empty((n_norms, n_s, block), kind), np.empty((n_norms, block), kind)
    layer, out = np.empty((width, (1 + n_s) * block), kind), np.empty((width, (1 + n_s) * block), kind)
    slope, curvature = np.empty((width, block), kind), np.empty((width, block), kind)
    back, pulled = np.empty((width, block), kind), np.empty((width, block), kind)
    towards = np.empty((width, n_s, block), kind)
    transposed, row = np.ascontiguousarray(net.weight_2.T), np.empty((2, block), kind)
    w, s, c = np.empty(block, kind), np.empty((n_s, block), kind), np.empty((n_s, n_s, block), kind)
    radial = np.empty((n_norms, block), kind)
    for start in range(0, strain.shape[0], block):
        count = _load(net, strain, start, x)
        _inputs(net, x, z, turn, inverse)
        _first_layer(net, exponential, z, turn, layer, (slope, curvature, towards))
        _affine(net.weight_2, net.bias_2, block, layer, out)
        w[:] = 0.0
        for h in range(width):
            _swish_row(exponential, out[h, :block], row[0], back[h], row[1])
            last = net.weight_3[0, h]
            for p in range(block):
                w[p] += last * row[0, p]
                back[h, p] *= last
                out[h, p] = last * row[1, p]
        _affine(transposed, net.bias_2, 0, back, pulled)
        _reduce(net, (slope, curvature, towards), pulled, out, (s, c, radial))
        _take_off(net, z, turn, hz, (w, s, c, radial))
        _bend(net, turn, inverse, radial, c)
        _store(net, (x, w, s, c), start, count, answer)


@_compiled
def _first_layer(net, exponential, z, turn, layer, kept):  # type: ignore[no-untyped-def]
    block = z.shape[1]
    slope, curvature, towards = kept
    n_s = towards.shape[1]
    u = np.empty(block, z.dtype)
    for h in range(layer.shape[0]):
        u[:] = net.bias_1[h]
        for i in range(z.shape[0]):
            weight = net.weight_1[h, i]
            for p in range(block):
                u[p] += weight * z[i, p]
        _swish_row(exponential, u, layer[h, :block], slope[h], curvature[h])
        for i in range(n_s):
            along = towards[h, i]
            along[:] = net.weight_1[h, i]
            for k in range(turn.shape[0]):
                weight = net.weight_1[h, n_s + k]
                for p in range(block):
                    along[p] += weight * turn[k, i, p]
            target = layer[h, (1 + i) * block : (2 + i) * block]
            for p in range(block):
                target[p] = slope[h, p] * along[p]


@_compiled
def _reduce(net, kept, pulled, out, sums):  # type: ignore[no-untyped-def]
    """Sum over units: gradient, Hessian at fixed dρ/dx (upper triangle) and dN/dρ."""
    slope, curvature, towards = kept
    s, c, radial = sums
    block = s.shape[1]
    n_s = s.shape[0]
    s[:], c[:], radial[:] = 0.0, 0.0, 0.0
    first, second = np.empty(block, s.dtype), np.empty(block, s.dtype)
    for h in range(slope.shape[0]):
        for p in range(block):
            first[p] = slope[h, p] * pulled[h, p]
            second[p] = curvature[h, p] * pulled[h, p]
        for k in range(radial.shape[0]):
            weight = net.weight_1[h, n_s + k]
            for p in range(block):
                radial[k, p] += weight * first[p]
        for i in range(n_s):
            u_i, v_i = towards[h, i], out[h, (1 + i) * block : (2 + i) * block]
            for p in range(block):
                s[i, p] += first[p] * u_i[p]
            for j in range(i, n_s):
                u_j, v_j = towards[h, j], out[h, (1 + j) * block : (2 + j) * block]
                for p in range(block):
                    c[i, j, p] += second[p] * u_i[p] * u_j[p] + out[h, p] * v_i[p] * v_j[p]


@_compiled
def _take_off(net, z, turn, hz, sums):  # type: ignore[no-untyped-def]
    """Subtract the expansion at z = 0 from the network's value, gradient, dN/dρ and Hessian."""
    w, s, c, radial = sums
    block = len(w)
    n_s, half = s.shape[0], net.exponential[8]
    tilt, bend = np.empty(block, w.dtype), np.empty(block, w.dtype)
    w -= net.value[0]
    for i in range(z.shape[0]):
        hz[i] = 0.0
        for j in range(z.shape[0]):
            m = net.curvature[i, j]
            for p in range(block):
                hz[i, p] += m * z[j, p]
        slope = net.slope[0, i]
        for p in range(block):
            w[p] -= z[i, p] * (slope + half * hz[i, p])
            hz[i, p] += slope
    for i in range(n_s):
        s[i] -= hz[i]
        for k in range(turn.shape[0]):
            for p in range(block):
                s[i, p] -= hz[n_s + k, p] * turn[k, i, p]
        for j in range(i, n_s):
            bend[:] = net.curvature[i, j]
            for k in range(turn.shape[0]):
                tilt[:] = net.curvature[n_s + k, j]
                for m in range(turn.shape[0]):
                    for p in range(block):
                        tilt[p] += net.curvature[n_s + k, n_s + m] * turn[m, j, p]
                for p in range(block):
                    bend[p] += turn[k, i, p] * tilt[p] + net.curvature[i, n_s + k] * turn[k, j, p]
            c[i, j] -= bend
    for k in range(turn.shape[0]):
        radial[k] -= hz[n_s + k]


@_compiled
def _bend(net, turn, inverse, radial, c):  # type: ignore[no-untyped-def]
    """Add dN/dρ · d²ρ/dx² with d²ρ/dx² = (AᵀA − dρ/dx ⊗ dρ/dx)/ρ."""
    block = turn.shape[2]
    n_s = c.shape[0]
    for k in range(turn.shape[0]):
        for i in range(n_s):
            for j in range(i, n_s):
                m = net.gram[k, i, j]
                for p in range(block):
                    c[i, j, p] += radial[k, p] * inverse[k, p] * (m - turn[k, i, p] * turn[k, j, p])


@_compiled
def _store(net, block, start, count, answer):  # type: ignore[no-untyped-def]
    """Add the quadratic part and write the results of a block."""
    x, w, s, c = block
    energy, stress, tangent = answer
    n_s, half, unit = x.shape[0], net.exponential[8], net.unit[0]
    for p in range(count):
        quadratic = w[p] - w[p]
        for i in range(n_s):
            linear = w[p] - w[p]
            for j in range(n_s):
                linear += net.linear[i, j] * x[j, p] / net.inverse_scale[j]
            quadratic += linear * x[i, p] / net.inverse_scale[i]
            stress[start + p, i] = linear + unit * net.inverse_scale[i] * s[i, p]
            for j in range(i, n_s):
                value = net.linear[i, j] + unit * net.inverse_scale[i] * net.inverse_scale[j] * c[i, j, p]
                tangent[start + p, i, j] = value
                tangent[start + p, j, i] = value
        energy[start + p] = half * quadratic + unit * w[p]


@_compiled
def _work_arrays(net, strain, block):  # type: ignore[no-untyped-def]
    """Return the arrays of a block for `_load`, `_inputs` and `_values`: x, z, dρ/dx, 1/ρ and the hidden units."""
    kind, n_s, n_norms, (width, n_in) = strain.dtype, strain.shape[1], net.gram.shape[0], net.weight_1.shape
    x, z = np.zeros((n_s, block), kind), np.empty((n_in, block), kind)
    turn, inverse = np.empty((n_norms, n_s, block), kind), np.empty((n_norms, block), kind)
    return x, z, turn, inverse, np.empty((5, width, block), kind)


@_compiled
def coefficients(net, strain, bits, power, values):  # type: ignore[no-untyped-def]
    """Evaluate a coefficient network at all points. Shape of `values`: (n, n_out)."""
    block = len(bits)
    n_s, exponential = strain.shape[1], (net.exponential, bits, power)
    x, z, turn, inverse, units = _work_arrays(net, strain, block)
    last = np.empty((net.weight_3.shape[0], block), strain.dtype)
    for start in range(0, strain.shape[0], block):
        count = _load(net, strain, start, x)
        _inputs(net, x, z, turn, inverse)
        for i in range(n_s):
            x[i] /= net.inverse_scale[i]
        _values(net, exponential, x, z, units, last)
        for m in range(values.shape[1]):
            for p in range(count):
                values[start + p, m] = last[m, p]


@_compiled
def normal(net, strain, bits, power, answer):  # type: ignore[no-untyped-def]
    """Evaluate the first output of a coefficient network and its derivative by strain at all points."""
    block = len(bits)
    value, slope = answer
    n_s, tall, kind, exponential = strain.shape[1], len(net.weight_3), strain.dtype, (net.exponential, bits, power)
    x, z, turn, inverse, units = _work_arrays(net, strain, block)
    last, first, scaled = np.empty((tall, block), kind), np.zeros((tall, block), kind), np.empty((tall, block), kind)
    pulled = np.empty(z.shape, kind)
    first[0] = net.exponential[6]
    for start in range(0, strain.shape[0], block):
        count = _load(net, strain, start, x)
        _inputs(net, x, z, turn, inverse)
        for i in range(n_s):
            x[i] /= net.inverse_scale[i]
        _values(net, exponential, x, z, units, last)
        _pull_back(net, first, turn, units, scaled, pulled)
        for p in range(count):
            value[start + p] = last[0, p]
            for i in range(n_s):
                slope[start + p, i] = net.linear[0, i] + pulled[i, p]


@_compiled
def _values(net, exponential, macro, z, units, last):  # type: ignore[no-untyped-def]
    """Write coefficients (n_out, block) into `last`, and the slopes of both layers into `units[1]` and `units[3]`."""
    block = z.shape[1]
    layer, slope_1, out, slope_2, unused = units[0], units[1], units[2], units[3], units[4]
    for h in range(len(layer)):
        out[h] = net.bias_1[h]
        for i in range(z.shape[0]):
            weight = net.weight_1[h, i]
            for p in range(block):
                out[h, p] += weight * z[i, p]
        _swish_row(exponential, out[h], layer[h], slope_1[h], unused[h])
    _affine(net.weight_2, net.bias_2, block, layer, out)
    for h in range(len(layer)):
        _swish_row(exponential, out[h], layer[h], slope_2[h], unused[h])
    _affine(net.weight_3, net.value, 0, layer, last)
    for m in range(len(last)):
        last[m] -= net.value[m]
        for i in range(z.shape[0]):
            slope = net.slope[m, i]
            for p in range(block):
                last[m, p] -= slope * z[i, p]
        last[m] *= net.unit[m]
        for i in range(macro.shape[0]):
            linear = net.linear[m, i]
            for p in range(block):
                last[m, p] += linear * macro[i, p]


@_compiled
def adjoint(net, model, strain, inside, bits, power, answer):  # type: ignore[no-untyped-def]
    """Evaluate the adjoint-corrected stress of a reduced energy at the network's coefficients, at all points."""
    block = len(bits)
    stress, decrement = answer
    n_s, tall, kind, exponential = strain.shape[1], len(net.weight_3), strain.dtype, (net.exponential, bits, power)
    x, inputs, turn, inverse, units = _work_arrays(net, strain, block)
    pulled = np.empty(inputs.shape, kind)
    z, force = np.zeros((len(model.quadratic), block), kind), np.empty((len(model.quadratic), block), kind)
    sampled, scaled = np.empty((model.projection.shape[1], block), kind), np.empty((tall, block), kind)
    gap, work = np.empty(block, kind), np.empty(block, kind)
    a, macro, residual = z[:tall], z[tall : tall + n_s], force[:tall]
    for start in range(0, strain.shape[0], block):
        count = _load(net, inside, start, x)
        for p in range(count):
            for i in range(n_s):
                macro[i, p] = strain[start + p, i]
        _inputs(net, x, inputs, turn, inverse)
        _values(net, exponential, macro, inputs, units, a)
        _gradient(model, z, sampled, force)
        _pull_back(net, residual, turn, units, scaled, pulled)
        _add_product(model.linear, residual, force[tall:])
        _affine(model.factor, net.value, 0, residual, scaled)
        work[:] = 0.0
        for i in range(stress.shape[1]):
            along = force[tall + i]
            for p in range(count):
                if i < n_s and strain[start + p, i] == inside[start + p, i]:
                    along[p] += pulled[i, p]
                stress[start + p, i] = along[p]
                work[p] += along[p] * z[tall + i, p]
        gap[:] = 0.0
        for m in range(tall):
            for p in range(block):
                gap[p] += scaled[m, p] * scaled[m, p]
        for p in range(count):
            decrement[start + p] = gap[p] / max(work[p], model.smallest[0])


@_compiled
def _gradient(model, z, sampled, force):  # type: ignore[no-untyped-def]
    """Write the gradient of the reduced energy; `sampled` holds the deviators of one group of cubature points."""
    block = z.shape[1]
    _affine(model.quadratic, model.quadratic[0], 0, z, force)
    n_d = sampled.shape[0] // model.parameters.shape[1]
    norm = np.empty(block, z.dtype)
    for group in range(len(model.projection)):
        _affine(model.projection[group], z[0], 0, z, sampled)
        for k in range(model.parameters.shape[1]):
            weight, alpha2 = model.parameters[group, k, 0], model.parameters[group, k, 1]
            norm[:] = 0.0
            for row in range(k * n_d, (k + 1) * n_d):
                for p in range(block):
                    norm[p] += sampled[row, p] * sampled[row, p]
            for p in range(block):
                norm[p] = weight / (alpha2 + np.sqrt(norm[p]))
            for row in range(k * n_d, (k + 1) * n_d):
                for p in range(block):
                    sampled[row, p] *= norm[p]
        _add_product(model.transposed[group], sampled, force)


@_compiled
def _pull_back(net, values, turn, units, scaled, pulled):  # type: ignore[no-untyped-def]
    """Write (d network/dE)ᵀ values, without the linear part, into the first rows of `pulled`; overwrites `units`."""
    block = turn.shape[2]
    slope_1, slope_2, back, transposed = units[1], units[3], units[0], units[2]
    n_s = turn.shape[1]
    for m in range(len(values)):
        for p in range(block):
            scaled[m, p] = net.unit[m] * values[m, p]
    _affine(np.ascontiguousarray(net.weight_3.T), net.bias_2, 0, scaled, back)
    back *= slope_2
    _affine(np.ascontiguousarray(net.weight_2.T), net.bias_2, 0, back, transposed)
    transposed *= slope_1
    for i in range(len(pulled)):
        pulled[i] = 0.0
        for h in range(len(back)):
            weight = net.weight_1[h, i]
            for p in range(block):
                pulled[i, p] += weight * transposed[h, p]
        for m in range(len(values)):
            slope = net.slope[m, i]
            for p in range(block):
                pulled[i, p] -= slope * scaled[m, p]
    for i in range(n_s):
        for k in range(turn.shape[0]):
            for p in range(block):
                pulled[i, p] += turn[k, i, p] * pulled[n_s + k, p]
        pulled[i] *= net.inverse_scale[i]
