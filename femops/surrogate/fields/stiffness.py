"""Stiffness matrices of many RVEs on one mesh, with a common sparsity pattern, and their products with fields.

Fields have shape (N, n_nodes, dim, k). A batch is multiplied as one block-diagonal sparse matrix, which is limited by
memory bandwidth on CPUs and GPUs.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy.sparse as sp

from femops.devices.torch_library import Tensor, torch
from femops.notation import Indices


@dataclass(frozen=True, eq=False)
class NodePairs:
    """Sparsity pattern of a stiffness: pairs of nodes that share a cell, sorted by first and second node.

    Attributes:
        first: Offsets of the pairs of each node. Shape (n_nodes + 1,).
        second: Second node of each pair. Shape (n_pairs,).
        dim: Displacement components per node.
    """

    first: Indices
    second: Indices
    dim: int

    @classmethod
    def of_keys(cls, keys: Indices, n_nodes: int, dim: int) -> "NodePairs":
        """Return the pairs given by sorted keys `first · n_nodes + second`."""
        first = np.concatenate([[0], np.cumsum(np.bincount(keys // n_nodes, minlength=n_nodes))])
        return cls(first, keys % n_nodes, dim)

    @classmethod
    def of_cells(cls, cells: Indices, n_nodes: int, dim: int) -> tuple["NodePairs", Indices]:
        """Return the pairs of a mesh, and the pair index of the nodes of each cell (n_cells, n_of_cell, n_of_cell)."""
        keys, pair = np.unique(cells[:, :, None] * n_nodes + cells[:, None, :], return_inverse=True)
        return cls.of_keys(keys, n_nodes, dim), pair.reshape(*cells.shape, cells.shape[1])

    @classmethod
    def disjoint_union(cls, parts: Sequence["NodePairs"]) -> "NodePairs":
        """Return the pairs of the disjoint union of several meshes, with concatenated nodes."""
        pairs = np.cumsum([0, *(len(part.second) for part in parts)])
        nodes = np.cumsum([0, *(part.n_nodes for part in parts)])
        first = [part.first[:-1] + start for part, start in zip(parts, pairs, strict=False)]
        second = [part.second + start for part, start in zip(parts, nodes, strict=False)]
        return cls(np.concatenate([*first, pairs[-1:]]), np.concatenate(second), parts[0].dim)

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.first) - 1

    @property
    def n_dofs(self) -> int:
        """Number of rows of the matrix."""
        return self.n_nodes * self.dim

    @property
    def nnz(self) -> int:
        """Number of entries of the matrix."""
        return len(self.second) * self.dim**2

    @cached_property
    def rows(self) -> Indices:
        """The first node of each pair. Shape (n_pairs,)."""
        return np.repeat(np.arange(self.n_nodes), np.diff(self.first))

    @cached_property
    def entries(self) -> Indices:
        """Position in the CSR values of the entries of each pair. Shape (n_pairs, dim, dim)."""
        row = self.rows[:, None, None] * self.dim + np.arange(self.dim)[:, None]
        order = np.argsort(np.broadcast_to(row, (len(row), self.dim, self.dim)).ravel(), kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return places.reshape(-1, self.dim, self.dim)

    @cached_property
    def columns(self) -> Indices:
        """CSR column indices. Shape (nnz,)."""
        found = np.empty(self.nnz, dtype=np.int64)
        found[self.entries] = self.second[:, None, None] * self.dim + np.arange(self.dim)
        return found

    @cached_property
    def row_starts(self) -> Indices:
        """CSR row offsets. Shape (n_dofs + 1,)."""
        return np.concatenate([[0], np.cumsum(np.repeat(np.diff(self.first) * self.dim, self.dim))])


@dataclass(frozen=True)
class StiffnessBatch:
    """Symmetric stiffness matrices of N RVEs.

    Attributes:
        pairs: Sparsity pattern.
        values: CSR values. Shape (N, nnz).
    """

    pairs: NodePairs
    values: Tensor

    @classmethod
    def block_diagonal(cls, parts: Sequence["StiffnessBatch"]) -> "StiffnessBatch":
        """Return the block-diagonal matrix of several meshes with one matrix each."""
        pairs = NodePairs.disjoint_union([part.pairs for part in parts])
        return cls(pairs, torch.cat([part.values for part in parts], dim=1))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, which: Tensor | slice) -> "StiffnessBatch":
        """Return a sub-batch."""
        return StiffnessBatch(self.pairs, self.values[which])

    def __matmul__(self, fields: Tensor) -> Tensor:
        """Return K w of fields (N, n_nodes, dim, k)."""
        return (self._matrix @ fields.reshape(len(self) * self.pairs.n_dofs, fields.shape[3])).reshape(fields.shape)

    @cached_property
    def diagonal(self) -> Tensor:
        """Diagonals. Shape (N, n_nodes, dim)."""
        entries = self.pairs.entries[self.pairs.rows == self.pairs.second]
        return self.values[:, torch.as_tensor(entries.diagonal(axis1=1, axis2=2).copy(), device=self.values.device)]

    def to_scipy(self, number: int = 0) -> sp.csr_array:
        """Return matrix `number` of the batch."""
        n = self.pairs.n_dofs
        values = self.values[number].cpu().numpy()
        return sp.csr_array((values, self.pairs.columns, self.pairs.row_starts), shape=(n, n))

    def dense(self) -> Tensor:
        """Return dense matrices. Shape (N, n_dofs, n_dofs)."""
        n = self.pairs.n_dofs
        rows = np.repeat(np.arange(n), np.diff(self.pairs.row_starts))
        full = self.values.new_zeros(len(self), n * n)
        full[:, torch.as_tensor(rows * n + self.pairs.columns, device=full.device)] = self.values
        return full.reshape(len(self), n, n)

    @cached_property
    def _matrix(self) -> Tensor:
        starts, columns = _repeated_structure(self.pairs, len(self), self.values.device)
        n = len(self) * self.pairs.n_dofs
        return sparse(starts, columns, self.values.reshape(-1), (n, n))


def repeated(matrix: sp.csr_array, n: int, like: Tensor) -> Tensor:
    """Return the block-diagonal matrix of n copies of a sparse matrix, with the dtype and device of `like`."""
    values = torch.as_tensor(matrix.data, device=like.device, dtype=like.dtype).repeat(n)
    rows, columns = (int(one) for one in matrix.shape)
    starts, places = _block_diagonal(np.asarray(matrix.indptr), np.asarray(matrix.indices), columns, n, like.device)
    return sparse(starts, places, values, (n * rows, n * columns))


@lru_cache(maxsize=8)
def _repeated_structure(pairs: NodePairs, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return _block_diagonal(pairs.row_starts, pairs.columns, pairs.n_dofs, n, device)


def _block_diagonal(
    row_starts: Indices, columns: Indices, n_columns: int, n: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return CSR row offsets and columns of a block-diagonal matrix of n blocks with one sparsity pattern."""
    nnz = len(columns)
    kind = torch.int32 if n * max(nnz, n_columns) < 2**31 else torch.int64
    steps = torch.arange(n, device=device, dtype=kind)[:, None]
    starts = torch.as_tensor(row_starts[:-1], device=device).to(kind) + steps * nnz
    all_starts = torch.cat([starts.ravel(), steps.new_full((1,), n * nnz)])
    all_columns = torch.as_tensor(columns, device=device).to(kind) + steps * n_columns
    return all_starts, all_columns.ravel()


def sparse(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a sparse CSR matrix from row offsets, columns and values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that sparse CSR is in beta
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
