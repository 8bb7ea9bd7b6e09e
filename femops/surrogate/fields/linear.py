"""Homogenized stiffness of predicted fluctuations in RVEs of linear phases.

W holds the fluctuations of the unit strains, w = W E. For any W,

    C̄(W) = ⟨(1 + B W)ᵀ D (1 + B W)⟩ = C̄ + Rᵀ K⁻¹ R / |Ω|,      residual R(W) = K W + L,  L = Σ w Bᵀ D,

is symmetric, positive definite and an upper bound of the homogenized tangent C̄; its error is of second order in that
of W. With K₀ ≤ K the stiffness of a homogeneous RVE softer than all phases, the error is at most Rᵀ K₀⁻¹ R / |Ω|.

Fields have shape (N, n_nodes, dim, n_s); N RVEs share one mesh.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.notation import Array
from femops.rve.spec import RVE
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.homogeneous import homogeneous_solver
from femops.surrogate.fields.krylov import LinearMap, conjugate_gradients
from femops.surrogate.fields.multigrid import Multigrid, grid_prolongations
from femops.surrogate.fields.stiffness import NodePairs, StiffnessBatch

_ROUND_OFF = 1e-10


@dataclass(frozen=True)
class CellTangents:
    """Properties of linear phases, cell by cell.

    Attributes:
        tangent: D [stress]. Shape (N, n_cells, n_s, n_s).
        row_33: In plane strain stress_33 = row_33 · ε [stress], shape (N, n_cells, n_s); None in 3D.
    """

    tangent: Array
    row_33: Array | None

    @classmethod
    def of(cls, rves: Sequence[RVE], space: FluctuationSpace) -> "CellTangents":
        """Return the properties of RVEs on the mesh of a space, in its cell order.

        Raises:
            CaseError: A phase is nonlinear or an RVE has another mesh.
        """
        tables = [_tables(rve) for rve in rves]
        cells = [space.phase_of_cell(rve) for rve in rves]
        tangent = np.stack([table[0][cell] for table, cell in zip(tables, cells, strict=True)])
        if space.discretisation.dim == 3:
            return cls(tangent, None)
        return cls(tangent, np.stack([table[1][cell] for table, cell in zip(tables, cells, strict=True)]))


def _tables(rve: RVE) -> tuple[Array, Array]:
    """Return D (n_phases, n_s, n_s) and the rows of stress_33 (n_phases, n_s), zeros in 3D, of the phases."""
    n_s = rve.discretisation.n_s
    tangent, rows = np.zeros((len(rve.phases), n_s, n_s)), np.zeros((len(rve.phases), n_s))
    for i, phase in enumerate(rve.phases):
        if not phase.linear:
            raise CaseError(
                "is nonlinear, expected linear phases only", key=f"rve.phases.{rve.discretisation.phases[i]}"
            )
        answer = phase.evaluate(np.eye(n_s), np.zeros((0, n_s)))
        tangent[i] = answer.tangent[:, :, 0]
        if answer.stress_33 is not None:
            rows[i] = answer.stress_33
    return tangent, rows


@dataclass(frozen=True)
class LinearFields:
    """A batch of RVEs of linear phases on one mesh.

    Attributes:
        space: Space of the fields.
        cells: Properties of the cells.
        stiffness: K [stress · volume / length²].
        load: L [stress · volume / length]. Shape (N, n_nodes, dim, n_s).
        mean: ⟨D⟩ [stress]. Shape (N, n_s, n_s).
        load_33: ⟨row_33 · B⟩ in plane strain [stress / length]. Shape (N, n_nodes, dim).
        mean_33: ⟨row_33⟩ in plane strain [stress]. Shape (N, n_s).
    """

    space: FluctuationSpace
    cells: CellTangents
    stiffness: StiffnessBatch
    load: Tensor
    mean: Tensor
    load_33: Tensor | None = None
    mean_33: Tensor | None = None

    @classmethod
    def of(cls, rves: Sequence[RVE], **to: Any) -> "LinearFields":
        """Return the batch of some RVEs on one mesh; `to` is dtype and device of the tensors, see `on`.

        Raises:
            CaseError: A phase is nonlinear, the meshes differ, or the boundary conditions are static.
        """
        space = FluctuationSpace.shared(rves[0])
        return cls.on(space, CellTangents.of(rves, space), **to)

    @classmethod
    def on(
        cls,
        space: FluctuationSpace,
        cells: CellTangents,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> "LinearFields":
        """Return the batch for properties given cell by cell, in the cell order of the space."""
        rve = space.discretisation
        volume = rve.volume
        tangent = torch.as_tensor(cells.tangent, device=device)
        operator = torch.tensor(rve.strain_operator, device=device)  # a copy: it is read-only
        weight = torch.tensor(rve.weight, device=device)
        stiffness = _stiffness(space, operator, weight, tangent)
        weighted = torch.einsum("cq,cqsi->csi", weight, operator)
        load = _assembled(space, (tangent @ weighted).transpose(2, 3)).to(dtype)
        mean = torch.einsum("c,ncst->nst", weight.sum(1), tangent).to(dtype) / volume
        batch = StiffnessBatch(stiffness.pairs, stiffness.values.to(dtype))
        if cells.row_33 is None:
            return cls(space, cells, batch, load, mean)
        row = torch.as_tensor(cells.row_33, device=device)
        load_33 = _assembled(space, torch.einsum("ncs,csi->nci", row, weighted)[..., None])[..., 0].to(dtype) / volume
        mean_33 = torch.einsum("c,ncs->ns", weight.sum(1), row).to(dtype) / volume
        return cls(space, cells, batch, load, mean, load_33, mean_33)

    def __len__(self) -> int:
        return len(self.stiffness)

    def __getitem__(self, which: Any) -> "LinearFields":
        """Return a sub-batch, given by an index array or a slice."""
        rows = which if isinstance(which, slice) else np.asarray(which)
        index = which if isinstance(which, slice) else torch.as_tensor(rows, device=self.load.device)
        row_33 = None if self.cells.row_33 is None else self.cells.row_33[rows]
        load_33 = None if self.load_33 is None else self.load_33[index]
        mean_33 = None if self.mean_33 is None else self.mean_33[index]
        cells = CellTangents(self.cells.tangent[rows], row_33)
        parts = (self.stiffness[index], self.load[index], self.mean[index], load_33, mean_33)
        return LinearFields(self.space, cells, *parts)

    def residual(self, fields: Tensor) -> Tensor:
        """Return R(W) = K W + L, the residual forces of the unit strains. Shape (N, n_nodes, dim, n_s)."""
        return self.stiffness @ fields + self.load

    def homogenized(self, fields: Tensor) -> Tensor:
        """Return C̄(W) of fields (N, n_nodes, dim, n_s), differentiable. Shape (N, n_s, n_s)."""
        found: Tensor = _Homogenized.apply(fields, self)
        return found

    def row_33(self, fields: Tensor) -> Tensor | None:
        """Return ⟨stress_33⟩ of the unit strains, shape (N, n_s), in plane strain; None in 3D."""
        if self.load_33 is None or self.mean_33 is None:
            return None
        return self.mean_33 + torch.einsum("nad,nads->ns", self.load_33, fields)

    def improve(self, fields: Tensor, steps: int, precondition: LinearMap) -> Tensor:
        """Return fields improved by block conjugate gradients over all unit strains.

        The first step also searches along the given fields, so that their scale does not matter. No step increases
        C̄(W).

        Args:
            fields: W. Shape (N, n_nodes, dim, n_s).
            steps: Number of steps; each takes one product with K and one application of the preconditioner.
            precondition: Approximation of K⁻¹, see `preconditioner`.
        """
        products = self.stiffness @ fields
        start = (fields, products)
        change = conjugate_gradients(self.stiffness.__matmul__, precondition, -(products + self.load), start, steps)
        return self.centred(fields + change)

    def preconditioner(self) -> LinearMap:
        """Return an approximation of K⁻¹: multigrid on a uniform grid, else the inverse of a homogeneous RVE."""
        prolongations = grid_prolongations(self.space)
        if Multigrid.applies(prolongations, self.space.discretisation.dim):
            return Multigrid(self.stiffness, prolongations)
        return homogeneous_solver(self.space, _softest_tangent(self.cells.tangent), self.load.device)

    def bound(self, fields: Tensor) -> Tensor:
        """Return a guaranteed bound Δ, 0 ≤ C̄(W) − C̄ ≤ Δ in the order of symmetric matrices. Shape (N, n_s, n_s)."""
        tangent = self.cells.tangent
        soft = _softest_tangent(tangent / np.trace(tangent[:, :1], axis1=2, axis2=3)[:, None, None])
        solve = homogeneous_solver(self.space, soft, self.load.device)
        root = np.linalg.inv(np.linalg.cholesky(soft))
        smallest = np.linalg.eigvalsh(root @ tangent @ root.T)[..., 0].min(axis=1)
        forces = self.residual(fields)
        work = forces.flatten(1, 2).transpose(1, 2) @ solve(forces).flatten(1, 2)
        scale = torch.as_tensor(smallest * self.space.discretisation.volume).to(work)[:, None, None]
        return 0.5 * (work + work.transpose(1, 2)) / scale

    def centred(self, fields: Tensor) -> Tensor:
        """Return fields minus their volume average."""
        share = torch.as_tensor(self.space.mean, device=fields.device, dtype=fields.dtype)
        return fields - torch.einsum("a,nads->nds", share, fields)[:, None]


def stress_error_bound(strain: Array, stiffness: Array, bound: Array) -> Array:
    """Return a bound of the relative error of the stress C̄(W) E, in the norm of the compliance C̄(W)⁻¹.

    For ΔC = C̄(W) − C̄ with 0 ≤ ΔC ≤ Δ, ‖ΔC E‖² ≤ λ E·Δ·E with λ the largest eigenvalue of Δ relative to C̄(W).

    Args:
        strain: E, Mandel [-]. Shape (n, n_s).
        stiffness: C̄(W) [stress]. Shape (n_s, n_s).
        bound: Δ [stress], see `LinearFields.bound`. Shape (n_s, n_s).

    Returns:
        Shape (n,) [-]; zero at zero strain.
    """
    root = np.linalg.inv(np.linalg.cholesky(stiffness))
    largest = max(float(np.linalg.eigvalsh(root @ bound @ root.T)[-1]), 0.0)
    excess, energy = (np.einsum("ns,st,nt->n", strain, one, strain) for one in (bound, stiffness))
    return np.asarray(np.sqrt(largest * np.maximum(excess, 0.0) / np.maximum(energy, np.finfo(float).tiny)))


def cell_features(tangent: Tensor) -> Tensor:
    """Return the cell features: logarithmic stiffness contrast to the softest cell, and D normalised by its trace.

    Args:
        tangent: D of the cells [stress]. Shape (N, n_cells, n_s, n_s).

    Returns:
        Features [-], shape (N, n_cells, 1 + n_s (n_s + 1) / 2).
    """
    n_s = tangent.shape[-1]
    size = tangent.diagonal(dim1=2, dim2=3).sum(-1)
    rows, columns = torch.triu_indices(n_s, n_s, device=tangent.device)
    contrast = 0.5 * torch.log(size / size.amin(dim=1, keepdim=True))
    return torch.cat([contrast[..., None], tangent[..., rows, columns] / size[..., None]], dim=-1)


class _Homogenized(torch.autograd.Function):
    """C̄(W) with its derivative computed from the residual."""

    @staticmethod
    def forward(ctx: Any, fields: Tensor, problem: LinearFields) -> Tensor:
        fields = fields.detach()
        volume = problem.space.discretisation.volume
        forces = problem.stiffness @ fields
        work = fields.flatten(1, 2).transpose(1, 2) @ (problem.load + 0.5 * forces).flatten(1, 2)
        ctx.save_for_backward((forces + problem.load) / volume)
        return problem.mean + (work + work.transpose(1, 2)) / volume

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (forces,) = ctx.saved_tensors
        both = grads[0] + grads[0].transpose(1, 2)
        return forces @ both[:, None], None


def _softest_tangent(tangent: Array) -> Array:
    """Return D with the least stiffness of all cells in each eigenstrain of the mean D.

    For isotropic phases the eigenstrains are volumetric and deviatoric, and D has the smallest moduli of all cells.
    """
    _, strains = np.linalg.eigh(tangent.mean(axis=(0, 1)))
    least = np.einsum("si,ncst,ti->nci", strains, tangent, strains, optimize=True).min(axis=(0, 1))
    return np.asarray((strains * least) @ strains.T)


def _stiffness(space: FluctuationSpace, operator: Tensor, weight: Tensor, tangent: Tensor) -> StiffnessBatch:
    """Return K of cells with strain operators (n_cells, n_q, n_s, n_dofs_of_cell)."""
    dim = space.discretisation.dim
    pairs, pair = NodePairs.of_cells(space.cells, space.n_nodes, dim)
    # CSR position of the entry of dofs (a, i), (b, j) of each cell, in the order of the cell matrix.
    places = torch.as_tensor(pairs.entries[pair].transpose(0, 1, 3, 2, 4).ravel(), device=tangent.device)
    values = tangent.new_zeros(len(tangent), pairs.nnz)
    of_cells = _cell_stiffness(operator, weight)
    for row, one in zip(values, tangent, strict=True):  # one RVE at a time fits into caches
        row.index_add_(0, places, of_cells(one).reshape(-1))
    return StiffnessBatch(pairs, values)


def _cell_stiffness(operator: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a callable that computes the cell stiffnesses (n_cells, n, n) from tangents (n_cells, n_s, n_s)."""
    weighted = operator * weight[..., None, None]
    n = operator.shape[3]
    if torch.allclose(operator, operator[:1], rtol=_ROUND_OFF, atol=_ROUND_OFF * float(operator.abs().max())):
        of_entries = torch.einsum("qsi,qtj->stij", weighted[0], operator[0]).flatten(2).flatten(0, 1)
        return lambda tangent: (tangent.flatten(1) @ of_entries).reshape(-1, n, n)
    transposed = weighted.flatten(1, 2).transpose(1, 2)
    return lambda tangent: transposed @ (tangent[:, None] @ operator).flatten(1, 2)


def _assembled(space: FluctuationSpace, of_cell: Tensor) -> Tensor:
    """Assemble cell vectors (N, n_cells, n, k) at the nodes (N, n_nodes, dim, k)."""
    n, _, _, k = of_cell.shape
    dim = space.discretisation.dim
    nodes = torch.as_tensor(space.cells.ravel(), device=of_cell.device)
    found = of_cell.new_zeros(n, space.n_nodes, dim, k)
    return found.index_add_(1, nodes, of_cell.reshape(n, len(nodes), dim, k))
