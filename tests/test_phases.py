"""Phases satisfy the law contract and their equations; the contract checks refuse faulty laws."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest

from femops import LawResponse, load_law, notation
from femops.checks import check_law
from femops.notation import Array
from femops.phases import fenchel_gap, isotropic
from femops.phases.j2 import J2

PHASES: dict[str, dict[str, Any]] = {
    "elastic": {"law": "elastic", "K": 43452.381, "G": 29918.033},
    "saturating": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
    "j2": {"law": "j2", "E": 1000.0, "nu": 0.3, "yield_stress": 8.0, "hardening": 120.0},
    "j2 ideal": {"law": "j2", "E": 1000.0, "nu": 0.3, "yield_stress": 8.0},
}
E, NU, YIELD, H = (PHASES["j2"][key] for key in ("E", "nu", "yield_stress", "hardening"))
G = E / (2.0 * (1.0 + NU))
EVERY = pytest.mark.parametrize("name", PHASES)
DIMS = pytest.mark.parametrize("dim", [2, 3])
IN_PLANE = [0, 1, 5]


def law_of(name: str, dim: int) -> Any:
    """Return a phase as a law."""
    return load_law(PHASES[name], dim=dim)


def path(dim: int, n_points: int = 8) -> list[Array]:
    """Return strains of load steps with reversal and a change of direction. Shape (n_points, n_s) each."""
    rng = np.random.default_rng(11)
    one, two = rng.uniform(-0.03, 0.03, (2, n_points, notation.n_strain(dim)))
    return [a * one + b * two for a, b in ((0.2, 0.0), (1.0, 0.0), (0.7, 0.1), (-0.8, 0.3), (-0.3, 1.0), (0.0, 0.0))]


@EVERY
@DIMS
def test_the_law_keeps_the_contract(name: str, dim: int) -> None:
    check_law(law_of(name, dim), strain_scale=0.03, rtol_tangent=1e-7)


@EVERY
def test_plane_strain_is_3d_without_strain_out_of_the_plane(name: str) -> None:
    plane, solid = law_of(name, 2), law_of(name, 3)
    strains = path(2)
    state_2, state_3 = np.zeros((len(strains[0]), plane.n_state)), np.zeros((len(strains[0]), solid.n_state))
    for strain in strains:
        embedded = np.zeros((len(strain), 6))
        embedded[:, IN_PLANE] = strain
        two, three = plane.evaluate(strain, state_2, 1.0), solid.evaluate(embedded, state_3, 1.0)
        size, stiffness = np.abs(three.stress).max(), np.abs(three.tangent).max()
        np.testing.assert_allclose(two.stress, three.stress[:, IN_PLANE], rtol=0.0, atol=1e-13 * size)
        np.testing.assert_allclose(two.stress_33, three.stress[:, 2], rtol=0.0, atol=1e-13 * size)
        block = three.tangent[:, IN_PLANE][:, :, IN_PLANE]
        np.testing.assert_allclose(two.tangent, block, rtol=0.0, atol=1e-12 * stiffness)
        row = three.tangent[:, 2][:, IN_PLANE]
        np.testing.assert_allclose(two.tangent_33, row, rtol=0.0, atol=1e-12 * stiffness)
        assert three.tangent_33 is None
        state_2, state_3 = two.state, three.state
    for field, part in plane.state_fields.items():
        whole = state_3[:, solid.state_fields[field]]
        expected = whole[:, IN_PLANE] if whole.shape[1] == 6 else whole
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(state_2[:, part], expected, rtol=0.0, atol=1e-15)


def energy_of(phase: Any, strain: Array, state: Array) -> Array:
    """Return ψ(ε); of J2 the incremental energy: elastic energy, hardening energy and plastic work of the step."""
    if not isinstance(phase, J2):
        return phase.energy(strain.T, state.T)
    n_s = strain.shape[1]
    tensor, plastic = notation.to_tensor(strain), notation.to_tensor(state[:, :n_s])
    elastic = np.zeros((len(strain), 3, 3))
    elastic[:, : len(tensor[0]), : len(tensor[0])] = tensor - plastic
    elastic[:, 2, 2] += np.trace(plastic, axis1=1, axis2=2)  # zero in 3D
    trace = np.trace(elastic, axis1=1, axis2=2)
    dev = elastic - trace[:, None, None] / 3.0 * np.eye(3)
    q, p = 6.0**0.5 * phase.G * np.linalg.norm(dev, axis=(1, 2)), state[:, n_s]
    increment = np.maximum(q - phase.yield_stress - phase.hardening * p, 0.0) / (3.0 * phase.G + phase.hardening)
    stored = 0.5 * phase.K * trace**2 + (q - 3.0 * phase.G * increment) ** 2 / (6.0 * phase.G)
    return stored + phase.yield_stress * increment + 0.5 * phase.hardening * (p + increment) ** 2


@EVERY
@DIMS
def test_the_stress_is_the_derivative_of_the_energy(name: str, dim: int) -> None:
    law = law_of(name, dim)
    state = np.zeros((8, law.n_state))
    for strain in path(dim):
        response = law.evaluate(strain, state, 1.0)
        step = 1e-6
        for i, unit in enumerate(step * np.eye(strain.shape[1])):
            up, down = (energy_of(law.phase, strain + sign * unit, state) for sign in (1.0, -1.0))
            expected = (up - down) / (2.0 * step)
            scale = np.abs(response.stress).max() + step * np.abs(response.tangent).max()
            np.testing.assert_allclose(response.stress[:, i], expected, rtol=0.0, atol=1e-6 * scale)
        state = response.state


@DIMS
def test_the_saturating_law_bounds_the_deviatoric_stress(dim: int) -> None:
    law = law_of("saturating", dim)
    direction = np.random.default_rng(1).normal(size=notation.n_strain(dim))
    strain = np.outer([1e-4, 0.03, 0.3, 30.0], direction)
    response = law.evaluate(strain, np.zeros((4, 0)), 1.0)
    norm = notation.von_mises(response.stress, response.stress_33) / 1.5**0.5
    assert (np.diff(norm) > 0.0).all()
    assert norm[-1] < law.phase.alpha1
    assert norm[-1] > 0.99 * law.phase.alpha1


@pytest.mark.parametrize("law", ["elastic", "j2"])
def test_young_and_poisson_are_bulk_and_shear(law: str) -> None:
    rest = {key: PHASES["j2"][key] for key in ("yield_stress", "hardening")} if law == "j2" else {}
    bulk = E / (3.0 * (1.0 - 2.0 * NU))
    strain, state = path(3)[1], np.zeros((8, 7 if law == "j2" else 0))
    one = load_law({"law": law, "E": E, "nu": NU, **rest}, dim=3).evaluate(strain, state, 1.0)
    two = load_law({"law": law, "K": bulk, "G": G, **rest}, dim=3).evaluate(strain, state, 1.0)
    np.testing.assert_allclose(one.stress, two.stress, rtol=1e-12)


# -- J2 in uniaxial stress: strains that give σ11 = s and nothing else --------------------------------------------


def uniaxial(stress: Array, plastic: Array) -> Array:
    """Return the 3D strain of a bar under `stress` with the axial plastic strain `plastic`. Shape (n, 6)."""
    strain = np.zeros((len(stress), 6))
    strain[:, 0] = stress / E + plastic
    strain[:, 1] = strain[:, 2] = -NU * stress / E - 0.5 * plastic
    return strain


def bar(stress: Array, plastic: Array, state: Array | None = None) -> LawResponse:
    """Return the response of the J2 law to `uniaxial`, with the stress checked."""
    given = np.zeros((len(stress), 7)) if state is None else state
    response = law_of("j2", 3).evaluate(uniaxial(stress, plastic), given, 1.0)
    np.testing.assert_allclose(response.stress[:, 0], stress, rtol=1e-12)
    np.testing.assert_allclose(response.stress[:, 1:], 0.0, rtol=0.0, atol=1e-12 * YIELD)
    return response


def test_j2_yields_at_the_yield_stress() -> None:
    stress = YIELD * np.array([0.5, 1.0 - 1e-9, 1.0 + 1e-6, -1.0 + 1e-9, -1.0 - 1e-6])
    strain = uniaxial(stress, np.zeros(5))
    plastic = law_of("j2", 3).evaluate(strain, np.zeros((5, 7)), 1.0).state[:, 6] > 0.0
    assert plastic.tolist() == [False, False, True, False, True]


def test_j2_hardens_with_its_tangent_modulus_and_flows_without_change_of_volume() -> None:
    p = np.linspace(0.0, 0.1, 5)
    stress = YIELD + H * p
    response = bar(stress, p)
    np.testing.assert_allclose(response.state[:, 6], p, rtol=0.0, atol=1e-14)
    np.testing.assert_allclose(response.state[:, :3].sum(1), 0.0, rtol=0.0, atol=1e-15)
    compliance = np.linalg.inv(response.tangent[1:])
    np.testing.assert_allclose(1.0 / compliance[:, 0, 0], E * H / (E + H), rtol=1e-12)


def test_j2_unloads_elastically_and_yields_again_at_the_hardened_stress() -> None:
    p = np.array([0.01, 0.02, 0.05])
    top = YIELD + H * p
    loaded = bar(top, p)
    unloaded = bar(-0.999 * top, p, loaded.state)
    np.testing.assert_array_equal(unloaded.state, loaded.state)
    np.testing.assert_allclose(np.linalg.inv(unloaded.tangent)[:, 0, 0], 1.0 / E, rtol=1e-12)
    more = 0.003
    reversed_ = bar(-(top + H * more), p - more, loaded.state)
    np.testing.assert_allclose(reversed_.state[:, 6], p + more, rtol=1e-12)


# -- the checks themselves ----------------------------------------------------------------------------------------


class Changed:
    """A law whose response is changed by a function of strain, state and response."""

    def __init__(self, law: Any, change: Callable[[Array, Array, LawResponse], LawResponse]) -> None:
        self.law, self.change = law, change
        self.strain_measure, self.dim = law.strain_measure, law.dim
        self.n_state, self.state_fields = law.n_state, law.state_fields

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        return self.change(strain, state, self.law.evaluate(strain, state, dt))


def remembering() -> Callable[[Array, Array, LawResponse], LawResponse]:
    """Return a change that depends on the calls before."""
    seen: list[float] = []

    def change(strain: Array, state: Array, response: LawResponse) -> LawResponse:
        seen.append(1.0)
        return replace(response, stress=response.stress * (1.0 + 1e-6 * sum(seen)))

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda e, s, r: replace(r, tangent=1.0001 * r.tangent), "central differences"),
        (lambda e, s, r: replace(r, tangent=r.tangent.transpose(0, 2, 1) + e[:, :, None]), "central differences"),
        (lambda e, s, r: replace(r, stress=r.stress + 1.0), "zero strain"),
        (lambda e, s, r: replace(r, stress=r.stress * (1.0 + e.sum())), "alone and in the batch"),
        (lambda e, s, r: replace(r, stress=r.stress.astype(np.float32)), "float32"),
        (lambda e, s, r: replace(r, tangent=r.tangent[0]), "shape"),
        (lambda e, s, r: replace(r, stress_33=None), "stress_33"),
        (lambda e, s, r: replace(r, tangent_33=1.0001 * r.tangent_33), "the tangent_33 of point . .* differs"),
        (lambda e, s, r: replace(r, tangent_33=r.tangent_33[:, ::-1].copy()), "the tangent_33 of point . .* differs"),
        (lambda e, s, r: replace(r, tangent_33=r.tangent_33[:, :2]), "tangent_33 .* has the shape"),
        (lambda e, s, r: replace(r, state=s), "view of the input state"),
        (lambda e, s, r: replace(r, error=np.full(len(e), np.nan)), "not finite"),
        (lambda e, s, r: replace(r, valid=np.ones(len(e))), "float64, expected bool"),
        (lambda e, s, r: replace(r, valid=np.ones(max(len(e), 1), dtype=bool)), "empty batch"),
        (remembering(), "the same input twice"),
    ],
)
def test_a_law_that_breaks_the_contract_is_refused(change: Any, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_law(Changed(law_of("j2", 2), change))


def test_a_law_that_writes_into_its_input_is_refused() -> None:
    def change(strain: Array, state: Array, response: LawResponse) -> LawResponse:
        strain += 1.0
        return response

    with pytest.raises(ValueError, match="read-only"):
        check_law(Changed(law_of("elastic", 2), change))


def test_state_fields_outside_the_state_are_refused() -> None:
    law = Changed(law_of("j2", 3), lambda e, s, r: r)
    law.state_fields = {"plastic_strain": slice(2, 8)}
    with pytest.raises(AssertionError, match="plastic_strain"):
        check_law(law)


@pytest.mark.parametrize("name", ["elastic", "saturating"])
@DIMS
def test_the_complementary_energy_is_the_legendre_transform_of_the_energy(name: str, dim: int) -> None:
    phase = law_of(name, dim).phase
    rng = np.random.default_rng(4)
    shape = (notation.n_strain(dim), 200)
    strain, other = rng.uniform(-0.06, 0.06, shape), rng.uniform(-0.06, 0.06, shape)
    none = np.zeros((0, shape[1]))
    stress = phase.evaluate(strain, none).stress
    complementary, energy = phase.complementary_energy(stress), phase.energy(strain, none)
    np.testing.assert_allclose(energy + complementary, (stress * strain).sum(0), rtol=1e-6)  # Fenchel's equality
    gap = phase.energy(other, none) + complementary - (stress * other).sum(0)
    assert (gap >= 0.0).all() and np.median(gap / energy) > 1e-2  # and inequality


def test_no_strain_has_a_stress_beyond_saturation() -> None:
    phase = law_of("saturating", 3).phase
    shear = np.zeros((6, 2))
    shear[5] = 49.9, 50.1
    assert np.isfinite(phase.complementary_energy(shear)).tolist() == [True, False]


def _in_fifty_digits(strain: Any, stress: Any) -> tuple[Decimal, Decimal, Decimal]:
    """Return ψ, ψ* and ψ + ψ* − σ : ε of `saturating` in 3D by their definitions, in decimal numbers of 50 digits."""
    e, s = ([Decimal(float(x)) for x in one] for one in (strain, stress))
    bulk, alpha1, alpha2 = Decimal(4780), Decimal(50), Decimal("0.06")

    def invariants(tensor: list[Decimal]) -> tuple[Decimal, Decimal]:
        trace = sum(tensor[:3], Decimal(0))
        deviator = [x - trace / 3 if i < 3 else x for i, x in enumerate(tensor)]
        return trace, sum((x * x for x in deviator), Decimal(0)).sqrt()

    (trace, n), (total, size) = invariants(e), invariants(s)
    energy = bulk / 2 * trace**2 + alpha1 * (n - alpha2 * (1 + n / alpha2).ln())
    complementary = total**2 / (18 * bulk) - alpha2 * (alpha1 * (1 - size / alpha1).ln() + size)
    work = sum((a * b for a, b in zip(e, s, strict=True)), Decimal(0))
    return energy, complementary, energy + complementary - work


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14])
def test_energies_and_their_gap_keep_their_digits_at_strains_of_every_size(size: float) -> None:
    """The gap of strain and stress that differ by a thousandth is a millionth of the energy, however small both are."""
    phase = law_of("saturating", 3).phase
    rng = np.random.default_rng(8)
    strain = size * rng.uniform(-1.0, 1.0, (6, 20))
    near = strain * (1.0 + 1e-3 * rng.uniform(-1.0, 1.0, strain.shape))
    stress = phase.evaluate(near, np.zeros((0, 20))).stress
    found = phase.energy(strain, None), phase.complementary_energy(stress), fenchel_gap(phase, strain, stress)
    with localcontext(prec=50):
        wanted = np.array(
            [[float(x) for x in _in_fifty_digits(*pair)] for pair in zip(strain.T, stress.T, strict=True)]
        )
    for values, column, digits in zip(found, wanted.T, (1e-13, 1e-13, 1e-11), strict=True):
        np.testing.assert_allclose(values, column, rtol=digits)
    assert np.median(found[2] / found[0]) < 1e-6


@pytest.mark.parametrize("name", ["elastic", "saturating"])
@DIMS
def test_the_gap_is_the_sum_of_the_energies_less_the_work(name: str, dim: int) -> None:
    phase = law_of(name, dim).phase
    rng = np.random.default_rng(5)
    strain, other = rng.uniform(-0.06, 0.06, (2, notation.n_strain(dim), 200))
    stress = phase.evaluate(other, np.zeros((0, 200))).stress
    gap = fenchel_gap(phase, strain, stress)
    plain = phase.energy(strain, None) + phase.complementary_energy(stress) - (stress * strain).sum(0)
    # In plane strain the normal stress is a choice, and another one gives another upper bound.
    np.testing.assert_allclose(gap, plain, rtol=1e-9 if name == "elastic" or dim == 3 else 0.05)
    assert (gap >= plain * (1 - 1e-9)).all()
    same = fenchel_gap(phase, other, stress)
    assert (same <= 1e-25 * phase.energy(other, None)).all()
    assert np.isinf(fenchel_gap(phase, strain, 1e3 * stress)).all() == (name == "saturating")


@DIMS
@pytest.mark.parametrize("size", [1e-8, 1e-11, 1e-14])
def test_the_gap_of_tiny_strains_is_that_of_elasticity(dim: int, size: float) -> None:
    saturating = law_of("saturating", dim).phase
    elastic = load_law({"law": "elastic", "K": 4780.0, "G": 50.0 / (2 * 0.06)}, dim=dim).phase
    rng = np.random.default_rng(9)
    strain, other = size * rng.uniform(-1.0, 1.0, (2, notation.n_strain(dim), 100))
    other = strain + 1e-2 * other
    stress = saturating.evaluate(other, np.zeros((0, 100))).stress
    ours, theirs = fenchel_gap(saturating, strain, stress), fenchel_gap(elastic, strain, stress)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def _apart(dim: int, alpha2: float) -> tuple[Any, Any]:
    """Return strains, and differences to other strains, of all sizes relative to alpha2 and in all directions."""
    rng = np.random.default_rng(6)
    n_s, n = notation.n_strain(dim), 4000
    strain = alpha2 * 10.0 ** rng.uniform(-3, 3, n) * rng.standard_normal((n_s, n))
    near = rng.random(n) < 0.5  # nearly along the strain, where the tangent is softest
    across = np.where(near, 10.0 ** rng.uniform(-4, 0, n), 1.0) * rng.standard_normal((n_s, n))
    difference = np.where(near, rng.choice([-1.0, 1.0], n) * strain / np.linalg.norm(strain, axis=0), 0.0) + across
    return strain, difference * alpha2 * 10.0 ** rng.uniform(-2, 4, n)


def _deviatoric(phase: Any, strain: Any) -> Any:
    """Return the in-plane and, in plane strain, the normal components of the deviatoric stress."""
    deviator, normal = isotropic.deviator(strain)
    whole = deviator if normal is None else np.concatenate([deviator, normal[None]])
    return whole * (phase.alpha1 / (phase.alpha2 + np.linalg.norm(whole, axis=0))), whole


@DIMS
@pytest.mark.parametrize("alpha2", [0.06, 5e-4])
def test_self_concordance_limits_how_the_response_departs_from_the_linearised_one(dim: int, alpha2: float) -> None:
    phase = load_law({"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": alpha2}, dim=dim).phase
    strain, difference = _apart(dim, alpha2)
    (stress, e), (other, f) = _deviatoric(phase, strain), _deviatoric(phase, strain + difference)
    d = f - e
    n, size = np.linalg.norm(e, axis=0), np.linalg.norm(d, axis=0)
    secant, tangential = phase.alpha1 / (alpha2 + n), phase.alpha1 * alpha2 / (alpha2 + n) ** 2
    along = (e * d).sum(0) / n
    linear = secant * d + (tangential - secant) * along * e / n
    work, quadratic = ((other - stress) * d).sum(0), (linear * d).sum(0)
    remainder = np.linalg.norm(other - stress - linear, axis=0)
    kept = size > 1e-4 * (alpha2 + n)  # smaller differences are round-off
    assert kept.sum() > 1000
    constant = phase.self_concordance(strain)
    decay = work * (1.0 + constant.decay * size) / quadratic
    curvature = remainder / (constant.curvature * work)
    assert decay[kept].min() > 1.0 - 1e-6 and curvature[kept].max() < 1.0 + 1e-6
    assert ((quadratic / work - 1.0) / (constant.decay * size))[kept].max() > 0.7  # and both are sharp
    assert curvature[kept].max() > 0.9


@DIMS
def test_the_tangent_of_saturating_changes_no_faster_than_self_concordance_allows(dim: int) -> None:
    """|ψ‴[u, v, v]| ≤ M |dev u| v : D : v, with M = 2/α2 everywhere and the least M at a strain, by differences."""
    phase = law_of("saturating", dim).phase
    rng = np.random.default_rng(7)
    n_s, n = notation.n_strain(dim), 20000
    strain = phase.alpha2 * 10.0 ** rng.uniform(-2, 2, n) * rng.standard_normal((n_s, n))
    none, (u, v) = np.zeros((0, n)), rng.standard_normal((2, n_s, n))
    size = isotropic.norm(*isotropic.deviator(strain))
    step = 1e-5 * (phase.alpha2 + size) / np.linalg.norm(u, axis=0)

    def quadratic(at: Any) -> Any:
        return np.einsum("sn,stn,tn->n", v, phase.evaluate(at, none).tangent, v)

    change = (quadratic(strain + step * u) - quadratic(strain - step * u)) / (2.0 * step)
    used = np.abs(change) / (isotropic.norm(*isotropic.deviator(u)) * quadratic(strain))
    y = 1.0 + size / phase.alpha2
    least = 2.0 / phase.alpha2 * np.sqrt((y + 2.0) / (y * (4.0 * y - 1.0)))
    kept = size > 1e-2 * phase.alpha2
    assert (used <= least * (1.0 + 1e-5))[kept].all() and (least <= 2.0 / phase.alpha2).all()
    constant = phase.self_concordance(strain)
    assert (constant.decay <= least * (1.0 + 1e-12)).all() and (constant.curvature <= least).all()


@DIMS
def test_linear_phases_are_self_concordant_with_zero(dim: int) -> None:
    constant = law_of("elastic", dim).phase.self_concordance(np.ones((notation.n_strain(dim), 4)))
    assert not np.any(constant.decay) and not np.any(constant.curvature)
