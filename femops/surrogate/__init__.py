"""What all surrogates of the nested RVE solve share: fitting, storing, loading, and their use as laws."""

from femops.surrogate.base import (
    Checkpoint,
    Fit,
    FitTask,
    SurrogateOptions,
    SurrogateParameters,
    SurrogateSpec,
    TrainedModel,
)

__all__ = [
    "Checkpoint",
    "Fit",
    "FitTask",
    "SurrogateOptions",
    "SurrogateParameters",
    "SurrogateSpec",
    "TrainedModel",
]
