"""Training of the modes of a family of RVEs on the energy, without solutions of the RVEs.

For strains drawn at random, the reduced energy Π(W₀ E + Φ a; E) is minimised over the coefficients a. Its derivative by
the modes Φ is R aᵀ, with the residual forces R at the minimum (envelope theorem), so that the minimisation is not
differentiated. The loss of an RVE is the logarithm of the mean of ½ R · K̄⁻¹ R relative to the energy, which estimates
what the modes leave of it: the errors of all RVEs count alike.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.notation import Array
from femops.rve.sampling import sobol
from femops.surrogate import FamilyTask, Fit
from femops.surrogate.learning.loop import Schedule, Training
from femops_moe.basis import Basis
from femops_moe.compiled import solver
from femops_moe.experts import Experts, assemble
from femops_moe.learned.linearised import LinearisedRVE
from femops_moe.learned.network import ModeNetwork
from femops_moe.options import MoEOptions

_STRAINS = 6  # of an RVE in a step
_EVALUATIONS, _TOLERANCE = 6, 1e-8
_HELD_BACK, _OF_UNSEEN = 8, 16  # one RVE of so many is held back; strains of each of them
_SAVE_EVERY, _WARM_UP, _LARGEST_GRADIENT = 50, 20, 1.0
_OF_ONE_RVE = ("experts", "grid", "network", "ports", "component", "arrangements", "modes", "tolerance")


def fit_family(task: FamilyTask) -> Fit:
    """Train on the members of a family; see `MoEOptions`.

    Raises:
        CaseError: An option is for one RVE, or the family has one member only or linear phases.
    """
    options: MoEOptions = task.options
    for name in _OF_ONE_RVE:
        if name in options.model_fields_set:
            raise CaseError("given with a family, expected with one RVE", key=f"surrogate.{name}")
    if len(task.rves) == 1:
        raise CaseError("1 given, expected several members to learn from", key="family.count")
    begin = time.perf_counter()
    problems = []
    for done, rve in enumerate(task.rves):
        problems.append(LinearisedRVE(rve, task.low, task.high))
        task.progress("linearisation", done + 1, len(task.rves))
    network = ModeNetwork(task.low, task.high, options.basis, options.width, options.seed)
    energy = _Energy(network, problems, task)
    schedule = Schedule(
        options.steps, options.learning_rate, _SAVE_EVERY, _WARM_UP, _LARGEST_GRADIENT, seed=options.seed
    )
    training = Training(dict(network.named_parameters()), schedule, "modes", task.checkpoint, task.progress)
    training.adam(energy.loss, energy.means)
    arrays = {name: one.detach().numpy().copy() for name, one in network.state_dict().items()}
    metrics = {
        "weights": float(sum(one.size for one in arrays.values())),
        "energy_error": energy.unseen(),
        "seconds_training": time.perf_counter() - begin,
    }
    title = f"Energy error every {_SAVE_EVERY} steps"
    curves = {name: np.array(values) for name, values in training.curves.items()}
    settings = {"learned": {"basis": options.basis, "width": options.width, "tolerance": options.cubature_tolerance}}
    return Fit(arrays, settings, metrics, {title: curves}, {title: f"{_SAVE_EVERY} training steps"})


def one_expert(problem: LinearisedRVE, modes: Array) -> Experts:
    """Return the reduced model of an RVE with modes orthonormal in the elastic energy (n_dofs, k), with all points."""
    basis = Basis(problem.elastic, modes[:, :0], modes, np.array([modes.shape[1]]))
    return assemble(problem.rve, problem.space, np.zeros(len(problem.space.cells), dtype=np.int64), basis)


def error_of(problem: LinearisedRVE, modes: Tensor, strain: Array) -> Tensor:
    """Return the mean of the energy that the modes of an RVE leave, relative to the energy, with its derivative.

    Args:
        problem: The RVE.
        modes: Φ, of any scale. Shape (n_dofs, k).
        strain: E, Mandel [-]. Shape (n, n_s).
    """
    given = modes.detach().numpy()
    change = problem.orthonormal(given)
    start = np.zeros((len(strain), change.shape[1]))
    found = solver(one_expert(problem, given @ change)).solve(strain, start, _EVALUATIONS, _TOLERANCE)
    amount = found.unknowns @ change.T
    residual = problem.residual(strain, problem.elastic @ strain.T + given @ amount.T)
    share = 2.0 / (len(strain) * (found.stress * strain).sum(1))  # of each strain, relative to its energy
    left = 0.5 * (residual * problem.solved(residual)).sum(0) @ share
    slope = torch.as_tensor((residual * share) @ amount)
    work = (slope * modes).sum()
    return work - work.detach() + left


class _Energy:
    """The loss of a network on random members and strains; some members are held back."""

    def __init__(self, network: ModeNetwork, problems: Sequence[LinearisedRVE], task: FamilyTask) -> None:
        n_unseen = -(-len(problems) // _HELD_BACK)
        self._network, self._seen, self._unseen = network, problems[n_unseen:], problems[:n_unseen]
        self._batch, self._low, self._high = min(task.options.batch, len(self._seen)), task.low, task.high
        self._errors: list[float] = []

    def loss(self, draw: np.random.Generator) -> Iterator[Tensor]:
        """Yield the terms of the loss of a batch."""
        for number in draw.choice(len(self._seen), self._batch, replace=False):
            problem, part = self._seen[number], draw.random((_STRAINS, len(self._low)))
            error = error_of(problem, self._network(problem), self._low + part * (self._high - self._low))
            self._errors.append(float(error.detach()))
            yield torch.log(error) / self._batch

    def means(self) -> dict[str, float]:
        """Return the mean errors of the batches since the last call and of the members held back."""
        seen, self._errors = self._errors, []
        return {"energy error": float(np.mean(seen)), "unseen": self.unseen()}

    def unseen(self) -> float:
        """Return the mean error of the members held back."""
        strain = sobol(self._low, self._high, _OF_UNSEEN, 0)
        with torch.no_grad():
            return float(np.mean([float(error_of(one, self._network(one), strain)) for one in self._unseen]))
