"""Pydantic models of the study file: an RVE with strains, a family of RVEs or a problem, and the surrogate to train."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import models_json_schema

from femops.errors import CaseError
from femops.inputs.case import case_schema
from femops.inputs.reading import CASE, load_validated
from femops.rve.family import Family
from femops.rve.sampling import Sampling, bounds
from femops.rve.solution import SOLVER_HELP, SolverName
from femops.rve.spec import RVEParameters
from femops.surrogate.registry import installed_surrogates, surrogate_options, surrogate_problem
from femops.surrogate.spec import SurrogateOptions
from femops.validation import NestedError, numbers, shown

SUBJECTS = ("rve", "family", "problem")
"""Possible subjects of a study; exactly one is given."""


class SnapshotSolverBlock(BaseModel):
    """Settings of the RVE solver; snapshots are converged tighter than a nested law has to be."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rtol: float = Field(1e-10, gt=0, description="largest residual relative to the internal forces")
    max_iter: int = Field(30, gt=0, description="largest number of Newton iterations")
    linear: SolverName = Field("auto", description=SOLVER_HELP)


class Study(BaseModel):
    """What a surrogate is trained on, and how: an RVE and strains, a family of RVEs, or a problem of the plugin's."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    title: str = ""
    units: str = Field("", description="a note for readers; femops computes in whatever consistent units are given")
    kinematics: Literal["plane_strain", "solid"] | None = Field(None, description="of an RVE or a family")
    rve: RVEParameters | None = None
    family: Family | None = Field(None, description="random microstructures, instead of one RVE")
    solver: SnapshotSolverBlock = SnapshotSolverBlock()
    sampling: Sampling | None = Field(None, description="strains to solve an RVE at")
    surrogate: Any = Field(None, description="what femops train trains: a surrogate and its options")
    problem: Any = Field(None, description="a problem that the surrogate brings along, instead of an RVE")
    validation: Sampling | None = Field(None, description="strains to judge it by; default 100 others of the range")

    @property
    def dim(self) -> int:
        """2 in plane strain, 3 for solids."""
        return 2 if self.kinematics == "plane_strain" else 3

    @field_validator("surrogate", mode="after")
    @classmethod
    def _valid_options(cls, surrogate: Any) -> SurrogateOptions | None:
        if surrogate is None or isinstance(surrogate, SurrogateOptions):
            return surrogate
        if not isinstance(surrogate, Mapping):
            raise ValueError(f"{shown(surrogate)} given, expected a surrogate with its options")
        try:
            return surrogate_options(surrogate)
        except CaseError as error:
            raise NestedError(error) from error

    @field_validator("problem", mode="after")
    @classmethod
    def _valid_problem(cls, problem: Any, info: ValidationInfo) -> BaseModel | None:
        if problem is None or isinstance(problem, BaseModel):
            return problem
        options = info.data.get("surrogate")
        if options is None:
            raise ValueError("given without surrogate, expected the surrogate that defines the problem")
        try:
            return surrogate_problem(options.law, problem)
        except CaseError as error:
            raise NestedError(error) from error

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        given = [name for name in SUBJECTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(SUBJECTS)}; given: {', '.join(given) or 'none'}")
        if (self.kinematics is None) == (given != ["problem"]):
            expected = "expected only with rve or family" if self.kinematics else "missing"
            raise NestedError(CaseError(f"{expected}: plane_strain or solid", key="kinematics"))
        if given == ["rve"] and self.sampling is None:
            raise NestedError(CaseError("missing, expected the strains to solve the RVE at", key="sampling"))
        allowed = {"rve": {"sampling", "validation"}, "family": {"sampling"}}.get(given[0], set())
        if unexpected := [name for name, _ in self.samplings() if name not in allowed]:
            raise NestedError(CaseError(f"given, but a study with {given[0]} takes none", key=unexpected[0]))
        if self.family is not None and self.family.dim != self.dim:
            problem = f"{self.kinematics!r} given, but the family is {self.family.dim}D"
            raise NestedError(CaseError(problem, key="kinematics"))
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, block in self.samplings():
            try:
                bounds(block, self.dim)
            except CaseError as error:
                raise NestedError(CaseError(error.problem, key=error.key.replace("sampling", name, 1))) from error
        for subject, phases in (("rve", self.rve and self.rve.phases), ("family", self.family and self.family.phases)):
            for name, phase in (phases or {}).items():
                for key, number in numbers(phase.model_dump(), f"{subject}.phases.{name}"):
                    if not np.isfinite(number):
                        raise NestedError(CaseError(f"{number} given, expected a finite number", key=key))
        return self

    def samplings(self) -> Iterator[tuple[str, Sampling]]:
        """Yield key and block of each given sampling."""
        if self.sampling is not None:
            yield "sampling", self.sampling
        if self.validation is not None:
            yield "validation", self.validation


def load_study(path: Path, overrides: tuple[str, ...] = ()) -> Study:
    """Read and validate a study file.

    Args:
        path: The YAML file.
        overrides: Overrides of the form `sampling.count=64`; the value is YAML.

    Raises:
        CaseError: The file is missing or invalid; the message names the file, the key and the expected value.
    """
    return load_validated(path, overrides, Study, study_schema, CASE)


def study_schema() -> dict[str, Any]:
    """Return the JSON Schema of study files, including all installed laws and surrogates."""
    specs = installed_surrogates().values()
    blocks: dict[str, list[Any]] = {
        "surrogate": [spec.options for spec in specs],
        "problem": [spec.problem for spec in specs if spec.problem],
    }
    models: list[Any] = [(model, "validation") for model in (Study, *blocks["surrogate"], *blocks["problem"])]
    references, definitions = models_json_schema(models, title="femops study")
    case, defs = case_schema(), definitions["$defs"]
    schema = defs.pop("Study")
    for name, several in blocks.items():
        if several:
            schema["properties"][name] = {"anyOf": [references[one, "validation"] for one in several]}
    of_rve = case["$defs"]["RVEParameters"]["properties"]["phases"]
    defs["Family"]["properties"]["phases"]["additionalProperties"] = of_rve["additionalProperties"]
    for one in blocks["surrogate"]:
        defs[references[one, "validation"]["$ref"].rpartition("/")[2]].setdefault("required", []).append("law")
    return {**schema, "$defs": {**defs, **case["$defs"]}, "$schema": case["$schema"]}
