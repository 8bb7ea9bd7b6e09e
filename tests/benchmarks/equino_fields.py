"""Errors of EquiNO on the RVEs of its paper: fields and stress, as published and as femops has it, with times.

100 Sobol strains to learn from and 100 others to judge by. Relative L2 errors of a field are ‖found − exact‖ / ‖exact‖
over the quadrature points of the RVE, medians over the strains. Exact is the RVE solved to 1e-10. `published_*` are
the figures of arXiv 2504.07976 (median test sample), which does not say whether they are of the whole displacement
(`ux`) or of its fluctuation (`wx`). `original_*` has its modes and networks; `certified16_*` has 16 + 24 modes,
`certified_*` what femops chooses by default, and `few_*` the same from the first 16 snapshots. `full` sums over all
quadrature points, `cubature` is the law as it runs. Fields of the certified mode
are those with all points, the stress that of its stress modes, as for the original. Learning
and judging are timed in the same process; `*_seconds` is all that a law took, its snapshots included.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from benchmarks import equino_models as models

from femops import notation
from femops.law import LawResponse
from femops.notation import Array
from femops.rve.law import NestedLaw
from femops_equino.law import EquiNOLaw
from femops_equino.options import EquiNOOptions, EquiNOParameters, OriginalBlock
from femops_equino.original.law import OriginalLaw
from femops_equino.original.modes import displacement_at_points
from femops_equino.surrogate import as_law

N_SNAPSHOTS, N_FEW, N_UNSEEN = 100, 16, 100
MOST_EVALUATIONS, CONVERGED = 12, 1e-14
FIELDS = ("ux", "uy", "sxx", "syy", "sxy")
PUBLISHED = {
    "rve1": (0.0147, 0.0084, 0.0068, 0.0093, 0.0464),
    "rve2": (0.0070, 0.0080, 0.0141, 0.0154, 0.0636),
    "rve3": (0.0092, 0.0324, 0.0070, 0.0058, 0.0635),
}


@dataclass(frozen=True)
class Truth:
    """The RVE solved at unseen strains.

    Attributes:
        name: Of the RVE.
        nested: What solved it.
        strain: Shape (n, n_s).
        stress: Homogenized. Shape (n, n_s).
        tangent: Shape (n, n_s, n_s).
        fields: See `fields_of`.
    """

    name: str
    nested: NestedLaw
    strain: Array
    stress: Array
    tangent: Array
    fields: Mapping[str, Array]


def measure(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Train and judge everything on one RVE.

    Args:
        name: Of the RVE.
        options: Not used.
    """
    nested = models.nested(name)
    d = nested.rve.discretisation
    result: dict[str, Any] = {"elements": len(d.mesh.cells), "volume_fraction": d.volume_fraction(0)}
    begin = time.perf_counter()
    snapshots = models.snapshots(nested, models.strains(N_SNAPSHOTS, 1))
    result["seconds_snapshots"] = time.perf_counter() - begin
    truth = _truth(name, nested, models.strains(N_UNSEEN, 2))
    result.update({f"published_{field}": value for field, value in zip(FIELDS, PUBLISHED[name], strict=True)})

    def train(law: EquiNOOptions, n: int = N_SNAPSHOTS) -> tuple[Any, Mapping[str, float]]:
        some = {key: values[:n] for key, values in snapshots.items()}
        model, metrics = models.fitted(nested, some, law)
        return as_law(model, EquiNOParameters.model_validate({"model": "here"})), metrics

    runs: dict[str, tuple[EquiNOOptions, int]] = {
        "original": (EquiNOOptions(mode="original", original=OriginalBlock(lbfgs_steps=3000)), N_SNAPSHOTS),
        "certified16": (EquiNOOptions(modes=16, stress_modes=24, tolerance=1e-9, networks=None), N_SNAPSHOTS),
        "certified": (EquiNOOptions(), N_SNAPSHOTS),
        "few": (EquiNOOptions(networks=None), N_FEW),
    }
    for run, (law_options, n) in runs.items():
        law, metrics = train(law_options, n)
        found = _judged_original(law, truth) if run == "original" else _judged_certified(law, truth)
        result.update({f"{run}_{key}": value for key, value in {**metrics, **found}.items()})
        part = result["seconds_snapshots"] * n / N_SNAPSHOTS
        result[f"{run}_seconds"] = part + sum(value for key, value in metrics.items() if key.startswith("seconds_"))
    return result


def _truth(name: str, nested: NestedLaw, strain: Array) -> Truth:
    solved = models.snapshots(nested, strain)
    stress = np.moveaxis(solved["phase_stress"], 0, -1)
    fields = fields_of(nested, strain, solved["fluctuation"].T, stress)
    return Truth(name, nested, strain, solved["stress"], solved["tangent"], fields)


def fields_of(nested: NestedLaw, strain: Array, fluctuation: Array, stress: Array) -> dict[str, Array]:
    """Return fields at the quadrature points by name: wx, wy (fluctuation), ux, uy (all of it), sxx, syy, sxy.

    Args:
        nested: The RVE's.
        strain: Shape (n, n_s).
        fluctuation: Shape (n_free, n).
        stress: Shape (n_s, n_points, n).
    """
    d = nested.rve.discretisation
    w = displacement_at_points(nested.rve, nested.solver.full_fluctuation(fluctuation))
    x = d.points.reshape(-1, 2) - 0.5 * sum(d.mesh.bounds)
    u = w + np.einsum("nij,gj->ign", notation.to_tensor(strain), x)
    return dict(zip(("wx", "wy", "ux", "uy", "sxx", "syy", "sxy"), [*w, *u, *stress], strict=True))


def _field_errors(truth: Truth, found: Mapping[str, Array]) -> dict[str, float]:
    """Return the median relative error of each field, and how many times it is below the published one."""
    weight, errors = truth.nested.rve.discretisation.weight.ravel(), {}
    for name, exact in truth.fields.items():
        squared = weight @ (found[name] - exact) ** 2 / (weight @ exact**2)
        errors[name] = float(np.median(np.sqrt(squared)))
    published = zip(FIELDS, PUBLISHED[truth.name], strict=True)
    return {**errors, **{f"{name}_below_published": value / errors[name] for name, value in published}}


def _spread(name: str, found: Array, exact: Array) -> dict[str, float]:
    axes = tuple(range(1, exact.ndim))
    error = np.sqrt(((found - exact) ** 2).sum(axes) / (exact**2).sum(axes))
    return {f"{name}_median": float(np.median(error)), f"{name}_max": float(error.max())}


def _judged_original(law: OriginalLaw, truth: Truth) -> dict[str, float]:
    answer = law.evaluate(truth.strain, np.zeros((N_UNSEEN, 0)), 1.0)
    fluctuation, stress = law.fields(truth.strain)
    return {
        **_spread("stress", answer.stress, truth.stress),
        **_spread("tangent", answer.tangent, truth.tangent),
        **_field_errors(truth, fields_of(truth.nested, truth.strain, fluctuation, stress)),
        **_certificates(law, truth, answer),
    }


def _judged_certified(law: EquiNOLaw, truth: Truth) -> dict[str, float]:
    answer = law.evaluate(truth.strain, np.zeros((N_UNSEEN, law.n_state)), 1.0)
    start = truth.strain @ law.basis.elastic.T
    full = law.microscale.full.model.solve(truth.strain, start, MOST_EVALUATIONS, CONVERGED)
    return {
        **_spread("stress_full", full.stress, truth.stress),
        **_spread("stress_cubature", answer.stress, truth.stress),
        **_spread("tangent_full", full.tangent, truth.tangent),
        **_spread("tangent_cubature", answer.tangent, truth.tangent),
        **_field_errors(truth, fields_of(truth.nested, truth.strain, *law.microscale.fields(truth.strain))),
        **_certificates(law, truth, answer),
    }


def _certificates(law: Any, truth: Truth, answer: LawResponse) -> dict[str, float]:
    """Return how many times the bound is above the error, and how often it is not."""
    bound = law.certify(truth.strain, answer, "bound")
    wrong, size = (
        np.sqrt(np.einsum("ns,st,nt->n", one, law.metric, one)) for one in (answer.stress - truth.stress, answer.stress)
    )
    ratio = bound * size / wrong
    return {"bound_over_error_median": float(np.median(ratio)), "bound_violations": int((ratio < 1.0).sum())}


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    name: partial(measure, name) for name in models.RVES
}
