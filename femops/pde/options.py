"""Options of the `problem` block of a study."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from femops.errors import CaseError
from femops.validation import NestedError, shown, validated


class SampleCounts(BaseModel):
    """Numbers of random samples of the inputs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    train: int = Field(500, gt=0)
    test: int = Field(100, gt=0)
    seed: int = Field(1, ge=0, description="training and test samples differ for the same seed")


class ProblemBlock(BaseModel):
    """The `problem` block of a study: a partial differential equation with random inputs.

    The keys that only some problems have are in `PoissonBlock` and `BeamBlock`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pde: str = Field(description="poisson, beam, or package.module:function for one of your own")
    samples: SampleCounts = SampleCounts()


class PoissonBlock(ProblemBlock):
    """−Δu = f on the unit square, u = g on its boundary: from f and g to u."""

    pde: Literal["poisson"] = "poisson"
    cells: int = Field(32, ge=4, description="along each side")
    cell: Literal["triangle", "quadrilateral"] = "quadrilateral"
    order: Literal[1, 2] = 1
    length: float = Field(0.1, gt=0, description="correlation length of the Gaussian random fields f and g")
    boundary: Literal["zero", "random"] = Field("zero", description="g")
    amplitude: float = Field(0.05, gt=0, description="standard deviation of a random g; that of f is 1")


class BeamBlock(ProblemBlock):
    """A clamped neo-Hookean beam under compression, plane strain: from end shortening and stiffness field to u."""

    pde: Literal["beam"] = "beam"
    size: tuple[float, float] = Field((5.0, 1.0), description="length and height")
    cells: tuple[int, int] = (40, 8)
    cell: Literal["triangle", "quadrilateral"] = "quadrilateral"
    order: Literal[1, 2] = 1
    shortening: tuple[float, float] = Field((0.02, 0.1), description="smallest and largest, part of the length")
    poisson_ratio: float = Field(0.3, ge=0, lt=0.5)
    length: float = Field(1.0, gt=0, description="correlation length of the logarithm of Young's modulus")
    spread: float = Field(0.3, ge=0, description="its standard deviation; the mean is 0")
    load_steps: int = Field(4, gt=0)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if min(self.size) <= 0.0:
            raise ValueError(f"size {list(self.size)} given, expected positive lengths")
        if min(self.cells) < 2:
            raise ValueError(f"cells {list(self.cells)} given, expected 2 or more along each side")
        if not 0.0 < self.shortening[0] <= self.shortening[1] < 0.5:
            raise ValueError(f"shortening {list(self.shortening)} given, expected 0 < smallest <= largest < 0.5")
        return self


class OwnBlock(ProblemBlock):
    """A problem of the user's own: a function from `options` to a `PDEProblem`."""

    pde: str = Field(pattern=r"^\w[\w.]*:\w+$")
    options: dict[str, Any] = Field(default_factory=dict, description="handed to the function")


BLOCKS: dict[str, type[ProblemBlock]] = {"poisson": PoissonBlock, "beam": BeamBlock}


class Problem(RootModel[SerializeAsAny[ProblemBlock]]):
    """The `problem` block of a study; `pde` says which keys it has."""

    @field_validator("root", mode="plain", json_schema_input_type=PoissonBlock | BeamBlock | OwnBlock)
    @classmethod
    def _named(cls, given: Any) -> ProblemBlock:
        try:
            return given if isinstance(given, ProblemBlock) else problem_block(given)
        except CaseError as error:
            raise NestedError(error) from error


def problem_block(given: Any) -> ProblemBlock:
    """Validate the `problem` block of a study.

    Raises:
        CaseError: It is not valid; the message names the key and what was expected.
    """
    if not isinstance(given, Mapping):
        raise CaseError(f"{shown(given)} given, expected a problem: pde and its options")
    if "pde" not in given:
        raise CaseError(f"missing, expected {', '.join(BLOCKS)} or package.module:function", key="pde")
    name = str(given["pde"])
    if name not in BLOCKS and ":" not in name:
        raise CaseError(f"{shown(name)} given, expected {', '.join(BLOCKS)} or package.module:function", key="pde")
    return validated(BLOCKS.get(name, OwnBlock), dict(given))
