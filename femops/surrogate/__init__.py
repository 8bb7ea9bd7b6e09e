"""Common base of surrogates of the nested RVE solve: training, storage, loading and use as laws."""

from femops.surrogate.arrays import CheckedArrays, StoredArrayError, state_dict
from femops.surrogate.batching import chunks
from femops.surrogate.devices import torch_device
from femops.surrogate.exact import ExactResponse, ExactRVE
from femops.surrogate.ranges import within
from femops.surrogate.registry import SurrogateSpec
from femops.surrogate.spec import (
    Checkpoint,
    FamilyParameters,
    FamilyTask,
    Fit,
    FitTask,
    ProblemTask,
    Progress,
    SurrogateOptions,
    SurrogateParameters,
    TrainedModel,
)

__all__ = [
    "CheckedArrays",
    "Checkpoint",
    "ExactRVE",
    "ExactResponse",
    "FamilyParameters",
    "FamilyTask",
    "Fit",
    "FitTask",
    "ProblemTask",
    "Progress",
    "StoredArrayError",
    "SurrogateOptions",
    "SurrogateParameters",
    "SurrogateSpec",
    "TrainedModel",
    "chunks",
    "state_dict",
    "torch_device",
    "within",
]
