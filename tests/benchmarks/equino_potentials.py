"""The two potentials of `corrections: 0`, network and spline: errors at unseen strains, speed, training and memory.

Both are trained on the same reduced model, whose own error is the limit of either. Outside is a range 1.5 times as
wide, where both extrapolate.
"""

import time
from functools import partial
from typing import Any

import numpy as np
from benchmarks import equino_models as models

from femops.notation import Array
from femops.rve.law import NestedLaw
from femops_equino.law import EquiNOLaw
from femops_equino.networks import spline
from femops_equino.offline import converged
from femops_equino.options import EquiNOOptions, EquiNOParameters

_NODES = 17
_SNAPSHOTS = 32
_CHECKED = 128
_BATCHES = {1: 300, 256: 100, 4096: 20}
_OUTSIDE = 1.5
_PREFIXES = {"network": ("potential.", "normal."), "spline": ("spline.",)}


def _run(name: str) -> dict[str, Any]:
    nested = models.nested(name, predictor=False)
    given = models.snapshots(nested, models.strains(_SNAPSHOTS, 1))
    model, metrics = models.fitted(nested, given, EquiNOOptions(spline=_NODES))
    reduced = EquiNOLaw(model, EquiNOParameters(study="-", device="cpu", tolerance=1e-12))
    begin = time.perf_counter()
    spline.interpolate(reduced.model, partial(converged, reduced.model, reduced.basis), model.low, model.high, _NODES)
    result = {"network_training_s": metrics["seconds_networks"], "spline_training_s": time.perf_counter() - begin}
    laws = {
        "reduced": reduced,
        **{
            one: EquiNOLaw(model, EquiNOParameters(study="-", device="cpu", corrections=0, potential=one))
            for one in ("network", "spline")
        },
    }
    for place, scale in (("", 1.0), ("outside_", _OUTSIDE)):
        strain = models.strains(_CHECKED, 12, scale)
        for label, errors in _errors(laws, nested, strain).items():
            result |= {f"{label}_{place}{key}": value for key, value in errors.items()}
    for label, prefixes in _PREFIXES.items():
        result[f"{label}_kB"] = sum(one.nbytes for key, one in model.arrays.items() if key.startswith(prefixes)) / 1e3
        result |= {f"{label}_us_batch_{n}": _microseconds(laws[label], n) for n in _BATCHES}
    return result


def _errors(laws: dict[str, EquiNOLaw], nested: NestedLaw, strain: Array) -> dict[str, dict[str, float]]:
    """Return the spread of the errors of stress and tangent by law."""
    exact = nested.evaluate(strain, np.zeros((len(strain), nested.n_state)), 1.0)
    errors = {}
    for label, law in laws.items():
        answer = law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)
        errors[label] = {
            **models.spread("S", models.relative(answer.stress, exact.stress)),
            **models.spread("C", models.relative(answer.tangent, exact.tangent)),
        }
    return errors


def _microseconds(law: EquiNOLaw, n: int) -> float:
    """Return the shortest time per point of some repeats, after one that compiles."""
    strain, times = models.strains(n, 11), []
    for _ in range(1 + _BATCHES[n]):
        begin = time.perf_counter()
        law.evaluate(strain, np.zeros((n, 0)), 1.0)
        times.append(time.perf_counter() - begin)
    return min(times[1:]) / n * 1e6


PROBLEMS = {name: lambda options, name=name: _run(name) for name in ("rve1", "rve3")}
