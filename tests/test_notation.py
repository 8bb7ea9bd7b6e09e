"""Mandel notation agrees with full tensors, with Abaqus vectors and with UFL."""

from typing import Any

import numpy as np
import pytest
import ufl

from femops import notation

RNG = np.random.default_rng(3)
DIMS = pytest.mark.parametrize("dim", [2, 3])


def symmetric(dim: int) -> Any:
    """Return random symmetric tensors, all components different."""
    full = RNG.uniform(-1.0, 1.0, (5, 4, dim, dim))
    return full + full.swapaxes(-1, -2)


@DIMS
def test_tensors_survive_the_round_trip(dim: int) -> None:
    tensor = symmetric(dim)
    mandel = notation.from_tensor(tensor)
    assert mandel.shape == (5, 4, notation.n_strain(dim))
    np.testing.assert_allclose(notation.to_tensor(mandel), tensor, rtol=1e-14)


@DIMS
def test_an_asymmetric_tensor_becomes_its_symmetric_part(dim: int) -> None:
    tensor = RNG.uniform(-1.0, 1.0, (7, dim, dim))
    back = notation.to_tensor(notation.from_tensor(tensor))
    np.testing.assert_allclose(back, 0.5 * (tensor + tensor.swapaxes(1, 2)), rtol=1e-14)


@pytest.mark.parametrize(
    ("tensor", "strain", "stress", "mandel"),
    [
        ([[1, 3], [3, 2]], [1, 2, 6], [1, 2, 3], [1, 2, 3 * 2**0.5]),
        (
            [[1, 4, 5], [4, 2, 6], [5, 6, 3]],
            [1, 2, 3, 8, 10, 12],
            [1, 2, 3, 4, 5, 6],
            [1, 2, 3, 6 * 2**0.5, 5 * 2**0.5, 4 * 2**0.5],
        ),
    ],
)
def test_components_have_the_documented_order_and_factors(tensor: Any, strain: Any, stress: Any, mandel: Any) -> None:
    vector = notation.from_tensor(tensor)
    np.testing.assert_allclose(vector, mandel, rtol=1e-15)
    np.testing.assert_allclose(notation.strain_to_abaqus(vector), strain, rtol=1e-15)
    np.testing.assert_allclose(notation.stress_to_abaqus(vector), stress, rtol=1e-15)
    names = [f"{min(i, j) + 1}{max(i, j) + 1}" for i, j in notation.PAIRS[len(tensor)]]
    assert notation.NAMES[len(tensor)] == tuple(names)


@DIMS
def test_abaqus_vectors_survive_the_round_trip(dim: int) -> None:
    vector = RNG.uniform(-1.0, 1.0, (5, 4, notation.n_strain(dim)))
    for there, back in (
        (notation.strain_from_abaqus, notation.strain_to_abaqus),
        (notation.stress_from_abaqus, notation.stress_to_abaqus),
    ):
        np.testing.assert_allclose(back(there(vector)), vector, rtol=1e-14)
        np.testing.assert_allclose(there(back(vector)), vector, rtol=1e-14)


@DIMS
def test_the_energy_is_the_same_in_every_notation(dim: int) -> None:
    strain, stress = symmetric(dim), symmetric(dim)
    energy = np.einsum("...ij,...ij->...", stress, strain)
    strain, stress = notation.from_tensor(strain), notation.from_tensor(stress)
    np.testing.assert_allclose((stress * strain).sum(-1), energy, rtol=1e-13)
    abaqus = notation.stress_to_abaqus(stress) * notation.strain_to_abaqus(strain)
    np.testing.assert_allclose(abaqus.sum(-1), energy, rtol=1e-13)


@DIMS
def test_the_abaqus_tangent_maps_abaqus_strains_to_abaqus_stresses(dim: int) -> None:
    n_s = notation.n_strain(dim)
    tangent, strain = RNG.uniform(-1.0, 1.0, (5, n_s, n_s)), RNG.uniform(-1.0, 1.0, (5, n_s))
    stress = np.einsum("pij,pj->pi", tangent, strain)
    abaqus = np.einsum("pij,pj->pi", notation.tangent_to_abaqus(tangent), notation.strain_to_abaqus(strain))
    np.testing.assert_allclose(abaqus, notation.stress_to_abaqus(stress), rtol=1e-12)


@DIMS
def test_ufl_strain_is_the_mandel_vector_of_the_gradient(dim: int) -> None:
    from dolfinx import fem, mesh  # after femops, which loads MPI
    from mpi4py import MPI

    cells = mesh.create_unit_square(MPI.COMM_SELF, 1, 1) if dim == 2 else mesh.create_unit_cube(MPI.COMM_SELF, 1, 1, 1)
    gradient = RNG.uniform(-1.0, 1.0, (dim, dim))
    displacement = fem.Function(fem.functionspace(cells, ("Lagrange", 1, (dim,))))
    displacement.interpolate(lambda x: gradient @ x[:dim])
    strain = notation.ufl_strain(displacement, dim)
    mean = [fem.assemble_scalar(fem.form(strain[i] * ufl.dx)) for i in range(notation.n_strain(dim))]
    np.testing.assert_allclose(mean, notation.from_tensor(gradient), rtol=1e-12)


def test_von_mises_is_that_of_the_full_tensor() -> None:
    full = symmetric(3)
    deviator = full - np.trace(full, axis1=-2, axis2=-1)[..., None, None] * np.eye(3) / 3.0
    expected = np.sqrt(1.5 * (deviator**2).sum((-1, -2)))
    np.testing.assert_allclose(notation.von_mises(notation.from_tensor(full)), expected, rtol=1e-13)


def test_von_mises_in_plane_strain_uses_the_stress_out_of_the_plane() -> None:
    full = symmetric(3)
    full[..., 2, :2] = full[..., :2, 2] = 0.0
    in_plane = notation.from_tensor(full[..., :2, :2])
    expected = notation.von_mises(notation.from_tensor(full))
    np.testing.assert_allclose(notation.von_mises(in_plane, full[..., 2, 2]), expected, rtol=1e-13)
    with pytest.raises(ValueError, match="stress_33"):
        notation.von_mises(in_plane)
