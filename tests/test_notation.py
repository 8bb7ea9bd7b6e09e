"""Mandel notation agrees with full tensors and with UFL."""

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


@pytest.mark.parametrize("tensor", [[[1, 3], [3, 2]], [[1, 4, 5], [4, 2, 6], [5, 6, 3]]])
def test_components_have_the_documented_order_and_factors(tensor: Any) -> None:
    expected = {2: [1, 2, 3 * 2**0.5], 3: [1, 2, 3, 6 * 2**0.5, 5 * 2**0.5, 4 * 2**0.5]}[len(tensor)]
    np.testing.assert_allclose(notation.from_tensor(tensor), expected, rtol=1e-15)
    names = [f"{min(i, j) + 1}{max(i, j) + 1}" for i, j in notation.PAIRS[len(tensor)]]
    assert notation.NAMES[len(tensor)] == tuple(names)


@DIMS
def test_the_energy_is_the_scalar_product_of_mandel_vectors(dim: int) -> None:
    strain, stress = symmetric(dim), symmetric(dim)
    energy = np.einsum("...ij,...ij->...", stress, strain)
    mandel = notation.from_tensor(strain) * notation.from_tensor(stress)
    np.testing.assert_allclose(mandel.sum(-1), energy, rtol=1e-13)


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
