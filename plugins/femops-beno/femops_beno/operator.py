"""Evaluation of a trained BENO."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from femops.devices.torch_library import torch
from femops.errors import CaseError
from femops.notation import Array
from femops.surrogate import CheckedArrays, state_dict
from femops.surrogate.spec import Arrays
from femops.surrogate.store import of_arrays, read_fit, read_manifest
from femops_beno.encoding import Batch, Encoded, at_nodes, encode
from femops_beno.network import BENO, Architecture
from femops_beno.published import PublishedBENO
from femops_beno.systems import System

_BATCH, _PUBLISHED_BATCH = 32, 8  # the published network keeps features of 128 numbers per edge


class TrainedOperator(Protocol):
    """A trained network: from systems of any shape to their solutions."""

    @property
    def network(self) -> torch.nn.Module:
        """The network; its state dict is stored."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return what is stored besides the weights."""
        ...

    def evaluate(self, systems: Sequence[System]) -> list[Array]:
        """Predict the solutions of systems.

        The network computes in the precision of its weights.

        Args:
            systems: The systems, of any shapes and meshes of linear cells.

        Returns:
            Values at the nodes of each system, of the shape of its lifting; prescribed ones are exact.

        Raises:
            CaseError: The network cannot solve such systems.
        """
        ...


class Operator:
    """The operator of `BENO`, see `TrainedOperator`.

    Args:
        network: The network.
    """

    def __init__(self, network: BENO) -> None:
        self.network = network

    @classmethod
    def restored(cls, arrays: Arrays, settings: Mapping[str, Any]) -> "Operator":
        """Return the operator of stored weights.

        Raises:
            CaseError: An array is missing or invalid.
        """
        block = settings["network"]
        network = BENO(Architecture(**{**block, "widths": tuple(block["widths"]), "layers": tuple(block["layers"])}))
        return cls(_loaded(network, arrays))

    def settings(self) -> dict[str, Any]:
        """Return the sizes of the network."""
        return {"network": asdict(self.network.architecture)}

    def evaluate(self, systems: Sequence[System]) -> list[Array]:
        """Predict the solutions of systems with the dimension, components and features of the training."""
        for system in systems:
            self._check(system)
        found: list[Array] = []
        for start in range(0, len(systems), _BATCH):
            part = systems[start : start + _BATCH]
            encoded = [encode(system) for system in part]
            found += [completed(*pair) for pair in zip(part, self.free_values(encoded), encoded, strict=True)]
        return found

    def free_values(self, encoded: Sequence[Encoded]) -> list[Array]:
        """Return the solutions minus the liftings at the nodes of the graphs. Shape (k, n_nodes, n_components) each."""
        with torch.no_grad():
            batch = Batch.of(encoded, self.network.damping.dtype)
            values = self.network(batch)
        return [one.double().numpy() for one in values.split(list(batch.sizes), dim=1)]

    def _check(self, system: System) -> None:
        one = self.network.architecture
        given = system.mesh.dim, system.n_components, system.features.shape[1]
        if given != (one.dim, one.n_components, one.n_features):
            names = "dimension, components and features per cell"
            expected = f"{one.dim}, {one.n_components} and {one.n_features}, as in the training"
            raise CaseError(f"a system has {names} {given[0]}, {given[1]} and {given[2]}, expected {expected}")


class PublishedOperator:
    """The operator of `PublishedBENO`, see `TrainedOperator`.

    Args:
        network: The network.
    """

    def __init__(self, network: PublishedBENO) -> None:
        self.network = network

    @classmethod
    def restored(cls, arrays: Arrays, settings: Mapping[str, Any]) -> "PublishedOperator":
        """Return the operator of stored weights, means and deviations.

        Raises:
            CaseError: An array is missing or invalid.
        """
        return cls(_loaded(PublishedBENO(), arrays))

    def settings(self) -> dict[str, Any]:
        """Return the mark of the published network, which has no sizes to choose."""
        return {"published": True}

    def evaluate(self, systems: Sequence[System]) -> list[Array]:
        """Predict the solutions of scalar systems in the plane."""
        found: list[Array] = []
        for start in range(0, len(systems), _PUBLISHED_BATCH):
            part = systems[start : start + _PUBLISHED_BATCH]
            with torch.no_grad():
                values = self.network(self.network.join([self.network.encode(system) for system in part]))
            sizes = [len(system.lifting) for system in part]
            for system, one in zip(part, values.double().split(sizes), strict=True):
                found.append(np.where(system.prescribed, system.lifting, one.numpy()))
        return found


def _loaded[M: torch.nn.Module](network: M, arrays: Arrays) -> M:
    found = state_dict(CheckedArrays(arrays), network.state_dict())
    network.load_state_dict({name: torch.tensor(one) for name, one in found.items()})
    return network


def completed(system: System, values: Array, encoded: Encoded) -> Array:
    """Return the solution of a system from values at the nodes of its graph (k, n_nodes, n_components)."""
    solution = at_nodes(system.lifting, system).copy()
    solution[:, encoded.nodes] += values
    return np.ascontiguousarray(solution.reshape(len(solution), -1).T).reshape(system.lifting.shape)


def load_operator(folder: Path) -> TrainedOperator:
    """Load the operator in a model folder written by `femops train`.

    Raises:
        CaseError: The model is missing, damaged, or not an operator of BENO.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.problem is None or manifest.law != "beno":
        raise CaseError("holds another model, expected an operator of 'beno'", file=folder)
    fit = read_fit(folder, manifest)
    restored = PublishedOperator.restored if fit.settings.get("published") else Operator.restored
    try:
        with of_arrays(folder):
            return restored(fit.arrays, fit.settings)
    except CaseError as error:
        raise error.within(file=folder) from error
