"""BENO for RVEs with voids and fibres of random shape, each with a mesh of its own: errors, bounds and times.

The family is that of cases/studies/voids_beno.yaml; 160 members and 600 steps to learn, 300 members to judge by. The
error of a stiffness is ‖C̄ − C̄*‖ / ‖C̄*‖ (Frobenius), C̄* from the nested solve with the same kinematic conditions.
`beno_c` is the prediction with c corrections, `untrained_c` that of random weights, `zero_c` c steps of the same
preconditioned conjugate gradients from no fluctuation at all. `_below_exact` counts answers that are softer than the
nested solve, `_bound_missed` those whose error exceeds its bound. `unseen_after_N` is the median error in energy of
members that the training held back, after N of its steps.

Times are CPU times of one thread per RVE, from the mesh with its phases to C̄ with corrections, in batches of 1, 64 and
1024, beside the nested solve: `fields` is the assembly, `encoding` the graph with its coarser levels, `network` the
prediction, `corrections` two steps with their multigrid. The network runs in single precision, all else in double.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from benchmarks.spon_rve import Nowhere, members, nested_stiffness, seconds

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.rve.spec import RVE
from femops.surrogate import FamilyTask
from femops.surrogate.fields.linear import LinearFields
from femops_beno.encoding import encode
from femops_beno.network import BENO
from femops_beno.operator import Operator
from femops_beno.options import BENOOptions
from femops_beno.rve.correction import aggregation_multigrid
from femops_beno.rve.law import stiffnesses
from femops_beno.rve.systems import predicted, rve_fields, rve_system
from femops_beno.rve.training import fit_family
from femops_beno.training import architecture

STUDY = Path(__file__).parents[2] / "cases" / "studies" / "voids_beno.yaml"
N_TRAIN, STEPS, N_UNSEEN, UNSEEN_SEED = 160, 600, 300, 12345
CORRECTIONS, AT_ONCE = (0, 1, 2, 3), 32
QUANTILES = {"median": 0.5, "p95": 0.95, "max": 1.0}
BATCHES = {1: 10, 64: 2, 1024: 1}
TOLERANCE = 1e-9

Figures = dict[str, Any]


def outside(block: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return families beyond that of the study."""
    ellipses = block["inclusions"]
    plain = {key: value for key, value in ellipses.items() if key != "aspect"}
    polygons = {**plain, "shape": "polygons", "corners": [4, 9], "irregularity": [0.0, 0.4]}
    return {
        "holes": {**block, "inclusions": {**ellipses, "voids": [1.0, 1.0]}},
        "fibres": {**block, "inclusions": {**ellipses, "voids": [0.0, 0.0]}},
        "circles": {**block, "inclusions": {**plain, "shape": "circles"}},
        "polygons": {**block, "inclusions": polygons},
        "finer": {**block, "mesh": {"mesh_size": 0.5 * block["mesh"]["mesh_size"]}},
        "contrast_300": {**block, "contrast": {"fibre": [300, 300]}},
    }


def accuracy(options: Mapping[str, str]) -> Figures:
    """Errors inside and outside the family, bounds, and times.

    Args:
        options: Not used.
    """
    study = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    block, settings = study["family"], BENOOptions.model_validate({**study["surrogate"], "steps": STEPS})
    family = {key: value for key, value in block.items() if key not in ("count", "validation", "seed")}
    training = members(family, N_TRAIN, block["seed"])
    result: Figures = {"members": len(training), "steps": settings.steps}
    network = _trained(training, settings, result)
    untrained = BENO(architecture(settings, rve_system(rve_fields(training[0]))))
    unseen = members(family, N_UNSEEN, UNSEEN_SEED)
    result["nodes_mean"] = float(np.mean([len(one.discretisation.mesh.points) for one in unseen]))
    for name, one in {"beno": network, "untrained": untrained, "zero": None}.items():
        result |= judged(name, unseen, one)
    for name, other in outside(family).items():
        some = members(other, 32, UNSEEN_SEED)
        for start, one in {"beno": network, "zero": None}.items():
            result |= judged(f"{name}_{start}", some, one, (0, 2))
    return result | times(network, unseen)


def _trained(rves: Sequence[RVE], settings: BENOOptions, result: Figures) -> BENO:
    exact = np.stack([nested_stiffness(rve) for rve in rves])
    low = np.zeros(exact.shape[1])
    begin = time.process_time()
    fit = fit_family(FamilyTask(rves, {"tangent": exact}, settings, 2, low, low, Nowhere(), lambda *_: None))
    result["seconds_training"] = time.process_time() - begin
    result["weights"] = fit.metrics["weights"]
    ((title, curves),) = fit.curves.items()
    every = int(fit.over[title].split()[0])
    chosen = np.unique(np.linspace(0, len(curves["held back"]) - 1, 6).astype(int))
    result |= {f"unseen_after_{every * (i + 1)}": float(curves["held back"][i]) for i in chosen}
    return Operator.restored(fit.arrays, fit.settings).network


def judged(name: str, rves: Sequence[RVE], network: BENO | None, steps: Sequence[int] = CORRECTIONS) -> Figures:
    """Return the errors of a network, or without one, after some corrections.

    Args:
        name: What the figures' names begin with.
        rves: The RVEs.
        network: The network; None to start from no fluctuation.
        steps: Numbers of corrections.
    """
    rows: dict[int, list[Array]] = {n: [] for n in steps}
    for first in range(0, len(rves), AT_ONCE):
        part = rves[first : first + AT_ONCE]
        problems = [rve_fields(rve) for rve in part]
        starts = [torch.zeros_like(one.load) for one in problems] if network is None else predicted(network, problems)
        for rve, problem, start in zip(part, problems, starts, strict=True):
            exact, multigrid = nested_stiffness(rve), aggregation_multigrid(problem)
            for n in steps:
                rows[n].append(_row(problem, problem.improve(start, n, multigrid) if n else start, exact))
    result: Figures = {}
    for n, found in rows.items():
        error, below, missed, ratio = np.array(found).T
        result |= {f"{name}_{n}_{key}": float(np.quantile(error, part)) for key, part in QUANTILES.items()}
        result |= {f"{name}_{n}_below_exact": int(below.sum()), f"{name}_{n}_bound_missed": int(missed.sum())}
        result[f"{name}_{n}_bound_over_error_median"] = float(np.median(ratio))
    return result


def _row(problem: LinearFields, fields: Tensor, exact: Array) -> tuple[float, bool, bool, float]:
    """Return error, whether C̄ is below the exact one, whether its bound is missed, and bound over error."""
    excess, bound = problem.homogenized(fields)[0].numpy() - exact, problem.bound(fields)[0].numpy()
    size, wrong = np.linalg.norm(exact), np.linalg.norm(excess)
    below, missed = (np.linalg.eigvalsh(one)[0] < -TOLERANCE * size for one in (excess, bound - excess))
    return wrong / size, below, missed, np.linalg.norm(bound) / wrong


def times(network: BENO, rves: Sequence[RVE]) -> Figures:
    """Return the times per RVE of prediction and nested solve, and what the parts take."""
    found: Figures = {}
    for count, repetitions in BATCHES.items():
        batch = [rves[i % len(rves)] for i in range(count)]
        calls = {f"beno_{n}": partial(stiffnesses, network, batch, n) for n in (0, 2)}
        calls["nested"] = partial(_nested, batch)
        took = {name: value / count for name, value in seconds(calls, repetitions).items()}
        found |= {f"batch_{count}_{name}_seconds": value for name, value in took.items()}
        for n in (0, 2):
            found[f"batch_{count}_beno_{n}_faster_than_nested"] = took["nested"] / took[f"beno_{n}"]
    return found | _parts(network, rves[:AT_ONCE])


def _nested(rves: Sequence[RVE]) -> None:
    for rve in rves:
        nested_stiffness(rve, 1e-8)


def _parts(network: BENO, rves: Sequence[RVE]) -> Figures:
    problems = [rve_fields(rve) for rve in rves]
    fields = predicted(network, problems)

    def corrected() -> None:
        for one, start in zip(problems, fields, strict=True):
            one.improve(start, 2, aggregation_multigrid(one))

    calls = {
        "fields": lambda: [rve_fields(rve) for rve in rves],
        "encoding": lambda: [encode(rve_system(one)) for one in problems],
        "encoding_and_network": lambda: predicted(network, problems),
        "corrections": corrected,
    }
    took = {name: value / len(rves) for name, value in seconds(calls, 3).items()}
    took["network"] = took.pop("encoding_and_network") - took["encoding"]
    return {f"part_{name}_seconds": value for name, value in took.items()}


PROBLEMS = {"accuracy": accuracy}
