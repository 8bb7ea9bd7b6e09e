"""Options of BENO in studies."""

from typing import Literal

from pydantic import Field, PositiveInt

from femops.surrogate import FamilyParameters, SurrogateOptions


class BENOOptions(SurrogateOptions):
    """The `surrogate` block of a study: two branches of message passing, and a Transformer over the boundary."""

    law: Literal["beno"] = "beno"
    widths: tuple[PositiveInt, PositiveInt] = Field((16, 32), description="features on the mesh and on coarser levels")
    layers: tuple[PositiveInt, PositiveInt] = Field(
        (1, 1), description="layers on the mesh and on coarser levels, before and after the coarser ones"
    )
    boundary_width: PositiveInt = Field(32, multiple_of=4, description="length of the vectors of the boundary")
    boundary_layers: PositiveInt = Field(2, description="layers of the Transformer over the boundary")
    passes: PositiveInt = Field(4, description="how often the network is applied to the residual load; 1: once")
    smoothing: int = Field(3, ge=0, description="Jacobi steps with the exact stiffness after each pass")
    steps: int = Field(1000, ge=0, description="optimiser steps")
    batch: PositiveInt = Field(16, description="samples per step")
    learning_rate: float = Field(4e-3, gt=0, description="maximum; decays along a cosine")
    device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="device of the training (families)")


class BENOParameters(FamilyParameters):
    """A trained BENO in a case."""

    law: Literal["beno"] = "beno"
    corrections: int = Field(2, ge=0, description="conjugate-gradient steps after the prediction")
    start: Literal["network", "zero"] = Field(
        "network", description="what corrections start from; zero leaves the network out, the baseline to beat"
    )
