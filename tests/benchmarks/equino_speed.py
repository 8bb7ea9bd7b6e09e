"""Speed and error of EquiNO's paths against the nested law, warm and cold, at unseen strains.

One core each: laws work on ranks independently, so that the ratios hold for any number of them. A load step goes from
three quarters of a strain to all of it. The limit of the corrected path is its arithmetic: operations per point over
what a matrix product reaches on the same core in the same run.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks import equino_models as models

from femops.law import LawResponse, MaterialLaw
from femops.notation import Array
from femops.surrogate import TrainedModel
from femops_equino.law import EquiNOLaw
from femops_equino.options import EquiNOParameters

_N_POINTS = 16384
_N_NESTED = 64
_N_TRUTH = 128
_STEP = 0.75
_REPEATS = 5


def _run(name: str, options: dict[str, str]) -> dict[str, Any]:
    nested, cold_nested = models.nested(name), models.nested(name, predictor=False)
    begin = time.perf_counter()
    given = models.snapshots(nested, models.strains(100, 1))
    sampled = time.perf_counter() - begin
    model = models.train(nested, given, networks={"width": 32})
    result: dict[str, Any] = {"sampling_s": sampled, "fit_s": time.perf_counter() - begin - sampled}
    strain = models.strains(_N_POINTS, 11)
    few = strain[:: _N_POINTS // _N_NESTED]
    before = nested.evaluate(_STEP * few, _virgin(nested, len(few)), 1.0)
    warm, _ = _seconds(lambda: nested.evaluate(few, before.state, 1.0), 2)
    cold, _ = _seconds(lambda: cold_nested.evaluate(few, _virgin(cold_nested, len(few)), 1.0), 2)
    result |= {"nested_warm_ms": warm / len(few) * 1e3, "nested_cold_ms": cold / len(few) * 1e3}
    check = models.strains(_N_TRUTH, 12)
    truth = cold_nested.evaluate(check, _virgin(cold_nested, len(check)), 1.0)
    for label, parameters in _PATHS.items():
        law = EquiNOLaw(model, EquiNOParameters(study="-", **parameters))
        result |= {f"{label}_{key}": value for key, value in _path(law, strain, check, truth).items()}
        for kind, seconds in (("warm", warm), ("cold", cold)):
            result[f"{label}_speedup_{kind}"] = seconds / len(few) * 1e6 / result[f"{label}_us"]
    return result | _limit(model, result["auto_us"] / result["auto_evaluations"])


_PATHS: dict[str, dict[str, Any]] = {
    "uncorrected": {"corrections": 0},
    "network_1": {"corrections": 1, "start": "network"},
    "network_1_float32": {"corrections": 1, "start": "network", "precision": "float32"},
    "network_2": {"corrections": 2, "start": "network"},
    "last_1": {"corrections": 1, "start": "last"},
    "last_2": {"corrections": 2, "start": "last"},
    "zero_2": {"corrections": 2, "start": "zero"},
    "zero_3": {"corrections": 3, "start": "zero"},
    "auto": {"corrections": "auto", "start": "last"},
}


def _path(law: EquiNOLaw, strain: Array, check: Array, truth: LawResponse) -> dict[str, float]:
    """Return time, evaluations and errors of one path in a load step."""
    state = law.evaluate(_STEP * strain, _virgin(law, len(strain)), 1.0).state
    seconds, _ = _seconds(lambda: law.evaluate(strain, state, 1.0), _REPEATS)
    answer = law.evaluate(check, law.evaluate(_STEP * check, _virgin(law, len(check)), 1.0).state, 1.0)
    stress, tangent = models.relative(answer.stress, truth.stress), models.relative(answer.tangent, truth.tangent)
    found = {"us": seconds / len(strain) * 1e6, **models.spread("S", stress), **models.spread("C", tangent)}
    if law.parameters.corrections == "auto":
        found["evaluations"] = law._solve(strain, state).evaluations
    return found


def _limit(model: TrainedModel, us: float) -> dict[str, float]:
    """Return operations and bytes of one evaluation and what the machine could do."""
    n_c, n_d, m = model.arrays["model.projection"].shape
    n_e, pairs = 4, m * (m + 1) // 2
    operations = n_c * (4 * n_d * m + 4 * m + 4 * pairs) + 2 * m * m + (m - n_e) * pairs
    bytes_per_point = 8.0 * (2 * m + n_e + n_e**2 + 2)  # the model itself stays in the caches
    left, right = np.random.default_rng(0).random((2, 512, 512))
    product, _ = _seconds(lambda: left @ right, 20)
    block = np.zeros(2**26 // 8)
    copy, _ = _seconds(lambda: np.copyto(block[: len(block) // 2], block[len(block) // 2 :]), 10)
    rate, bandwidth = 2 * 512**3 / product, block.nbytes / copy
    return {
        "modes": m - n_e,
        "cubature_points": n_c,
        "operations_of_evaluation": operations,
        "bytes_of_point": bytes_per_point,
        "matrix_product_GFlops": rate / 1e9,
        "memory_GB_per_s": bandwidth / 1e9,
        "limit_arithmetic_us": operations / rate * 1e6,
        "limit_memory_us": bytes_per_point / bandwidth * 1e6,
        "evaluation_us": us,
        "part_of_limit": operations / rate * 1e6 / us,
    }


def _virgin(law: MaterialLaw, n: int) -> Array:
    return np.zeros((n, law.n_state))


def _seconds(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the shortest time of some repeats, after one that compiles."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        answer = work()
        times.append(time.perf_counter() - begin)
    return min(times), answer


PROBLEMS = {name: lambda options, name=name: _run(name, options) for name in ("rve1", "rve3")}
