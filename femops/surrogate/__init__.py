"""What all surrogates of the nested RVE solve share: fitting, storing, loading, and their use as laws."""

from femops.surrogate.base import (
    Checkpoint,
    FamilyParameters,
    FamilyTask,
    Fit,
    FitTask,
    ProblemTask,
    Progress,
    SurrogateOptions,
    SurrogateParameters,
    SurrogateSpec,
    TrainedModel,
)
from femops.surrogate.batching import chunks
from femops.surrogate.devices import torch_device
from femops.surrogate.exact import ExactResponse, ExactRVE
from femops.surrogate.ranges import within

__all__ = [
    "Checkpoint",
    "ExactRVE",
    "ExactResponse",
    "FamilyParameters",
    "FamilyTask",
    "Fit",
    "FitTask",
    "ProblemTask",
    "Progress",
    "SurrogateOptions",
    "SurrogateParameters",
    "SurrogateSpec",
    "TrainedModel",
    "chunks",
    "torch_device",
    "within",
]
