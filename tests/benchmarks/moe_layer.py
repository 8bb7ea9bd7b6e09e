"""The implicit layer against differentiating through the unrolled iteration, with as many steps.

`equilibrium` is a reduced model of RVE3, `least_squares` the constraint of a flow, with 2 × 2 experts each. A step of
training is the solution and its derivatives by all parameters, of which the bases are one. `ratio_time_N` is the
processor time of N unrolled steps over that of the layer, `ratio_saved_N` that of the bytes that are kept from the
solution for the derivatives; `difference_N` is the largest of the derivatives, relative to the largest of them.
`large_*` is a batch of 10,000 points through the layer; `large_rss_MB` is by how much the memory of the process grows.
"""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from benchmarks import equino_models as models

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops_moe.basis import decompose, elastic_stiffness, nonlinear_fields
from femops_moe.experts import Experts, assemble, restricted
from femops_moe.implicit import Equations, Problem, solve, unknowns_in_equilibrium
from femops_moe.least_squares import LeastSquares
from femops_moe.partition import grid
from femops_moe.pde.model import ConstrainedField
from femops_moe.pde.navier_stokes import NavierStokes
from femops_moe.pde.options import ConstraintOptions

STEPS, TOLERANCE, REPEATS, LARGE = (8, 16), 1e-24, 2, 10_000
SNAPSHOTS, MODES, STRAINS, EVERY, SAMPLES = 6, 32, 32, 24, 4

Parameters = tuple[Tensor, ...]
Solver = Callable[[Problem, Tensor], Tensor]


def unrolled(problem: Problem, start: Tensor, steps: int) -> Tensor:
    """Return the unknowns after all steps, with each of them recorded."""
    unknowns = start
    for _ in range(steps):
        unknowns = unknowns + problem.step(unknowns)[0]
    return unknowns


def implicit(problem: Problem, start: Tensor, steps: int) -> Tensor:
    """Return the unknowns after all steps, by the layer."""
    return solve(problem, start, steps, TOLERANCE).unknowns


def compared(problem: Problem, start: Tensor) -> dict[str, Any]:
    """Measure both ways to differentiate the solution of a problem, by number of steps."""
    return {f"{name}_{steps}": value for steps in STEPS for name, value in _compared(problem, start, steps).items()}


def _compared(problem: Problem, start: Tensor, steps: int) -> dict[str, float]:
    parameters = tuple(one.detach().clone().requires_grad_() for one in problem.parameters)
    solvers: dict[str, Solver] = {"layer": partial(implicit, steps=steps), "unrolled": partial(unrolled, steps=steps)}
    gradients = {name: _gradient(problem, parameters, start, solver) for name, solver in solvers.items()}
    times = {
        name: min(_seconds(lambda solver=one: _gradient(problem, parameters, start, solver)) for _ in range(REPEATS))
        for name, one in solvers.items()
    }
    saved = {name: _saved_bytes(lambda one=one: one(problem.at(parameters), start)) for name, one in solvers.items()}
    for name, (*others, last) in gradients.items():  # derivatives by symmetric matrices are made symmetric
        square = last.ndim > 2 and last.shape[-1] == last.shape[-2]
        gradients[name] = (*others, 0.5 * (last + last.mT) if square else last)
    largest = [float(one.abs().max()) for one in gradients["unrolled"]]
    wrong = [float((a - b).abs().max()) for a, b in zip(gradients["layer"], gradients["unrolled"], strict=True)]
    return {
        "ratio_time": times["unrolled"] / times["layer"],
        "ratio_saved": saved["unrolled"] / saved["layer"],
        "saved_layer_MB": saved["layer"] / 1e6,
        "difference": max(a / b for a, b in zip(wrong, largest, strict=True)),
    }


def _gradient(problem: Problem, parameters: Parameters, start: Tensor, solver: Solver) -> Sequence[Tensor]:
    unknowns = solver(problem.at(parameters), start)
    return torch.autograd.grad(unknowns.square().sum(), parameters)


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _saved_bytes(call: Callable[[], Any]) -> int:
    """Return the bytes of all tensors that are kept for derivatives; tensors that share their memory count once."""
    kept: dict[int, Tensor] = {}

    def keep(one: Tensor) -> Tensor:
        kept[one.untyped_storage().data_ptr()] = one
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        alive = call()
    found = sum(one.untyped_storage().nbytes() for one in kept.values())
    del alive
    return found


def equilibrium(options: Mapping[str, str]) -> dict[str, Any]:
    """Measure the equilibrium of coupled experts.

    Args:
        options: Not used.
    """
    experts = _experts()
    given = _strains(STRAINS)
    found = compared(Equations(experts, given), given.new_zeros(STRAINS, experts.n_unknowns))
    many = _strains(LARGE)
    maps = experts.maps.clone().requires_grad_()
    before = _peak()
    begin = time.process_time()
    large = unknowns_in_equilibrium(
        Equations(experts, many).at((many, maps, experts.quadratic)).experts,
        many,
        many.new_zeros(LARGE, experts.n_unknowns),
        STEPS[0] + 1,
        TOLERANCE,
    )
    large.square().sum().backward()
    per_point = (time.process_time() - begin) / LARGE
    assert maps.grad is not None and bool(torch.isfinite(maps.grad).all())
    return found | {"large_us_per_point": 1e6 * per_point, "large_rss_MB": _peak() - before}


def _experts() -> Experts:
    """Return a reduced model with few points: their number matters here, not their weights."""
    law = models.nested("rve3")
    rve, high = law.rve, models.RANGE * np.array([1.0, 1.0, 0.5**0.5])
    space, solver = FluctuationSpace(rve), SnapshotSolver(rve, SolverOptions(1e-10))
    sensitivity = solver.solver.elastic_sensitivity
    fields = nonlinear_fields(space, models.snapshots(law, models.strains(SNAPSHOTS, 1)), sensitivity, high)
    partition = grid(space, 2)
    basis = decompose(partition, elastic_stiffness(space, rve), space.from_free(sensitivity), fields, MODES, 1e-12)[0]
    full = assemble(rve, space, partition.expert, basis)
    factor = np.where(np.arange(full.weight.shape[1]) % EVERY == 0, float(EVERY), 0.0) * (full.weight.numpy() > 0.0)
    return restricted(full, factor)


def _strains(n: int) -> Tensor:
    found: Array = models.strains(n, 2)
    return torch.as_tensor(found)


def _peak() -> float:
    """Return the largest memory of the process so far [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def least_squares(options: Mapping[str, str]) -> dict[str, Any]:
    """Measure the least squares of the experts of a flow.

    Args:
        options: Not used.
    """
    problem = _flow()
    return compared(problem, torch.zeros(len(problem.maps), problem.maps.shape[-1], dtype=torch.float64))


def _flow() -> LeastSquares:
    of = NavierStokes(32, 8, 2.0, 4)
    model = ConstrainedField(of, ConstraintOptions(law="moe"))
    given = torch.from_numpy(of.draw(np.random.default_rng(0), SAMPLES))
    with torch.no_grad():
        local = of.local(of.fields(model.network(of.inputs(given).float()).double()))
        return model.least_squares(local[..., 1:], of.offsets(given) + local[..., 0])


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "equilibrium": equilibrium,
    "least_squares": least_squares,
}
