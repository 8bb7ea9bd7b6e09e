"""Whole macroscale runs: EquiNO against the closed-form `saturating` law, and against the nested law out of range."""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from benchmarks import equino_models as models
from mpi4py import MPI
from rich.console import Console

from femops.commands.compare import compare
from femops.commands.progress import bars
from femops.commands.run import run_case
from femops.inputs.case import load_case
from femops.inputs.study import load_study
from femops.offline.train import train

_BEYOND = 0.75  # end load: twice the strains that the model was trained for
_COMPONENTS = (11, 22, 12)
_CLOSED_FORM = {"law": "saturating", "K": 5200.0, "alpha1": 62.0, "alpha2": 0.06}
_SETTING_UP = ("set-up", "output")
_ROUNDS = 2


def _case(cells: int, order: int, traction: float, law: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "kinematics": "plane_strain",
        "mesh": {"box": {"size": [48.0, 16.0], "cells": [3 * cells, cells], "cell": "quadrilateral"}},
        "order": order,
        "material": law,
        "supports": {"left": {"ux": 0.0, "uy": 0.0}},
        "loads": {"right": {"traction": [0.0, f"{traction} * t"]}},
        "steps": {"count": 4, "end": 1.0},
        "output": {"fields": ["displacement"], "picture": None},
        **more,
    }


def _trained(folder: Path, rve: str = "rve3", scale: float = 1.0) -> Path:
    """Train a model and return its folder."""
    limits = {name: [-scale * models.RANGE, scale * models.RANGE] for name in _COMPONENTS}
    study = {
        "kinematics": "plane_strain",
        "rve": {**models.RVES[rve], "phases": models.PHASES},
        "sampling": {"method": "sobol", "count": 64, "seed": 1, "range": limits, "shear": "engineering"},
        "surrogate": {"law": "equino", "networks": {"width": 32}},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return train(load_study(path), path, folder / "training", MPI.COMM_WORLD).model


def _solved(folder: Path, name: str, case: dict[str, Any]) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(case), encoding="utf-8")
    return run_case(load_case(path), path, folder / name, MPI.COMM_WORLD)


def _against_closed_form(order: int, cells: int) -> dict[str, Any]:
    """Return shares and ratios of the same run with several laws; the first round warms up: it loads compiled code."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        equino = {"law": "equino", "model": str(_trained(folder))}
        trust = {"trust": {"tolerance": 1e-2, "on_violation": "warn", "certificate": "indicator"}}
        sides: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
            "closed_form": (_CLOSED_FORM, {}),
            "uncorrected": ({**equino, "corrections": 0}, {}),
            "adjoint": ({**equino, "corrections": "adjoint"}, {}),
            "corrected": (equino, {}),
            "corrected_float32": ({**equino, "precision": "float32"}, {"solver": {"rtol": 1e-5}}),  # its round-off
            "certified": (equino, trust),
        }
        result: dict[str, Any] = {}
        summaries = {}
        for _ in range(_ROUNDS):
            for side, (law, more) in sides.items():
                summaries[side] = _solved(folder, side, _case(cells, order, 0.35, law, **more))
        for side, summary in summaries.items():
            seconds = summary["seconds"]
            solving = seconds["total"] - sum(seconds[part] for part in _SETTING_UP)
            base = summaries["closed_form"]["seconds"]
            base_solving = base["total"] - sum(base[part] for part in _SETTING_UP)
            law = sum(seconds.get(part, 0.0) for part in ("law", "certificate", "exact solves"))
            result |= {
                f"{side}_iterations": sum(step["iterations"] for step in summary["steps"]),
                f"{side}_law_share": law / seconds["total"],
                f"{side}_law_share_of_solution": law / solving,
                f"{side}_total_over_closed_form": seconds["total"] / base["total"],
                f"{side}_solution_over_closed_form": solving / base_solving,
                f"{side}_iteration_over_closed_form": solving
                / sum(step["iterations"] for step in summary["steps"])
                / (base_solving / sum(step["iterations"] for step in summaries["closed_form"]["steps"])),
            }
        return {"n_qp": summaries["corrected"]["n_qp"], "dofs": summaries["corrected"]["dofs"], **result}


def _beyond_range(options: dict[str, str]) -> dict[str, Any]:
    """Return the errors of a run whose strains leave the training range by a factor of two, with exact solves there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = str(_trained(folder, scale=0.0625))
        result: dict[str, Any] = {}
        for label, enrich in (("solve", False), ("enrich", True)):
            trust = {"tolerance": 1e-3, "on_violation": "solve", "enrich": enrich}
            law = {"law": "equino", "model": model}
            case = _case(4, 1, _BEYOND, law, trust=trust, output={"points": True, "picture": None})
            path = folder / f"{label}.yaml"
            path.write_text(yaml.safe_dump(case), encoding="utf-8")
            with bars(Console(quiet=True), MPI.COMM_WORLD) as display:
                report = compare(path, (), ("case", "nested"), folder / label, MPI.COMM_WORLD, display)
            names = ("displacement_rel_l2", "stress_rel_l2", "stress_rel_max", "reaction_rel", "speedup_law")
            statistics = report["law_statistics"]["law"]
            counted = ("points_evaluated", "points_out_of_range", "points_solved_exactly")
            result |= {f"{label}_{key}": report[key] for key in names}
            result |= {f"{label}_{key}": statistics[key] for key in counted}
            result[f"{label}_snapshots_learned"] = sum(one["snapshots"] for one in statistics["enrichments"])
        return result


PROBLEMS = {
    "linear quadrilaterals": lambda options: _against_closed_form(1, 44),
    "quadratic quadrilaterals": lambda options: _against_closed_form(2, 20),
    "beyond the range": _beyond_range,
}
