"""Errors of SPON as the solution operator of partial differential equations, beside a Fourier neural operator.

Relative errors are ‖found − exact‖ / ‖exact‖ in L2 (`l2`) and of the gradient (`h1`), over 100 test samples; exact is
the finite-element solution on the same mesh, and on a much finer one in `convergence`. `free` is the error of the part
beyond the lifting of the Dirichlet values. SPON sees the residual load four times, assembled exactly by finite
elements; `one_pass_*` never does: the network alone, once. `fno_*` is the Fourier neural operator (arXiv 2010.08895: 4
layers, 12 modes along each axis, width 32, padded) on the same data, trained for as long as SPON was on the same core;
its batch and learning rate are the best of four pairs tried for 40 s.
`convergence` trains SPON anew on each mesh: `fe_*` is the error that the finite-element solution itself has, `spon_*`
and `one_pass_*` those of SPON, all against the fine one; `*_network_*` are SPON's against the finite-element solution
of its own mesh; `rate_*` is fitted over all meshes, `rate_*_to_32` without the finest.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from benchmarks.fourier import FourierOperator

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.pde.find import make_problem
from femops.pde.levels import interpolation
from femops.pde.options import Problem, ProblemBlock, problem_block
from femops.pde.solver import PDESolver, Samples, draw_inputs
from femops.surrogate import Fit, ProblemTask
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops_spon.options import SPONOptions
from femops_spon.pde.operator import Operator
from femops_spon.pde.training import fit_problem

SAMPLES = {"train": 500, "test": 100, "seed": 1}
POISSON = {"pde": "poisson", "cells": 32, "length": 0.1, "samples": SAMPLES}
BEAM = {"pde": "beam", "load_steps": 2, "samples": {**SAMPLES, "train": 400}}
NETWORK = {"widths": (8, 8, 16), "layers": (1, 1, 2), "passes": 4, "learning_rate": 1e-2}
POISSON_NETWORK = {**NETWORK, "steps": 800}
BEAM_NETWORK = {**NETWORK, "widths": (16, 16, 32), "steps": 1000}
MESHES, FINE, STEPS, N_REFERENCE, LENGTH = (8, 16, 32, 64), 128, 400, 40, 0.2
FNO_BATCH, FNO_RATE = 10, 3e-3


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Show nothing."""


def _fit(block: ProblemBlock, network: Mapping[str, Any], kept: MemoryCheckpoint) -> Fit:
    kept.kept.pop("network", None)  # that of another fit to the same solutions
    task = ProblemTask(Problem(block), SPONOptions.model_validate(network), kept, silent)
    return fit_problem(task)


def poisson(options: Mapping[str, str], **changes: Any) -> dict[str, Any]:
    """Poisson's equation on the unit square with a random source; SPON and FNO.

    Args:
        options: Not used.
        changes: Of the problem.
    """
    block, kept = problem_block({**POISSON, **changes}), MemoryCheckpoint()
    fit, once = (_fit(block, {**POISSON_NETWORK, "passes": passes}, kept) for passes in (4, 1))
    result = dict(fit.metrics)
    result |= {f"one_pass_{name}": value for name, value in once.metrics.items() if name != "seconds_solving"}
    solver = PDESolver(make_problem(block))
    data = {}
    for part, count in (("train", SAMPLES["train"]), ("test", SAMPLES["test"])):
        encoded = solver.encode(draw_inputs(solver.problem, count, 2 * SAMPLES["seed"] + (part == "test")))
        solution = kept.kept[f"{part}_solutions"]["solution"]
        data[part] = Samples(encoded.inputs, encoded.lifting, encoded.load, encoded.features, solution)
    found = fno(solver, data["train"], data["test"], fit.metrics["seconds_training"])
    return result | {f"fno_{name}": value for name, value in found.items()}


def poisson_boundary(options: Mapping[str, str]) -> dict[str, Any]:
    """Poisson's equation with random source and random Dirichlet values; SPON and FNO."""
    return poisson(options, boundary="random")


def beam(options: Mapping[str, str]) -> dict[str, Any]:
    """The hyperelastic beam under compression."""
    fit = _fit(problem_block(BEAM), BEAM_NETWORK, MemoryCheckpoint())
    return dict(fit.metrics)


def convergence(options: Mapping[str, str]) -> dict[str, Any]:
    """Poisson's equation on finer and finer meshes, against a solution on a fine mesh of second order."""
    fine = PDESolver(make_problem(problem_block({**POISSON, "cells": FINE, "order": 2, "length": LENGTH})))
    reference = fine.solve(draw_inputs(fine.problem, N_REFERENCE, 3))
    result: dict[str, Any] = {}
    mass, fine_points = fine.problem.norms["l2"], fine.problem.space.tabulate_dof_coordinates()
    for n in MESHES:
        block, kept = problem_block({**POISSON, "cells": n, "length": LENGTH}), MemoryCheckpoint()
        for name, passes in (("spon", NETWORK["passes"]), ("one_pass", 1)):
            fit = _fit(block, {**NETWORK, "passes": passes, "steps": STEPS}, kept)
            operator = Operator(fit.arrays, fit.settings)
            own = operator.solver.solve(draw_inputs(operator.problem, N_REFERENCE, 3))
            found, onto = operator.predict(own), interpolation(operator.problem.space, fine_points)
            result[f"{name}_{n}"] = _median(mass, found @ onto.T - reference.solution, reference.solution)
            own_mass = operator.problem.norms["l2"]
            result[f"{name}_network_{n}"] = _median(own_mass, found - own.solution, own.solution)
            result[f"{name}_seconds_training_{n}"] = fit.metrics["seconds_training"]
        result[f"fe_{n}"] = _median(mass, own.solution @ onto.T - reference.solution, reference.solution)
    for name in ("fe", "spon", "one_pass"):
        values = [result[f"{name}_{n}"] for n in MESHES]
        result[f"rate_{name}"] = float(-np.polyfit(np.log(MESHES), np.log(values), 1)[0])
        result[f"rate_{name}_to_32"] = float(-np.polyfit(np.log(MESHES[:3]), np.log(values[:3]), 1)[0])
    return result


def _median(matrix: Any, wrong: Array, exact: Array) -> float:
    size = [np.einsum("ni,in->n", one, matrix @ one.T) for one in (wrong, exact)]
    return float(np.median(np.sqrt(size[0] / size[1])))


def fno(solver: PDESolver, train: Samples, test: Samples, seconds: float) -> dict[str, float]:
    """Train a Fourier neural operator for some time and judge it.

    Args:
        solver: Of a problem on the unit square, whose nodes form a grid.
        train: What it learns from.
        test: What it is judged by.
        seconds: How long it is trained.
    """
    problem = solver.problem
    points = problem.space.tabulate_dof_coordinates()[:, :2]
    n = round(len(points) ** 0.5)
    order = np.lexsort(np.round(points.T * (n - 1)).astype(int))
    grid = torch.from_numpy(points[order].T.reshape(2, n, n)).float()

    def on_grid(values: Array) -> Tensor:
        return torch.from_numpy(values[:, order].reshape(-1, n, n)).float()

    size = {name: values.std() for name, values in train.inputs.items()} | {"solution": train.solution.std()}

    def channels(samples: Samples) -> Tensor:
        fields = [on_grid(values / size[name]) for name, values in samples.inputs.items()]
        return torch.cat([torch.stack(fields, 1), grid.expand(len(samples.load), -1, -1, -1)], 1)

    torch.manual_seed(0)
    network = FourierOperator(len(train.inputs) + 2)
    steps, took = _train_fno(network, channels(train), on_grid(train.solution / size["solution"]), seconds)
    with torch.no_grad():
        flat = torch.cat([network(part) for part in channels(test).split(50)]).reshape(len(test.load), -1)
    wrong = -test.solution
    wrong[:, order] += flat.double().numpy() * size["solution"]
    weights = sum(one.numel() * (2 if one.is_complex() else 1) for one in network.parameters())
    errors = {f"error_{name}_median": _median(one, wrong, test.solution) for name, one in problem.norms.items()}
    return errors | {
        "boundary_error": float(np.abs(wrong[:, problem.fixed]).max()),
        "steps": steps,
        "seconds_training": took,
        "weights": float(weights),
    }


def _train_fno(network: FourierOperator, given: Tensor, wanted: Tensor, seconds: float) -> tuple[int, float]:
    """Train with Adam, the rate falling along a cosine of the time; return the steps and seconds that it took."""
    optimiser = torch.optim.Adam(network.parameters(), FNO_RATE, weight_decay=1e-4)
    draws, begin, steps = torch.Generator().manual_seed(0), time.perf_counter(), 0
    while (part := (time.perf_counter() - begin) / seconds) < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * FNO_RATE * (1.0 + np.cos(np.pi * part))
        rows = torch.randint(len(given), (FNO_BATCH,), generator=draws)
        wrong = (network(given[rows]) - wanted[rows]).flatten(1).norm(dim=1)
        loss = (wrong / wanted[rows].flatten(1).norm(dim=1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps += 1
    return steps, time.perf_counter() - begin


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "poisson": poisson,
    "poisson_boundary": poisson_boundary,
    "beam": beam,
    "convergence": convergence,
}
