"""What a study and a case may say about SPON."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from femops.surrogate import FamilyParameters, SurrogateOptions

Widths = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class SPONOptions(SurrogateOptions):
    """The `surrogate` block of a study: a network of finite-element message passing on nested grids."""

    law: Literal["spon"] = "spon"
    widths: Widths = Field((24, 48, 64), description="features on each grid, from the finest; the last one goes on")
    layers: Widths = Field((1, 1, 2), description="layers on each grid, before and after the coarser ones")
    levels: PositiveInt | None = Field(None, description="number of grids; default as many as there are")
    passes: PositiveInt = Field(1, description="how often the network sees what equilibrium its fields lack")
    steps: int = Field(1500, ge=0, description="steps of the optimiser")
    batch: PositiveInt = Field(16, description="microstructures of a step")
    learning_rate: float = Field(2e-3, gt=0, description="largest one; it falls along a cosine")

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.widths) != len(self.layers):
            raise ValueError(f"{len(self.widths)} widths and {len(self.layers)} layers, expected as many of both")
        return self


class SPONParameters(FamilyParameters):
    """A trained SPON in a case."""

    law: Literal["spon"] = "spon"
    corrections: int = Field(2, ge=0, description="steps of preconditioned conjugate gradients after the prediction")
