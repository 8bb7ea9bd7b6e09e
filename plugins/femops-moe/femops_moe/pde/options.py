"""The `problem` block of a study, and the options of its training."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from femops.surrogate import SurrogateOptions


class Samples(BaseModel):
    """Samples that the trained model is judged by; training samples are drawn anew in each step."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    test: int = Field(32, gt=0)
    seed: int = Field(1, ge=0)


class ProblemBlock(BaseModel):
    """An equation in space and time with random initial values."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cells: int = Field(64, ge=8, description="along each side")
    steps: int = Field(64, ge=2, description="time steps")
    samples: Samples = Samples()


class DiffusionSorptionBlock(ProblemBlock):
    """Diffusion with Freundlich sorption in a column, with the parameters of PDEBench: from u(x, 0) to u(x, t)."""

    pde: Literal["diffusion_sorption"] = "diffusion_sorption"


class NavierStokesBlock(ProblemBlock):
    """Decaying flow in a periodic square at Re = 1e4: from ω(x, 0) to ω(x, t)."""

    pde: Literal["navier_stokes"] = "navier_stokes"
    cells: int = Field(32, ge=8, multiple_of=2, description="along each side")
    steps: int = Field(8, ge=2, le=12, description="time levels")
    end: float = Field(2.0, gt=0, description="time")
    degree: int = Field(4, gt=0, description="of the polynomials in time")

    @model_validator(mode="after")
    def _determined(self) -> Self:
        if self.degree > self.steps:
            raise ValueError(f"degree {self.degree} given with {self.steps} steps, expected at most as many")
        return self


class PaperProblem(RootModel[Annotated[DiffusionSorptionBlock | NavierStokesBlock, Field(discriminator="pde")]]):
    """The `problem` block of a study; `pde` says which keys it has."""


class ConstraintOptions(SurrogateOptions):
    """The part of the `surrogate` block that is for equations."""

    constraint: Literal["soft", "global", "experts"] = Field(
        "experts",
        description="equations: the residual as loss only, least squares for all points, or those of each expert",
    )
    basis: int = Field(16, gt=0, description="number of basis fields (equations; soft: one) or of modes (families)")
    iterations: int = Field(6, gt=0, description="equations: Gauss–Newton steps of the least squares")
    width: int = Field(24, gt=0, description="equations and families: width of the network")
    layers: int = Field(4, gt=0, description="equations: layers of the network")
    frequencies: int = Field(8, gt=0, description="equations: frequencies that a layer keeps along each axis")
    steps: int = Field(400, ge=0, description="equations and families: optimiser steps")
    batch: int = Field(8, gt=0, description="equations and families: samples per step")
    learning_rate: float = Field(3e-3, gt=0, description="equations and families: largest; decays along a cosine")
