"""Pydantic models of the case file."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.json_schema import models_json_schema

from femops.errors import CaseError
from femops.inputs.expressions import TimeValue, value_at
from femops.inputs.reading import STUDY, load_validated
from femops.law import CertificateKind, LawParameters
from femops.macro.analysis import (
    Analysis,
    Displacement,
    DisplacementAt,
    Load,
    Newton,
    PetscOption,
    ReactionOn,
    Result,
    Steps,
    Treatment,
    Trust,
)
from femops.meshing import CELLS, EVERYWHERE, TaggedMesh
from femops.meshing.box import box
from femops.meshing.cells import AnyCell
from femops.plugins import installed_laws, law_parameters
from femops.rve.spec import MeshFile
from femops.validation import NestedError, numbers, shown

_SINGLE_RTOL = 1e-6  # single precision of a law keeps residuals above 3e-7 of the forces


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BoxMesh(_Block):
    """A structured box with the boundaries left, right, bottom, top and, in 3D, back, front."""

    size: list[float] = Field(min_length=2, max_length=3, description="edge lengths [length]")
    cells: list[int] = Field(min_length=2, max_length=3, description="cells along each edge")
    cell: AnyCell

    @model_validator(mode="after")
    def _matching(self) -> Self:
        if len(self.size) != len(self.cells):
            raise ValueError(f"size has {len(self.size)} and cells has {len(self.cells)} entries, expected as many")
        if min(self.size) <= 0 or min(self.cells) <= 0:
            raise ValueError(f"size {self.size} and cells {self.cells} given, expected positive numbers")
        if CELLS[self.cell].dim != len(self.size):
            raise ValueError(f"{self.cell} does not fill a box of {len(self.size)} dimensions")
        return self


class MeshBlock(MeshFile):
    """The macroscale mesh: a file, or a box."""

    file: Path | None = None  # type: ignore[assignment]
    box: BoxMesh | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.box is None):
            raise ValueError("expected either file or box")
        return self

    def read(self, base: Path = Path()) -> TaggedMesh:
        """Read or generate the mesh.

        Args:
            base: Folder to which a relative path refers.

        Raises:
            CaseError: The file is missing or contains no usable mesh.
        """
        return super().read(base) if self.box is None else box(self.box.size, self.box.cells, self.box.cell)


class ComponentsBlock(_Block):
    """Prescribed displacement components [length]; those left out are free."""

    ux: TimeValue | None = None
    uy: TimeValue | None = None
    uz: TimeValue | None = None

    @model_validator(mode="after")
    def _valid(self) -> Self:
        self.plain()
        return self

    def plain(self) -> Displacement:
        """Return the displacement as a plain object."""
        return Displacement(_timed(self.ux), _timed(self.uy), _timed(self.uz))


class LoadBlock(_Block):
    """A load on a named group."""

    traction: list[TimeValue] | None = Field(None, description="force per area on a boundary [stress]")
    pressure: TimeValue | None = Field(None, description="pressure against the outward normal of a boundary [stress]")
    body_force: list[TimeValue] | None = Field(None, description="force per volume in a region [stress/length]")
    displacement: ComponentsBlock | None = Field(None, description="prescribed displacement of a boundary [length]")

    @model_validator(mode="after")
    def _valid(self) -> Self:
        self.plain()
        return self

    def plain(self) -> Load:
        """Return the load as a plain object."""
        return Load(
            _vector(self.traction),
            _timed(self.pressure),
            _vector(self.body_force),
            None if self.displacement is None else self.displacement.plain(),
        )


def _timed(value: Any) -> Any:
    """Return a value of a case as a number or a function of time; None stays None."""
    return value if value is None or isinstance(value, int | float) else partial(value_at, value)


def _vector(values: list[Any] | None) -> list[Any] | None:
    return None if values is None else [_timed(value) for value in values]


class StepsBlock(_Block):
    """Load steps: `count` equal steps from 0 to `end`, or the `times` at their ends."""

    count: int | None = Field(None, gt=0, le=100_000)
    end: float | None = Field(None, gt=0)
    times: list[float] | None = Field(None, min_length=1)
    smallest: float = Field(1e-3, gt=0, le=1, description="smallest part of a step that cutback may reach")

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if (self.times is None) == (self.count is None) or (self.times is not None and self.end is not None):
            raise ValueError("expected either count with end, or times")
        self.plain()
        return self

    def plain(self) -> Steps:
        """Return the steps as a plain object."""
        return Steps(tuple(self.ends()), self.smallest)

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
    petsc: dict[str, PetscOption] = Field(
        {}, description="options of PETSc for the linear systems, such as {ksp_type: cg, pc_type: gamg}"
    )


class TrustBlock(_Block):
    """What happens where a law's error exceeds the tolerance or its response is marked invalid."""

    tolerance: float = Field(1e-3, gt=0, description="largest relative error of a stress, or of quantity")
    on_violation: Treatment = Field("stop", description="solve these points exactly, stop the run, or only count them")
    enrich: bool = Field(False, description="laws learn between steps from the points that were solved exactly")
    certificate: CertificateKind = Field("indicator", description="how the error of a converged step is computed")
    quantity: str | None = Field(
        None, description="name of a quantity; points are solved exactly until its error bar is within the tolerance"
    )

    correct: float = Field(
        0.0, ge=0, le=1, description="share of the points solved exactly once after the last step to correct quantities"
    )

    @model_validator(mode="after")
    def _valid(self) -> Self:
        self.plain(None if self.quantity is None else ReactionOn(self.quantity, 0))
        return self

    def plain(self, goal: Result | None) -> Trust:
        """Return the settings as a plain object, with the quantity given."""
        settings = dict(self)
        del settings["quantity"]
        return Trust(**settings, goal=goal)


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


FieldName = Literal["displacement", "reaction", "strain", "stress", "von_mises", "state", "error"]


class Output(_Block):
    """What is written beside curves.csv and summary.json."""

    fields: list[FieldName] = list(get_args(FieldName))
    every: int = Field(1, gt=0, description="fields are written at every n-th step, and at the last one")
    micro: list[MicroPoint] = []
    points: bool = Field(False, description="also a .vtp cloud at the quadrature points of the last step")
    vtx: bool = Field(False, description="also the displacement as VTX (ADIOS2), for large parallel runs")
    error_bars: bool = Field(False, description="also the error bars of reactions in curves.csv, at every step")
    picture: str | None = Field(
        default_factory=lambda given: "von_mises" if "von_mises" in given.get("fields", ()) else None,
        description="field of the picture of the last step, by default von_mises; null for none",
    )


class Quantity(_Block):
    """A number of the last step that the summary reports: a displacement at a point or a reaction of a boundary."""

    displacement: Literal["ux", "uy", "uz"] | None = None
    at: list[float] | None = Field(None, min_length=2, max_length=3)
    reaction: str | None = Field(None, description="a named boundary")
    component: Literal["x", "y", "z"] | None = None
    expected: float | None = Field(None, description="the value that this case is known to give")
    rtol: float = Field(1e-6, gt=0, description="of a miss, relative to what is expected; in units where that is 0")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = {key for key in ("displacement", "at", "reaction", "component") if getattr(self, key) is not None}
        if given not in ({"displacement", "at"}, {"reaction", "component"}):
            raise ValueError("expected either displacement with at, or reaction with component")
        return self

    @property
    def axis(self) -> int:
        """The axis of the component."""
        return "xyz".index(self.component or (self.displacement or "ux")[1])

    def result(self) -> Result:
        """Return the quantity as a plain object."""
        if self.reaction is not None:
            return ReactionOn(self.reaction, self.axis)
        return DisplacementAt(tuple(self.at or ()), self.axis)


class Case(_Block):
    """A macroscale problem."""

    title: str = ""
    units: str = Field("", description="a note for readers; femops computes in whatever consistent units are given")
    kinematics: Literal["plane_strain", "solid"]
    mesh: MeshBlock
    order: Literal[1, 2] = 1
    quadrature_degree: int | None = Field(None, ge=0, le=10)
    material: dict[str, Any] = Field(description="a law, or a law for each named region")
    supports: dict[str, ComponentsBlock] = Field(min_length=1)
    loads: dict[str, LoadBlock] = {}
    steps: StepsBlock = StepsBlock(count=1, end=1.0)
    solver: NewtonBlock = NewtonBlock()
    trust: TrustBlock | None = None
    output: Output = Output()
    quantities: dict[str, Quantity] = {}

    @property
    def dim(self) -> int:
        """2 in plane strain, 3 for solids."""
        return 2 if self.kinematics == "plane_strain" else 3

    def laws(self) -> dict[str, LawParameters]:
        """Return the validated law of each region; `everywhere` denotes the whole body."""
        return dict(self.material)

    def analysis(self) -> Analysis:
        """Return the analysis as a plain object, without mesh and laws."""
        return Analysis(
            {name: components.plain() for name, components in self.supports.items()},
            {name: load.plain() for name, load in self.loads.items()},
            self.steps.plain(),
            self.order,
            self.quadrature_degree,
            Newton(**dict(self.solver)),
            None if self.trust is None else self.trust.plain(self._goal(self.trust.quantity)),
            {name: law.law for name, law in self.laws().items()},
        )

    @field_validator("material", mode="after")
    @classmethod
    def _valid_laws(cls, material: dict[str, Any]) -> dict[str, LawParameters]:
        if "law" in material or not all(isinstance(value, Mapping | LawParameters) for value in material.values()):
            return {EVERYWHERE: _law(material)}
        if not material:
            raise ValueError("expected a law, or a law for each named region")
        if EVERYWHERE in material and len(material) > 1:
            raise ValueError(f"{EVERYWHERE!r} and named regions given, expected one law or a law for each region")
        return {name: _law(mapping, name) for name, mapping in material.items()}

    @model_validator(mode="after")
    def _fits_dimension(self) -> Self:
        try:
            self.analysis().check(self.dim)
        except CaseError as error:
            raise NestedError(error) from error
        axes = "xyz"[: self.dim]
        for name, quantity in self.quantities.items():
            if quantity.axis >= self.dim:
                _refuse(
                    f"component {'xyz'[quantity.axis]} given, expected {' or '.join(axes)}",
                    f"quantities.{name}",
                )
        for key, at in self.points():
            if len(at) != self.dim:
                _refuse(f"{at} given, expected {self.dim} coordinates", key)
        return self

    @model_validator(mode="after")
    def _rounds_below_tolerance(self) -> Self:
        single = any(law.in_single_precision for law in self.laws().values())
        if single and self.solver.rtol < _SINGLE_RTOL:
            problem = f"{self.solver.rtol:g} given, but precision: float32 rounds above it; expected at least 1e-6"
            _refuse(problem, "solver.rtol")
        return self

    @model_validator(mode="after")
    def _loaded(self) -> Self:
        components = [value for support in self.supports.values() for value in support.plain().given().values()]
        if not self.loads and not any(components):
            _refuse("no load given; expected a load, or a nonzero prescribed displacement", "loads")
        return self

    @model_validator(mode="after")
    def _corrects_something(self) -> Self:
        if self.trust is not None and self.trust.correct and not self.quantities:
            _refuse(f"{self.trust.correct:g} given, but the case has no quantities to correct", "trust.correct")
        return self

    @model_validator(mode="after")
    def _bars_need_trust(self) -> Self:
        if self.output.error_bars and self.trust is None:
            _refuse("true given, but without trust no error is certified", "output.error_bars")
        return self

    def _goal(self, name: str | None) -> Result | None:
        if name is None:
            return None
        if name not in self.quantities:
            given = ", ".join(self.quantities) or "none"
            _refuse(f"{name!r} given, expected the name of a quantity; there are: {given}", "trust.quantity")
        return self.quantities[name].result()

    def points(self) -> Iterator[tuple[str, list[float]]]:
        """Yield key and coordinates of every point in the case."""
        for name, quantity in self.quantities.items():
            if quantity.at is not None:
                yield f"quantities.{name}.at", quantity.at
        for number, micro in enumerate(self.output.micro):
            if micro.at is not None:
                yield f"output.micro.{number}.at", micro.at


def _refuse(problem: str, key: str) -> NoReturn:
    raise NestedError(CaseError(problem, key=key))


def _law(mapping: Any, name: str = "") -> LawParameters:
    if isinstance(mapping, LawParameters):
        return mapping
    if not isinstance(mapping, Mapping):
        _refuse(f"{shown(mapping)} given, expected a law with its parameters", name)
    try:
        parameters = law_parameters(mapping)
    except CaseError as error:
        raise NestedError(error.within(key=name)) from error
    for key, number in numbers(parameters.model_dump(), name):
        if not math.isfinite(number):
            _refuse(f"{number} given, expected a finite number", key)
    return parameters


def load_case(path: Path, overrides: tuple[str, ...] = ()) -> Case:
    """Read and validate a case file.

    Args:
        path: The YAML file.
        overrides: Overrides of the form `solver.rtol=1e-6`; the value is YAML.

    Raises:
        CaseError: The file is missing or invalid; the message names the file, the key and the expected value.
    """
    return load_validated(path, overrides, Case, case_schema, STUDY)


def case_schema() -> dict[str, Any]:
    """Return the JSON Schema of case files, including all installed laws."""
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
