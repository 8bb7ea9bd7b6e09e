"""Training of SPON on a family of RVEs, and homogenized stiffness from a trained model."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from femops.devices import torch_device
from femops.devices.torch_library import Tensor, torch
from femops.errors import NotConverged
from femops.notation import Array, n_strain
from femops.rve.spec import RVE
from femops.surrogate import FamilyTask, Fit
from femops.surrogate.exact import check_dimension
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.linear import CellTangents, LinearFields
from femops.surrogate.message_passing import ProcessorOptions
from femops.surrogate.store import of_arrays, read_family_fit
from femops_spon.batches import Group, in_precision
from femops_spon.hyperelastic import linear_problems
from femops_spon.network import Architecture
from femops_spon.options import SPONOptions
from femops_spon.training import Precision, TrainingOptions, predict, restored, train

_STEPS, _MOST_STEPS, _CONVERGED = 8, 80, 1e-7
_AT_ONCE = 64


def fit_network(task: FamilyTask) -> Fit:
    """Train on the members of a family.

    Raises:
        CaseError: A phase has internal state, the RVEs are not periodic, or a mesh is too coarse for the levels.
    """
    options: SPONOptions = task.options
    linear = "strain" not in task.snapshots  # a single member may have no inclusions, and so not all phases
    groups = linear_groups(task) if linear else hyperelastic_groups(task)
    how = training_options(options)
    found = train(groups, how, task.checkpoint, task.progress)
    sizes = [one.size for one in found.weights.values()]
    problems = float(sum(len(group) for group in groups))
    metrics = {"weights": float(sum(sizes)), "linear_problems": problems, "meshes": float(len(groups))}
    settings = {**found.settings, "linear": linear}
    title = f"Energy error every {how.save_every} steps"
    return Fit(found.weights, settings, metrics, {title: found.curves}, {title: f"{how.save_every} training steps"})


def training_options(options: SPONOptions) -> TrainingOptions:
    """Return the network and training options of a study."""
    processor = ProcessorOptions(options.widths, options.layers, linear=True)
    return TrainingOptions(
        Architecture(processor, options.passes, options.smoothing, seed=options.seed),
        options.levels,
        options.steps,
        options.batch,
        options.learning_rate,
        seed=options.seed,
        device=str(torch_device(options.device)),
    )


def is_linear(rve: RVE) -> bool:
    """Return whether all phases are linear."""
    return all(phase.linear for phase in rve.phases)


def linear_groups(task: FamilyTask) -> list[Group]:
    """Return the RVEs of linear phases, grouped by mesh, with their homogenized stiffness."""
    tangent = task.snapshots["tangent"]

    def problems() -> Iterator[tuple[FluctuationSpace, Array]]:
        for rve in task.rves:
            space = FluctuationSpace.shared(rve)
            yield space, CellTangents.of([rve], space).tangent

    return [Group(problem, tangent[members]) for problem, members in by_mesh(problems())]


def hyperelastic_groups(task: FamilyTask) -> list[Group]:
    """Return the linearised problems of the RVEs, grouped by mesh, with their homogenized stiffness."""

    def problems() -> Iterator[tuple[FluctuationSpace, Array]]:
        for done, one in enumerate(linear_problems(task.rves, task.snapshots["strain"])):
            yield one
            task.progress("linear problems", done + 1, len(task.rves))

    siblings = 2 * task.snapshots["strain"].shape[1]
    return [Group(problem, homogenized(problem).numpy(), siblings) for problem, _ in by_mesh(problems())]


def by_mesh(problems: Iterable[tuple[FluctuationSpace, Array]]) -> list[tuple[LinearFields, list[int]]]:
    """Group linear problems by mesh; return each group with the original indices of its problems.

    Args:
        problems: Spaces with cell tangents (n, n_cells, n_s, n_s) [stress].
    """
    spaces: list[FluctuationSpace] = []
    tangents: list[list[Array]] = []
    members: list[list[int]] = []
    count = 0
    for space, tangent in problems:
        same = (i for i, other in enumerate(spaces) if _same_mesh(space, other))
        number = next(same, len(spaces))
        if number == len(spaces):
            spaces.append(space)
            tangents.append([])
            members.append([])
        tangents[number].append(tangent)
        members[number] += range(count, count + len(tangent))
        count += len(tangent)
    together = [CellTangents(np.concatenate(one), None) for one in tangents]
    return [
        (LinearFields.on(space, cells), numbers)
        for space, cells, numbers in zip(spaces, together, members, strict=True)
    ]


def homogenized(problem: LinearFields) -> Tensor:
    """Return C̄ of linear problems, solved by conjugate gradients [stress]. Shape (N, n_s, n_s).

    Raises:
        NotConverged: The iteration exceeded the maximum number of steps.
    """
    found = []
    for start in range(0, len(problem), _AT_ONCE):
        part = problem[slice(start, start + _AT_ONCE)]
        fields, precondition = torch.zeros_like(part.load), part.preconditioner()
        last = part.homogenized(fields)
        for _ in range(0, _MOST_STEPS, _STEPS):
            fields = part.improve(fields, _STEPS, precondition)
            last, before = part.homogenized(fields), last
            if float((before - last).abs().max()) < _CONVERGED * float(last.abs().max()):
                break
        else:
            raise NotConverged("conjugate gradients for a linearised training problem")
        found.append(last)
    return torch.cat(found)


def homogenized_stiffness(
    folder: Path, rves: Sequence[RVE], corrections: int = 2, device: Any = "auto", precision: Precision = "float64"
) -> Array:
    """Predict the homogenized stiffness of many RVEs of linear phases with a trained model.

    Args:
        folder: The model folder written by `femops train`.
        rves: The RVEs; those with the same mesh are evaluated as a batch.
        corrections: Steps of preconditioned conjugate gradients after the prediction.
        device: `auto`, `cpu` or `cuda`.
        precision: Precision of the network.

    Returns:
        C̄, Mandel [stress], an upper bound of that of the nested solve. Shape (N, n_s, n_s).

    Raises:
        CaseError: The model is missing, damaged or not for these RVEs.
    """
    fit = read_family_fit(folder, "spon")
    for rve in rves:
        check_dimension(rve, fit.settings["dim"])
    n_s = n_strain(fit.settings["dim"])
    place = torch_device(device)
    with of_arrays(folder):
        network = restored(fit.arrays, fit.settings, place)
    spaces = [FluctuationSpace.shared(rve) for rve in rves]
    problems = ((space, CellTangents.of([rve], space).tangent) for space, rve in zip(spaces, rves, strict=True))
    found = np.empty((len(rves), n_s, n_s))
    for whole, members in by_mesh(problems):
        for start in range(0, len(whole), _AT_ONCE):
            part = in_precision(whole[slice(start, start + _AT_ONCE)], torch.float64, place)
            fields = predict(network, part, precision)
            if corrections:
                fields = part.improve(fields, corrections, part.preconditioner())
            found[members[start : start + _AT_ONCE]] = part.homogenized(fields).cpu().numpy()
    return found


def _same_mesh(one: FluctuationSpace, other: FluctuationSpace) -> bool:
    a, b = one.discretisation.mesh, other.discretisation.mesh
    return np.array_equal(a.points, b.points) and np.array_equal(a.cells, b.cells)
