"""Surrogates that plugins register: their specification, and those installed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from femops.errors import CaseError
from femops.law import CertifiedLaw, LawSpec
from femops.notation import Array
from femops.plugins import available, installed
from femops.surrogate.law import surrogate_law
from femops.surrogate.spec import (
    Evaluation,
    EvaluationTask,
    FamilyTask,
    Fit,
    FitTask,
    ProblemTask,
    SurrogateOptions,
    SurrogateParameters,
    TrainedModel,
)
from femops.validation import check_types, is_class, shown, validated

if TYPE_CHECKING:
    from femops.rve.spec import RVE


@dataclass(frozen=True)
class SurrogateSpec:
    """A surrogate that can be trained by a study and named in a case file.

    It can be trained on one RVE (`fit`), a family of RVEs (`fit_family`) or problems of its own (`fit_problem`).

    Attributes:
        name: The value of `law:`, in the study's `surrogate` block and in cases.
        summary: One line for `femops plugins`.
        options: pydantic model of the `surrogate` block.
        parameters: pydantic model of the law in a case; a `FamilyParameters` if it trains on families.
        fit: Trains on one RVE.
        as_law: Builds the law of a trained model from its parameters in a case.
        check: Refuses an unsuitable RVE, options or training range (low, high) before anything is solved.
        version: Incremented when models trained before become unusable; they are then trained again.
        fit_family: Trains on a family of RVEs.
        problem: pydantic model of the `problem` block of a study.
        fit_problem: Trains on such a problem.
        runs_code: Returns the name of the user code that training on such a problem imports, without importing it,
            or None. It is shown to the user before the code runs.
        exporters: For `femops export`: functions that return a law as C99 source (`c`) or as a program of torch
            (`torch`) or ONNX (`onnx`), files by name; see plugins/README.md. Laws of linear phases need none.
        data_files: Returns the files that training on such a problem reads, given the block and the folder of the
            study; the model is trained again when their content changes.
        evaluate_data: Evaluates a model of such a problem on a file of data or the test samples of a study, for
            `femops evaluate`.
        validation: Parameters in a case, other than the defaults, with which trained models are validated.
        packages: Returns the optional packages, by the names of their imports, that training with some options needs;
            they are looked for before anything is solved.
    """

    name: str
    summary: str
    options: type[SurrogateOptions]
    parameters: type[SurrogateParameters]
    fit: Callable[[FitTask], Fit] | None
    as_law: Callable[[TrainedModel, Any], CertifiedLaw]
    version: int = 1
    check: Callable[["RVE", Any, Array, Array], None] | None = None
    fit_family: Callable[[FamilyTask], Fit] | None = None
    problem: type[BaseModel] | None = None
    fit_problem: Callable[[ProblemTask], Fit] | None = None
    runs_code: Callable[[Any], str | None] | None = None
    exporters: Mapping[str, Callable[[Any], Mapping[str, str | bytes]]] = field(default_factory=dict)
    data_files: Callable[[Any, Path], Iterable[Path]] | None = None
    evaluate_data: Callable[[EvaluationTask], Evaluation] | None = None
    validation: Mapping[str, Any] = field(default_factory=dict)
    packages: Callable[[Any], Iterable[str]] | None = None

    def law(self) -> LawSpec:
        """Return the law that a trained model becomes in a case."""
        return LawSpec(self.name, self.summary, self.parameters, partial(surrogate_law, self.name, self.as_law))

    def validate(self) -> None:
        """Check the types of the attributes.

        Raises:
            TypeError: An attribute is invalid.
        """
        self.law().validate()
        fits = [one for one in (self.fit, self.fit_family, self.fit_problem) if one is not None]
        check_types(
            self.name,
            {
                "parameters, expected a class": is_class(self.parameters, SurrogateParameters),
                "options, expected a class": is_class(self.options, SurrogateOptions),
                "as_law, expected a function": callable(self.as_law),
                "fit, fit_family and fit_problem, expected a function": bool(fits) and all(map(callable, fits)),
                "exporters, expected functions by c, torch and onnx": isinstance(self.exporters, Mapping)
                and self.exporters.keys() <= {"c", "torch", "onnx"}
                and all(map(callable, self.exporters.values())),
                "data_files, evaluate_data and packages, expected functions": all(
                    one is None or callable(one) for one in (self.data_files, self.evaluate_data, self.packages)
                ),
                "problem, expected a model": self.problem is None or is_class(self.problem, BaseModel),
            },
        )


def installed_surrogates() -> dict[str, SurrogateSpec]:
    """Return every installed surrogate by name."""
    return {name: spec for name, spec in installed().trainable.items() if isinstance(spec, SurrogateSpec)}


def surrogate_spec(name: object) -> SurrogateSpec:
    """Return an installed surrogate by name.

    Raises:
        CaseError: No such surrogate is installed; the message lists the installed ones.
    """
    surrogates = installed_surrogates()
    if not isinstance(name, str) or name not in surrogates:
        raise CaseError(f"{shown(name)} is no installed surrogate; {available('installed:', surrogates)}", key="law")
    return surrogates[name]


def surrogate_options(mapping: Mapping[str, Any]) -> SurrogateOptions:
    """Validate the `surrogate` block of a study.

    Raises:
        CaseError: The surrogate is not installed, or an option is unknown, missing or out of range.
    """
    if "law" not in mapping:
        raise CaseError(f"missing; {available('expected one of', installed_surrogates())}", key="law")
    return validated(surrogate_spec(mapping["law"]).options, dict(mapping))


def surrogate_problem(law: str, mapping: object) -> BaseModel:
    """Validate the `problem` block of a study.

    Args:
        law: Name of the surrogate.
        mapping: The block.

    Raises:
        CaseError: The surrogate does not define problems, or a key is unknown, missing or out of range.
    """
    model = surrogate_spec(law).problem
    if model is None:
        raise CaseError(f"given, but {law!r} brings no problems along; expected rve")
    return validated(model, mapping)
