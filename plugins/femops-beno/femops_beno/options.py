"""Options of BENO in studies."""

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from femops.surrogate import FamilyParameters, SurrogateOptions

PUBLISHED_BATCH, PUBLISHED_RATE = 1, 5e-5
_OF_PUBLISHED = ("law", "published", "seed", "steps", "batch", "learning_rate")


def _or_published(ours: Any, published: Any) -> Any:
    """Return a default that depends on `published`, which is validated before."""
    return lambda given: published if given.get("published") else ours


class BENOOptions(SurrogateOptions):
    """The `surrogate` block of a study: two branches of message passing, and a Transformer over the boundary."""

    law: Literal["beno"] = "beno"
    published: bool = Field(
        False, description=f"the network and training of the paper; takes only {', '.join(_OF_PUBLISHED[2:])}"
    )
    widths: tuple[PositiveInt, PositiveInt] = Field((16, 32), description="features on the mesh and on coarser levels")
    layers: tuple[PositiveInt, PositiveInt] = Field(
        (1, 1), description="layers on the mesh and on coarser levels, before and after the coarser ones"
    )
    boundary_width: PositiveInt = Field(32, multiple_of=4, description="length of the vectors of the boundary")
    boundary_layers: PositiveInt = Field(2, description="layers of the Transformer over the boundary")
    passes: PositiveInt = Field(4, description="how often the network is applied to the residual load; 1: once")
    smoothing: int = Field(3, ge=0, description="Jacobi steps with the exact stiffness after each pass")
    steps: int = Field(1000, ge=0, description="optimiser steps")
    batch: PositiveInt = Field(
        default_factory=_or_published(16, PUBLISHED_BATCH),
        description=f"samples per step; default 16, published {PUBLISHED_BATCH}",
    )
    learning_rate: float = Field(
        default_factory=_or_published(4e-3, PUBLISHED_RATE),
        gt=0,
        description=f"maximum; decays along a cosine; default 4e-3, published {PUBLISHED_RATE:.0e}",
    )

    device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="device of the training (families)")

    @model_validator(mode="after")
    def _none_unused(self) -> Self:
        others = sorted(self.model_fields_set.difference(_OF_PUBLISHED))
        if self.published and others:
            raise ValueError(f"{others[0]} given with published: true, expected only {', '.join(_OF_PUBLISHED[2:])}")
        return self


class BENOParameters(FamilyParameters):
    """A trained BENO in a case."""

    law: Literal["beno"] = "beno"
    corrections: int = Field(2, ge=0, description="conjugate-gradient steps after the prediction")
    start: Literal["network", "zero"] = Field(
        "network", description="what corrections start from; zero leaves the network out, the baseline to beat"
    )
