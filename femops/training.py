"""The story of `femops train`: snapshots, a fit, and its judgement at strains that the fit did not see."""

import hashlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from femops import notation
from femops.errors import CaseError
from femops.notation import Array
from femops.output.tables import write_json
from femops.output.training_plots import draw_certificates, draw_curves, draw_errors
from femops.parallel import on_root, on_root_quietly
from femops.plugins import surrogate_spec
from femops.rve.law import NestedLaw
from femops.rve.sampling import Sampling, bounds
from femops.rve.snapshots import SnapshotSolver, SnapshotStore, content_hash
from femops.rve.solver import SolverOptions
from femops.rve.spec import RVE
from femops.study import SampleReport, Study, load_study, solve_snapshots, study_paths, study_rve
from femops.surrogate.accuracy import Accuracy, accuracy, speed
from femops.surrogate.base import Fit, FitTask, Progress, SurrogateSpec, TrainedModel
from femops.surrogate.checkpoint import FileCheckpoint, packed_fit, unpacked_fit
from femops.surrogate.exact import check_elastic
from femops.surrogate.files import plain
from femops.surrogate.snapshots import StoredSnapshots
from femops.surrogate.store import STORE_INTERFACE, Origin, checked_arrays, read_manifest, write_model

_VALIDATION_COUNT = 100
_SAME_STRAIN = 1e-12
_PACKAGES = ("numpy", "scipy", "torch", "safetensors", "dolfinx-solver-real")


@dataclass(frozen=True)
class TrainReport:
    """What `train` did.

    Attributes:
        folder: Where everything is; the model is in `model/` of it.
        found: Whether the model was there already.
        metrics: Figures of training and validation, as in `metrics.json`.
    """

    folder: Path
    found: bool
    metrics: Mapping[str, Any]

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.folder / "model"


@dataclass(frozen=True)
class Plan:
    """A study made ready to train.

    Attributes:
        study: The study.
        path: Its file.
        spec: The surrogate.
        rve: The RVE.
        paths: Strains of the snapshots, Mandel [-]. Shape (n_paths, n_steps, n_s).
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
        hash: Tells trainings apart: a digest of study, RVE and interface versions.
        folder: Where everything goes.
    """

    study: Study
    path: Path
    spec: SurrogateSpec
    rve: RVE
    paths: Array
    low: Array
    high: Array
    hash: str
    folder: Path

    def finished(self) -> dict[str, Any] | None:
        """Return the metrics of the model if it is there; None if it has to be trained."""
        model = self.folder / "model"
        try:
            manifest = read_manifest(model)
            checked_arrays(model, manifest)
        except CaseError:  # nothing that can be used: the training writes it anew
            return None
        return manifest.metrics if manifest.study == self.hash else None


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Show nothing; see `femops.surrogate.Progress`."""


def announce(text: str) -> None:
    """Write a line to the terminal."""
    sys.stderr.write(f"{text}\n")


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
    rve = study_rve(study, path, comm)
    try:
        check_elastic(rve)
    except CaseError as error:
        raise error.within(file=path) from error
    paths = study_paths(study, path, comm)
    low, high = bounds(study.sampling, study.dim)
    if study.sampling.run is not None:
        low, high = np.minimum(paths.min((0, 1)), 0.0), np.maximum(paths.max((0, 1)), 0.0)  # every case starts at zero
    digest = _study_hash(study, spec, rve, paths)
    return Plan(
        study, path, spec, rve, paths, low, high, digest, folder or Path("results") / f"{path.stem}-{digest[:8]}"
    )


def train(study: Study, path: Path, folder: Path | None, comm: Any, progress: Progress = silent) -> TrainReport:
    """Train the surrogate of a study, unless that has been done; collective.

    What an interrupted training has left in the folder is used. Everything but the solves of the RVE is done by the
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
    return carry_out(plan_training(study, path, folder, comm), comm, progress)


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
    if on_root(comm, plan.finished) is None and comm.rank == 0:
        say(f"training {law} from {path} first; the model goes to {plan.folder / 'model'}")
    return carry_out(plan, comm, progress).model


def carry_out(plan: Plan, comm: Any, progress: Progress) -> TrainReport:
    """Do what is planned, unless it has been done; collective; see `train`."""
    metrics = on_root(comm, plan.finished)
    if metrics is not None:
        return TrainReport(plan.folder, True, metrics)
    sampled = _solved(plan, plan.paths, plan.folder, comm, "sampling", progress)
    seconds: dict[str, float] = {}
    fit = on_root_quietly(comm, lambda: _fitted(plan, sampled, progress, seconds))
    unseen = _unseen(plan, comm)
    solved = _solved(plan, unseen, plan.folder / "validation", comm, "validation", progress)
    metrics = on_root_quietly(comm, lambda: _finish(plan, fit, solved, seconds))
    return TrainReport(plan.folder, False, metrics)


def _solved(plan: Plan, paths: Array, folder: Path, comm: Any, stage: str, progress: Progress) -> SampleReport:
    """Solve the RVE along paths."""
    return solve_snapshots(
        plan.study, plan.rve, paths, folder, comm, lambda done, total: progress(stage, done, total, "")
    )


def _fitted(plan: Plan, sampled: SampleReport, progress: Progress, seconds: dict[str, float]) -> Fit:
    """Fit, or take the fit of a training that was interrupted later; also tell the seconds that led to it."""
    seconds["sampling"] = _sampling_seconds(plan, sampled)
    checkpoint = _checkpoint(plan)
    if (done := checkpoint.load("finished_fit")) is not None:
        fit = unpacked_fit(done)
    else:
        settings = plan.study.solver
        solver = SnapshotSolver(plan.rve, SolverOptions(settings.rtol, settings.max_iter, settings.linear))
        snapshots = StoredSnapshots(SnapshotStore(plan.folder, content_hash(plan.rve, plan.study.rve)))
        options = plan.study.surrogate
        task = FitTask(snapshots, plan.rve, solver, options, plan.low, plan.high, checkpoint, progress)
        # Through the same packing in both cases, so that an interrupted training gives the same model.
        try:
            packed = packed_fit(plan.spec.fit(task))
        except CaseError as error:
            raise error.within(file=plan.path) from error
        checkpoint.save("finished_fit", packed)
        fit = unpacked_fit(packed)
    seconds["fit"] = checkpoint.seconds
    return fit


def _sampling_seconds(plan: Plan, sampled: SampleReport) -> float:
    """Return the time that all snapshots took: that of those solved now, extrapolated, or what was noted before."""
    note = _checkpoint(plan)
    if sampled.solved:
        seconds = sampled.seconds * (sampled.found + sampled.solved) / sampled.solved
        note.save("sampling", {"seconds": np.array(seconds)})
        return seconds
    noted = note.load("sampling")
    return float("nan") if noted is None else float(noted["seconds"])


def _unseen(plan: Plan, comm: Any) -> Array:
    """Return the strains of the validation without those that the fit saw. Shape (n_paths, n_steps, n_s)."""
    study = plan.study
    if study.validation is None:
        study = study.model_copy(update={"validation": default_validation(study, plan.low, plan.high)})
    paths = study_paths(study, plan.path, comm, "validation")
    n_s = paths.shape[2]
    seen = cKDTree(plan.paths.reshape(-1, n_s)).query(paths.reshape(-1, n_s))[0] <= _SAME_STRAIN
    unseen = paths[~seen.reshape(paths.shape[:2]).any(axis=1)]
    if not len(unseen):
        problem = "all its strains are among those of sampling; choose another seed"
        raise CaseError(problem, file=plan.path, key="validation")
    return unseen


def default_validation(study: Study, low: Array, high: Array) -> Sampling:
    """Return the sampling of strains that a study without `validation` is judged at.

    Args:
        study: The study.
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
    """
    pairs = (np.array([low, high]) / notation.weights(study.dim)).T.tolist()
    limits = dict(zip(notation.NAMES[study.dim], pairs, strict=True))
    block = {"method": "sobol", "count": _VALIDATION_COUNT, "seed": study.sampling.seed + 1, "range": limits}
    return Sampling.model_validate(block)


def _finish(plan: Plan, fit: Fit, solved: SampleReport, seconds: dict[str, float]) -> dict[str, Any]:
    """Judge a fit and write everything; the model comes last, since it says that all is done."""
    begin = time.perf_counter()
    model = TrainedModel(fit.arrays, fit.settings, plan.rve, plan.low, plan.high)
    given = {"law": plan.spec.name, "model": str(plan.folder / "model")}
    law = plan.spec.as_law(model, plan.spec.parameters.model_validate(given))
    truth = StoredSnapshots(SnapshotStore(solved.file.parent, content_hash(plan.rve, plan.study.rve)))
    judged = accuracy(law, truth["strain"], truth["stress"], truth["tangent"])
    ratio = speed(law, NestedLaw(plan.rve, predictor=False), truth["strain"])
    seconds["validation"] = solved.seconds + time.perf_counter() - begin
    metrics: dict[str, Any] = plain(
        {
            "law": plan.spec.name,
            "study": plan.hash,
            "snapshots": plan.paths.shape[0] * plan.paths.shape[1],
            "offline_seconds": seconds["sampling"] + seconds["fit"],
            "seconds": seconds,
            "fit": fit.metrics,
            "validation": judged.figures(),
            "seconds_per_point": ratio,
        }
    )
    try:
        _write(plan, model, fit, judged, metrics)
    except OSError as error:
        problem = f"the model cannot be written there ({error.strerror or error})"
        raise CaseError(problem, file=plan.folder) from error
    return metrics


def _write(plan: Plan, model: TrainedModel, fit: Fit, judged: Accuracy, metrics: Mapping[str, Any]) -> None:
    for title, curves in fit.curves.items():
        draw_curves(plan.folder, title, curves)
    draw_errors(plan.folder, judged.strain, {"stress": judged.stress, "tangent": judged.tangent})
    said = {"bound": judged.bound, "indicator": judged.indicator}
    certificates = {name: values for name, values in said.items() if values is not None}
    if certificates:
        draw_certificates(plan.folder, judged.certified, certificates)
    write_json(plan.folder / "metrics.json", metrics)
    study = plan.study
    origin = Origin(
        plan.spec.name, plan.hash, study.title, study.units, study.surrogate.seed, _versions(plan.spec), metrics
    )
    write_model(plan.folder / "model", model, study.rve.phases, origin)
    _checkpoint(plan).clear()


def _checkpoint(plan: Plan) -> FileCheckpoint:
    return FileCheckpoint(plan.folder / "checkpoint", plan.hash)


def _study_hash(study: Study, spec: SurrogateSpec, rve: RVE, paths: Array) -> str:
    """Return what tells trainings apart; where files are does not matter, what is in them does."""
    block = study.model_dump(mode="json", exclude={"rve", "title", "units"})
    head = [STORE_INTERFACE, spec.name, spec.version, content_hash(rve, study.rve), block]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    if study.sampling.run is not None:
        digest.update(np.ascontiguousarray(paths, dtype="<f8").tobytes())
    return digest.hexdigest()


def _versions(spec: SurrogateSpec) -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in ("femops", spec.parameters.__module__.partition(".")[0], *_PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
