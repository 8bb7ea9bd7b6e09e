"""Common parts of all trainings: folder, hash, checkpoints and output."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from femops.errors import CaseError
from femops.inputs.study import Study
from femops.notation import Array
from femops.output.folder import writing
from femops.output.locks import locked
from femops.output.tables import plain, write_json
from femops.output.training_plots import draw_certificates, draw_curves, draw_errors
from femops.output.versions import versions
from femops.packages import require
from femops.parallel import on_root
from femops.rve.spec import RVE
from femops.surrogate.accuracy import Accuracy
from femops.surrogate.learning.checkpoint import FileCheckpoint, is_packed_fit, packed_fit, unpacked_fit
from femops.surrogate.registry import SurrogateSpec
from femops.surrogate.spec import Fit, Progress
from femops.surrogate.store import STORE_INTERFACE, Origin, checked_arrays, read_manifest

_PACKAGES = ("numpy", "scipy", "torch", "safetensors", "dolfinx-solver-real")


@dataclass(frozen=True)
class TrainReport:
    """Report of `train`.

    Attributes:
        folder: Output folder; the model is in its subfolder `model/`.
        found: Whether the model existed already.
        metrics: Metrics of training and validation, as in `metrics.json`.
    """

    folder: Path
    found: bool
    metrics: Mapping[str, Any]

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.folder / "model"


@dataclass(frozen=True)
class Plan(ABC):
    """A study that is ready to train.

    Attributes:
        study: The study.
        path: The study file.
        spec: The surrogate.
        hash: Hash of the study, the content of its files and the interface versions; identifies the training.
        folder: Output folder.
        errors_over: Quantity on the abscissa of error plots.
    """

    study: Study
    path: Path
    spec: SurrogateSpec
    hash: str
    folder: Path

    errors_over: ClassVar[str] = "strain"

    @abstractmethod
    def train(self, comm: Any, progress: Progress) -> dict[str, Any]:
        """Train, write the model and return the metrics; collective."""

    def carry_out(self, comm: Any, progress: Progress, begin: Callable[[], None] = lambda: None) -> TrainReport:
        """Train, unless the model exists already; collective.

        If another process trains in the folder, its end is awaited and its model is used.

        Args:
            comm: The ranks that share the work.
            progress: Called during the training.
            begin: Called on all ranks before a training begins.

        Raises:
            ModuleNotFoundError: A package that the surrogate needs to train is not installed.
        """
        metrics = on_root(comm, self.finished)
        if metrics is None:
            with locked(self.folder, comm, wait=True):
                metrics = on_root(comm, self.finished)
                if metrics is None:
                    if self.spec.packages is not None:
                        require(self.spec.packages(self.study.surrogate))
                    begin()
                    return TrainReport(self.folder, False, self.train(comm, progress))
        return TrainReport(self.folder, True, metrics)

    def finished(self) -> dict[str, Any] | None:
        """Return the metrics of the trained model; None if it has to be trained."""
        model = self.folder / "model"
        try:
            manifest = read_manifest(model)
            checked_arrays(model, manifest)
        except CaseError:  # unusable: trained again
            return None
        return manifest.metrics if manifest.study == self.hash else None

    def checkpoint(self) -> FileCheckpoint:
        """Return the checkpoint from which an interrupted training continues."""
        return FileCheckpoint(self.folder / "checkpoint", self.hash)

    def fitted(self, fit: Callable[[FileCheckpoint], Fit], seconds: dict[str, float]) -> Fit:
        """Fit, or load the finished fit of an interrupted training; the time is stored in `seconds["fit"]` [s]."""
        checkpoint = self.checkpoint()
        packed = checkpoint.load("finished_fit") or {}
        if not is_packed_fit(packed):
            try:
                packed = packed_fit(fit(checkpoint))
            except CaseError as error:
                raise error.within(file=self.path) from error
            checkpoint.save("finished_fit", packed)
        seconds["fit"] = checkpoint.seconds
        return unpacked_fit(packed)  # packed in both cases, so that a resumed training gives the same model

    def noted_seconds(self, stage: str, seconds: float, solved: int, found: int) -> float:
        """Return the solution time of all snapshots [s]: extrapolated from those just solved, else as noted before."""
        note = self.checkpoint()
        if solved:
            total = seconds * (found + solved) / solved
            note.save(stage, {"seconds": np.array(total)})
            return total
        noted = note.load(stage)
        return float("nan") if noted is None else float(noted["seconds"])

    def write(
        self,
        fit: Fit,
        validation: Accuracy | None,
        metrics: dict[str, Any],
        write_model: Callable[[Path, Origin], None],
    ) -> dict[str, Any]:
        """Write plots, metrics and model; the model comes last, as its presence marks the training as finished.

        Plots of an earlier training in the folder are removed.

        Args:
            fit: The fit.
            validation: Its validation errors; None without validation.
            metrics: Metrics specific to this kind of training.
            write_model: Writes the model into a folder.

        Returns:
            All metrics.
        """
        everything: dict[str, Any] = plain(
            {"law": self.spec.name, "study": self.hash, **metrics, "fit": fit.metrics},
        )
        origin = Origin(
            self.spec.name,
            self.hash,
            self.study.title,
            self.study.units,
            self.study.surrogate.seed,
            versions(["femops", self.spec.parameters.__module__.partition(".")[0], *_PACKAGES]),
            everything,
        )
        with writing(self.folder, "the model"):
            everything["pictures"] = self._draw(fit, validation)
            for name in _pictures_of(self.folder / "metrics.json") - set(everything["pictures"]):
                (self.folder / name).unlink(missing_ok=True)
            write_json(self.folder / "metrics.json", everything)
            write_model(self.folder / "model", origin)
            self.checkpoint().clear()
        return everything

    def _draw(self, fit: Fit, validation: Accuracy | None) -> list[str]:
        """Draw the plots and return their names."""
        files = [
            draw_curves(self.folder, title, curves, fit.over.get(title, "training step"))
            for title, curves in fit.curves.items()
        ]
        if validation is not None:
            errors = {"stress": validation.stress, "tangent": validation.tangent}
            files.append(draw_errors(self.folder, self.errors_over, validation.over, errors))
            stated = {"bound": validation.bound, "indicator": validation.indicator}
            certificates = {name: values for name, values in stated.items() if values is not None}
            if certificates:
                files.append(draw_certificates(self.folder, validation.certified, certificates))
        return [file.name for file in files]


def check(spec: SurrogateSpec, rve: RVE, study: Study, limits: tuple[Array, Array], path: Path) -> None:
    """Check that a surrogate can be fitted to an RVE, before anything is solved.

    Args:
        spec: The surrogate.
        rve: The RVE.
        study: The study.
        limits: Lower and upper corner of the training range, Mandel [-]. Shape (n_s,) each.
        path: The study file.

    Raises:
        CaseError: The surrogate cannot be fitted to this RVE.
    """
    if spec.check is None:
        return
    try:
        spec.check(rve, study.surrogate, *limits)
    except CaseError as error:
        key = error.key
        if study.family is not None and key.startswith("rve"):
            key = "family" + key.removeprefix("rve")
        raise CaseError(error.problem, file=path, key=key) from error


def study_hash(study: Study, spec: SurrogateSpec, content: str, *arrays: Any) -> str:
    """Return the hash that identifies a training; it depends on the content of files, not on their paths.

    Args:
        study: The study.
        spec: The surrogate.
        content: Content hash of the RVE or family.
        arrays: Data from files outside the study.
    """
    block = study.model_dump(mode="json", exclude={"rve", "title", "units"}, exclude_none=True)
    head = [STORE_INTERFACE, spec.name, spec.version, content, block]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for one in arrays:
        digest.update(np.ascontiguousarray(one, dtype="<f8").tobytes())
    return digest.hexdigest()


def folder_of(folder: Path | None, path: Path, digest: str) -> Path:
    """Return the output folder of a training; default `results/STUDY-HASH`."""
    return folder or Path("results") / f"{path.stem}-{digest[:8]}"


def _pictures_of(metrics: Path) -> set[str]:
    """Return the names of the plots of an earlier training; none if its metrics cannot be read."""
    try:
        return {Path(name).name for name in json.loads(metrics.read_text(encoding="utf-8"))["pictures"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
