"""EquiNO's kernels on one core against batched torch on an accelerator, at unseen strains: time and difference.

Times hold what a case pays: strains go to the device and responses come back as numpy arrays. Without an accelerator
there is nothing to compare, and the problems say so.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from benchmarks import equino_models as models

from femops.devices import accelerator
from femops.law import LawResponse
from femops.notation import Array
from femops.surrogate import TrainedModel
from femops_equino.law import EquiNOLaw
from femops_equino.options import EquiNOParameters

_N_POINTS = 65536
_STEP = 0.75
_REPEATS = 5
_PATHS: dict[str, dict[str, Any]] = {
    "uncorrected": {"corrections": 0},
    "network_1": {"corrections": 1, "start": "network"},
    "last_2": {"corrections": 2, "start": "last"},
    "auto": {},
}


def measure(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Compare both on one RVE.

    Args:
        name: An RVE of `equino_models`.
        options: Not used.
    """
    device = accelerator("auto")
    if device is None:
        return {"device": "no device"}
    from femops.devices.torch_library import torch

    nested = models.nested(name)
    model = models.train(nested, models.snapshots(nested, models.strains(100, 1)), networks={"width": 32})
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    strain = models.strains(_N_POINTS, 11)
    for path, parameters in _PATHS.items():
        truth, _ = _run(model, strain, {**parameters, "device": "cpu"})
        for precision in ("float64", "float32"):
            given = {**parameters, "precision": precision}
            _, cpu = _run(model, strain, {**given, "device": "cpu"})
            found, gpu = _run(model, strain, {**given, "device": "cuda"})
            label = f"{path}_{precision}"
            result |= {f"{label}_cpu_us": cpu, f"{label}_gpu_us": gpu, f"{label}_ratio": cpu / gpu}
            result |= models.spread(f"{label}_S", models.relative(found.stress, truth.stress))
            result |= models.spread(f"{label}_C", models.relative(found.tangent, truth.tangent))
    return result


def _run(model: TrainedModel, strain: Array, parameters: Mapping[str, Any]) -> tuple[LawResponse, float]:
    """Return the answer to a load step and its time [µs/point]."""
    law = EquiNOLaw(model, EquiNOParameters(study="-", **parameters))
    state = law.evaluate(_STEP * strain, np.zeros((len(strain), law.n_state)), 1.0).state
    seconds = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        answer = law.evaluate(strain, state, 1.0)
        seconds.append(time.perf_counter() - begin)
    return answer, float(np.median(seconds)) / len(strain) * 1e6


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    name: partial(measure, name) for name in ("rve1", "rve3")
}
