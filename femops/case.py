"""The case file: what a user writes, validated and typed."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.json_schema import models_json_schema

from femops.errors import CaseError
from femops.expressions import Value
from femops.law import LawParameters
from femops.plugins import installed_laws, law_parameters
from femops.rve.spec import MeshFile
from femops.validation import NestedError, first_error

EVERYWHERE = "everywhere"


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BoxMesh(_Block):
    """A structured box with the boundaries left, right, bottom, top and, in 3D, back, front."""

    size: list[float] = Field(min_length=2, max_length=3, description="edge lengths [length]")
    cells: list[int] = Field(min_length=2, max_length=3, description="cells along each edge")
    cell: Literal["triangle", "quadrilateral", "tetrahedron", "hexahedron"]

    @model_validator(mode="after")
    def _matching(self) -> Self:
        if len(self.size) != len(self.cells):
            raise ValueError(f"size has {len(self.size)} and cells has {len(self.cells)} entries, expected as many")
        if min(self.size) <= 0 or min(self.cells) <= 0:
            raise ValueError("expected positive sizes and numbers of cells")
        if (self.cell in ("triangle", "quadrilateral")) != (len(self.size) == 2):
            raise ValueError(f"{self.cell} does not fill a box of {len(self.size)} dimensions")
        return self


class MeshBlock(MeshFile):
    """The macroscale mesh: a file, or a box."""

    file: Path | None = None  # type: ignore[assignment]
    box: BoxMesh | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.box is None):
            raise ValueError("expected exactly one of file, box")
        return self


class Components(_Block):
    """Prescribed displacement components [length]; those left out are free."""

    ux: Value | None = None
    uy: Value | None = None
    uz: Value | None = None

    def given(self) -> dict[int, Any]:
        """Return the prescribed components by axis."""
        values = (self.ux, self.uy, self.uz)
        return {axis: value for axis, value in enumerate(values) if value is not None}

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.given():
            raise ValueError("expected at least one of ux, uy, uz")
        return self


class Load(_Block):
    """A load on a named group."""

    traction: list[Value] | None = Field(None, description="force per area on a boundary [stress]")
    pressure: Value | None = Field(None, description="pressure against the outward normal of a boundary [stress]")
    body_force: list[Value] | None = Field(None, description="force per volume in a region [stress/length]")
    displacement: Components | None = Field(None, description="prescribed displacement of a boundary [length]")

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if all(value is None for value in (self.traction, self.pressure, self.body_force, self.displacement)):
            raise ValueError("expected at least one of traction, pressure, body_force, displacement")
        return self


class Steps(_Block):
    """Load steps: `count` equal steps from 0 to `end`, or the `times` at their ends."""

    count: int | None = Field(None, gt=0)
    end: float | None = Field(None, gt=0)
    times: list[float] | None = Field(None, min_length=1)
    smallest: float = Field(1e-3, gt=0, le=1, description="smallest part of a step that cutback may reach")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.times is None) == (self.count is None) or (self.times is not None and self.end is not None):
            raise ValueError("expected count with end, or times")
        if self.times is not None and any(b <= a for a, b in zip([0.0, *self.times], self.times, strict=False)):
            raise ValueError(f"{self.times} given, expected times that increase from above 0")
        return self

    def ends(self) -> list[float]:
        """Return the time at the end of each step."""
        if self.times is not None:
            return list(self.times)
        count = self.count or 1
        return [(self.end or 1.0) * (i + 1) / count for i in range(count)]


class NewtonBlock(_Block):
    """Settings of the macroscale Newton iteration."""

    rtol: float = Field(1e-8, gt=0, description="largest residual relative to the internal forces")
    max_iter: int = Field(20, gt=0)


class Trust(_Block):
    """What happens where a law states an error above the tolerance or calls its answer invalid."""

    tolerance: float = Field(1e-3, gt=0)
    on_violation: Literal["stop", "warn"] = "stop"


class MicroPoint(_Block):
    """A macroscale point whose RVE is written: by coordinates, or the most strained ones."""

    at: list[float] | None = Field(None, min_length=2, max_length=3, description="coordinates [length]")
    most: Literal["strained"] | None = None
    count: int = Field(1, gt=0)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.at is None) == (self.most is None):
            raise ValueError("expected at, or most with count")
        return self


FIELDS = ("displacement", "reaction", "strain", "stress", "von_mises", "state", "error")


class Output(_Block):
    """What is written beside curves.csv and summary.json."""

    fields: list[Literal["displacement", "reaction", "strain", "stress", "von_mises", "state", "error"]] = list(FIELDS)
    micro: list[MicroPoint] = []
    points: bool = Field(False, description="also a .vtp cloud at the quadrature points of the last step")
    vtx: bool = Field(False, description="also the displacement as VTX (ADIOS2), for large parallel runs")
    picture: str | None = Field("von_mises", description="field of the picture of the last step; null for none")


class Quantity(_Block):
    """A number of the last step that the summary reports: a displacement at a point or a reaction of a boundary."""

    displacement: Literal["ux", "uy", "uz"] | None = None
    at: list[float] | None = Field(None, min_length=2, max_length=3)
    reaction: str | None = Field(None, description="a named boundary")
    component: Literal["x", "y", "z"] | None = None
    expected: float | None = Field(None, description="the value that this case is known to give")
    rtol: float = Field(1e-6, gt=0)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        is_displacement = self.displacement is not None and self.at is not None
        is_reaction = self.reaction is not None and self.component is not None
        if is_displacement == is_reaction:
            raise ValueError("expected displacement with at, or reaction with component")
        return self

    @property
    def axis(self) -> int:
        """The axis of the component."""
        return "xyz".index(self.component or (self.displacement or "ux")[1])


class Case(_Block):
    """A macroscale problem."""

    title: str = ""
    units: str = Field("", description="a note for readers; femops computes in whatever consistent units are given")
    kinematics: Literal["plane_strain", "solid"]
    mesh: MeshBlock
    order: Literal[1, 2] = 1
    quadrature_degree: int | None = Field(None, ge=0, le=10)
    material: dict[str, Any] = Field(description="a law, or a law for each named region")
    supports: dict[str, Components] = Field(min_length=1)
    loads: dict[str, Load] = {}
    steps: Steps = Steps(count=1, end=1.0)
    solver: NewtonBlock = NewtonBlock()
    trust: Trust | None = None
    output: Output = Output()
    quantities: dict[str, Quantity] = {}

    @property
    def dim(self) -> int:
        """2 in plane strain, 3 for solids."""
        return 2 if self.kinematics == "plane_strain" else 3

    def laws(self) -> dict[str, LawParameters]:
        """Return the validated law of each region; `everywhere` stands for the whole body."""
        return dict(self.material)

    @field_validator("material", mode="after")
    @classmethod
    def _valid_laws(cls, material: dict[str, Any]) -> dict[str, LawParameters]:
        if isinstance(material.get("law"), str):
            return {EVERYWHERE: _law(material)}
        if not material:
            raise ValueError("expected a law, or a law for each named region")
        return {name: _law(mapping, name) for name, mapping in material.items()}

    @model_validator(mode="after")
    def _fits_dimension(self) -> Self:
        for name, support in self.supports.items():
            self._check_axes(support, f"supports.{name}")
        for name, load in self.loads.items():
            if load.displacement is not None:
                self._check_axes(load.displacement, f"loads.{name}.displacement")
            for key in ("traction", "body_force"):
                vector = getattr(load, key)
                if vector is not None and len(vector) != self.dim:
                    self._refuse(f"{len(vector)} components given, expected {self.dim}", f"loads.{name}.{key}")
        if not self.loads and not any(value not in (0, 0.0) for s in self.supports.values() for value in s.given().values()):
            self._refuse("nothing loads the body; expected a load, or a support that moves", "loads")
        return self

    def _check_axes(self, components: Components, key: str) -> None:
        if self.dim == 2 and components.uz is not None:
            self._refuse("uz given, expected ux and uy in plane strain", key)

    @staticmethod
    def _refuse(problem: str, key: str) -> None:
        raise NestedError(CaseError(problem, key=key))


def _law(mapping: Any, name: str = "") -> LawParameters:
    if isinstance(mapping, LawParameters):
        return mapping
    if not isinstance(mapping, Mapping):
        problem = f"{mapping!r} given, expected a law with its parameters"
        raise NestedError(CaseError(problem, key=name or "law"))
    try:
        return law_parameters(mapping)
    except CaseError as error:
        raise NestedError(error.within(key=name)) from error


def load_case(path: Path, overrides: tuple[str, ...] = ()) -> Case:
    """Read and validate a case file.

    Args:
        path: The YAML file.
        overrides: Changes of the form `solver.rtol=1e-6`; the value is YAML.

    Raises:
        CaseError: The file is missing or not valid; the message names file, key and what was expected.
    """
    data = _read_yaml(path)
    for override in overrides:
        _override(data, override)
    try:
        return Case.model_validate(data)
    except ValidationError as error:
        problem = first_error(error)
        if problem.problem == "unknown key":
            problem = _with_suggestion(problem)
        raise problem.within(file=path) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError(f"cannot be read ({error.strerror})", file=path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise CaseError(f"is not valid YAML{line}: {getattr(error, 'problem', error)}", file=path) from error
    if not isinstance(data, dict):
        raise CaseError(f"holds {type(data).__name__}, expected a mapping of keys", file=path)
    return data


def _override(data: dict[str, Any], override: str) -> None:
    """Change one value in place."""
    key, separator, text = override.partition("=")
    if not separator:
        raise CaseError(f"{override!r} given, expected key=value", key="--set")
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise CaseError(f"{key!r}: {parent!r} is not a block", key="--set")
    try:
        data[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CaseError(f"{text!r} is not valid YAML", key="--set") from error


def _with_suggestion(problem: CaseError) -> CaseError:
    """Name the known key that an unknown one resembles."""
    known: set[str] = set()
    _collect_keys(case_schema(), known)
    close = difflib.get_close_matches(problem.key.rpartition(".")[2], sorted(known), n=1)
    hint = f"unknown key; did you mean {close[0]!r}?" if close else "unknown key"
    return CaseError(hint, key=problem.key)


def _collect_keys(schema: Any, known: set[str]) -> None:
    if isinstance(schema, dict):
        known.update(schema.get("properties", {}))
        for value in schema.values():
            _collect_keys(value, known)
    elif isinstance(schema, list):
        for value in schema:
            _collect_keys(value, known)


def case_schema() -> dict[str, Any]:
    """Return the JSON Schema of a case file with the laws that are installed."""
    laws = [spec.parameters for spec in installed_laws().values()]
    models: list[Any] = [(model, "validation") for model in (Case, *laws)]
    references, definitions = models_json_schema(models, title="femops case")
    one_law = {"oneOf": [references[law, "validation"] for law in laws]}
    schema = definitions["$defs"].pop("Case")
    per_region = {"type": "object", "additionalProperties": one_law, "not": {"required": ["law"]}}
    schema["properties"]["material"] = {"anyOf": [one_law, per_region]}
    phases = definitions["$defs"]["RVEParameters"]["properties"]["phases"]
    phases["additionalProperties"] = {
        "oneOf": [references[spec.parameters, "validation"] for spec in installed_laws().values() if spec.phase]
    }
    for spec in installed_laws().values():
        name = references[spec.parameters, "validation"]["$ref"].rpartition("/")[2]
        definitions["$defs"][name].setdefault("required", []).append("law")
    return {**schema, "$defs": definitions["$defs"], "$schema": "https://json-schema.org/draft/2020-12/schema"}
