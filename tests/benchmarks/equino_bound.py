"""EquiNO's certificates against the true error, at unseen strains inside and outside of the training range."""

import time
from typing import Any

import numpy as np
from benchmarks import equino_models as models

from femops.law import LawResponse
from femops.notation import Array
from femops_equino.law import EquiNOLaw
from femops_equino.options import EquiNOParameters
from femops_equino.reduced.certificate import norm

_COUNT = 300
_OUTSIDE = 2.5
_ROUND_OFF = 1e-9


def _run(name: str, options: dict[str, str]) -> dict[str, Any]:
    nested = models.nested(name, predictor=False)
    model = models.train(nested, models.snapshots(nested, models.strains(64, 1)), networks={"width": 32})
    result: dict[str, Any] = {}
    for where, scale, seed in (("inside", 1.0, 21), ("outside", _OUTSIDE, 22)):
        strain = models.strains(_COUNT, seed, scale)
        truth = nested.evaluate(strain, np.zeros((_COUNT, nested.n_state)), 1.0)
        for path, parameters in (("corrected", {}), ("uncorrected", {"corrections": 0})):
            law = EquiNOLaw(model, EquiNOParameters(study="-", **parameters))
            answer = law.evaluate(strain, np.zeros((_COUNT, law.n_state)), 1.0)
            found = _certificates(law, strain, answer, truth)
            result |= {f"{where}_{path}_{key}": value for key, value in found.items()}
    return result


def _certificates(law: EquiNOLaw, strain: Array, answer: LawResponse, truth: LawResponse) -> dict[str, float]:
    error = norm(answer.stress - truth.stress, law.metric) / norm(answer.stress, law.metric)
    found: dict[str, float] = {"strains": len(strain), **models.spread("error", error)}
    for kind in ("bound", "indicator"):
        law.certify(strain[:1], LawResponse(answer.stress[:1], answer.tangent[:1], answer.state[:1]), kind)
        begin = time.perf_counter()
        stated = law.certify(strain, answer, kind)
        found[f"{kind}_us"] = (time.perf_counter() - begin) / len(strain) * 1e6
        finite = np.isfinite(stated)
        ratio = stated[finite] / error[finite]
        found |= {f"{kind}_infinite": int((~finite).sum()), **models.spread(kind, stated[finite])}
        quantiles = zip(("min", "median", "max"), (ratio.min(), np.median(ratio), ratio.max()), strict=True)
        found |= {f"{kind}_effectivity_{at}": float(value) for at, value in quantiles}
    bound = law.certify(strain, answer, "bound")
    found["violations"] = int((bound < error - _ROUND_OFF).sum())
    return found


PROBLEMS = {name: lambda options, name=name: _run(name, options) for name in models.RVES}
