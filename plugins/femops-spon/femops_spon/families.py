"""From a family of RVEs to a trained network, and from an RVE to the fields that it predicts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from femops.errors import CaseError
from femops.notation import Array
from femops.rve.spec import RVE
from femops.surrogate import FamilyTask, Fit, TrainedModel, torch_device
from femops.surrogate.fields import LinearFields
from femops.surrogate.periodic_space import PeriodicSpace
from femops.surrogate.torch_library import Tensor
from femops_spon.network import NetworkOptions
from femops_spon.options import SPONOptions
from femops_spon.processor import ProcessorOptions
from femops_spon.training import Group, Precision, TrainingOptions, predict, restored, train


def fit_network(task: FamilyTask) -> Fit:
    """Train on the homogenized stiffness of a family's members.

    Raises:
        CaseError: Phases are nonlinear, the RVEs are not periodic, or a mesh is too coarse for the levels.
    """
    options: SPONOptions = task.options
    _check_linear(task.rves[0])
    groups = groups_by_mesh(list(task.rves), task.snapshots["tangent"])
    found = train(groups, training_options(options), task.checkpoint, task.progress)
    sizes = [one.size for one in found.weights.values()]
    metrics = {"weights": float(sum(sizes)), "meshes": float(len(groups))}
    return Fit(found.weights, found.settings, metrics, {"Energy error": found.curves})


def training_options(options: SPONOptions) -> TrainingOptions:
    """Return what a study says about network and training."""
    processor = ProcessorOptions(options.widths, options.layers, linear=True)
    return TrainingOptions(
        NetworkOptions(processor, options.passes, options.smoothing, seed=options.seed),
        options.levels,
        options.steps,
        options.batch,
        options.learning_rate,
        seed=options.seed,
        device=str(torch_device(options.device)),
    )


def groups_by_mesh(rves: Sequence[RVE], tangent: Array) -> list[Group]:
    """Return RVEs of linear phases with their homogenized tangents (N, n_s, n_s), those with the same mesh together."""
    spaces: list[PeriodicSpace] = []
    members: list[list[int]] = []
    for i, rve in enumerate(rves):
        for space, group in zip(spaces, members, strict=True):
            if _has_mesh(space, rve):
                group.append(i)
                break
        else:
            spaces.append(PeriodicSpace.shared(rve))
            members.append([i])
    return [Group(LinearFields.of([rves[i] for i in group]), tangent[group]) for group in members]


def predicted(model: TrainedModel, device: Any, precision: Precision) -> tuple[LinearFields, Tensor]:
    """Return the RVE of a model as a linear problem, and the predicted fields (1, n_nodes, dim, n_s) [length].

    Raises:
        CaseError: The model was trained in another dimension, the RVE is not periodic, has nonlinear phases or a mesh
            too coarse for the network.
    """
    dim = model.rve.discretisation.dim
    if dim != model.settings["dim"]:
        raise CaseError(f"the RVE is {dim}D, the model was trained in {model.settings['dim']}D", key="rve")
    place = torch_device(device)
    try:
        problem = LinearFields.of([model.rve], device=place)
    except CaseError as error:
        raise error.within(key="rve") from error
    return problem, predict(restored(model.arrays, model.settings, place), problem, precision)


def _has_mesh(space: PeriodicSpace, rve: RVE) -> bool:
    ours, theirs = space.discretisation.mesh, rve.discretisation.mesh
    if ours.points.shape != theirs.points.shape or not np.array_equal(ours.points, theirs.points):
        return False
    return ours.cells.shape == theirs.cells.shape


def _check_linear(rve: RVE) -> None:
    for name, phase in zip(rve.discretisation.phases, rve.phases, strict=True):
        if not phase.linear:
            raise CaseError("is nonlinear, expected linear phases only", key=f"family.phases.{name}")
