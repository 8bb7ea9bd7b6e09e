"""Options of the mixture of experts in studies, and parameters in cases."""

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from femops.surrogate import FamilyParameters
from femops_moe.pde.options import ConstraintOptions


class NetworkOptions(BaseModel):
    """Training of the network where Newton's method starts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    labels: int = Field(1024, gt=0, description="solutions of the reduced model to learn from")
    width: int = Field(32, gt=0, description="units of both hidden layers")
    steps: int = Field(600, gt=0, description="of L-BFGS")


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
        0.1,
        gt=0,
        lt=1,
        description="part of nonlinear fields, in the energy norm, to lose; without component, of snapshots held out",
    )
    cubature_tolerance: float | None = Field(
        2e-5,
        gt=0,
        description="median relative error of the stress from cubature, in the energy norm; null takes all points",
    )
    network: NetworkOptions | None = Field(
        NetworkOptions(), description="first guess of Newton's method, of one RVE; null trains none"
    )

    component: float | None = Field(
        None, gt=0, description="edge length of the components of the RVE, to be trained for all arrangements of them"
    )
    arrangements: int = Field(
        24, ge=0, description="random arrangements of 2 by 2 (by 2) components to learn from, besides the RVE"
    )

    @model_validator(mode="after")
    def _one_partition(self) -> Self:
        if {"experts", "grid"} <= self.model_fields_set and self.grid is not None:
            raise ValueError("experts and grid given, expected one of them")
        if self.component is not None and (given := {"experts", "grid", "network", "ports"} & self.model_fields_set):
            raise ValueError(f"component and {min(given)} given, but components are the experts; expected one of them")
        if self.component is None and "arrangements" in self.model_fields_set:
            raise ValueError("arrangements given without component; expected both")
        return self


class MoEParameters(FamilyParameters):
    """A trained mixture of experts in a case; one of components serves other arrangements of them as well."""

    other_rves: ClassVar[bool] = True

    law: Literal["moe"] = "moe"
    start: Literal["auto", "network", "last"] = Field(
        "auto",
        description="first guess of Newton's method; auto takes the network, or the last step where that is nearer, or "
        "where there is no network",
    )
