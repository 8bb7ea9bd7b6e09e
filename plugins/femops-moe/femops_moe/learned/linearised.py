"""An RVE linearised at zero strain and in the mean over a range of strains.

W₀ are the fluctuations of the unit strains with the tangents D₀ at zero strain, W̄ those with the mean tangents D̄ of the
phases over strains of the range. D̄ depends on the local strain (1 + B W̄) E and is found by fixed-point iteration. The
stiffness of D̄ approximates that of the strained RVE much better than the elastic one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.notation import Array
from femops.rve.sampling import sobol
from femops.rve.spec import RVE
from femops.surrogate.exact import check_elastic
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.homogeneous import Factorised
from femops_moe.basis import stiffness_of

_STRAINS, _SEED, _ROUNDS = 16, 7, 2  # strains of the mean, and steps of the fixed-point iteration
_NOTHING = 1e-9  # of the largest elastic energy of a combination of modes

_Map = Callable[[Array], Array]


class LinearisedRVE:
    """An RVE with its linearisations; arrays at points are component-major, weights relative to the volume.

    Args:
        rve: The RVE of hyperelastic phases.
        low: Lower corner of the range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).

    Attributes:
        rve: The RVE.
        space: Its fluctuations.
        n_s: Number of strain components.
        stiffness: K₀ [stress / length²]. Shape (n_dofs, n_dofs).
        tangent: D₀ [stress]. Shape (n_points, n_s, n_s).
        elastic: W₀ [length]. Shape (n_dofs, n_s).
        softened: W̄ [length]. Shape (n_dofs, n_s).
        nonlinear: Whether each point is in a nonlinear phase. Shape (n_points,).

    Raises:
        CaseError: All phases are linear, one has a memory, or the boundary condition is static.
    """

    def __init__(self, rve: RVE, low: Array, high: Array) -> None:
        if all(phase.linear for phase in rve.phases):
            raise CaseError("all are linear, expected a nonlinear one", key="rve.phases")
        check_elastic(rve)
        self.rve, self.space, mesh = rve, FluctuationSpace(rve), rve.discretisation
        self.n_s = mesh.n_s
        self._weight = mesh.weight.ravel() / mesh.volume
        self._parts = [(phase, mesh.points_of_phase(position)) for position, phase in enumerate(rve.phases)]
        self.nonlinear = np.zeros(mesh.n_points, dtype=bool)
        for phase, points in self._parts:
            self.nonlinear[points] = not phase.linear
        self.tangent = self._mean_tangent(np.zeros((1, mesh.n_s)), np.zeros((self.space.n_dofs, mesh.n_s)))
        self.stiffness = stiffness_of(self.space, self.tangent.transpose(1, 2, 0))
        self.elastic = self._fluctuations(self.tangent, Factorised(self.stiffness, mesh.dim))
        self.softened, strain = self.elastic, sobol(low, high, _STRAINS, _SEED)
        for _ in range(_ROUNDS):
            tangent = self._mean_tangent(strain, self.softened)
            self._factor = Factorised(stiffness_of(self.space, tangent.transpose(1, 2, 0)), mesh.dim)
            self.softened = self._fluctuations(tangent, self._factor)

    def strain(self, displacement: Array) -> Array:
        """Return the strain of fields (n_dofs, k) at the points. Shape (n_s, n_points, k)."""
        return np.asarray(self.space.gradient @ displacement).reshape(self.n_s, len(self._weight), -1)

    def forces(self, stress: Array) -> Array:
        """Return Σ w Bᵀ σ (n_dofs, k) of stresses at the points (n_s, n_points, k)."""
        return self._transposed(stress * self._weight[:, None])

    def solved(self, forces: Array) -> Array:
        """Return K̄⁻¹ f (n_dofs, k) of forces with zero resultant."""
        return self._factor.solve(forces)

    def response(self, stress: Tensor) -> Tensor:
        """Return −K̄⁻¹ Σ w Bᵀ σ (n_dofs, k) of stresses (n_s, n_points, k), differentiable."""

        def transpose(change: Array) -> Array:
            return -self.strain(self.solved(change)) * self._weight[:, None]

        found: Tensor = _LinearMap.apply(stress, lambda given: -self.solved(self.forces(given)), transpose)
        return found

    def strain_of(self, displacement: Tensor) -> Tensor:
        """Return `strain`, differentiable."""
        found: Tensor = _LinearMap.apply(displacement, self.strain, self._transposed)
        return found

    def stress_at(self, strain: Tensor) -> Tensor:
        """Return the stress of the phases at local strains (n_s, n_points, k), differentiable."""
        found = [phase.evaluate(strain[:, points], strain[:0, points]).stress for phase, points in self._parts]
        return torch.cat(found, 1)

    def residual(self, strain: Array, displacement: Array) -> Array:
        """Return R / |Ω| (n_dofs, n) of fluctuations (n_dofs, n) at strains (n, n_s) [stress / length]."""
        local = torch.as_tensor(self.strain(displacement) + strain.T[:, None])
        return self.forces(self.stress_at(local).numpy())

    def orthonormal(self, modes: Array) -> Array:
        """Return the map (k, m) of modes (n_dofs, k) to m ≤ k ones orthonormal in the elastic energy, largest first."""
        gram = modes.T @ (self.stiffness @ modes)
        values, vectors = np.linalg.eigh(0.5 * (gram + gram.T))
        kept = np.flatnonzero(values > _NOTHING * max(values[-1], np.finfo(float).tiny))[::-1]
        return np.asarray(vectors[:, kept] / np.sqrt(values[kept]))

    def _mean_tangent(self, strain: Array, unit: Array) -> Array:
        """Return the mean tangent at the points for fluctuations unit · E at strains E (n, n_s)."""
        local = self.strain(unit @ strain.T) + strain.T[:, None]
        found = [phase.evaluate(local[:, points], local[:0, points]).tangent.mean(-1) for phase, points in self._parts]
        return np.concatenate([one.transpose(2, 0, 1) for one in found])

    def _fluctuations(self, tangent: Array, factor: Factorised) -> Array:
        """Return the fluctuations of the unit strains with tangents at the points, of zero mean."""
        return self.space.centred(-factor.solve(self.forces(tangent.transpose(1, 0, 2))))

    def _transposed(self, values: Array) -> Array:
        """Return Σ Bᵀ v (n_dofs, k) of values at the points (n_s, n_points, k)."""
        return np.asarray(self.space.gradient.T @ values.reshape(self.n_s * len(self._weight), -1))


class _LinearMap(torch.autograd.Function):
    """A linear map of arrays that is given with its transpose."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, image: _Map, transpose: _Map) -> Tensor:
        """Return the image."""
        ctx.transpose = transpose
        return torch.as_tensor(image(given.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the image of the gradient under the transpose."""
        return torch.as_tensor(ctx.transpose(gradients[0].numpy())), None, None
