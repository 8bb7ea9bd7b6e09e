"""EquiNO's certificates against the true error, at unseen strains in the range, far outside of it and close to zero.

`python -m benchmarks.equino_bound` in the folder `tests` draws the distributions of a run.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.equino_models import PHASES, spread

from femops import load_law
from femops.errors import NotConverged
from femops.law import LawResponse
from femops.notation import Array
from femops.rve.law import NestedLaw
from femops.rve.sampling import sobol
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.surrogate import FitTask, TrainedModel
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops_equino.law import EquiNOLaw
from femops_equino.options import EquiNOOptions, EquiNOParameters
from femops_equino.reduced.certificate import energy_gap, norm, relative_error
from femops_equino.surrogate import fit

_SNAPSHOTS, _STRESS_MODES, _SPLINE = 64, 60, 17
_COUNTS = {"inside": (1.0, 3840), "outside": (2.5, 3840), "tiny": (1e-9, 1536)}  # factor of the range, strains
_AT_ONCE, _TIMED = 128, 64
_ROUND_OFF = 1e-9  # of the nested solve
_BINS = np.linspace(0.0, 3.0, 31)  # of log10 of the effectivity
_RANGE = {2: np.array([0.04, 0.04, 0.04 / 2**0.5]), 3: np.full(6, 0.02)}  # engineering shear in plane strain

_MATRIX, _FIBRE = PHASES["matrix"], PHASES["fibre"]
_THREE = [([-0.25, 0.25], 0.10), ([0.25, 0.15], 0.15), ([0.0, -0.25], 0.10)]
_ELLIPSE = {"center": [0.0, 0.0], "semi_axes": [0.350, 0.175], "angle": 30.0}


def _circles(circles: list[Any], mesh_size: float, phases: Mapping[str, Any] = PHASES, **more: Any) -> dict[str, Any]:
    named = [{"center": at[0], "radius": at[1], **dict(at[2:])} for at in circles]
    return {"circles": {"circles": named, "mesh_size": mesh_size, "cell": "quad8"}, "phases": phases, **more}


_RVES: dict[str, dict[str, Any]] = {
    "rve1": _circles([([0.0, 0.0], 0.2959), ([-0.5, -0.5], 0.2959)], 0.06),
    "rve2": {"ellipses": {"ellipses": [_ELLIPSE], "mesh_size": 0.07, "cell": "quad8"}, "phases": PHASES},
    "rve3": _circles(_THREE, 0.07),
    "contrast 1e4": _circles(_THREE, 0.07, {"matrix": _MATRIX, "fibre": {"law": "elastic", "K": 5e6, "G": 4e6}}),
    "soft inclusions": _circles(_THREE, 0.07, {"matrix": _MATRIX, "fibre": {"law": "elastic", "K": 40.0, "G": 8.0}}),
    "nearly incompressible": _circles(_THREE, 0.07, {"matrix": {**_MATRIX, "K": 4.2e5}, "fibre": _FIBRE}),
    "voids": _circles([([0.1, 0.05], 0.2, ("phase", "void")), ([-0.3, -0.25], 0.15)], 0.07),
    "nearly plastic": _circles(_THREE, 0.07, {"matrix": {**_MATRIX, "alpha2": 5e-4}, "fibre": _FIBRE}),
    "laminate": {
        "laminate": {"phases": [["matrix", 0.4], ["fibre", 0.6]], "axis": 0, "mesh_size": 0.1},
        "phases": PHASES,
    },
    "3D": {
        "spheres": {"spheres": [{"center": [0.1, 0.0, 0.05], "radius": 0.3}], "mesh_size": 0.4, "cell": "tetra"},
        "phases": PHASES,
    },
    "kinematic": _circles(_THREE, 0.07, boundary="kinematic"),
}


def _run(name: str, options: dict[str, str]) -> dict[str, Any]:
    dim = 3 if name == "3D" else 2
    solver = {"rtol": 1e-11, "max_iter": 60}
    nested = load_law({"law": "nested", "rve": _RVES[name], "solver": {**solver, "predictor": False}}, dim=dim)
    assert isinstance(nested, NestedLaw)
    model = _train(nested, dim, SolverOptions(**solver))
    paths = {"corrected": {}, "once": {"corrections": 1}}
    if dim == 2:
        paths["uncorrected"] = {"corrections": 0, "potential": "spline"}
    laws = {path: EquiNOLaw(model, EquiNOParameters(study="-", **given)) for path, given in paths.items()}
    first = laws["corrected"]
    result: dict[str, Any] = {
        "displacement_modes": first.model.n_modes,
        "stress_modes": first.basis.stress.shape[1],
        "points": nested.rve.discretisation.n_points,
    }
    for seed, (where, (scale, count)) in enumerate(_COUNTS.items()):
        found: dict[str, list[Any]] = {path: [] for path in laws}
        strains = sobol(-scale * _RANGE[dim], scale * _RANGE[dim], count, 100 + seed)
        skipped = 0
        for start in range(0, count, _AT_ONCE):
            strain, truth, lost = _solved(nested, strains[start : start + _AT_ONCE])
            skipped += lost
            for path, law in laws.items():
                few = slice(None) if path == "corrected" else slice(None, None, 8)
                found[path].append(_bounds(law, strain[few], truth[few]))
        result[f"{where}_not_converged"] = skipped
        for path, values in found.items():
            result |= {f"{where}_{path}_{key}": value for key, value in _figures(*np.hstack(values)).items()}
    return result | _times(nested, first, dim)


def _train(nested: NestedLaw, dim: int, options: SolverOptions) -> TrainedModel:
    high = _RANGE[dim]
    solver = SnapshotSolver(nested.rve, options)
    strain = sobol(-high, high, _SNAPSHOTS, 1)
    parts = [solver.solve(strain[i : i + 16]) for i in range(0, len(strain), 16)]
    given = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    wanted = {"law": "equino", "networks": None, "stress_modes": _STRESS_MODES, "spline": _SPLINE if dim == 2 else None}
    chosen = EquiNOOptions.model_validate(wanted)
    found = fit(FitTask(given, nested.rve, solver, chosen, -high, high, MemoryCheckpoint(), lambda *_: None))
    return TrainedModel(found.arrays, found.settings, nested.rve, -high, high)


def _solved(nested: NestedLaw, strain: Array) -> tuple[Array, Array, int]:
    """Return strains with their exact stresses, and the number of strains at which the RVE did not converge."""
    try:
        return strain, nested.evaluate(strain, np.zeros((len(strain), nested.n_state)), 1.0).stress, 0
    except NotConverged:
        if len(strain) == 1:
            return strain[:0], strain[:0], 1
        one, other = (_solved(nested, half) for half in np.array_split(strain, 2))
        return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]]), one[2] + other[2]


def _answer(law: EquiNOLaw, strain: Array) -> LawResponse:
    return law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)


def _bounds(law: EquiNOLaw, strain: Array, truth: Array) -> Array:
    """Return error, bound and indicator. Shape (3, n)."""
    answer = _answer(law, strain)
    error = norm(answer.stress - truth, law.metric) / norm(answer.stress, law.metric)
    return np.stack([error, law.certify(strain, answer, "bound"), law.certify(strain, answer, "indicator")])


def _figures(error: Array, bound: Array, indicator: Array) -> dict[str, Any]:
    found: dict[str, Any] = {"strains": len(error), **spread("error", error), **spread("bound", bound)}
    found["violations"] = int((bound < error - _ROUND_OFF).sum())
    found["infinite"] = int((~np.isfinite(bound)).sum())
    for kind, stated in (("bound", bound), ("indicator", indicator)):
        ratio = stated / error
        finite = ratio[np.isfinite(ratio)]
        found |= {f"{kind}_effectivity_{q}": float(np.quantile(finite, q)) for q in (0.0, 0.05, 0.5, 0.95, 1.0)}
    counts, _ = np.histogram(np.clip(np.log10(bound / error), _BINS[0], _BINS[-1]), _BINS)
    found["histogram"] = counts.tolist()
    return found


def _times(nested: NestedLaw, law: EquiNOLaw, dim: int) -> dict[str, float]:
    """Return processor times of the bound over those of the bound of first order and of the nested solve."""
    strain = sobol(-_RANGE[dim], _RANGE[dim], _TIMED, 7)
    answer = _answer(law, strain)
    full = law.microscale.full.points
    coefficients = law._coefficients_of(strain, answer.state)

    def first_order() -> None:
        gap = energy_gap(full, law.quadratics, law.model, strain, coefficients)
        relative_error(strain, answer.stress, gap, law.metric, "bound")

    tasks = {
        "bound": lambda: law.certify(strain, answer, "bound"),
        "first_order": first_order,
        "nested": lambda: nested.evaluate(strain, np.zeros((_TIMED, nested.n_state)), 1.0),
    }
    seconds = dict.fromkeys(tasks, np.inf)
    for _ in range(4):
        for name, task in tasks.items():
            begin = time.process_time()
            task()
            seconds[name] = min(seconds[name], time.process_time() - begin)
    return {f"time_over_{name}": seconds["bound"] / seconds[name] for name in ("first_order", "nested")}


PROBLEMS = {name: lambda options, name=name: _run(name, options) for name in _RVES}


def picture(record: Path, target: Path) -> None:
    """Draw the distributions of the effectivity, one panel per RVE."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    problems = json.loads(record.read_text(encoding="utf-8"))["problems"]
    figure, axes = pyplot.subplots(3, 4, figsize=(12, 7), sharex=True, sharey=True, layout="constrained")
    for axis, (name, found) in zip(axes.flat, problems.items(), strict=False):
        for where, label in (("inside", "in the range"), ("outside", "2.5 times outside")):
            counts = np.array(found[f"{where}_corrected_histogram"])
            axis.stairs(counts / counts.sum(), 10.0**_BINS, fill=where == "inside", alpha=0.7, label=label)
        axis.set(title=name, xscale="log")
    axes[0, 0].legend()
    for axis in axes.flat[len(problems) :]:
        axis.set_axis_off()
    figure.supxlabel("bound / true error of corrected answers")
    figure.supylabel("share of the strains")
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    _results = Path(__file__).parent / "results"
    picture(_results / "equino_bound.json", _results / "equino_bound.png")
