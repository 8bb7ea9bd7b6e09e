"""Options of SPON in studies and cases."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from femops.surrogate import FamilyParameters, SurrogateOptions

Sizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class SPONOptions(SurrogateOptions):
    """The `surrogate` block of a study: a network of finite-element message passing on a hierarchy of grids."""

    law: Literal["spon"] = "spon"
    widths: Sizes = Field(
        (8, 16, 32), description="features per level, finest first; the last applies to all coarser levels"
    )
    layers: Sizes = Field((1, 1, 2), description="layers per level, before and after the coarser levels")
    levels: PositiveInt | None = Field(None, description="number of levels, including the mesh; default: all")
    passes: PositiveInt = Field(3, description="how often the network is applied to the residual load")
    smoothing: int = Field(3, ge=0, description="Jacobi steps with the exact stiffness after each pass (families)")
    steps: int = Field(1000, ge=0, description="optimiser steps")
    batch: PositiveInt = Field(16, description="samples per step")
    learning_rate: float = Field(4e-3, gt=0, description="maximum; decays along a cosine")
    device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="device of the training (families)")

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.widths) != len(self.layers):
            raise ValueError(f"{len(self.widths)} widths and {len(self.layers)} layers, expected as many of both")
        return self


_FROM_NETWORK = 2
_FROM_ZERO = {True: 6, False: 4}  # linear phases or others


class SPONParameters(FamilyParameters):
    """A trained SPON in a case."""

    law: Literal["spon"] = "spon"
    corrections: int | None = Field(
        None,
        ge=0,
        description="conjugate-gradient steps (linear phases) or Newton steps (others); default: 2 from the network, "
        "from zero 6 (linear phases) or 4, which are more accurate and faster on a CPU",
    )
    start: Literal["auto", "network", "zero"] = Field(
        "auto",
        description="what corrections start from; auto takes the network on a GPU or with fewer corrections than the "
        "default from zero, otherwise zero, which leaves the network out",
    )

    def steps(self, device_type: str, linear: bool) -> tuple[bool, int]:
        """Return whether the network is evaluated, on a type of device of torch, and the number of corrections."""
        few = self.corrections is not None and self.corrections < _FROM_ZERO[linear]
        network = self.start == "network" or (self.start == "auto" and (device_type != "cpu" or few))
        if self.corrections is not None:
            return network, self.corrections
        return network, _FROM_NETWORK if network else _FROM_ZERO[linear]
