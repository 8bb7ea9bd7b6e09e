"""RVEs on grids with their linear systems on a GPU against the compiled kernels on one core: time and difference.

Without a GPU, torch's CPU device takes its place: the same code, for its answers, not for its speed. A sphere in a
matrix, contrast 10; `setup` and `solve` are those of `rve_fft`. Ratios of processor time on the CPU, of wall time on
a GPU, each solver after a warm-up on a small grid. `linear_share` is the part of conjugate gradients in the time of
the compiled solver, both set-up and solve; only that part runs on the GPU.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from benchmarks.rve_fft import MATERIALS, RTOL, STRAIN

from femops.devices import torch_device
from femops.law import LawContext
from femops.rve import iterative
from femops.rve import solver as solver_module
from femops.rve.fft import single_precision
from femops.rve.snapshots import Solution
from femops.rve.solver import RVESolver, SolverOptions
from femops.rve.spec import RVE, RVEParameters, build_rve

_LARGEST_ON_CPU = 32


def measure(cells: int, material: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Compare both on one RVE.

    Args:
        cells: Number of grid cells along an edge.
        material: Matrix, of `rve_fft`.
        options: Not used.
    """
    from femops.devices.torch_library import torch

    device = torch_device("auto", 0)
    on_gpu = device.type == "cuda"
    if not on_gpu and cells > _LARGEST_ON_CPU:
        return {"device": "no GPU"}
    solver_module.accelerator = lambda asked: None if asked == "cpu" else device
    clock = time.perf_counter if on_gpu else time.process_time
    rve, small = _built(cells, material), _built(4, material)
    name = torch.cuda.get_device_name(device) if on_gpu else "torch on the CPU"
    result: dict[str, Any] = {"device": name, "unknowns": 3 * (cells**3 - 1)}
    answers, in_linear = {}, _timed_linear(clock)
    for side, asked in (("numba", "cpu"), ("torch", "cuda")):
        _solved(small, asked, clock)
        before = sum(in_linear)
        answers[side], setup, solve = _solved(rve, asked, clock)
        result |= {f"{side}_setup_s": setup, f"{side}_solve_s": solve}
        if side == "numba":
            result["linear_share"] = (sum(in_linear) - before) / (setup + solve)
    for part in ("setup", "solve"):
        result[f"{part}_ratio"] = result[f"numba_{part}_s"] / result[f"torch_{part}_s"]
    for name in ("stress", "tangent"):
        one, other = (getattr(answers[side], name) for side in ("torch", "numba"))
        result[f"{name}_difference"] = float(np.linalg.norm(one - other) / np.linalg.norm(other))
    if on_gpu:
        result["gpu_memory_GB"] = torch.cuda.max_memory_allocated(device) / 1e9
    return result


def _timed_linear(clock: Callable[[], float]) -> list[float]:
    """Return a list to which the compiled solver's conjugate gradients add their times from now on."""
    seconds: list[float] = []
    plain = iterative.conjugate_gradients

    def timed(*given: Any) -> Any:
        begin = clock()
        found = plain(*given)
        seconds.append(clock() - begin)
        return found

    for module in (iterative, single_precision):
        module.conjugate_gradients = timed  # type: ignore[attr-defined]
    return seconds


def _built(cells: int, material: str) -> RVE:
    voxels = {"cells": cells, "inclusions": [{"center": [0.0] * 3, "radius": 0.3}]}
    phases = {"matrix": MATERIALS[material], "fibre": {"law": "elastic", "E": 1e4, "nu": 0.3}}
    return build_rve(RVEParameters.model_validate({"voxels": voxels, "phases": phases}), LawContext(3))


def _solved(rve: RVE, device: Literal["cpu", "cuda"], clock: Callable[[], float]) -> tuple[Solution, float, float]:
    """Return the solution and the times of set-up and solve."""
    begin = clock()
    options = SolverOptions(rtol=RTOL, linear="fft", device=device)
    solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, options)
    _ = solver.elastic_sensitivity
    middle = clock()
    strain = np.random.default_rng(0).normal(size=(6, 1))
    solution = solver.solve(STRAIN * strain / np.linalg.norm(strain), solver.virgin_state(1))
    return solution, middle - begin, clock() - middle


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    f"{material}_{cells}": partial(measure, cells, material)
    for material in ("elastic", "saturating", "j2")
    for cells in (16, 24, 32, 64, 128)
}
