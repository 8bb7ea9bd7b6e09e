"""Discrete equations of a batch of RVEs: residual, stiffness and volume averages at given fluctuations."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from femops import notation
from femops.notation import Array, Indices
from femops.phases import Phase, PlaneStrainPhase, know_row_33
from femops.rve.assembly import add_stiffness, add_stress_of_unit_strains, upper_pattern
from femops.rve.boundary import FreeDofs
from femops.rve.discretisation import Discretisation
from femops.rve.linear_phases import LinearPhases, kernel_cells
from femops.rve.outline import nodal_normals


@dataclass
class Points:
    """Quantities at the points of the nonlinear phases, and the internal forces, of N RVEs.

    Attributes:
        internal_force: Internal forces Σ w Bᵀ σ. Shape (n_free, N).
        stress: Stress, Mandel [stress]. Shape (n_s, n_points, N).
        tangent: Consistent tangent, Mandel [stress]. Shape (n_s, n_s, n_points, N).
        state: Trial state of each phase. Shape (n_state, n_points_of_phase, N) each.
        sum_33: Σ w stress_33 in plane strain. Shape (N,).
    """

    internal_force: Array
    stress: Array
    tangent: Array
    state: list[Array]
    sum_33: Array

    def put(self, columns: Indices, new: "Points") -> "Points":
        """Return the quantities with those of some RVEs replaced; arrays of this object may be overwritten."""
        if len(columns) == self.internal_force.shape[1]:
            return new
        self.internal_force[:, columns] = new.internal_force
        self.stress[..., columns] = new.stress
        self.tangent[..., columns] = new.tangent
        self.sum_33[columns] = new.sum_33
        state = []
        for old, fresh in zip(self.state, new.state, strict=True):
            merged = old.copy()
            merged[..., columns] = fresh
            state.append(merged)
        return Points(self.internal_force, self.stress, self.tangent, state, self.sum_33)


class Equations:
    """The equations of one RVE for batches of macroscale strains.

    Args:
        discretisation: The RVE; linear phases first.
        phases: Its phases, in the order of the discretisation.
        free: Free dofs of the fluctuation.

    Attributes:
        pattern: Sparsity of the upper triangle of the stiffness.
        nonlinear: Whether any phase is nonlinear.
        force_scale: Norm of the sums Σ w |B| at each free dof: forces per stress [length^dim / length].
        mean_strain: Matrix from free dofs to sym ∫ w ⊗ n over the outer surface, for static conditions; otherwise to
            ∫ ε(w), which includes the surfaces of voids. Shape (n_s, n_free).
    """

    def __init__(self, discretisation: Discretisation, phases: tuple[Phase, ...], free: FreeDofs) -> None:
        self.discretisation, self.phases, self.free = discretisation, phases, free
        if any(a.linear < b.linear for a, b in pairwise(phases)):
            raise ValueError("linear phases have to come before nonlinear ones")
        rve = discretisation
        self._n_linear = sum(phase.linear for phase in phases)
        self.nonlinear = self._n_linear < len(phases)
        self._cells = slice(rve.cells_of_phase[self._n_linear].start, None) if self.nonlinear else slice(0, 0)
        free_of_cell = free.of[rve.dofs]
        self.pattern, entries = upper_pattern(free_of_cell, free.count)
        self._linear = LinearPhases(rve, phases[: self._n_linear], free, self.pattern, entries)
        part = self._cells
        self._kernel_cells = kernel_cells(rve, part, free_of_cell, entries)
        self._weight = rve.weight[self._cells].ravel()
        self._gradient = rve.gradient(free.of, self._cells, free.count)
        self._divergence = (self._gradient.T @ sp.diags_array(np.tile(self._weight, rve.n_s))).tocsr()
        everything = rve.gradient(free.of, slice(0, len(rve.mesh.cells)), free.count)
        weighted = (everything.T @ sp.diags_array(np.tile(rve.weight.ravel(), rve.n_s))).tocsr()
        self.force_scale = float(np.linalg.norm(abs(weighted).sum(axis=1)))
        component = np.repeat(np.eye(rve.n_s), rve.n_points, axis=0)
        self.mean_strain = np.ascontiguousarray((weighted @ component).T)
        if free.zero_mean_strain:
            self.mean_strain = self._of_surface(self.mean_strain)

    @property
    def knows_row_33(self) -> bool:
        """Whether d stress_33 / dE is known: in plane strain, of phases that know their own."""
        return know_row_33(self.phases[self._n_linear :], self.discretisation.dim)

    @property
    def bytes_of_one(self) -> float:
        """Memory per RVE of a batch [byte]."""
        n_s = self.discretisation.n_s
        return 8.0 * (len(self._weight) * (n_s**2 + 4 * n_s) + self.pattern.nnz + self.free.count * 4 * n_s)

    def evaluate(self, strain: Array, fluctuation: Array, state: list[Array]) -> Points:
        """Evaluate the nonlinear phases and the internal forces of a batch."""
        local = self._local_strain(strain, fluctuation)
        stress, tangent = [local[:, :0]], [np.empty((len(strain), *local[:, :0].shape))]
        new_state = list(state)
        sum_33 = np.zeros(strain.shape[1])
        for position in range(self._n_linear, len(self.phases)):
            part = self._points_of_phase(position)
            response = self.phases[position].evaluate(local[:, part], state[position])
            stress.append(response.stress)
            tangent.append(response.tangent)
            new_state[position] = response.state
            if response.stress_33 is not None:
                sum_33 += self._weight[part] @ response.stress_33
        all_stress = _joined(stress)
        force = self._divergence @ all_stress.reshape(-1, strain.shape[1])
        force += self._linear.matrix @ fluctuation + self._linear.load @ strain
        return Points(force, all_stress, _joined(tangent), new_state, sum_33)

    def stiffness_and_load(self, tangent: Array) -> tuple[Array, Array]:
        """Return upper triangles of the stiffness, shape (nnz, N), and loads Σ w Bᵀ D, shape (n_free, n_s, N)."""
        n = tangent.shape[3]
        values = np.repeat(self._linear.stiffness[:, None], n, axis=1)
        load = np.repeat(self._linear.load[:, :, None], n, axis=2)
        if self.nonlinear:
            add_stiffness(self._kernel_cells, np.ascontiguousarray(tangent), values, load)
        return values, load

    def sum_stress(self, points: Points, strain: Array, fluctuation: Array) -> Array:
        """Return Σ w σ. Shape (n_s, N)."""
        nonlinear = self._weight @ points.stress
        return nonlinear + self._linear.mean @ strain + self._linear.load.T @ fluctuation

    def sum_33(self, points: Points, strain: Array, fluctuation: Array) -> Array | None:
        """Return Σ w stress_33, shape (N,), in plane strain; None in 3D."""
        return None if len(strain) == 6 else points.sum_33 + self._linear.sum_33(strain, fluctuation)

    def row_33(self, points: Points) -> tuple[Array, Array]:
        """Return Σ w D₃₃, shape (n_s, N), and Σ w Bᵀ D₃₃, (n_free, N), with the rows D₃₃ = d stress_33 / d ε.

        Needs `knows_row_33`. The fluctuations' share of d Σ w stress_33 / dE is the second one, times X = dq/dE.
        """
        rows = np.empty(points.stress.shape)
        for position in range(self._n_linear, len(self.phases)):
            phase, part = self.phases[position], self._points_of_phase(position)
            assert isinstance(phase, PlaneStrainPhase)
            rows[:, part] = phase.tangent_33(points.tangent[:, :, part])
        force = self._divergence @ rows.reshape(-1, rows.shape[2])
        mean, linear = self._linear.row_33
        return self._weight @ rows + mean[:, None], force + linear[:, None]

    def linearised(self, points: Points, fluctuation: Array) -> tuple[Array, Array]:
        """Return K w, shape (n_free, N), and Lᵀ w = Σ w D B w, (n_s, N), of fluctuations w (n_free, N)."""
        local = (self._gradient @ fluctuation).reshape(points.stress.shape)
        stress = np.einsum("stgn,tgn->sgn", points.tangent, local)
        force = self._divergence @ stress.reshape(-1, stress.shape[2]) + self._linear.matrix @ fluctuation
        return force, self._weight @ stress + self._linear.load.T @ fluctuation

    def residual(self, points: Points, strain: Array, fluctuation: Array) -> Array:
        """Return the residual: internal forces, under static conditions minus those of the uniform traction ⟨σ⟩ · n."""
        if not self.free.zero_mean_strain:
            return points.internal_force
        mean = self.sum_stress(points, strain, fluctuation) / self.discretisation.volume
        return points.internal_force - self.mean_strain.T @ mean

    def force_norm(self, points: Points, strain: Array, fluctuation: Array) -> Array:
        """Return the norm of the internal forces, the reference of relative residuals. Shape (N,)."""
        scale = np.linalg.norm(self.sum_stress(points, strain, fluctuation), axis=0) / self.discretisation.volume
        if self.nonlinear:
            squared = np.einsum("sgn,sgn->gn", points.stress, points.stress)
            scale = np.maximum(scale, np.sqrt(self._weight @ squared / self._weight.sum()))
        floor = np.linalg.norm(self._linear.load) * 1e-12 + np.finfo(float).tiny
        return np.maximum(self.force_scale * scale, floor)

    def sum_tangent(self, points: Points) -> Array:
        """Return Σ w D. Shape (n_s, n_s, N)."""
        return np.tensordot(points.tangent, self._weight, (2, 0)) + self._linear.mean[:, :, None]

    def condensed_tangent(self, tangent: Array, sensitivity: Array) -> tuple[Array, Array]:
        """Return Σ w (1 + B X)ᵀ D (1 + B X), shape (n_s, n_s, N), and K X + L, shape (n_free, n_s, N)."""
        n_s, n = sensitivity.shape[1:]
        flat = sensitivity.reshape(len(sensitivity), -1)
        load = (self._linear.matrix @ flat).reshape(sensitivity.shape)
        load += self._linear.load[:, :, None]
        total = (self._linear.load.T @ flat).reshape(n_s, n_s, n)
        total += self._linear.mean[:, :, None]
        if self.nonlinear:
            tangent = np.ascontiguousarray(tangent)
            add_stress_of_unit_strains(self._kernel_cells, tangent, sensitivity, total, load)
        total += np.einsum("fsn,ftn->stn", sensitivity, load)
        return 0.5 * (total + total.transpose(1, 0, 2)), load

    def _local_strain(self, strain: Array, fluctuation: Array) -> Array:
        local = (self._gradient @ fluctuation).reshape(len(strain), -1, strain.shape[1])
        local += strain[:, None, :]
        return local

    def _points_of_phase(self, position: int) -> slice:
        """Return the points of a nonlinear phase, numbered from the first nonlinear point."""
        part = self.discretisation.points_of_phase(position)
        offset = self._cells.start * self.discretisation.n_q
        return slice(part.start - offset, part.stop - offset)

    def _of_surface(self, mean_strain: Array) -> Array:
        """Remove the contributions of voids and crack faces from ∫ w ⊗ n. Shape (n_s, n_free)."""
        outline, dim = self.discretisation.outline, self.discretisation.dim
        if outline.crack_faces.any():
            normals = nodal_normals(outline.surface, outline.crack_faces, len(outline.mesh.points))
            forces = notation.from_tensor(_symmetric(np.einsum("ij,nk->nijk", np.eye(dim), normals)))
            of_cracks, free = np.zeros_like(mean_strain), self.free.of
            np.add.at(of_cracks.T, free[free >= 0], forces.reshape(-1, len(mean_strain))[free >= 0])
            mean_strain = mean_strain - of_cracks
        on_surface = np.zeros(self.free.count)
        on_boundary = np.repeat(outline.boundary_nodes, dim)
        on_surface[self.free.of[on_boundary & (self.free.of >= 0)]] = 1.0
        return mean_strain * on_surface


def _symmetric(tensor: Array) -> Array:
    return 0.5 * (tensor + np.swapaxes(tensor, -1, -2))


def _joined(parts: list[Array]) -> Array:
    """Concatenate arrays along their points; without a copy if only one is not empty."""
    filled = [part for part in parts if part.shape[-2]] or parts[:1]
    return np.ascontiguousarray(filled[0]) if len(filled) == 1 else np.concatenate(filled, axis=-2)
