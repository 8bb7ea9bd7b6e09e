"""Training of BENO on a family of RVEs with known homogenized stiffness.

The loss needs no reference fields: tr(C̄⁻¹ (C̄(W) − C̄)) / n_s is the mean square error of the predicted fields of the
unit strains in the energy norm, relative to the stored energy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from femops.devices import torch_device
from femops.devices.torch_library import Tensor, torch
from femops.notation import Array, Indices
from femops.surrogate import FamilyTask, Fit
from femops.surrogate.learning.loop import Schedule, Training
from femops_beno.encoding import Encoded, encode
from femops_beno.network import BENO
from femops_beno.operator import Operator
from femops_beno.options import BENOOptions
from femops_beno.rve.systems import batch_of, rve_fields, rve_system
from femops_beno.training import LARGEST_GRADIENT, WARM_UP, architecture

_FLOOR = 1e-5  # lower limit of the error in the logarithmic loss
_SAVE_EVERY = 20
_VALIDATION_SHARE, _MOST_VALIDATION = 0.1, 32


@dataclass(frozen=True)
class Member:
    """An RVE of the family.

    Attributes:
        encoded: The problems of its unit strains.
        mean: ⟨D⟩ [stress]. Shape (n_s, n_s).
        reference: C̄ [stress]. Shape (n_s, n_s).
        volume: Volume including voids [length^dim].
    """

    encoded: Encoded
    mean: Array
    reference: Array
    volume: float


def fit_family(task: FamilyTask) -> Fit:
    """Train on the members of a family.

    Raises:
        CaseError: A phase is nonlinear, the boundary condition is not kinematic, or the cells are not linear.
    """
    options: BENOOptions = task.options
    first = rve_system(rve_fields(task.rves[0]))
    network = BENO(architecture(options, first)).to(torch_device(options.device))
    members = list(_members(task))
    schedule = Schedule(options.steps, options.learning_rate, _SAVE_EVERY, WARM_UP, LARGEST_GRADIENT, seed=options.seed)
    training = Training(dict(network.named_parameters()), schedule, "network", task.checkpoint, task.progress)
    errors = EnergyErrors(network, members, options.batch, options.seed)
    training.adam(errors.loss, errors.medians)
    arrays = {name: one.detach().cpu().numpy().copy() for name, one in network.state_dict().items()}
    metrics = {"weights": float(sum(one.numel() for one in network.parameters()))}
    legend = {"training": "energy error", "held back": "unseen"}
    curves = {entry: np.array(training.curves.get(name, [])) for entry, name in legend.items()}
    title = f"Energy error every {_SAVE_EVERY} steps"
    settings = Operator(network).settings()
    return Fit(arrays, settings, metrics, {title: curves}, {title: f"{_SAVE_EVERY} training steps"})


def _members(task: FamilyTask) -> Iterator[Member]:
    for done, (rve, reference) in enumerate(zip(task.rves, task.snapshots["tangent"], strict=True)):
        problem = rve_fields(rve)
        encoded = encode(rve_system(problem))
        yield Member(encoded, problem.mean[0].numpy(), reference, rve.discretisation.volume)
        task.progress("encoding", done + 1, len(task.rves))


class EnergyErrors:
    """Errors of a network on random batches; their loss is logarithmic. Some members are held back.

    Args:
        network: The network.
        members: The RVEs.
        batch: RVEs per batch.
        seed: Seed of the choice of those held back.
    """

    def __init__(self, network: BENO, members: Sequence[Member], batch: int, seed: int) -> None:
        self._network, self._members, self._batch = network, members, batch
        order = np.random.default_rng(seed).permutation(len(members))
        held = min(_MOST_VALIDATION, int(np.ceil(_VALIDATION_SHARE * len(members))))
        self._held, self._training = order[:held], order[held if held < len(members) else 0 :]
        self._seen: list[Tensor] = []

    def loss(self, draw: np.random.Generator) -> Iterator[Tensor]:
        """Yield the loss of a random batch."""
        size = min(self._batch, len(self._training))
        errors = self.of(self._training[draw.choice(len(self._training), size, replace=False)])
        self._seen.append(errors.detach())
        yield torch.log(errors.clamp(min=0.0) + _FLOOR).mean()

    def medians(self) -> dict[str, float]:
        """Return the median errors of the batches since the last call and of the members held back."""
        with torch.no_grad():
            parts = np.array_split(self._held, -(-len(self._held) // self._batch))
            found = {"energy error": self._seen, "unseen": [self.of(part) for part in parts]}
        self._seen = []
        return {name: float(torch.cat(errors).median().clamp(min=_FLOOR)) for name, errors in found.items()}

    def of(self, numbers: Indices) -> Tensor:
        """Return tr(C̄⁻¹ (C̄(W) − C̄)) / n_s of some members [-]. Shape (n,)."""
        chosen = [self._members[i] for i in numbers]
        batch = batch_of([one.encoded for one in chosen], self._network)
        fields = self._network(batch)
        forces = 0.5 * batch.product(fields) - batch.boundary_load
        of_nodes = torch.einsum("snc,tnc->nst", fields, forces)
        work = of_nodes.new_zeros(len(chosen), *of_nodes.shape[1:]).index_add(0, batch.levels[0].owner, of_nodes)
        volume, mean, reference = (
            torch.as_tensor(np.array([getattr(one, name) for one in chosen])).to(work)
            for name in ("volume", "mean", "reference")
        )
        excess = mean - reference + (work + work.transpose(1, 2)) / volume[:, None, None]
        return torch.einsum("nst,nts->n", torch.linalg.inv(reference), excess) / excess.shape[-1]
