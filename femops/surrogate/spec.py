"""Interface of surrogate plugins: options, parameters, training tasks and trained models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from femops.law import LawContext, LawParameters
from femops.notation import Array, dimension

if TYPE_CHECKING:  # a program that only evaluates a trained law does not load them
    from matplotlib.figure import Figure

    from femops.rve.snapshots import SnapshotSolver
    from femops.rve.spec import RVE

Arrays = Mapping[str, npt.NDArray[Any]]


class SurrogateOptions(BaseModel):
    """Base of the `surrogate` block of a study: how a plugin trains; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    law: str
    seed: int = Field(0, ge=0)


class SurrogateParameters(LawParameters):
    """Base of a trained surrogate in a case: where its model is and how to run it."""

    other_rves: ClassVar[bool] = False
    """Whether a model that was trained for one RVE may serve others, given in the case."""

    model: Path | None = Field(None, description="model folder that femops train wrote, relative to the case")
    study: Path | None = Field(None, description="study file, relative to the case; it is trained where it has to be")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float64", "float32"] = "float64"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.model is None) == (self.study is None):
            raise ValueError("expected exactly one of model (a folder) and study (a file)")
        return self

    @property
    def in_single_precision(self) -> bool:
        """Whether stresses are computed in single precision; see `LawParameters`."""
        return self.precision == "float32"

    def build_rve(self, context: LawContext) -> RVE | None:
        """Return the RVE given in the case; None for a surrogate of the one RVE that its model brings along.

        Raises:
            CaseError: The RVE cannot be built.
        """
        return None


class Checkpoint(Protocol):
    """Stores intermediate results of a training, so that it can resume after an interruption."""

    def load(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays saved under a name, or None."""
        ...

    def save(self, name: str, arrays: Arrays) -> None:
        """Save arrays under a name, atomically."""
        ...


class Progress(Protocol):
    """Reports the progress of a training."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` parts of a stage are done, with a short note such as the loss."""
        ...


@dataclass(frozen=True)
class FitTask:
    """Input of a training on one RVE.

    Attributes:
        snapshots: Snapshot fields, see `femops.rve.snapshots`; the snapshot is the leading axis.
        rve: The RVE.
        solver: Solver for further snapshots.
        options: The plugin's options.
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
        checkpoint: Storage for resuming after an interruption.
        progress: Progress callback.
    """

    snapshots: Arrays
    rve: RVE
    solver: SnapshotSolver
    options: Any
    low: Array
    high: Array
    checkpoint: Checkpoint
    progress: Progress


@dataclass(frozen=True)
class FamilyTask:
    """Input of a training on a family of RVEs.

    Attributes:
        rves: The RVEs, built on access.
        snapshots: Their solutions, one row per RVE; see `femops.offline.family_store`.
        options: The plugin's options.
        dim: 2 (plane strain) or 3.
        low: Lower corner of the training range, Mandel [-], shape (n_s,); zeros if all phases are linear.
        high: Upper corner. Shape (n_s,).
        checkpoint: Storage for resuming after an interruption.
        progress: Progress callback.
    """

    rves: Sequence[RVE]
    snapshots: Arrays
    options: Any
    dim: int
    low: Array
    high: Array
    checkpoint: Checkpoint
    progress: Progress


@dataclass(frozen=True)
class ProblemTask:
    """Input of a training on a problem defined by the plugin, which generates and tests on its own data.

    Attributes:
        problem: The `problem` block of the study.
        options: The plugin's options.
        checkpoint: Storage for resuming after an interruption.
        progress: Progress callback.
        folder: Folder of the study, to which relative paths refer.
    """

    problem: Any
    options: Any
    checkpoint: Checkpoint
    progress: Progress
    folder: Path = Path()


@dataclass(frozen=True)
class EvaluationTask:
    """Input of an evaluation of a trained model on data of the plugin.

    Attributes:
        model: The model folder.
        data: File of data, or the study whose test samples are evaluated.
        problem: The `problem` block of that study; None for other files.
        progress: Progress callback.
    """

    model: Path
    data: Path
    problem: Any
    progress: Progress


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        rows: Numbers by row and column of a table.
        pictures: Figures by name.
    """

    rows: Mapping[str, Mapping[str, float]]
    pictures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """Result of a training; arrays and settings define the trained surrogate completely.

    Attributes:
        arrays: Arrays of the model.
        settings: All other data of the model, serialisable as JSON.
        metrics: Training metrics by name (flat; numbers only).
        curves: Curves to plot: title → {legend entry: values}; dimensionless values over their index, on a
            logarithmic axis.
        over: Label of the index axis by title, if it is not the training step.
    """

    arrays: Arrays
    settings: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, npt.ArrayLike]] = field(default_factory=dict)
    over: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedModel:
    """A trained surrogate with its RVE, as loaded from a model folder.

    Attributes:
        arrays: See `Fit`.
        settings: See `Fit`.
        rve_or_builder: The RVE that it was trained for (for a family model, the RVE given in the case), or a function
            that builds it.
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
        folder: The model folder, if it was read from one.
    """

    arrays: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]
    rve_or_builder: RVE | Callable[[], RVE]
    low: Array
    high: Array
    folder: Path | None = None

    @cached_property
    def rve(self) -> RVE:
        """The RVE, built when it is first used: evaluation may need the arrays only.

        Raises:
            CaseError: The model is damaged.
        """
        return self.rve_or_builder() if callable(self.rve_or_builder) else self.rve_or_builder

    @property
    def dim(self) -> int:
        """2 (plane strain) or 3."""
        return dimension(len(self.low))
