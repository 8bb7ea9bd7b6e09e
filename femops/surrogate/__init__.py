"""Common base of surrogates of the nested RVE solve: training, storage, loading and use as laws.

Its modules are loaded when a name of theirs is first used: a program that evaluates a trained law needs few of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from femops.surrogate.arrays import CheckedArrays, StoredArrayError, state_dict
    from femops.surrogate.batching import chunks
    from femops.surrogate.exact import ExactResponse, ExactRVE
    from femops.surrogate.family import FamilyParameters
    from femops.surrogate.ranges import within
    from femops.surrogate.registry import SurrogateSpec
    from femops.surrogate.spec import (
        Checkpoint,
        Evaluation,
        EvaluationTask,
        FamilyTask,
        Fit,
        FitTask,
        ProblemTask,
        Progress,
        SurrogateOptions,
        SurrogateParameters,
        TrainedModel,
    )

_HOMES = {
    "CheckedArrays": "arrays",
    "Checkpoint": "spec",
    "Evaluation": "spec",
    "EvaluationTask": "spec",
    "ExactRVE": "exact",
    "ExactResponse": "exact",
    "FamilyParameters": "family",
    "FamilyTask": "spec",
    "Fit": "spec",
    "FitTask": "spec",
    "ProblemTask": "spec",
    "Progress": "spec",
    "StoredArrayError": "arrays",
    "SurrogateOptions": "spec",
    "SurrogateParameters": "spec",
    "SurrogateSpec": "registry",
    "TrainedModel": "spec",
    "chunks": "batching",
    "state_dict": "arrays",
    "within": "ranges",
}
"""Module of each public name."""

__all__ = [
    "CheckedArrays",
    "Checkpoint",
    "Evaluation",
    "EvaluationTask",
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
    "within",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
