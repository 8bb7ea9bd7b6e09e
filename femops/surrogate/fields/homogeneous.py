"""Inverse stiffness of the RVE with one homogeneous linear phase, for error bounds and as preconditioner."""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.krylov import LinearMap
from femops.surrogate.fields.multigrid import PeriodicGrid, periodic_grid


def homogeneous_solver(space: FluctuationSpace, tangent: Array, device: torch.device | str = "cpu") -> LinearMap:
    """Return the inverse of the stiffness of a homogeneous RVE.

    On a uniform grid the stiffness is block-circulant and inverted by Fourier transforms; on other meshes it is
    factorised once.

    Args:
        space: The space.
        tangent: D of the phase [stress]. Shape (n_s, n_s).
        device: Device of the forces.

    Returns:
        A map from nodal forces with zero resultant to displacement fields, both (N, n_nodes, dim, k), up to a
        translation.
    """
    grid = periodic_grid(space)
    stiffness = homogeneous_stiffness(space, tangent)
    if grid is not None and grid.full:
        return _Fourier(grid, stiffness, torch.device(device))
    return Factorised(stiffness, space.discretisation.dim)


def homogeneous_stiffness(space: FluctuationSpace, tangent: Array) -> sp.csr_array:
    """Return Σ w Bᵀ D B of a homogeneous RVE. Shape (n_dofs, n_dofs)."""
    weight = sp.diags_array(space.discretisation.weight.ravel())
    return (space.gradient.T @ sp.kron(sp.csr_array(tangent), weight) @ space.gradient).tocsr()


class _Fourier:
    """Inverse on a uniform grid; frequency zero (translations) is omitted."""

    def __init__(self, grid: PeriodicGrid, stiffness: sp.csr_array, device: torch.device) -> None:
        dim = len(grid.counts)
        order = np.argsort(grid.number)
        first = int(order[0])  # the node at the origin of the grid
        columns = stiffness[:, first * dim : (first + 1) * dim].toarray().reshape(-1, dim, dim)
        kernel = torch.fft.fftn(torch.as_tensor(columns[order]).reshape(*grid.counts, dim, dim), dim=tuple(range(dim)))
        inverse = torch.linalg.pinv(kernel.reshape(-1, dim, dim), hermitian=True, rtol=1e-12)
        inverse[0] = 0.0
        self._counts, self._inverse = grid.counts, inverse.to(device)
        self._order, self._number = (torch.as_tensor(one, device=device) for one in (order, grid.number))

    def __call__(self, force: Tensor) -> Tensor:
        n, n_nodes, dim, k = force.shape
        axes = tuple(range(1, dim + 1))
        spectrum = torch.fft.fftn(force[:, self._order].reshape(n, *self._counts, dim, k).double(), dim=axes)
        solved = (self._inverse @ spectrum.reshape(n, n_nodes, dim, k)).reshape(spectrum.shape)
        field = torch.fft.ifftn(solved, dim=axes).real.reshape(force.shape)
        return field[:, self._number].to(force)


class Factorised:
    """Inverse of a stiffness (n_dofs, n_dofs) by sparse factorisation; the last node is fixed."""

    def __init__(self, stiffness: sp.csr_array, dim: int) -> None:
        self._factor = splu(
            stiffness[:-dim, :-dim].tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def __call__(self, force: Tensor) -> Tensor:
        """Return K⁻¹ f of nodal forces (N, n_nodes, dim, k) with zero resultant."""
        n, n_nodes, dim, k = force.shape
        columns = force.permute(1, 2, 0, 3).reshape(n_nodes * dim, n * k).cpu().numpy()
        found = torch.as_tensor(self.solve(columns)).to(force).reshape(n_nodes, dim, n, k)
        return found.permute(2, 0, 1, 3).contiguous()

    def solve(self, forces: Array) -> Array:
        """Return K⁻¹ f of columns of forces (n_dofs, k) with zero resultant."""
        found, free = np.zeros(forces.shape), self._factor.shape[0]
        found[:free] = self._factor.solve(np.ascontiguousarray(forces[:free], dtype=np.float64))
        return found
