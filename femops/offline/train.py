"""Implementation of `femops train`: sample, fit a surrogate and validate it at unseen strains or microstructures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from femops.errors import CaseError
from femops.inputs.study import Study, load_study
from femops.offline.plan import Plan, TrainReport
from femops.offline.train_family import plan_family
from femops.offline.train_problem import plan_problem
from femops.offline.train_rve import default_validation, plan_rve
from femops.output.messages import announce
from femops.surrogate.registry import surrogate_spec
from femops.surrogate.spec import Progress

__all__ = [
    "Plan",
    "TrainReport",
    "announce",
    "default_validation",
    "plan_training",
    "silent",
    "train",
    "trained_model",
]


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Ignore progress; see `femops.surrogate.Progress`."""


def plan_training(study: Study, path: Path, folder: Path | None, comm: Any) -> Plan:
    """Prepare the training of a study; collective.

    Args:
        study: The study.
        path: The study file, to which relative paths refer.
        folder: Output folder; default `results/STUDY-HASH`.
        comm: The ranks that share the work.

    Raises:
        CaseError: The study has no surrogate, or cannot be built.
    """
    if study.surrogate is None:
        raise CaseError("missing, expected the surrogate to train and its options", file=path, key="surrogate")
    spec = surrogate_spec(study.surrogate.law)
    if study.problem is not None:
        return plan_problem(study, path, spec, folder)
    if study.family is not None:
        return plan_family(study, path, spec, folder)
    return plan_rve(study, path, spec, folder, comm)


def train(study: Study, path: Path, folder: Path | None, comm: Any, progress: Progress = silent) -> TrainReport:
    """Train the surrogate of a study, unless it is trained already; collective.

    An interrupted training is continued. If another process trains in the folder, its end is awaited. All ranks share
    the RVE solves; rank 0 does the fit and the validation.

    Args:
        study: The study.
        path: The study file, to which relative paths refer.
        folder: Output folder; default `results/STUDY-HASH`.
        comm: The ranks that share the work.
        progress: Called during the training.

    Raises:
        CaseError: The study cannot be built or trained, or the folder cannot be written.
        NotConverged: An RVE did not converge.
    """
    return plan_training(study, path, folder, comm).carry_out(comm, progress)


def trained_model(
    path: Path, law: str, comm: Any, progress: Progress = silent, notify: Callable[[str], None] = announce
) -> Path:
    """Return the model folder of a study, training its surrogate first if necessary; collective.

    Args:
        path: The study file.
        law: Name of the surrogate in the case.
        comm: The ranks that share the work.
        progress: Called during the training.
        notify: Announces a training and its folder to the user; called on rank 0.

    Raises:
        CaseError: The study cannot be used, or trains another surrogate.
    """
    study = load_study(path)
    if study.surrogate is not None and study.surrogate.law != law:
        raise CaseError(f"{study.surrogate.law!r} given, the case wants {law!r}", file=path, key="surrogate.law")
    plan = plan_training(study, path, None, comm)

    def begin() -> None:
        if comm.rank == 0:
            notify(f"training {law} from {path} first; the model goes to {plan.folder / 'model'}")

    return plan.carry_out(comm, progress, begin).model
