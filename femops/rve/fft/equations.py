"""Discrete equations of a batch of periodic RVEs on a lattice, without matrices.

The counterpart of `femops.rve.equations.Equations`. Lattice vectors have the batch as leading axis; arrays at points,
strains and states have it last, as everywhere in `femops.rve`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from femops import notation
from femops.notation import Array, Indices
from femops.phases import Phase, PhaseResponse, PlaneStrainPhase, know_row_33
from femops.rve.boundary import FreeDofs
from femops.rve.discretisation import Discretisation
from femops.rve.fft.kernels import LANES, Groups, kernels
from femops.rve.fft.lattice import FreeOnLattice, Lattice
from femops.rve.fft.reference import Reference

_POINTS_AT_ONCE = 2**14

Single = npt.NDArray[np.float32]


@dataclass
class LatticePoints:
    """Internal forces and point quantities of N RVEs.

    Attributes:
        force: Internal forces Σ w Bᵀ σ, lattice vectors. Shape (N, n).
        tangent: Upper triangles of the consistent tangents of each nonlinear phase, by `Groups`. Shape (N, n_groups,
            n_q, n_s (n_s + 1) / 2, LANES) each.
        state: Trial state of each phase. Shape (n_state, n_points_of_phase, N) each.
        sum_stress: Σ w σ. Shape (n_s, N).
        squared: Σ w |σ|² of the nonlinear phases. Shape (N,).
        sum_33: Σ w stress_33 in plane strain. Shape (N,).
        on_device: What `femops.rve.fft.torch_systems` has computed of the tangents, by the number of the RVE.
    """

    force: Array
    tangent: list[Array]
    state: list[Array]
    sum_stress: Array
    squared: Array
    sum_33: Array
    on_device: dict[int, Any] = field(default_factory=dict)

    @cached_property
    def tangent_in_single(self) -> list[Single]:
        """The tangents in single precision."""
        return [one.astype(np.float32) for one in self.tangent]

    def put(self, columns: Indices, new: "LatticePoints") -> "LatticePoints":
        """Return the quantities with those of some RVEs replaced; arrays of this object may be overwritten."""
        if len(columns) == len(self.force):
            return new
        self.force[columns], self.squared[columns], self.sum_33[columns] = new.force, new.squared, new.sum_33
        self.sum_stress[:, columns] = new.sum_stress
        for old, fresh in zip(self.tangent, new.tangent, strict=True):
            old[columns] = fresh
        state = [old.copy() for old in self.state]
        for merged, fresh in zip(state, new.state, strict=True):
            merged[..., columns] = fresh
        return LatticePoints(self.force, self.tangent, state, self.sum_stress, self.squared, self.sum_33)


class LatticeEquations:
    """The equations of one RVE for batches of macroscale strains.

    Args:
        discretisation: The RVE; linear phases first.
        phases: Its phases, in the order of the discretisation.
        lattice: The lattice of its mesh.
        free: Free dofs of the fluctuation, periodic.

    Attributes:
        groups: Elements of each phase, for the kernels.
        by_component: Strain operators of each shape, component-major. Shape (n_shapes, n_q, n_s, n_dofs).
    """

    concurrent = True

    def __init__(
        self, discretisation: Discretisation, phases: tuple[Phase, ...], lattice: Lattice, free: FreeDofs
    ) -> None:
        if any(a.linear < b.linear for a, b in pairwise(phases)):
            raise ValueError("linear phases have to come before nonlinear ones")
        self.discretisation, self.phases, self.lattice = discretisation, phases, lattice
        free_on_lattice = FreeOnLattice(lattice, free)
        self.spread, self.gather = free_on_lattice.spread, free_on_lattice.gather
        rve = discretisation
        self._n_linear = sum(phase.linear for phase in phases)
        self.nonlinear = self._n_linear < len(phases)
        self._site = np.ascontiguousarray(lattice.site[rve.mesh.cells])
        of_phases = rve.cells_of_phase
        self.groups = [Groups.of(self._site[cells], lattice.shape_of_cell[cells]) for cells in of_phases]
        self._weight = np.ascontiguousarray(rve.weight[lattice.examples])
        self._operator = np.ascontiguousarray(rve.strain_operator[lattice.examples])  # (n_shapes, n_q, n_s, n_dofs)
        order = np.arange(self._operator.shape[3]).reshape(-1, rve.dim).T.ravel()
        self.by_component = self._operator[..., order]
        by_node = self._operator.reshape(*self._operator.shape[:3], -1, rve.dim)
        slopes = np.stack([by_node[:, :, axis, :, axis] for axis in range(rve.dim)])  # (dim, n_shapes, n_q, n_nodes)
        n_shapes, n_nodes = len(self._weight), slopes.shape[3]
        self._gradient = np.ascontiguousarray(slopes.transpose(1, 3, 0, 2).reshape(n_shapes, n_nodes, -1))
        weighted = (slopes * self._weight[..., None]).transpose(1, 0, 2, 3)
        self._divergence = np.ascontiguousarray(weighted.reshape(n_shapes, -1, n_nodes))
        self._kernels = kernels(rve.dim, n_nodes, rve.n_q)
        self._upper = np.triu_indices(rve.n_s)
        self._assemble_linear()
        self._stiffnesses_in_single = [one.astype(np.float32) for one in self._stiffnesses]
        self._geometry_in_single = self._gradient.astype(np.float32), self._weight.astype(np.float32)

    @property
    def size(self) -> int:
        """Length n of a lattice vector."""
        return self.lattice.size

    @property
    def knows_row_33(self) -> bool:
        """Whether d stress_33 / dE is known: in plane strain, of phases that know their own."""
        return know_row_33(self.phases[self._n_linear :], self.discretisation.dim)

    @property
    def bytes_of_one(self) -> float:
        """Memory per RVE of a batch [byte]."""
        rve = self.discretisation
        n_points = sum((part.stop - part.start) * rve.n_q for part in rve.cells_of_phase[self._n_linear :])
        return 8.0 * (1.5 * n_points * len(self._upper[0]) + self.lattice.size * (4 * rve.n_s + 8))

    @cached_property
    def force_scale(self) -> float:
        """Norm of the sums Σ w |B| over the elements at each node: forces per stress [length^dim / length]."""
        of_element = np.einsum("eq,eqsd->ed", self._weight, np.abs(self._operator))
        dim, n_cells = self.lattice.dim, self.lattice.solid_part * self.lattice.n_cells
        of_kind = np.zeros((self.lattice.n_kinds, dim))
        for kinds, forces in zip(self.lattice.kinds, of_element.reshape(len(of_element), -1, dim), strict=True):
            np.add.at(of_kind, kinds, forces)
        return float(np.sqrt(n_cells) * np.linalg.norm(of_kind))

    def evaluate(self, strain: Array, fluctuation: Array, state: list[Array]) -> LatticePoints:
        """Evaluate the phases of a batch at strains (n_s, N) and fluctuations (n, N)."""
        rve, n = self.discretisation, strain.shape[1]
        vectors, macro = np.ascontiguousarray(fluctuation.T), np.ascontiguousarray(strain.T)
        force, total = self._linear(vectors, macro)
        squared, sum_33 = np.zeros(n), self._mean_33 @ strain + vectors @ self._force_33
        tangent, new_state = [], list(state)
        for position in range(self._n_linear, len(self.phases)):
            cells, groups = rve.cells_of_phase[position], self.groups[position]
            of_phase = np.zeros((n, len(groups.site), rve.n_q, len(self._upper[0]), LANES))
            new_state[position] = np.empty_like(state[position])
            for part, points in self._blocks(cells):
                local = self._strains(part, vectors, macro)
                response = self.phases[position].evaluate(local, state[position][:, points])
                stress = np.ascontiguousarray(response.stress)
                new_state[position][:, points] = response.state
                group, lane = groups.place[:, part.start - cells.start : part.stop - cells.start]
                of_phase[:, group, :, :, lane] = self._packed(response)
                self._add_forces(part, stress, force)
                weight = self._weights(part)
                total += np.einsum("g,sgn->ns", weight, stress)
                squared += np.einsum("g,sgn,sgn->n", weight, stress, stress)
                if response.stress_33 is not None:
                    sum_33 += weight @ response.stress_33
            tangent.append(of_phase)
        return LatticePoints(force, tangent, new_state, np.ascontiguousarray(total.T), squared, sum_33)

    def residual(self, points: LatticePoints, strain: Array, fluctuation: Array) -> Array:
        """Return the internal forces. Shape (n, N)."""
        return points.force.T

    def force_norm(self, points: LatticePoints, strain: Array, fluctuation: Array) -> Array:
        """Return the norm of the internal forces, the reference of relative residuals. Shape (N,)."""
        scale = np.linalg.norm(points.sum_stress, axis=0) / self.discretisation.volume
        if self.nonlinear:
            scale = np.maximum(scale, np.sqrt(points.squared / self._nonlinear_volume))
        floor = np.linalg.norm(self._load) * 1e-12 + np.finfo(float).tiny
        return np.maximum(self.force_scale * scale, floor)

    def tangent(self, points: LatticePoints, vectors: Array, macro: Array, owner: Indices) -> tuple[Array, Array]:
        """Return K u + L E, shape (n_columns, n), and Σ w D (E + B u), shape (n_columns, n_s).

        Args:
            points: Point quantities with the tangents.
            vectors: Fluctuations u of some columns. Shape (n_columns, n).
            macro: Macroscale strain E of each column. Shape (n_columns, n_s).
            owner: Number of the RVE of each column. Shape (n_columns,).
        """
        force, total = self._linear(vectors, macro)
        at, stride = (self._gradient, self._weight), self.lattice.n_cells
        for groups, tangent in zip(self.groups[self._n_linear :], points.tangent, strict=True):
            self._kernels.add_tangent(groups, *at, tangent, owner, stride, vectors, macro, force, total)
        return force, total

    def product(self, points: LatticePoints, vectors: Single, owner: Indices) -> Single:
        """Return K u in single precision, shape (n_columns, n); arguments as in `tangent`."""
        force, stride = np.zeros_like(vectors), self.lattice.n_cells
        for groups, stiffness in zip(self.groups, self._stiffnesses_in_single, strict=False):
            self._kernels.add_linear(groups, stiffness, stride, vectors, force)
        macro, total = np.zeros((2, len(vectors), self.discretisation.n_s), np.float32)
        for groups, tangent in zip(self.groups[self._n_linear :], points.tangent_in_single, strict=True):
            self._kernels.add_tangent(
                groups, *self._geometry_in_single, tangent, owner, stride, vectors, macro, force, total
            )
        return force

    def row_33(self, points: LatticePoints) -> tuple[Array, Array]:
        """Return Σ w D₃₃, shape (n_s, N), and Σ w Bᵀ D₃₃, (N, n), with the rows D₃₃ = d stress_33 / d ε.

        Needs `knows_row_33`.
        """
        n, rve = len(points.force), self.discretisation
        mean, force = np.repeat(self._mean_33[:, None], n, axis=1), np.tile(self._force_33, (n, 1))
        for position, packed in enumerate(points.tangent, self._n_linear):
            phase, cells = self.phases[position], rve.cells_of_phase[position]
            assert isinstance(phase, PlaneStrainPhase)
            place = self.groups[position].place
            for part, _ in self._blocks(cells):
                group, lane = place[:, part.start - cells.start : part.stop - cells.start]
                rows = np.ascontiguousarray(phase.tangent_33(self._unpacked(packed[:, group, :, :, lane])))
                mean += np.einsum("g,sgn->sn", self._weights(part), rows)
                self._add_forces(part, rows, force)
        return mean, force

    def mean_tangent(self, points: LatticePoints) -> Array:
        """Return the volume average of the tangents. Shape (N, n_s, n_s)."""
        n_s, rows, columns = self.discretisation.n_s, *self._upper
        mean = np.repeat(self._linear_mean[None], len(points.force), axis=0)
        for position, packed in enumerate(points.tangent, self._n_linear):
            upper = np.einsum("cq,ncqpw->np", self._weight[self.groups[position].shape], packed)
            full = np.zeros((len(packed), n_s, n_s))
            full[:, rows, columns] = full[:, columns, rows] = upper
            mean += full
        return mean / self.discretisation.volume

    def preconditioner(self, points: LatticePoints) -> Callable[[Array], Array]:
        """Return the inverse stiffness of the reference."""
        return self.reference(points).solve

    def reference(self, points: LatticePoints) -> Reference:
        """Return the homogeneous material with the mean tangent of the first RVE."""
        return Reference(self.lattice, self._stiffness(self.mean_tangent(points)[0]))

    def _stiffness(self, tangent: Array) -> Array:
        """Return the element stiffness of a homogeneous tangent, component-major. Shape (n_shapes, n_dofs, n_dofs)."""
        operator = self.by_component
        matrices = np.einsum("eq,eqsi,st,eqtj->eij", self._weight, operator, tangent, operator, optimize=True)
        return np.ascontiguousarray(matrices)

    def _assemble_linear(self) -> None:
        """Assemble the stiffness of the elements, the load and the averages of the linear phases."""
        rve, n_s = self.discretisation, self.discretisation.n_s
        self._stiffnesses: list[Array] = []
        self._load, self._linear_mean = np.zeros((n_s, self.lattice.size)), np.zeros((n_s, n_s))
        self._force_33, self._mean_33 = np.zeros(self.lattice.size), np.zeros(n_s)
        for position in range(self._n_linear):
            response = self.phases[position].evaluate(np.eye(n_s), np.zeros((0, n_s)))
            one, cells = np.asarray(response.tangent[:, :, 0]), rve.cells_of_phase[position]
            self._stiffnesses.append(self._stiffness(one))
            self._linear_mean += rve.weight[cells].sum() * one
            self._add_uniform(position, one, self._load)
            if response.stress_33 is not None:
                row = np.asarray(response.stress_33)
                self._mean_33 += rve.weight[cells].sum() * row
                self._add_uniform(position, row[:, None], self._force_33[None])
        nonlinear = (rve.weight[part].sum() for part in rve.cells_of_phase[self._n_linear :])
        self._nonlinear_volume = float(sum(nonlinear))

    def _linear(self, vectors: Array, macro: Array) -> tuple[Array, Array]:
        """Return K u + L E and Σ w D (E + B u) of the linear phases."""
        force = macro @ self._load
        for position, stiffness in enumerate(self._stiffnesses):
            self._kernels.add_linear(self.groups[position], stiffness, self.lattice.n_cells, vectors, force)
        return force, macro @ self._linear_mean + vectors @ self._load.T

    def _blocks(self, cells: slice) -> Iterator[tuple[slice, slice]]:
        """Yield slices of the elements of a phase and of its points that are evaluated together."""
        n_q = self.discretisation.n_q
        size = max(1, _POINTS_AT_ONCE // n_q)
        for start in range(cells.start, cells.stop, size):
            stop = min(start + size, cells.stop)
            yield slice(start, stop), slice((start - cells.start) * n_q, (stop - cells.start) * n_q)

    def _strains(self, part: slice, vectors: Array, macro: Array) -> Array:
        """Return the strains at the points of some elements. Shape (n_s, n_points, N)."""
        n_points = (part.stop - part.start) * self.discretisation.n_q
        local = np.empty((macro.shape[1], n_points, len(macro)))
        shape, stride = self.lattice.shape_of_cell[part], self.lattice.n_cells
        self._kernels.strains(self._site[part], shape, self._gradient, stride, vectors, macro, local)
        return local

    def _add_forces(self, part: slice, stress: Array, out: Array) -> None:
        shape, stride = self.lattice.shape_of_cell[part], self.lattice.n_cells
        self._kernels.add_forces(self._site[part], shape, self._divergence, stride, stress, out)

    def _add_uniform(self, position: int, stress: Array, out: Array) -> None:
        """Add the nodal forces of a phase under uniform stresses (n_s, n_columns)."""
        forces = np.einsum("eq,eqsd,sk->ekd", self._weight, self.by_component, stress, optimize=True)
        self._kernels.add_uniform(self.groups[position], np.ascontiguousarray(forces), self.lattice.n_cells, out)

    def _weights(self, part: slice) -> Array:
        """Return the quadrature weights of some elements. Shape (n_points,)."""
        return self._weight[self.lattice.shape_of_cell[part]].ravel()

    def _packed(self, response: PhaseResponse) -> Array:
        """Return the upper triangles of the tangents. Shape (n_elements, N, n_q, n_s (n_s + 1) / 2)."""
        upper = np.asarray(response.tangent)[self._upper]
        return upper.reshape(len(upper), -1, self.discretisation.n_q, upper.shape[-1]).transpose(1, 3, 2, 0)

    def _unpacked(self, packed: Array) -> Array:
        """Return the tangents of upper triangles, see `_packed`. Shape (n_s, n_s, n_points, N)."""
        n_s, (rows, columns) = notation.n_strain(self.lattice.dim), self._upper
        upper = packed.transpose(3, 0, 2, 1).reshape(packed.shape[3], -1, packed.shape[1])
        full = np.empty((n_s, n_s, *upper.shape[1:]))
        full[rows, columns] = full[columns, rows] = upper
        return full
