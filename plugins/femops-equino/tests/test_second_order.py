"""Every inequality of the bound of second order, with the exact fields of the nested solve at hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from equino_cases import answer_of

from femops import load_law
from femops.phases import isotropic
from femops.rve.sampling import sobol
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops_equino.reduced import second_order
from femops_equino.reduced.certificate import improved, norm
from femops_equino.reduced.second_order import stress_ball


@pytest.fixture(scope="module", params=["plane", "solid"])
def fields(request):
    """Exact and predicted fields at small and large strains; points are the second axis, strains the third."""
    trained = request.getfixturevalue(request.param)
    law = load_law(trained.model, dim=2 if request.param == "plane" else 3)
    corner, scales = np.full(3 if law.dim == 2 else 6, 0.03), (1.0, 1.7) if law.dim == 2 else (0.3, 0.7)
    strain = np.concatenate([sobol(-scale * corner, scale * corner, 3, 4) for scale in scales])
    microscale = law.microscale
    full, rve = microscale.full, microscale.rve
    response = answer_of(law, strain)
    z, lift = improved(full.points, law.model, strain, law._coefficients_of(strain, response.state))
    root = np.linalg.cholesky(law.metric)
    kinematic = np.concatenate([z[:, :, None], lift @ root], axis=2)
    static = second_order._least_squares(microscale.indicator_points, law.quadratics, kinematic)
    operators, basis = microscale.operators, microscale.basis
    n_s, n_e = len(corner), full.model.n_e

    def local(columns):  # (n, m, k) to (n_s, P, n, k)
        fluctuation = np.tensordot(operators.gradient @ basis.displacement, columns[:, n_e:], axes=([1], [1]))
        return fluctuation.reshape(n_s, -1, *fluctuation.shape[1:]) + columns[:, :n_s].transpose(1, 0, 2)[:, None]

    exact = SnapshotSolver(rve, SolverOptions(rtol=1e-13)).solve(strain)
    stresses = np.tensordot(basis.stress, static, axes=([1], [1])).reshape(n_s, -1, len(strain), 1 + n_s)
    both = local(kinematic)
    true = (operators.gradient @ exact["fluctuation"].T).reshape(n_s, -1, len(strain)) + strain.T[:, None]
    found = SimpleNamespace(
        law=law, strain=strain, response=response, weight=operators.weight / operators.volume, root=root,
        static=static, kinematic=kinematic, estimate=both[..., 0], directions=both[..., 1:], delta=true - both[..., 0],
        balanced=stresses[..., 0], balanced_slopes=stresses[..., 1:], stress=np.empty_like(true),
        true_stress=np.empty_like(true), tangent=np.empty((n_s, *true.shape)), bulk=np.empty(true.shape[1]),
        decay=np.empty(true.shape[1:]), curvature=np.empty(true.shape[1:]),
    )  # fmt: skip
    none = np.zeros((0, *true.shape[1:]))
    for position, phase in enumerate(rve.phases):
        part = rve.discretisation.points_of_phase(position)
        at = phase.evaluate(found.estimate[:, part], none[:, part])
        found.stress[:, part], found.tangent[:, :, part] = at.stress, at.tangent
        found.true_stress[:, part] = phase.evaluate(true[:, part], none[:, part]).stress
        found.decay[part], found.curvature[part] = phase.self_concordance(found.estimate[:, part])
        found.bulk[part] = phase.K
    found.own = found.balanced - found.stress  # r₀
    found.slopes = np.einsum("stgn,tgnd->sgnd", found.tangent, found.directions) - found.balanced_slopes  # r_d
    found.work = ((found.true_stress - found.stress) * found.delta).sum(0)  # J
    found.truth = np.einsum("g,sgn->ns", found.weight, found.true_stress)
    return found


def mean(fields, values):
    return np.tensordot(fields.weight, values, axes=1)


def deviatoric(strain):
    return isotropic.norm(*isotropic.deviator(strain))


def flexible(fields, stress):
    """Return D̃⁻¹ of stresses (n_s, P, n)."""
    matrix = fields.tangent.transpose(2, 3, 0, 1)
    return np.linalg.solve(matrix, stress.transpose(1, 2, 0)[..., None])[..., 0].transpose(2, 0, 1)


def split(fields, stress, other):
    """Return the bulk and the deviatoric part of the scalar product of D̃⁻¹. Shape (P, n) each."""
    one, two = flexible(fields, stress), flexible(fields, other)
    bulk = fields.bulk[:, None] * isotropic.trace(one) * isotropic.trace(two)
    return bulk, (stress * two).sum(0) - bulk


def conjugate(fields, stress, remaining):
    """Return the bound of the conjugate of K tr² + p |dev|²/(1 + decay |dev|) at stresses, with p = `remaining`."""
    bulk, deviator = split(fields, stress, stress)
    x = softest(fields) * np.sqrt(np.maximum(deviator, 0.0)) / remaining
    assert x.max() < 1.0
    return 0.25 * bulk + deviator / ((1.0 + np.sqrt(1.0 - x)) ** 2 * remaining)


def softest(fields):
    """Return decay/√φ with φ the least deviatoric stiffness. Shape (P, n)."""
    phi = np.full(fields.decay.shape, np.inf)
    for part, phase in fields.law.microscale.full.points.phases:
        at = fields.law.rve.discretisation.points_of_phase(
            [type(one) for one in fields.law.rve.phases].index(type(phase))
        )
        assert at.stop - at.start == part.stop - part.start
        phi[at] = phase.alpha1 * phase.alpha2 / (phase.alpha2 + deviatoric(fields.estimate[:, at])) ** 2
    return fields.decay / np.sqrt(phi)


def test_balanced_stresses_do_no_work_on_the_error_of_the_strain(fields):
    size = np.sqrt(mean(fields, fields.work))
    for stress in [fields.balanced, *np.moveaxis(fields.balanced_slopes, 3, 0)]:
        work = mean(fields, (stress * fields.delta).sum(0))
        scale = np.sqrt(mean(fields, (stress * flexible(fields, stress)).sum(0)))
        assert (np.abs(work) < 1e-8 * size * scale).all()


def test_the_work_of_the_errors_is_that_of_the_primal_residual(fields):
    np.testing.assert_allclose(mean(fields, fields.work), mean(fields, (fields.own * fields.delta).sum(0)), rtol=1e-6)


def test_the_error_of_the_stress_is_the_work_of_the_dual_residual_and_a_remainder(fields):
    linear = np.einsum("stgn,tgn->sgn", fields.tangent, fields.delta)
    remainder = fields.true_stress - fields.stress - linear
    dressed = mean(fields, np.einsum("sgn,sgnd->gnd", fields.stress, fields.directions))
    parts = np.einsum("sgn,sgnd->gnd", fields.delta, fields.slopes) + np.einsum(
        "sgn,sgnd->gnd", remainder, fields.directions
    )
    error = fields.truth @ fields.root - dressed
    np.testing.assert_allclose(mean(fields, parts), error, rtol=0, atol=1e-5 * np.abs(error).max())
    for d in range(fields.slopes.shape[3]):
        limit = fields.curvature * deviatoric(fields.directions[..., d]) * fields.work
        found = np.abs((remainder * fields.directions[..., d]).sum(0))
        assert (found <= limit + 1e-9 * limit.max()).all()


def test_the_work_of_the_errors_is_not_below_its_bound(fields):
    bulk = fields.bulk[:, None] * isotropic.trace(fields.delta) ** 2
    quadratic = np.einsum("sgn,stgn,tgn->gn", fields.delta, fields.tangent, fields.delta) - bulk
    least = bulk + quadratic / (1.0 + fields.decay * deviatoric(fields.delta))
    assert (fields.work >= least - 1e-9 * least.max()).all()
    assert np.median(least / fields.work) > 0.9


@pytest.mark.parametrize("part", [0.3, 0.1])
def test_every_direction_obeys_the_bound_and_the_kernel_sums_it(fields, part):
    law, n = fields.law, len(fields.strain)
    own = mean(fields, sum(split(fields, fields.own, fields.own)))
    slopes = [sum(split(fields, one, one)) for one in np.moveaxis(fields.slopes, 3, 0)]
    step = part * np.sqrt(own / np.max([mean(fields, one) for one in slopes], axis=0))
    lengths = np.sqrt(sum(deviatoric(one) ** 2 for one in np.moveaxis(fields.directions, 3, 0)))
    remaining = 1.0 - step * fields.curvature * lengths
    assert remaining.min() > 0.0
    dressed = mean(fields, np.einsum("sgn,sgnd->gnd", fields.stress, fields.directions))
    error = fields.truth @ fields.root - dressed
    for d, slope in enumerate(np.moveaxis(fields.slopes, 3, 0)):
        for sign in (-1.0, 1.0):
            most = mean(fields, conjugate(fields, fields.own + sign * step * slope, remaining))
            assert (sign * step * error[:, d] <= most * (1.0 + 1e-9)).all()
    # the factor of all directions, and the Gram matrices of the kernel
    residuals = [fields.own, *np.moveaxis(fields.slopes, 3, 0)]
    sizes = [np.maximum(split(fields, one, one)[1], 0.0) for one in residuals]
    x = softest(fields) * (np.sqrt(sizes[0]) + step * np.sqrt(sum(sizes[1:]))) / remaining
    factor = np.where(fields.decay > 0.0, 4.0 / ((1.0 + np.sqrt(1.0 - x)) ** 2 * remaining), 1.0)
    grams = np.empty((n, len(residuals), len(residuals)))
    for i, one in enumerate(residuals):
        for j, other in enumerate(residuals):
            bulk, deviator = split(fields, one, other)
            grams[:, i, j] = mean(fields, bulk + factor * deviator)
    exact = np.concatenate([fields.kinematic, fields.static], axis=1) * np.r_[1.0, -np.ones(len(residuals) - 1)]
    linear = np.einsum("nik,ij,njl->nkl", exact, law.quadratics.gap, exact, optimize=True)
    points = law.microscale.full.points
    found, stress, valid = second_order._grams(points, fields.kinematic, fields.static, linear, step)
    assert valid.all()
    scale = np.sqrt(np.einsum("nii,njj->nij", grams, grams))
    assert (np.abs(found - grams) < 1e-7 * scale).all()
    stress += np.einsum("nmd,nm->nd", fields.kinematic[:, :, 1:], fields.kinematic[:, :, 0] @ points.model.quadratic)
    np.testing.assert_allclose(stress, dressed, rtol=0, atol=1e-10 * np.abs(dressed).max())


def test_the_exact_stress_is_in_the_ball_and_halving_the_bound_would_lose_it(fields):
    law, microscale = fields.law, fields.law.microscale
    coefficients = law._coefficients_of(fields.strain, fields.response.state)
    given = (microscale.full.points, microscale.indicator_points, law.quadratics, law.model)
    ball = stress_ball(*given, fields.strain, coefficients)
    away = norm(fields.truth - ball.centre, law.metric)
    assert (away <= ball.radius).all() and (ball.radius < 0.02 * norm(fields.truth, law.metric)).all()
    small = 1e-6 * fields.strain  # where the bound is the error
    response = answer_of(law, small)
    nested = SnapshotSolver(law.rve, SolverOptions(rtol=1e-13)).solve(small)["stress"]
    error = norm(response.stress - nested, law.metric) / norm(response.stress, law.metric)
    bound = law.certify(small, response, "bound")
    assert (bound >= error).all() and (0.5 * bound < error).all()


def test_no_ball_where_the_residual_exceeds_what_the_phase_bears(fields):
    """The bound of second order does not exist there, and that of first order remains."""
    law, microscale = fields.law, fields.law.microscale
    far = 40.0 * fields.strain
    response = answer_of(law, far)
    given = (microscale.full.points, microscale.indicator_points, law.quadratics, law.model)
    ball = stress_ball(*given, far, law._coefficients_of(far, response.state))
    assert np.isinf(ball.radius).any()
    assert np.isfinite(law.certify(far, response, "bound")).all()
