"""The network of femops-beno with the interface of the baselines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.beno_baselines import relative_error

from femops.devices.torch_library import Tensor, torch
from femops_beno.encoding import Batch, Encoded, encode
from femops_beno.network import BENO
from femops_beno.options import BENOOptions
from femops_beno.systems import System
from femops_beno.training import architecture


@dataclass(frozen=True)
class OurBatch:
    """A batch with the places of its nodes among those of the meshes.

    Attributes:
        batch: The batch.
        places: Node of the joined meshes of each node of the graph. Shape (n_nodes,).
        lifting: Prescribed values at the nodes of the joined meshes. Shape (n_total,).
        solution: Solution there. Shape (n_total,).
        owner: System of each node. Shape (n_total,).
    """

    batch: Batch
    places: Tensor
    lifting: Tensor
    solution: Tensor
    owner: Tensor


class Ours(torch.nn.Module):
    """BENO of femops, with the options of a study.

    Args:
        passes: How often the network is applied.
    """

    def __init__(self, passes: int) -> None:
        super().__init__()
        self._options = BENOOptions(passes=passes)
        self.network: BENO | None = None

    def encode(self, system: System) -> tuple[System, Encoded]:
        """Encode a system."""
        if self.network is None:
            self.network = BENO(architecture(self._options, system))
        return system, encode(system)

    def standardise(self, encoded: Sequence[tuple[System, Encoded]]) -> None:
        """Nothing: the network is linear in the data."""

    def join(self, encoded: Sequence[tuple[System, Encoded]]) -> OurBatch:
        """Join encoded systems."""
        systems, graphs = zip(*encoded, strict=True)
        starts = np.cumsum([0, *(len(one.source) for one in systems)])
        places = np.concatenate([one.nodes + start for one, start in zip(graphs, starts, strict=False)])
        lifting = np.concatenate([one.lifting for one in systems]).astype(np.float32)
        solution = np.concatenate([one.solution for one in systems]).astype(np.float32)
        owner = np.repeat(np.arange(len(systems)), np.diff(starts))
        given = (torch.from_numpy(one) for one in (places, lifting, solution, owner))
        return OurBatch(Batch.of(graphs), *given)

    def forward(self, batch: OurBatch) -> Tensor:
        """Return the values at all nodes. Shape (n_total,)."""
        assert self.network is not None
        return batch.lifting.index_add(0, batch.places, self.network(batch.batch)[0, :, 0])

    def loss(self, batch: OurBatch, values: Tensor) -> Tensor:
        """Return the mean relative error in the Euclidean norm."""
        return relative_error(batch, values)
