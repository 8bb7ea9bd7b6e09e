"""Conversions to other codes agree with loops over the indices of full tensors."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from femops import conversions, notation
from femops.conversions import ABAQUS, KRATOS, MFRONT, Convention

Array = np.ndarray
R2 = 2.0**0.5
# As the manuals have it: components, factor of shear strains, factor of shear stresses.
MANUALS = {
    "abaqus": (ABAQUS, "11 22 33 12 13 23", 2.0, 1.0),
    "kratos": (KRATOS, "11 22 33 12 23 13", 2.0, 1.0),
    "mfront": (MFRONT, "11 22 33 12 13 23", R2, R2),
}
CODES = pytest.mark.parametrize("code", MANUALS)
SIZES = pytest.mark.parametrize("size", [3, 4, 6])
N = 5


def indices(components: str, size: int) -> list[tuple[int, int]]:
    """Indices of the components that a vector of this size has: the plane's, those and 33, or all."""
    pairs = [(int(name[0]) - 1, int(name[1]) - 1) for name in components.split()]
    return [(i, j) for i, j in pairs if size == 6 or (i < 2 and j < 2) or (size == 4 and i == j == 2)]


def random_tensors(size: int) -> tuple[Array, Array, Array]:
    """Stresses and strains, shape (N, 3, 3), and tangents without major symmetry, of the components of a vector."""
    rng = np.random.default_rng(size)
    first, second, fourth = np.zeros((N, 3, 3)), np.zeros((N, 3, 3)), np.zeros((N, 3, 3, 3, 3))
    pairs = indices("11 22 33 12 13 23", size)
    for p, (i, j) in product(range(N), pairs):
        first[p, i, j] = first[p, j, i] = rng.uniform(-1.0, 1.0)
        second[p, i, j] = second[p, j, i] = rng.uniform(-1.0, 1.0)
        for k, m in pairs:
            value = rng.uniform(-1.0, 1.0)
            for a, b in {(i, j), (j, i)}:
                for c, d in {(k, m), (m, k)}:
                    fourth[p, a, b, c, d] = value
    return first, second, fourth


def vectors(tensors: Array, components: str, size: int, shear: float) -> Array:
    """Components of symmetric tensors in the order and with the shear factor of a code."""
    pairs = indices(components, size)
    return np.array([[t[i, j] * (1.0 if i == j else shear) for i, j in pairs] for t in tensors])


def mandel(tensors: Array, size: int) -> Array:
    return vectors(tensors, "11 22 33 23 13 12", size, R2)


def mandel_tangent(tensors: Array, size: int) -> Array:
    pairs = indices("11 22 33 23 13 12", size)
    scale = [1.0 if i == j else R2 for i, j in pairs]
    whole = [
        [[t[i, j, k, m] * a * b for (k, m), b in zip(pairs, scale, strict=True)]
         for (i, j), a in zip(pairs, scale, strict=True)]
        for t in tensors
    ]  # fmt: skip
    return np.array(whole)


def stress_of(fourth: Array, strain: Array) -> Array:
    """C_ijkl ε_kl, one component after the other."""
    stress = np.zeros_like(strain)
    for p, i, j, k, m in product(range(N), *[range(3)] * 4):
        stress[p, i, j] += fourth[p, i, j, k, m] * strain[p, k, m]
    return stress


@SIZES
@CODES
def test_vectors_have_the_order_and_factors_of_the_manual(code: str, size: int) -> None:
    convention, components, strain_shear, stress_shear = MANUALS[code]
    stress, strain, _ = random_tensors(size)
    their_strain = vectors(strain, components, size, strain_shear)
    their_stress = vectors(stress, components, size, stress_shear)
    close = np.testing.assert_allclose
    close(convention.strain_from_mandel(mandel(strain, size)), their_strain, rtol=1e-14)
    close(convention.stress_from_mandel(mandel(stress, size)), their_stress, rtol=1e-14)
    close(convention.strain_to_mandel(their_strain), mandel(strain, size), rtol=1e-14)
    close(convention.stress_to_mandel(their_stress), mandel(stress, size), rtol=1e-14)


@SIZES
@CODES
def test_tangents_map_the_strains_of_a_code_to_its_stresses(code: str, size: int) -> None:
    convention, components, strain_shear, stress_shear = MANUALS[code]
    _, strain, fourth = random_tensors(size)
    tangent = convention.tangent_from_mandel(mandel_tangent(fourth, size))
    found = np.einsum("pij,pj->pi", tangent, vectors(strain, components, size, strain_shear))
    expected = vectors(stress_of(fourth, strain), components, size, stress_shear)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(convention.tangent_to_mandel(tangent), mandel_tangent(fourth, size), rtol=1e-14)


@SIZES
@CODES
def test_the_energy_is_that_of_the_full_tensors(code: str, size: int) -> None:
    convention = MANUALS[code][0]
    stress, strain, _ = random_tensors(size)
    energy = [
        sum(s[i, j] * e[i, j] for i, j in product(range(3), repeat=2)) for s, e in zip(stress, strain, strict=True)
    ]
    work = convention.stress_from_mandel(mandel(stress, size)) * convention.strain_from_mandel(mandel(strain, size))
    np.testing.assert_allclose(work.sum(-1), energy, rtol=1e-12)


@SIZES
def test_full_tensors_of_vectors_and_tangents(size: int) -> None:
    stress, _, fourth = random_tensors(size)
    part = slice(2 if size == 3 else 3)
    np.testing.assert_allclose(notation.to_tensor(mandel(stress, size)), stress[:, part, part], rtol=1e-14)
    full = conversions.tangent_to_tensor(mandel_tangent(fourth, size))
    np.testing.assert_allclose(full, fourth[:, part, part, part, part], rtol=1e-14)
    if size != 4:
        np.testing.assert_allclose(conversions.tangent_from_tensor(full), mandel_tangent(fourth, size), rtol=1e-14)


def test_a_tensor_without_minor_symmetries_becomes_its_average() -> None:
    full = np.random.default_rng(1).uniform(-1.0, 1.0, (N, 3, 3, 3, 3))
    average = np.zeros_like(full)
    for i, j, k, m in product(range(3), repeat=4):
        average[:, i, j, k, m] = 0.25 * (
            full[:, i, j, k, m] + full[:, j, i, k, m] + full[:, i, j, m, k] + full[:, j, i, m, k]
        )
    np.testing.assert_allclose(conversions.tangent_from_tensor(full), mandel_tangent(average, 6), rtol=1e-13)


def test_the_direction_33_is_added_and_removed() -> None:
    stress, _, fourth = random_tensors(4)
    inside = stress.copy()
    inside[:, 2, 2] = 0.0
    vector = conversions.with_33(mandel(inside, 3), stress[:, 2, 2])
    np.testing.assert_array_equal(vector, mandel(stress, 4))
    plane, normal = conversions.without_33(vector)
    np.testing.assert_array_equal(plane, mandel(inside, 3))
    np.testing.assert_array_equal(normal, stress[:, 2, 2])
    fourth[:, :, :, 2, 2] = 0.0  # no strain 33
    row = np.array([[t[2, 2, 0, 0], t[2, 2, 1, 1], R2 * t[2, 2, 0, 1]] for t in fourth])
    tangent = conversions.tangent_with_33(mandel_tangent(fourth, 3), row)
    np.testing.assert_array_equal(tangent, mandel_tangent(fourth, 4))
    without = conversions.tangent_without_33(tangent)
    np.testing.assert_array_equal(without[0], mandel_tangent(fourth, 3))
    np.testing.assert_array_equal(without[1], row)


@CODES
def test_points_may_have_several_axes_or_none(code: str) -> None:
    convention: Convention = MANUALS[code][0]
    values: Any = np.random.default_rng(2).uniform(-1.0, 1.0, (2, 3, 6, 6))
    for convert in (convention.tangent_from_mandel, convention.tangent_to_mandel, conversions.tangent_to_tensor):
        np.testing.assert_array_equal(convert(values)[1, 2], convert(values[1, 2]))
    np.testing.assert_array_equal(
        convention.strain_to_mandel(values)[1, 2, 0], convention.strain_to_mandel(values[1, 2, 0])
    )
