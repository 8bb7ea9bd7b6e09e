"""Training batches: microstructures on one mesh, or on a disjoint union of meshes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array, Indices
from femops.surrogate.fields.linear import LinearFields, cell_features
from femops.surrogate.fields.stiffness import StiffnessBatch
from femops_spon.network import SPON, MeshMaps, hierarchy

_VALIDATION_SHARE, _MAX_VALIDATION = 0.1, 64
_CHUNK = 32
_VIEWS = 8  # augmented views of a mesh


@dataclass(frozen=True)
class Group:
    """Microstructures that share a mesh.

    Attributes:
        problem: The RVEs.
        reference: Their homogenized stiffness C̄, Mandel [stress]. Shape (N, n_s, n_s).
        siblings: Number of consecutive problems that are states of the same microstructure.
    """

    problem: LinearFields
    reference: Array
    siblings: int = 1

    def __len__(self) -> int:
        return len(self.reference)


@dataclass(frozen=True)
class BatchOptions:
    """Options of batches.

    Attributes:
        levels: Levels of the hierarchies.
        size: Microstructures per batch.
        augment: Augment the data by rotated and mirrored coordinates and shifted coarse grids.
        seed: Seed of all random numbers.
        device: A torch device.
    """

    levels: int
    size: int
    augment: bool
    seed: int
    device: str


@dataclass(frozen=True)
class Part:
    """A part of a batch.

    Attributes:
        count: Number of microstructures.
        errors: Returns the square errors of a network's fields in the energy norm [-]. Shape (count,).
    """

    count: int
    errors: Callable[[SPON], Tensor]


class Batches(ABC):
    """Training set to draw batches from, and a validation set that is held out."""

    def __init__(self, options: BatchOptions) -> None:
        self._options = options
        self._views: dict[tuple[int, int | None], MeshMaps] = {}

    @abstractmethod
    def drawn(self, rng: np.random.Generator) -> Iterator[Part]:
        """Yield the parts of a random training batch."""

    @abstractmethod
    def held_back(self) -> Iterator[Part]:
        """Yield the parts of the validation set."""

    def _split(self, count: int, siblings: int) -> tuple[Indices, Indices]:
        """Return the indices of the training and the validation set; a single microstructure is in both."""
        families = np.random.default_rng(self._options.seed).permutation(count // siblings)
        held = min(max(1, _MAX_VALIDATION // siblings), int(np.ceil(_VALIDATION_SHARE * len(families))))
        numbers = families[:, None] * siblings + np.arange(siblings)
        return numbers[held if held < len(families) else 0 :].ravel(), numbers[:held].ravel()

    def _view(self, number: int, view: int | None, problems: Sequence[LinearFields]) -> MeshMaps:
        """Return the operators of meshes; with a `view`, in random coordinates and with random coarse grids."""
        if (number, view) not in self._views:
            rng = None if view is None else np.random.default_rng([self._options.seed, number, view])
            rotation = None
            if rng is not None:
                lower, upper = problems[0].space.discretisation.mesh.bounds
                rotations = symmetries(upper - lower)
                rotation = rotations[rng.integers(len(rotations))]
            levels = [self._levels(problem, rng) for problem in problems]
            self._views[number, view] = MeshMaps.disjoint_union(levels, rotation)
        return self._views[number, view]

    def _levels(self, problem: LinearFields, rng: np.random.Generator | None) -> Any:
        n_levels, dim = self._options.levels, problem.space.discretisation.dim
        shift = np.zeros(dim) if rng is None else np.asarray(0.5 * rng.integers(0, 2**n_levels, dim))
        return hierarchy(problem.space, n_levels, shift.astype(np.float64))

    def _any_view(self, rng: np.random.Generator, n_views: int) -> int | None:
        return int(rng.integers(n_views)) if self._options.augment else None


class OneMesh(Batches):
    """Microstructures on one mesh, drawn anew for each batch."""

    def __init__(self, group: Group, options: BatchOptions) -> None:
        super().__init__(options)
        self._data = _Data(group, options.device)
        self._training, self._held = self._split(len(group), group.siblings)

    def drawn(self, rng: np.random.Generator) -> Iterator[Part]:
        """Yield the parts of a random training batch."""
        size = min(self._options.size, len(self._training))
        chosen = self._training[rng.choice(len(self._training), size, replace=False)]
        return self._parts(chosen, self._any_view(rng, _VIEWS))

    def held_back(self) -> Iterator[Part]:
        """Yield the parts of the validation set."""
        return self._parts(self._held, None)

    def _parts(self, numbers: Indices, view: int | None) -> Iterator[Part]:
        maps = self._view(0, view, [self._data.problem])
        for start in range(0, len(numbers), _CHUNK):
            yield self._part(numbers[start : start + _CHUNK], maps)

    def _part(self, numbers: Indices, maps: MeshMaps) -> Part:
        problem = self._data.problem[numbers]
        features = cell_features(maps.tangent(self._data.tangent[numbers]))
        return Part(len(numbers), lambda network: self._data.errors(network(maps, problem, features), problem, numbers))


class ManyMeshes(Batches):
    """Microstructures on different meshes, in fixed batches."""

    def __init__(self, groups: Sequence[Group], options: BatchOptions) -> None:
        super().__init__(options)
        self._data = [_Data(group, options.device) for group in groups]
        members = np.concatenate([[(g, i) for i in range(len(group))] for g, group in enumerate(groups)])
        training, held = self._split(len(members), groups[0].siblings)
        self._training, self._held = self._blocks(members[training]), self._blocks(members[held])
        self._n_views = max(1, _VIEWS // len(self._training))

    def drawn(self, rng: np.random.Generator) -> Iterator[Part]:
        """Yield a random training batch."""
        number = int(rng.integers(len(self._training)))
        yield self._part(number, self._training[number], self._any_view(rng, self._n_views))

    def held_back(self) -> Iterator[Part]:
        """Yield the parts of the validation set."""
        for number, block in enumerate(self._held):
            yield self._part(len(self._training) + number, block, None)

    def _blocks(self, members: Indices) -> list[Indices]:
        return np.array_split(members, -(-len(members) // self._options.size))

    def _part(self, number: int, block: Indices, view: int | None) -> Part:
        data = [self._data[group] for group, _ in block]
        own = [one.problem[[i]] for one, (_, i) in zip(data, block, strict=True)]
        maps = self._view(number, view, own)
        stiffness = StiffnessBatch.block_diagonal([problem.stiffness for problem in own])
        forces = -torch.cat([problem.load for problem in own], dim=1)
        tangents = [one.tangent[[i]] for one, (_, i) in zip(data, block, strict=True)]
        features = torch.cat([cell_features(maps.tangent(tangent)) for tangent in tangents], dim=1)

        def errors(network: SPON) -> Tensor:
            fields = network.solve(maps, stiffness, forces, features).split([one.space.n_nodes for one in own], dim=1)
            found = zip(data, fields, own, block, strict=True)
            return torch.cat([one.errors(field, problem, [i]) for one, field, problem, (_, i) in found])

        return Part(len(block), errors)


def batches(groups: Sequence[Group], options: BatchOptions) -> Batches:
    """Return `OneMesh` for a single group, else `ManyMeshes`."""
    return OneMesh(groups[0], options) if len(groups) == 1 else ManyMeshes(groups, options)


class _Data:
    """A group in single precision, with its reference stiffness and compliance."""

    def __init__(self, group: Group, device: str) -> None:
        self.problem = in_precision(group.problem, torch.float32, device)
        self.tangent = tangents(self.problem)
        self._reference = torch.as_tensor(group.reference, device=device).float()
        self._compliance = torch.linalg.inv(self._reference)

    def errors(self, fields: Tensor, problem: LinearFields, numbers: Any) -> Tensor:
        """Return tr(C̄⁻¹ (C̄(W) − C̄)) / n_s of selected RVEs [-]. Shape (n,)."""
        excess = problem.homogenized(fields) - self._reference[numbers]
        return torch.einsum("nst,nts->n", self._compliance[numbers], excess) / excess.shape[-1]


def in_precision(problem: LinearFields, dtype: torch.dtype, device: Any = None) -> LinearFields:
    """Return the RVEs with another dtype and, if given, on another device."""
    place = problem.load.device if device is None else device
    stiffness = StiffnessBatch(problem.stiffness.pairs, problem.stiffness.values.to(place, dtype))
    names = ("load", "mean", "load_33", "mean_33")
    given = {name: one.to(place, dtype) for name in names if (one := getattr(problem, name)) is not None}
    return replace(problem, stiffness=stiffness, **given)


def tangents(problem: LinearFields) -> Tensor:
    """Return the cell tangents as a tensor, with the dtype and device of the load. Shape (N, n_cells, n_s, n_s)."""
    return torch.as_tensor(problem.cells.tangent).to(problem.load)


def symmetries(size: Array) -> list[Array]:
    """Return the symmetries of a box with edge lengths (dim,), as orthogonal matrices (dim, dim)."""
    unit = np.eye(len(size))
    orders = [list(order) for order in permutations(range(len(size))) if np.allclose(size[list(order)], size)]
    signs = list(product((1.0, -1.0), repeat=len(size)))
    return [unit[order] * np.array(sign) for order in orders for sign in signs]
