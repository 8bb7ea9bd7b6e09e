"""Training on a problem defined by a plugin, which generates and validates its own data."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from femops.errors import CaseError
from femops.inputs.study import Study
from femops.offline.plan import Plan, folder_of, study_hash
from femops.output.messages import announce
from femops.parallel import on_root_quietly
from femops.surrogate.registry import SurrogateSpec
from femops.surrogate.spec import ProblemTask, Progress
from femops.surrogate.store import write_problem_model


class ProblemPlan(Plan):
    """A study of a problem that is ready to train."""

    def train(self, comm: Any, progress: Progress) -> dict[str, Any]:
        """Fit; see `Plan.train`."""
        return on_root_quietly(comm, lambda: self._train(progress))

    def _train(self, progress: Progress) -> dict[str, Any]:
        fit_problem, problem = self.spec.fit_problem, self.study.problem
        assert fit_problem is not None
        seconds: dict[str, float] = {}
        code = None if self.spec.runs_code is None else self.spec.runs_code(problem)
        if code is not None:
            announce(f"{self.path}: problem: this study runs code: {code}")
        options, home = self.study.surrogate, self.path.parent
        fit = self.fitted(
            lambda checkpoint: fit_problem(ProblemTask(problem, options, checkpoint, progress, home)), seconds
        )
        metrics = {"offline_seconds": seconds["fit"], "seconds": seconds}
        write = partial(write_problem_model, fit=fit, problem=problem.model_dump(mode="json"))
        return self.write(fit, None, metrics, write)


def plan_problem(study: Study, path: Path, spec: SurrogateSpec, folder: Path | None) -> ProblemPlan:
    """Prepare the training on a problem.

    Raises:
        CaseError: The surrogate does not train on problems, or a file of the problem cannot be read.
    """
    if spec.fit_problem is None:
        raise CaseError(f"given, but {spec.name!r} does not train on problems", file=path, key="problem")
    digest = study_hash(study, spec, _content(study, path, spec))
    return ProblemPlan(study, path, spec, digest, folder_of(folder, path, digest))


def _content(study: Study, path: Path, spec: SurrogateSpec) -> str:
    """Return the hash of the files that the problem reads; empty if it reads none."""
    if spec.data_files is None:
        return ""
    digests = []
    for file in spec.data_files(study.problem, path.parent):
        try:
            with file.open("rb") as opened:
                digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
        except OSError as error:
            raise CaseError(f"{file} cannot be read ({error.strerror})", file=path, key="problem") from error
    return " ".join(digests)
