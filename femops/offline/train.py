"""The story of `femops train`: truth, a fit, and its judgement by truth that the fit did not see."""

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
from femops.plugins import surrogate_spec
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
    """Show nothing; see `femops.surrogate.Progress`."""


def plan_training(study: Study, path: Path, folder: Path | None, comm: Any) -> Plan:
    """Build what a training needs and tell where it goes; collective.

    Args:
        study: The study.
        path: Its file; relative paths start there.
        folder: Where everything goes; default `results/STUDY-HASH`.
        comm: The ranks that share the work.

    Raises:
        CaseError: The study has nothing to train, or cannot be built.
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
    """Train the surrogate of a study, unless that has been done; collective.

    What an interrupted training has left in the folder is used, and another process that trains there is waited for.
    Everything but the solves of the RVE is done by the
    first rank.

    Args:
        study: The study.
        path: Its file; relative paths start there.
        folder: Where everything goes; default `results/STUDY-HASH`.
        comm: The ranks that share the work.
        progress: Called while it works.

    Raises:
        CaseError: The study cannot be built or trained, or the folder cannot be written.
        NotConverged: An RVE did not converge.
    """
    return plan_training(study, path, folder, comm).carry_out(comm, progress)


def trained_model(
    path: Path, law: str, comm: Any, progress: Progress = silent, say: Callable[[str], None] = announce
) -> Path:
    """Return the model folder of a study that a case refers to, which is trained first if it has to be; collective.

    Args:
        path: The study file.
        law: The surrogate that the case wants.
        comm: The ranks that share the work.
        progress: Called while a training works.
        say: Tells the user that a training begins, and where it goes; called on the first rank.

    Raises:
        CaseError: The study cannot be used, or trains another surrogate.
    """
    study = load_study(path)
    if study.surrogate is not None and study.surrogate.law != law:
        raise CaseError(f"{study.surrogate.law!r} given, the case wants {law!r}", file=path, key="surrogate.law")
    plan = plan_training(study, path, None, comm)

    def begin() -> None:
        if comm.rank == 0:
            say(f"training {law} from {path} first; the model goes to {plan.folder / 'model'}")

    return plan.carry_out(comm, progress, begin).model
