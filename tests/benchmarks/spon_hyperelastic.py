"""SPON of a family with a nonlinear matrix: errors and times at unseen microstructures and strains.

The model is that of `cases/studies/circles_saturating_spon.yaml`. `network_k_*` is the prediction with k Newton steps
after it, `zero_k_*` the same steps (2 of conjugate gradients each) without a network. Times are processor seconds of a
strain in a batch of 16, set against the nested solve of the same strains, cold.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from femops.inputs.study import load_study
from femops.law import LawContext, LawResponse
from femops.notation import Array
from femops.offline.train import train
from femops.rve.family import microstructure
from femops.rve.law import NestedLaw
from femops.rve.sampling import bounds, sobol
from femops.rve.spec import build_rve
from femops.surrogate import TrainedModel
from femops.surrogate.store import read_fit, read_manifest
from femops_spon.hyperelastic_law import HyperelasticSPONLaw
from femops_spon.options import SPONParameters

STUDY = Path(__file__).parents[2] / "cases" / "studies" / "circles_saturating_spon.yaml"
UNSEEN, STRAINS = 24, 16
SINGLE = {"precision": "float32"}  # of the network
STEPS = {"network": (0, 1, 2, 3), "zero": (2, 3, 4)}


def circles(options: Mapping[str, str]) -> dict[str, Any]:
    """Unseen microstructures and strains of the family of the study."""
    study = load_study(STUDY)
    assert study.family is not None and study.sampling is not None
    with tempfile.TemporaryDirectory() as name:
        report = train(study, STUDY, Path(name) / "training", MPI.COMM_SELF)
        manifest = read_manifest(report.model)
        fit = read_fit(report.model, manifest)
    family = study.family.model_copy(update={"seed": 777, "count": UNSEEN})
    low, high = bounds(study.sampling, 2)
    strain = sobol(low, high, UNSEEN * STRAINS, 99).reshape(UNSEEN, STRAINS, -1)
    found: dict[str, list[tuple[float, Array, Array]]] = {}
    for i in range(UNSEEN):
        rve = build_rve(microstructure(family, i).parameters, LawContext(2))
        nested = NestedLaw(rve)
        seconds, truth = _timed(nested, strain[i])
        found.setdefault("nested", []).append((seconds, np.zeros(STRAINS), np.zeros(STRAINS)))
        for start, counts in STEPS.items():
            for count in counts:
                given = {"law": "spon", "model": "model", "start": start, "corrections": count, **SINGLE}
                model = TrainedModel(fit.arrays, fit.settings, rve, np.array(manifest.low), np.array(manifest.high))
                law = HyperelasticSPONLaw(model, SPONParameters.model_validate(given))
                seconds, answer = _timed(law, strain[i])
                parts = seconds, _error(answer.stress, truth.stress), _error(answer.tangent, truth.tangent)
                found.setdefault(f"{start}_{count}", []).append(parts)
    return {"seconds_training": report.metrics["offline_seconds"], **_figures(found)}


def _figures(found: Mapping[str, list[tuple[float, Array, Array]]]) -> dict[str, float]:
    nested = float(np.median([one[0] for one in found["nested"]]))
    result = {"nested_ms": 1e3 * nested}
    for name, parts in found.items():
        if name == "nested":
            continue
        seconds = float(np.median([one[0] for one in parts]))
        result |= {f"{name}_ms": 1e3 * seconds, f"{name}_nested_over_law": nested / seconds}
        for what, column in (("S", 1), ("C", 2)):
            errors = np.concatenate([one[column] for one in parts])
            result |= {f"{name}_{what}_median": float(np.median(errors)), f"{name}_{what}_max": float(errors.max())}
    return result


def _timed(law: Any, strain: Array) -> tuple[float, LawResponse]:
    """Return the processor time of a strain, after one call that is not counted, and the answers."""
    law.evaluate(strain[:1], np.zeros((1, law.n_state)), 1.0)
    begin = time.process_time()
    answer = law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)
    return (time.process_time() - begin) / len(strain), answer


def _error(found: Array, true: Array) -> Array:
    axes = tuple(range(1, true.ndim))
    return np.asarray(np.sqrt(((found - true) ** 2).sum(axes) / (true**2).sum(axes)))


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {"circles": circles}
