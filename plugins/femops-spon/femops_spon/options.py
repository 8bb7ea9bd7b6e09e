"""Options of SPON in studies and cases."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from femops.surrogate import FamilyParameters, SurrogateOptions

Sizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class SPONOptions(SurrogateOptions):
    """The `surrogate` block of a study: a network of finite-element message passing on a hierarchy of grids."""

    law: Literal["spon"] = "spon"
    widths: Sizes = Field((8, 16, 32), description="features on each grid, from the finest; the last one goes on")
    layers: Sizes = Field((1, 1, 2), description="layers on each grid, before and after the coarser ones")
    levels: PositiveInt | None = Field(None, description="number of grids with the mesh itself; default all there are")
    passes: PositiveInt = Field(3, description="how often the network is applied to the residual load")
    smoothing: int = Field(3, ge=0, description="Jacobi steps with the exact stiffness after each pass (families)")
    steps: int = Field(1000, ge=0, description="steps of the optimiser")
    batch: PositiveInt = Field(16, description="samples of a step")
    learning_rate: float = Field(4e-3, gt=0, description="largest one; it falls along a cosine")
    device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="where to train (families)")

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.widths) != len(self.layers):
            raise ValueError(f"{len(self.widths)} widths and {len(self.layers)} layers, expected as many of both")
        return self


class SPONParameters(FamilyParameters):
    """A trained SPON in a case."""

    law: Literal["spon"] = "spon"
    corrections: int = Field(
        2, ge=0, description="conjugate-gradient steps (linear phases) or Newton steps (others) after the prediction"
    )
    start: Literal["network", "zero"] = Field(
        "network", description="what corrections start from; zero leaves the network out, the baseline to beat"
    )
