"""Options of EquiNO in studies, and parameters in cases."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from femops.surrogate import SurrogateOptions, SurrogateParameters


class NetworkBlock(BaseModel):
    """Training of the networks."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    labels: int = Field(500, gt=0, description="solutions of the reduced model to learn from")
    width: int = Field(32, gt=0, description="units of both hidden layers")
    adam_steps: int = Field(50, ge=0)
    lbfgs_steps: int = Field(700, ge=0, description="for the potential; the other networks take half as many")


class OriginalBlock(BaseModel):
    """Training of the original networks."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    adam_steps: int = Field(10000, ge=0)
    lbfgs_steps: int = Field(800, ge=0)
    collocation: int = Field(256, gt=0, description="strains at which the mismatch is made small")


class EquiNOOptions(SurrogateOptions):
    """The `surrogate` block of a study.

    certified   modes in energy norms, empirical cubature, Newton corrections, certificate; networks learn from it
    original    two networks for the coefficients of displacement and stress modes, trained on their mismatch
    """

    law: Literal["equino"] = "equino"
    mode: Literal["certified", "original"] = "certified"
    modes: int = Field(32, gt=0, description="largest number of displacement modes")
    stress_modes: int | None = Field(None, gt=0, description="largest number; by default 1.5 times as many")
    tolerance: float = Field(
        0.05, gt=0, lt=1, description="part of the snapshots' nonlinear fields, in the energy norm, to lose"
    )
    points: int = Field(240, gt=0, description="largest number of cubature points")
    cubature_tolerance: float = Field(
        2e-5, gt=0, description="median relative error of the stress from cubature, in the energy norm"
    )
    certificate_points: int = Field(240, gt=0, description="points of the indicator")
    states: int = Field(128, gt=0, description="reduced solutions, beside the snapshots, to choose points with")
    greedy: int = Field(0, ge=0, description="further snapshots, each where the certificate is worst")
    pool: int = Field(64, gt=0, description="strains that greedy snapshots are chosen among")
    networks: NetworkBlock | None = Field(
        NetworkBlock(), description="null trains none; start: zero and last need none"
    )
    spline: int | None = Field(
        None, ge=8, le=33, description="nodes along each strain of a spline of the energy; plane strain only"
    )
    original: OriginalBlock = OriginalBlock()

    @model_validator(mode="after")
    def _used_by_the_mode(self) -> Self:
        odd = sorted(self.model_fields_set - _OPTIONS_OF_ORIGINAL) if self.mode == "original" else []
        if odd:
            raise ValueError(f"{odd[0]} given, but mode original takes only modes, stress_modes and original")
        if self.mode == "certified" and self.original != OriginalBlock():
            raise ValueError("original given with mode certified, expected mode: original")
        return self


_OPTIONS_OF_ORIGINAL = {"law", "seed", "mode", "modes", "stress_modes", "original"}


class EquiNOParameters(SurrogateParameters):
    """A trained EquiNO in a case."""

    law: Literal["equino"] = "equino"
    corrections: Annotated[int, Field(ge=0)] | Literal["auto", "adjoint"] = Field(
        "auto",
        description="Newton corrections; 0 takes the potential, auto corrects to `tolerance`, adjoint corrects the "
        "stress alone",
    )
    potential: Literal["network", "spline"] = Field(
        "network", description="the energy that corrections: 0 takes; a spline has to be trained with spline: 17"
    )
    tolerance: float = Field(1e-4, gt=0, description="Newton decrement, relative to the work, where auto stops")
    start: Literal["auto", "network", "last", "zero"] = Field(
        "auto", description="first guess of the corrections; auto takes the network, or the last step if there is none"
    )

    @model_validator(mode="after")
    def _spline_is_used(self) -> Self:
        if self.potential == "spline" and self.corrections != 0:
            raise ValueError("potential: spline given with corrections, expected corrections: 0")
        return self

    @model_validator(mode="after")
    def _adjoint_starts_from_the_network(self) -> Self:
        if self.corrections == "adjoint" and self.start not in ("auto", "network"):
            raise ValueError(f"start: {self.start} given with corrections: adjoint, expected auto or network")
        return self
