"""Error bound of second order: the product of a primal and a dual error in the constitutive relation.

ε̃ = E + B Φ a is kinematically admissible, σ̂ = Ψ b and p_d = Ψ c_d are in equilibrium, A_d = d + B Φ X d, and δ is the
difference of the exact strain to ε̃. With D̃ = D(ε̃), the dressed stress S̃ · d = ⟨σ(ε̃) : A_d⟩, r₀ = σ̂ − σ(ε̃) and
r_d = D̃ : A_d − p_d,

    (S − S̃) · d = ⟨δ : r_d⟩ + ⟨ρ : A_d⟩,       ⟨J⟩ = ⟨r₀ : δ⟩,       |ρ : A_d| ≤ ν |dev A_d| J,

where J = (σ(ε) − σ(ε̃)) : δ, ρ is the remainder of the linearised stress and ν a constant of the phase at ε̃, see
`SelfConcordance`. Hence for every λ > 0, with the convex conjugate at each point,

    λ (S − S̃) · d ≤ ⟨(r₀ + λ r_d) : δ − (1 − λ ν |dev A_d|) J⟩ ≤ ¼ ⟨Φ |r₀ + λ r_d|²⟩,

in the norm of D̃⁻¹, with Φ from the lower bound of J; Φ = 1 in linear phases and tends to 1 for small errors. Φ is
evaluated for all |d| ≤ 1 at once, so that the right-hand side is a quadratic form in d, and

    |(S − S̃) · d − ½ ⟨Φ r₀ : D̃⁻¹ : r_d⟩| ≤ (⟨Φ |r₀|²⟩ + λ² max ⟨Φ |r_d|²⟩) / (4 λ):

S lies in a ball, about ½ ‖r₀‖ ‖r‖ in radius. The README has the derivation. Any a, b, X, c and λ are allowed; b and c
are least-squares fits at the points of the indicator.
"""

from typing import NamedTuple

import numpy as np

from femops.notation import Array
from femops.surrogate import chunks
from femops_equino.kernels.residuals import residuals
from femops_equino.reduced.admissible import CACHE_BYTES
from femops_equino.reduced.certificate import CertificatePoints, Quadratics, improved, norm, settled
from femops_equino.reduced.model import DEVIATOR, TRACE, ReducedModel

_PARTS = (1.0, 0.4, 0.15, 0.05)  # of the λ that is best for small errors, tried in turn
_CLOSE = 1.5  # of the radius for small errors, above which a smaller λ is tried
_LEAST = 1e-12  # ‖r‖² of the directions that λ is chosen for at least
_RIDGE = 1e-13
_ROUND_OFF = 1e-14
_TINY = 1e-200


class Ball(NamedTuple):
    """Ball that contains the exact homogenized stress, in the norm of `metric`.

    Attributes:
        centre: Shape (n, n_s).
        radius: Infinite where the bound of second order does not exist. Shape (n,).
    """

    centre: Array
    radius: Array


def ball_error(strain: Array, stress: Array, ball: Ball, metric: Array) -> Array:
    """Return the bound (n,) of the relative error of stresses (n, n_s) at strains (n, n_s) that a ball implies."""
    size, away = norm(stress, metric), norm(stress - ball.centre, metric)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (away + ball.radius) / size
    return settled(error, strain, np.maximum(size, away), metric)


def stress_ball(
    full: CertificatePoints,
    few: CertificatePoints,
    quadratics: Quadratics,
    solver: ReducedModel,
    strain: Array,
    coefficients: Array,
) -> Ball:
    """Return a ball around the homogenized stress of the nested solve.

    Args:
        full: All points of the nonlinear phases.
        few: Points at which stresses and λ are chosen.
        quadratics: Exact contributions of linear phases and bulk parts.
        solver: Reduced model for stiffness and sensitivities.
        strain: E. Shape (n, n_s).
        coefficients: a. Shape (n, r).
    """
    slices = list(chunks(len(strain), full.bytes_of_one, 2 * CACHE_BYTES)) or [slice(0, 0)]
    parts = [_ball(full, few, quadratics, solver, strain[part], coefficients[part]) for part in slices]
    return Ball(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _ball(
    full: CertificatePoints,
    few: CertificatePoints,
    quadratics: Quadratics,
    solver: ReducedModel,
    strain: Array,
    coefficients: Array,
) -> Ball:
    n_s = strain.shape[1]
    z, lift = improved(full, solver, strain, coefficients)
    root = np.linalg.cholesky(quadratics.metric)  # |d| ≤ 1 are the directions root ξ with |ξ| ≤ 1
    kinematic = np.concatenate([z[:, :, None], lift @ root], axis=2)
    static = _least_squares(few, quadratics, kinematic)
    exact = np.concatenate([kinematic, static], axis=1) * np.r_[1.0, -np.ones(n_s)]
    linear = np.einsum("nik,ij,njl->nkl", exact, quadratics.gap, exact, optimize=True)
    cancelled = np.linalg.norm(quadratics.gap, 2) * np.einsum("nik,nik->nk", exact, exact)
    linear += _ROUND_OFF * cancelled[:, :, None] * np.eye(n_s + 1)
    few_grams, _, _ = _grams(few, kinematic, static, linear, np.zeros(len(z)))
    own, largest = few_grams[:, 0, 0], np.linalg.eigvalsh(few_grams[:, 1:, 1:])[:, -1]
    ideal = np.sqrt(np.maximum(own, _TINY) / np.maximum(largest, _LEAST))
    good = _CLOSE * 0.5 * np.sqrt(np.maximum(own * largest, 0.0))
    centre, radius, going = np.zeros((len(z), n_s)), np.full(len(z), np.inf), np.arange(len(z))
    for part in _PARTS:
        one, size = _tried(full, kinematic[going], static[going], linear[going], part * ideal[going])
        better = size < radius[going]
        centre[going[better]], radius[going[better]] = one[better], size[better]
        going = going[(better | np.isinf(size)) & ~(radius[going] <= good[going])]
        if not len(going):
            break
    return Ball(np.linalg.solve(root.T, centre.T).T, radius)


def _tried(points: CertificatePoints, kinematic: Array, static: Array, linear: Array, factor: Array) -> Ball:
    """Return the ball, in components of the directions, for given λ (n,)."""
    grams, dressed, valid = _grams(points, kinematic, static, linear, factor)
    dressed += np.einsum("nms,nm->ns", kinematic[:, :, 1:], kinematic[:, :, 0] @ points.model.quadratic)
    radius = (grams[:, 0, 0] + factor**2 * np.linalg.eigvalsh(grams[:, 1:, 1:])[:, -1]) / (4.0 * factor)
    return Ball(dressed + 0.5 * grams[:, 1:, 0], np.where(valid, radius, np.inf))


def _grams(
    points: CertificatePoints, kinematic: Array, static: Array, linear: Array, factor: Array
) -> tuple[Array, Array, Array]:
    """Return Gram matrices of the residuals for given λ, dressed deviatoric stress, and whether the bound exists."""
    grams, dressed, valid = linear.copy(), np.zeros(kinematic[:, 0, 1:].shape), np.ones(len(factor), bool)
    residuals(points.compiled, kinematic, static, factor, grams, dressed, valid)
    return np.tril(grams) + np.tril(grams, -1).swapaxes(1, 2), dressed, valid


def _least_squares(points: CertificatePoints, quadratics: Quadratics, kinematic: Array) -> Array:
    """Return coefficients (n, n_b, 1 + n_s) of the stresses closest to σ(ε̃) and D̃ : A_d in the norm of D̃⁻¹."""
    n, m, n_v = kinematic.shape
    n_s, n_c, n_b = points.stress.shape
    unit, trace = DEVIATOR[2 if n_s == 3 else 3][:, :n_s], TRACE[2 if n_s == 3 else 3][:n_s]
    weight, bulk, alpha1, alpha2 = points.compiled[2].T
    z = kinematic[:, :, 0]
    deviator = np.einsum("gam,nm->nga", points.model.projection, z, optimize=True)
    size = np.linalg.norm(deviator, axis=2)
    secant = alpha1 / (alpha2 + size)
    radial = -(secant**2) / (alpha1 * np.maximum(size, _TINY))
    inward = deviator @ unit  # the in-plane components of dev ε̃
    tangent = secant[:, :, None, None] * (unit.T @ unit) + bulk[:, None, None] * np.outer(trace, trace)
    tangent = tangent + radial[:, :, None, None] * inward[:, :, :, None] * inward[:, :, None, :]
    local = np.einsum("sgm,nmk->ngsk", points.strain, kinematic, optimize=True)
    wanted = np.concatenate(  # D̃⁻¹ of the stresses wanted
        [np.linalg.solve(tangent, _stress(local[..., 0], inward, secant, bulk, trace)[..., None]), local[..., 1:]], 3
    )
    flexible = np.linalg.inv(tangent) * weight[:, None, None]
    modes = points.stress.transpose(1, 0, 2)  # (g, s, k)
    matrix = modes.reshape(-1, n_b).T @ (flexible @ modes).reshape(n, n_c * n_s, n_b)
    matrix = matrix + quadratics.gap[m:, m:]
    right = modes.reshape(-1, n_b).T @ (wanted * weight[:, None, None]).reshape(n, n_c * n_s, n_v)
    right = right - quadratics.gap[m:, :m] @ kinematic
    ridge = _RIDGE * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(n_b)
    return np.asarray(np.linalg.solve(matrix + ridge, right))


def _stress(strain: Array, inward: Array, secant: Array, bulk: Array, trace: Array) -> Array:
    return secant[..., None] * inward + (bulk * (strain @ trace))[..., None] * trace
