"""What a surrogate plugin provides, and what it is given to do it with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from femops.law import CertifiedLaw, LawParameters
from femops.notation import Array
from femops.rve.snapshots import SnapshotSolver
from femops.rve.spec import RVE, RVEParameters

Arrays = Mapping[str, npt.NDArray[Any]]


class SurrogateOptions(BaseModel):
    """Base of the `surrogate` block of a study: how a plugin trains; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    law: str
    seed: int = Field(0, ge=0)


class SurrogateParameters(LawParameters):
    """Base of a trained surrogate in a case: where its model is and how to run it."""

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
    def answers_in_single_precision(self) -> bool:
        """Whether answers are rounded to single precision, so that the macroscale cannot be solved more closely."""
        return self.precision == "float32"


class FamilyParameters(SurrogateParameters):
    """Base of a surrogate that serves many RVEs: which one it stands in for here."""

    rve: RVEParameters | None = Field(None, description="the RVE to stand in for, as that of the nested law")


class Checkpoint(Protocol):
    """Keeps what a fit has reached, so that an interrupted one goes on where it was."""

    def load(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return what was saved under a name; None if nothing was."""
        ...

    def save(self, name: str, arrays: Arrays) -> None:
        """Keep arrays under a name, in one piece."""
        ...


class Progress(Protocol):
    """Shows how far a fit is."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Tell that `done` of `total` parts of a stage are done, and a word about it, for example the loss."""
        ...


@dataclass(frozen=True)
class FitTask:
    """What a fit works on.

    Attributes:
        snapshots: The fields of the snapshots, see `femops.rve.snapshots`; the snapshot is the leading axis.
        rve: The RVE.
        solver: Solves the RVE for further snapshots.
        options: The plugin's options.
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
        checkpoint: Where to keep what an interrupted fit needs to go on.
        progress: Called while the fit works.
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
    """What a fit to a family of RVEs works on.

    Attributes:
        rves: The RVEs, built when they are asked for.
        snapshots: Their solutions, one row for each RVE; see `femops.offline.family_store`.
        options: The plugin's options.
        dim: 2 (plane strain) or 3.
        low: Lower corner of the training range, Mandel [-], shape (n_s,); zeros where all phases are linear.
        high: Upper corner. Shape (n_s,).
        checkpoint: Where to keep what an interrupted fit needs to go on.
        progress: Called while the fit works.
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
    """What a fit to a problem of the plugin's own works on; it makes its own data and judges itself.

    Attributes:
        problem: The `problem` block of the study.
        options: The plugin's options.
        checkpoint: Where to keep what an interrupted fit needs to go on.
        progress: Called while the fit works.
    """

    problem: Any
    options: Any
    checkpoint: Checkpoint
    progress: Progress


@dataclass(frozen=True)
class Fit:
    """What a fit found; arrays and settings say everything about the trained surrogate.

    Attributes:
        arrays: Numbers of the model.
        settings: The rest, as it can be written in JSON.
        metrics: Figures of the training, by name (flat; numbers only).
        curves: Curves to draw: title → {legend entry: values}; dimensionless values over their index, on a
            logarithmic axis.
        over: What the index counts: title → axis, where it is not the training step.
    """

    arrays: Arrays
    settings: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, npt.ArrayLike]] = field(default_factory=dict)
    over: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedModel:
    """A trained surrogate with its RVE, as it comes out of the store.

    Attributes:
        arrays: See `Fit`.
        settings: See `Fit`.
        rve: The RVE that it was trained for; of a model of a family, the one that the case names.
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
    """

    arrays: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]
    rve: RVE
    low: Array
    high: Array


@dataclass(frozen=True)
class SurrogateSpec:
    """A surrogate that can be trained by a study and named in a case file.

    It trains on whatever it has a fit for: one RVE, a family of them, or problems of its own.

    Attributes:
        name: The value of `law:`, in the study's `surrogate` block and in cases.
        summary: One line for `femops plugins`.
        options: pydantic model of the `surrogate` block.
        parameters: pydantic model of the law in a case; a `FamilyParameters` where it trains on families.
        fit: Trains on one RVE.
        as_law: Makes the law of a trained model from its parameters in a case.
        check: Refuses an RVE, options or a training range (low, high) that the fit could not use, before anything is
            solved.
        version: Raised when models that were trained before are of no use any more; they are then trained again.
        fit_family: Trains on a family of RVEs.
        problem: pydantic model of the `problem` block of a study.
        fit_problem: Trains on such a problem.
        runs_code: Names the code of the user's own that a training on such a problem imports, without importing it;
            None if there is none. The user is told before it runs.
    """

    name: str
    summary: str
    options: type[SurrogateOptions]
    parameters: type[SurrogateParameters]
    fit: Callable[[FitTask], Fit] | None
    as_law: Callable[[TrainedModel, Any], CertifiedLaw]
    version: int = 1
    check: Callable[[RVE, Any, Array, Array], None] | None = None
    fit_family: Callable[[FamilyTask], Fit] | None = None
    problem: type[BaseModel] | None = None
    fit_problem: Callable[[ProblemTask], Fit] | None = None
    runs_code: Callable[[Any], str | None] | None = None
