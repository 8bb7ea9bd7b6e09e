"""Linear systems of periodic RVEs on grids in torch, for a GPU; see `femops.rve.iterative.LinearSystems`.

A GPU is limited by its memory bandwidth. So every element of a nonlinear phase keeps its stiffness (4.6 kB for a
hexahedron), which a product reads once for all columns; elements of a linear phase share that of their shape. The
product is a gather of displacements, one batched multiplication and a gather of the forces at every node, each of
which gives the same sums every time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.notation import Array, Indices
from femops.rve.conjugate_gradients import Accuracy, conjugate_gradients
from femops.rve.fft.equations import LatticeEquations, LatticePoints
from femops.rve.fft.kernels import LANES
from femops.rve.fft.lattice import Lattice
from femops.rve.fft.reference import Reference

_SHARE = 0.5
"""Part of the free memory that columns may take."""
_VECTORS = 12
"""Number of lattice vectors per column, those of conjugate gradients and of the FFT."""
_MEMORY_OF_CPU = 4e9


@dataclass(frozen=True)
class _Part:
    """Elements of one phase and one shape.

    Attributes:
        phase: Number of the phase.
        shape: Number of the shape.
        groups: Their groups.
        dofs: Places of their dofs in a lattice vector, component-major. Shape (n_elements · n_dofs,).
        slots: Places of their forces among those of all elements.
        count: Number of elements without those that fill up a group.
    """

    phase: int
    shape: int
    groups: slice
    dofs: Tensor
    slots: slice
    count: int


@dataclass(frozen=True)
class _Linearised:
    """Stiffness of one RVE.

    Attributes:
        stiffness: Stiffness of the elements of each part, shape (n_elements, n_dofs, n_dofs), or of them all, (1, …).
        load: Loads Σ w D B of the columns of E. Shape (n_s, n).
        mean: Σ w D. Shape (n_s, n_s).
    """

    stiffness: list[Tensor]
    load: Tensor
    mean: Tensor


class TorchSystems:
    """Linear systems of an RVE on a torch device; see `LinearSystems`.

    Args:
        equations: Equations of the RVE.
        unloaded: Point quantities of the unloaded RVE.
        device: The torch device.

    Raises:
        CaseError: The RVE does not fit into the memory of the device.
    """

    concurrent = False

    def __init__(self, equations: LatticeEquations, unloaded: LatticePoints, device: Any) -> None:
        rve, lattice = equations.discretisation, equations.lattice
        self._device, self._n_s, self._size = device, rve.n_s, lattice.size
        operators, weights = equations.by_component, rve.weight[lattice.examples]
        self._maps = [self._put(_of_tangents(b, w)) for b, w in zip(operators, weights, strict=True)]
        self._n_dofs, self._upper = operators.shape[3], np.triu_indices(rve.n_s)
        linear = [phase for phase in equations.phases if phase.linear]
        tangents = (one.evaluate(np.eye(rve.n_s), np.zeros((0, rve.n_s))).tangent for one in linear)
        self._linear = [self._at_points(np.asarray(one)[:, :, 0], rve.n_q) for one in tangents]
        self._parts, self._at_node = self._numbered(equations)
        self._check_memory()
        self._reference = _Reference(lattice, equations.reference(unloaded), device)

    def tangent(self, points: LatticePoints, vectors: Array, macro: Array, owner: Indices) -> tuple[Array, Array]:
        """Return K u + L E, shape (n_columns, n), and Σ w D (E + B u), shape (n_columns, n_s)."""
        force, total = np.empty_like(vectors), np.empty_like(macro)
        for part, system in self._blocks(points, owner):
            u, e = self._put(vectors[part]), self._put(macro[part])
            force[part] = (self._multiply(system, u) + e @ system.load).cpu()
            total[part] = (e @ system.mean + u @ system.load.T).cpu()
        return force, total

    def solve(
        self, points: LatticePoints, right: Array, owner: Indices, accuracy: Accuracy
    ) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Solve K x = r by conjugate gradients."""
        solution, solved = np.empty_like(right), np.empty(len(right), dtype=bool)
        for part, system in self._blocks(points, owner):
            least = Accuracy(self._put(accuracy.residual[part]), self._put(accuracy.energy[part]))
            multiply = partial(self._multiply, system)
            found, done, *_ = conjugate_gradients(multiply, self._reference.solve, self._put(right[part]), least)
            solution[part], solved[part] = found.cpu(), done.cpu()
        return solution, solved

    def _blocks(self, points: LatticePoints, owner: Indices) -> Iterator[tuple[slice, _Linearised]]:
        """Yield slices of columns of one RVE that fit into memory together, and its stiffness."""
        ends = [*(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
        for start, end in zip([0, *ends], ends, strict=False):
            if (rve := int(owner[start])) not in points.on_device:
                points.on_device[rve] = self._linearised([one[rve] for one in points.tangent])
            most = max(1, int(_SHARE * _free_memory(self._device) / self._bytes_of_column))
            for first in range(start, end, most):
                yield slice(first, min(first + most, end)), points.on_device[rve]

    def _multiply(self, system: _Linearised, vectors: Tensor, _: Any = None) -> Tensor:
        """Return K u of vectors (n_columns, n)."""
        forces = self._forces(len(vectors))
        for part, stiffness in zip(self._parts, system.stiffness, strict=True):
            local = vectors.index_select(1, part.dofs).view(len(vectors), -1, self._n_dofs)
            if len(stiffness) == 1:
                product = local @ stiffness[0]
            else:
                product = torch.bmm(local.transpose(0, 1), stiffness).transpose(0, 1)
            forces[:, part.slots].view(local.shape).copy_(product)
        return self._assembled(forces)

    def _forces(self, count: int) -> Tensor:
        """Return an array for the forces of all elements, and for one that remains zero. Shape (count, n_slots + 1)."""
        forces = torch.empty(count, self._parts[-1].slots.stop + 1, dtype=torch.float64, device=self._device)
        forces[:, -1] = 0.0
        return forces

    def _assembled(self, forces: Tensor) -> Tensor:
        """Return the sums of the forces at the nodes. Shape (n_columns, n)."""
        at_node = forces.index_select(1, self._at_node.flatten())
        return at_node.view(len(forces), *self._at_node.shape).sum(1)

    def _linearised(self, tangents: list[Array]) -> _Linearised:
        """Return the stiffness of one RVE from the packed tangents of its nonlinear phases."""
        n_s, n_dofs = self._n_s, self._n_dofs
        forces, stiffness = self._forces(n_s), []
        mean = torch.zeros(n_s, n_s, dtype=torch.float64, device=self._device)
        for part in self._parts:
            if part.phase < len(self._linear):
                packed, repeated = self._linear[part.phase][None], part.count
            else:
                of_part = self._put(tangents[part.phase - len(self._linear)][part.groups])
                packed, repeated = of_part.flatten(1, 2).transpose(1, 2).flatten(0, 1), 1
            of_tangents = self._maps[part.shape]
            within, ends = of_tangents[:, :n_dofs, :n_dofs], of_tangents[:, n_dofs:]
            stiffness.append((packed @ within.flatten(1)).view(-1, n_dofs, n_dofs))
            load = (packed @ ends.flatten(1)).view(-1, n_s, n_dofs + n_s)
            mean += load[..., n_dofs:].sum(0) * repeated
            n_elements = len(part.dofs) // n_dofs
            forces[:, part.slots] = load[..., :n_dofs].transpose(0, 1).expand(n_s, n_elements, n_dofs).flatten(1)
        return _Linearised(stiffness, self._assembled(forces), mean)

    def _numbered(self, equations: LatticeEquations) -> tuple[list[_Part], Tensor]:
        """Return the parts and the slots of the forces at every dof, shape (most, n), absent ones are the last slot."""
        rve, lattice = equations.discretisation, equations.lattice
        parts, places = [], []
        start, of_component = 0, lattice.n_cells * np.arange(rve.dim)[:, None]
        for phase, groups in enumerate(equations.groups):
            for shape in np.unique(groups.shape):
                first, last = np.searchsorted(groups.shape, [shape, shape + 1])
                here = slice(int(first), int(last))
                site = groups.site[here].transpose(0, 2, 1).reshape(-1, 1, groups.site.shape[1])
                dofs = (site + of_component).reshape(len(site), -1)
                used = (np.arange(LANES) < groups.used[here, None]).ravel()
                slots = slice(start, start + dofs.size)
                start = slots.stop
                parts.append(_Part(phase, int(shape), here, self._put(dofs.ravel()), slots, int(used.sum())))
                places.append((dofs[used], np.arange(slots.start, slots.stop).reshape(dofs.shape)[used]))
        rank = _ranks(lattice.kinds)
        at_node = np.full((rank.max() + 1, lattice.size), start)
        for part, (dofs, slots_of) in zip(parts, places, strict=True):
            at_node[np.tile(rank[part.shape], rve.dim), dofs] = slots_of
        return parts, self._put(at_node)

    @property
    def _bytes_of_column(self) -> float:
        return 8.0 * (2 * self._parts[-1].slots.stop + self._at_node.numel() + _VECTORS * self._size)

    def _check_memory(self) -> None:
        """Check that the stiffness and a column fit into memory.

        Raises:
            CaseError: They do not.
        """
        of_element = 8.0 * (self._n_dofs**2 + 2 * len(self._maps[0]))
        n_nonlinear = sum(one.count for one in self._parts if one.phase >= len(self._linear))
        needed, free = of_element * n_nonlinear + self._bytes_of_column, _free_memory(self._device)
        if needed > free:
            problem = f"the RVE needs {needed / 1e9:.1f} GB on the GPU, which has {free / 1e9:.1f} GB free"
            raise CaseError(f"{problem}; expected cpu", key="device")

    def _at_points(self, tangent: Array, n_q: int) -> Tensor:
        """Return the upper triangle of a tangent at the points of an element. Shape (n_q n_s (n_s + 1) / 2,)."""
        return self._put(np.tile(tangent[self._upper], n_q))

    def _put(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.as_tensor(values, device=self._device)


class _Reference:
    """The preconditioner `femops.rve.fft.reference.Reference` on a device."""

    def __init__(self, lattice: Lattice, reference: Reference, device: Any) -> None:
        self._grid, self._axes = lattice.grid, tuple(range(2, 2 + lattice.dim))
        inverse = torch.as_tensor(reference.inverse, device=device)
        self._inverse = inverse.to(torch.complex128).permute(1, 2, 0).contiguous()

    def solve(self, vectors: Tensor) -> Tensor:
        """Return K₀⁻¹ r of lattice vectors with zero sum. Shape (n_columns, n)."""
        spectrum = torch.fft.rfftn(vectors.reshape(len(vectors), -1, *self._grid), dim=self._axes)
        old = spectrum.flatten(2)
        new = torch.zeros_like(old)
        for column, of_column in enumerate(self._inverse.unbind(1)):
            new.addcmul_(of_column, old[:, column, None])
        return torch.fft.irfftn(new.reshape(spectrum.shape), self._grid, self._axes).reshape(vectors.shape)


def _of_tangents(operator: Array, weight: Array) -> Array:
    """Return the linear map from the upper triangles D of an element to Σ w [B 1]ᵀ D [B 1].

    It contains stiffness, load and mean of the element. Shape (n_q n_s (n_s + 1) / 2, n_dofs + n_s, n_dofs + n_s).
    """
    n_q, n_s, _ = operator.shape
    extended = np.concatenate([operator, np.broadcast_to(np.eye(n_s), (n_q, n_s, n_s))], axis=2)
    rows, columns = np.triu_indices(n_s)
    found = np.einsum("q,qpi,qpj->qpij", weight, extended[:, rows], extended[:, columns])
    found[:, rows != columns] += found[:, rows != columns].swapaxes(-1, -2)
    return found.reshape(-1, *found.shape[2:])


def _ranks(kinds: Indices) -> Indices:
    """Number the nodes of all shapes that are of the same kind. Shape (n_shapes, n_nodes)."""
    same = kinds.ravel()[:, None] == kinds.ravel()[None, :]
    return np.asarray(np.tril(same, -1).sum(axis=1).reshape(kinds.shape))


def _free_memory(device: Any) -> float:
    """Return the memory that is free on a GPU [byte], and a constant for the CPU."""
    if device.type == "cpu":
        return _MEMORY_OF_CPU
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + kept)
