"""Options of the mixture of experts in studies, and parameters in cases."""

from typing import Literal, Self

from pydantic import Field, model_validator

from femops.surrogate import SurrogateParameters
from femops_moe.pde.options import ConstraintOptions


class MoEOptions(ConstraintOptions):
    """The `surrogate` block of a study."""

    law: Literal["moe"] = "moe"
    experts: int = Field(4, gt=0, description="number of experts, by bisection of the cells")
    grid: int | None = Field(None, gt=0, description="experts along each axis instead, each in a box")
    ports: Literal["modes", "none"] = Field(
        "modes", description="none leaves the elastic fluctuation on the interfaces, for comparison"
    )
    modes: int = Field(96, gt=0, description="largest number of port and bubble modes in total")
    tolerance: float = Field(
        0.1, gt=0, lt=1, description="part of the snapshots' nonlinear fields, in the energy norm, to lose"
    )
    cubature_tolerance: float | None = Field(
        2e-5,
        gt=0,
        description="median relative error of the stress from cubature, in the energy norm; null takes all points",
    )

    @model_validator(mode="after")
    def _one_partition(self) -> Self:
        if {"experts", "grid"} <= self.model_fields_set and self.grid is not None:
            raise ValueError("experts and grid given, expected one of them")
        return self


class MoEParameters(SurrogateParameters):
    """A trained mixture of experts in a case."""

    law: Literal["moe"] = "moe"
