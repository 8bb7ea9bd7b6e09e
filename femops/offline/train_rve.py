"""Training on snapshots of one RVE, validated at unseen strains."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from femops import notation
from femops.errors import CaseError
from femops.inputs.study import Study
from femops.notation import Array
from femops.offline.filling import SampleReport
from femops.offline.plan import Plan, check, folder_of, study_hash
from femops.offline.sample import solve_snapshots, study_rve
from femops.offline.snapshot_store import SnapshotStore
from femops.offline.stored_snapshots import StoredSnapshots
from femops.offline.strains import study_paths
from femops.parallel import on_root_quietly
from femops.rve.law import NestedLaw
from femops.rve.sampling import Sampling, bounds
from femops.rve.snapshots import SnapshotSolver, content_hash
from femops.rve.solver import SolverOptions
from femops.rve.spec import RVE
from femops.surrogate.accuracy import accuracy, speed
from femops.surrogate.exact import check_elastic
from femops.surrogate.registry import SurrogateSpec
from femops.surrogate.spec import Checkpoint, Fit, FitTask, Progress, TrainedModel
from femops.surrogate.store import write_model

_VALIDATION_COUNT = 100
_SAME_STRAIN = 1e-12


@dataclass(frozen=True)
class RVEPlan(Plan):
    """A study of one RVE that is ready to train.

    Attributes:
        rve: The RVE.
        paths: Strains of the snapshots, Mandel [-]. Shape (n_paths, n_steps, n_s).
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
    """

    rve: RVE
    paths: Array
    low: Array
    high: Array

    def train(self, comm: Any, progress: Progress) -> dict[str, Any]:
        """Sample, fit and validate; see `Plan.train`."""
        sampled = self._solved(self.paths, self.folder, comm, "sampling", progress)
        seconds: dict[str, float] = {}
        fit = on_root_quietly(comm, lambda: self._fitted(sampled, progress, seconds))
        solved = self._solved(self._unseen(comm), self.folder / "validation", comm, "validation", progress)
        return on_root_quietly(comm, lambda: self._finish(fit, solved, seconds))

    @property
    def _content(self) -> str:
        assert self.study.rve is not None
        return content_hash(self.rve, self.study.rve)

    def _solved(self, paths: Array, folder: Path, comm: Any, stage: str, progress: Progress) -> SampleReport:
        """Solve the RVE along strain paths and store the snapshots."""
        return solve_snapshots(self.study, self.rve, paths, folder, comm, partial(progress, stage))

    def _fitted(self, sampled: SampleReport, progress: Progress, seconds: dict[str, float]) -> Fit:
        """Fit the surrogate, and store the times of sampling and fit in `seconds` [s]."""
        seconds["sampling"] = self.noted_seconds("sampling", sampled.seconds, sampled.solved, sampled.found)
        assert self.spec.fit is not None
        fit = self.spec.fit

        def fitted(checkpoint: Checkpoint) -> Fit:
            settings = self.study.solver
            solver = SnapshotSolver(self.rve, SolverOptions(settings.rtol, settings.max_iter, settings.linear))
            snapshots = StoredSnapshots(SnapshotStore(self.folder, self._content))
            options = self.study.surrogate
            return fit(FitTask(snapshots, self.rve, solver, options, self.low, self.high, checkpoint, progress))

        return self.fitted(fitted, seconds)

    def _unseen(self, comm: Any) -> Array:
        """Return the validation paths without training strains, Mandel [-]. Shape (n_paths, n_steps, n_s)."""
        study = self.study
        if study.validation is None:
            study = study.model_copy(update={"validation": default_validation(study, self.low, self.high)})
        paths = study_paths(study, self.path, comm, "validation")
        n_s = paths.shape[2]
        seen = cKDTree(self.paths.reshape(-1, n_s)).query(paths.reshape(-1, n_s))[0] <= _SAME_STRAIN
        unseen = paths[~seen.reshape(paths.shape[:2]).any(axis=1)]
        if not len(unseen):
            problem = "all its strains are among those of sampling; choose another seed"
            raise CaseError(problem, file=self.path, key="validation")
        return unseen

    def _finish(self, fit: Fit, solved: SampleReport, seconds: dict[str, float]) -> dict[str, Any]:
        """Validate a fit and write the model, metrics and plots."""
        begin = time.perf_counter()
        model = TrainedModel(fit.arrays, fit.settings, self.rve, self.low, self.high)
        given = {"law": self.spec.name, "model": str(self.folder / "model"), **self.spec.validation}
        law = self.spec.as_law(model, self.spec.parameters.model_validate(given))
        reference = StoredSnapshots(SnapshotStore(solved.file.parent, self._content))
        validation = accuracy(law, reference["strain"], reference["stress"], reference["tangent"])
        ratio = speed(law, NestedLaw(self.rve, predictor=False), reference["strain"])
        seconds["validation"] = solved.seconds + time.perf_counter() - begin
        metrics: dict[str, Any] = {
            "snapshots": self.paths.shape[0] * self.paths.shape[1],
            "offline_seconds": seconds["sampling"] + seconds["fit"],
            "seconds": seconds,
            "validation": validation.figures(),
            "seconds_per_point": ratio,
        }
        assert self.study.rve is not None
        return self.write(fit, validation, metrics, partial(write_model, model=model, phases=self.study.rve.phases))


def plan_rve(study: Study, path: Path, spec: SurrogateSpec, folder: Path | None, comm: Any) -> RVEPlan:
    """Prepare the training on one RVE; collective.

    Args:
        study: The study, with an RVE.
        path: The study file, to which relative paths refer.
        spec: The surrogate.
        folder: Output folder; default `results/STUDY-HASH`.
        comm: The ranks that share the work.

    Raises:
        CaseError: The RVE cannot be built, or the surrogate cannot be trained on it.
    """
    assert study.sampling is not None and study.rve is not None
    if spec.fit is None:
        raise CaseError(f"given, but {spec.name!r} trains on families; expected family", file=path, key="rve")
    rve = study_rve(study, path, comm)
    try:
        check_elastic(rve)
    except CaseError as error:
        raise error.within(file=path) from error
    paths = study_paths(study, path, comm)
    low, high = bounds(study.sampling, study.dim)
    of_files = []
    if study.sampling.run is not None:
        low, high = np.minimum(paths.min((0, 1)), 0.0), np.maximum(paths.max((0, 1)), 0.0)  # every case starts at zero
        of_files.append(paths)
    check(spec, rve, study, (low, high), path)
    digest = study_hash(study, spec, content_hash(rve, study.rve), *of_files)
    return RVEPlan(study, path, spec, digest, folder_of(folder, path, digest), rve, paths, low, high)


def default_validation(study: Study, low: Array, high: Array) -> Sampling:
    """Return the default validation sampling of a study without `validation`.

    Args:
        study: The study.
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
    """
    assert study.sampling is not None
    pairs = (np.array([low, high]) / notation.weights(study.dim)).T.tolist()
    limits = dict(zip(notation.NAMES[study.dim], pairs, strict=True))
    block = {"method": "sobol", "count": _VALIDATION_COUNT, "seed": study.sampling.seed + 1, "range": limits}
    return Sampling.model_validate(block)
