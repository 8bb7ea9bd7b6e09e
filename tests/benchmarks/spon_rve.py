"""SPON for families of RVEs: errors of the homogenized stiffness, what its parts are worth, and times.

The family is that of cases/studies/circles_spon.yaml, 256 members to learn from and others to judge by. The error of a
stiffness is ‖C̄ − C̄*‖ / ‖C̄*‖ (Frobenius), C̄* from the nested solve. `spon_c` is the prediction with c corrections;
`zero_k` are k steps of the same preconditioned conjugate gradients from no fluctuation at all (`zero_0`: the mean of
the phases' stiffness, Voigt's bound). All seconds are CPU time of one thread, per RVE where nothing else is said; what
is compared is timed side by side, the best of some repetitions. `equal_c_steps` is how many steps from zero take as
long as `spon_c`, in batches of 64.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from femops.notation import Array
from femops.plugins import law_parameters, rve_context
from femops.rve.family import Family, microstructure
from femops.rve.solver import RVESolver, SolverOptions
from femops.rve.spec import RVE, build_rve
from femops.surrogate.fields import CellTangents, LinearFields
from femops.surrogate.torch_library import Tensor, torch
from femops_spon.families import training_options
from femops_spon.network import (
    SPON,
    MeshMaps,
    NetworkOptions,
    cell_features,
    grid_counts,
    hierarchy,
    rotation_of_strain,
)
from femops_spon.options import SPONOptions
from femops_spon.plain import PlainGraphNetwork
from femops_spon.processor import ProcessorOptions, Shape
from femops_spon.training import Group, in_precision, predict, restored, symmetries, train

PHASE = {"law": "elastic", "K": 4780.0, "G": 2200.0}
CIRCLES: dict[str, Any] = {
    "mesh": {"cells": 32},
    "inclusions": {"shape": "circles", "number": [1, 6], "volume_fraction": [0.1, 0.5], "spread": 0.3},
    "phases": {"matrix": PHASE, "fibre": PHASE},
    "contrast": {"fibre": [10, 100]},
}
ELLIPSES = {**CIRCLES["inclusions"], "shape": "ellipses", "aspect": [1.5, 3.0]}
OUTSIDE: dict[str, tuple[dict[str, Any], int]] = {
    "contrast_200": ({"contrast": {"fibre": [200, 200]}}, 64),
    "soft": ({"contrast": {"fibre": [0.02, 0.1]}}, 64),
    "ellipses": ({"inclusions": ELLIPSES}, 64),
    "grid_64": ({"mesh": {"cells": 64}}, 32),
    "meshed": ({"mesh": {"mesh_size": 0.04}}, 16),
}
SPHERES = {
    **CIRCLES,
    "mesh": {"cells": 16},
    "inclusions": {"shape": "spheres", "number": [1, 4], "volume_fraction": [0.1, 0.4], "spread": 0.3},
}
N_TRAIN, N_UNSEEN, TRAIN_SEED, UNSEEN_SEED = 256, 256, 1, 12345
CORRECTIONS, MOST_STEPS, BATCH = (0, 1, 2, 3), 9, 64
REPETITIONS = {1: 10, 64: 3, 1024: 1}
ABLATION_SECONDS, SOLID_SECONDS = 75.0, 180.0
N_SOLID, N_SOLID_UNSEEN, N_SOLID_NESTED, SOLID_BATCH = 48, 16, 3, 4
VIEWS, RATE, BETAS, WARM_UP, FLOOR = 8, 4e-3, (0.9, 0.98), 30, 1e-5  # those of femops_spon.training
TOLERANCE = 1e-9

Answer = Callable[[LinearFields], Tensor]


class Nowhere:
    """A checkpoint that keeps nothing."""

    def load(self, name: str) -> None:
        """Find nothing."""

    def save(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Keep nothing."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Show nothing."""


def members(block: Mapping[str, Any], count: int, seed: int) -> list[RVE]:
    """Return the first members of a family."""
    family = Family.model_validate({**block, "count": count, "seed": seed}, context={"law_parameters": law_parameters})
    return [build_rve(microstructure(family, i).parameters, rve_context(family.dim)) for i in range(count)]


def nested_stiffness(rve: RVE, rtol: float = 1e-10) -> Array:
    """Return C̄ of the nested solve, its solver set up anew. Shape (n_s, n_s)."""
    solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, SolverOptions(rtol))
    n_s = rve.discretisation.n_s
    return solver.solve(np.eye(n_s), solver.virgin_history(n_s)).tangent[:, :, 0]


def solved(block: Mapping[str, Any], count: int, seed: int) -> list[Group]:
    """Return members of a family with their exact stiffness, those with the same mesh together."""
    rves = members(block, count, seed)
    parts = [rves] if "cells" in block["mesh"] else [[rve] for rve in rves]
    return [Group(LinearFields.of(part), np.stack([nested_stiffness(rve) for rve in part])) for part in parts]


def seconds(calls: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Return the least CPU time of each call; they take turns."""
    best = dict.fromkeys(calls, np.inf)
    for _ in range(repetitions):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - begin)
    return best


def relative(found: Tensor, exact: Array) -> Array:
    """Return the errors of stiffnesses. Shape (N,)."""
    return np.asarray(np.linalg.norm(found.numpy() - exact, axis=(1, 2)) / np.linalg.norm(exact, axis=(1, 2)))


def spread(name: str, values: Array) -> dict[str, float]:
    """Return median, 95 % quantile and largest value under names that begin alike."""
    quantiles = {"median": 0.5, "p95": 0.95, "max": 1.0}
    return {f"{name}_{key}": float(np.quantile(values, part)) for key, part in quantiles.items()}


def improved(problem: LinearFields, fields: Tensor, steps: int) -> Tensor:
    """Return fields after some steps, the preconditioner made anew."""
    return problem.improve(fields, steps, problem.preconditioner()) if steps else fields


def zeros(problem: LinearFields) -> Tensor:
    """Return no fluctuation."""
    return torch.zeros_like(problem.load)


def errors(groups: list[Group], answer: Answer, steps: tuple[int, ...]) -> dict[int, Array]:
    """Return the errors after some steps from an answer. Shapes (N,)."""
    found: dict[int, list[Array]] = {n: [] for n in steps}
    for group in groups:
        problem = group.problem
        fields, precondition = answer(problem), problem.preconditioner()
        for n in steps:
            better = problem.improve(fields, n, precondition) if n else fields
            found[n].append(relative(problem.homogenized(better), group.reference))
    return {n: np.concatenate(parts) for n, parts in found.items()}


def certified(groups: list[Group], answer: Answer, steps: tuple[int, ...]) -> dict[str, float]:
    """Return how often C̄ is not above the exact one, how often its bound is not, and the bound over the error."""
    result: dict[str, float] = {}
    for n in steps:
        below = missed = 0
        ratios = []
        for group in groups:
            fields = improved(group.problem, answer(group.problem), n)
            excess = group.problem.homogenized(fields).numpy() - group.reference
            bound = group.problem.bound(fields).numpy()
            least = -TOLERANCE * np.linalg.norm(group.reference, axis=(1, 2))
            below += int((np.linalg.eigvalsh(excess)[:, 0] < least).sum())
            missed += int((np.linalg.eigvalsh(bound - excess)[:, 0] < least).sum())
            ratios.append(np.linalg.norm(bound, axis=(1, 2)) / np.linalg.norm(excess, axis=(1, 2)))
        result |= {f"{n}_below_exact": below, f"{n}_bound_missed": missed}
        result[f"{n}_bound_over_error_median"] = float(np.median(np.concatenate(ratios)))
    return result


def _table(name: str, groups: list[Group], answer: Answer, steps: tuple[int, ...]) -> dict[str, float]:
    return {
        key: value
        for n, found in errors(groups, answer, steps).items()
        for key, value in spread(f"{name}_{n}", found).items()
    }


def accuracy(options: Mapping[str, str]) -> dict[str, Any]:
    """Errors of the default network inside and outside its family, and times.

    Args:
        options: Not used.
    """
    training, unseen = solved(CIRCLES, N_TRAIN, TRAIN_SEED), solved(CIRCLES, N_UNSEEN, UNSEEN_SEED)
    settings = training_options(SPONOptions())
    begin = time.process_time()
    found = train(training, settings, Nowhere(), silent)
    result: dict[str, Any] = {
        "seconds_training": time.process_time() - begin,
        "steps": settings.steps,
        "weights": sum(one.size for one in found.weights.values()),
    }
    network, untrained = restored(found.weights, found.settings), SPON(2, found.settings["levels"], settings.network)

    def of(some: SPON) -> Answer:
        return lambda problem: predict(some, problem)

    result |= _table("spon", unseen, of(network), CORRECTIONS)
    result |= _table("untrained", unseen, of(untrained), CORRECTIONS)
    result |= _table("zero", unseen, zeros, tuple(range(MOST_STEPS + 1)))
    for name, one in (("spon", network), ("untrained", untrained)):
        result |= {f"{name}_{key}": value for key, value in certified(unseen, of(one), CORRECTIONS).items()}
    result |= equal_cost(network, unseen[0].problem[slice(0, BATCH)], result)
    for name, (changes, count) in OUTSIDE.items():
        others = solved({**CIRCLES, **changes}, count, UNSEEN_SEED)
        result |= _table(f"{name}_spon", others, of(network), (0, 2))
        result |= _table(f"{name}_zero", others, zeros, (0, 2, 4, 6))
    return result | times(network, result)


def equal_cost(network: SPON, problem: LinearFields, result: Mapping[str, float]) -> dict[str, float]:
    """Return how many steps from zero take as long as a prediction and its corrections, and their errors."""
    answer = ready(network, problem)
    calls: dict[str, Callable[[], Any]] = {}
    for n in CORRECTIONS:
        calls[f"spon_{n}"] = lambda n=n: problem.homogenized(improved(problem, answer(problem), n))
    for n in range(1, MOST_STEPS + 1):
        calls[f"zero_{n}"] = lambda n=n: problem.homogenized(improved(problem, zeros(problem), n))
    took = seconds(calls, REPETITIONS[BATCH])
    found = {f"{name}_seconds": value / len(problem) for name, value in took.items()}
    for n in CORRECTIONS:
        fitting = [k for k in range(1, MOST_STEPS + 1) if took[f"zero_{k}"] <= took[f"spon_{n}"]]
        steps = max([n, *fitting])
        found[f"equal_{n}_steps"] = steps
        found |= {f"equal_{n}_{key}": result[f"zero_{steps}_{key}"] for key in ("median", "p95", "max")}
    return found


def ready(network: SPON, problem: LinearFields) -> Answer:
    """Return the prediction for RVEs on the mesh of a problem, whose operators are made here once."""
    maps = MeshMaps(hierarchy(problem.space, network.n_levels))
    size = 32  # as many as `predict` takes at once

    def answer(some: LinearFields) -> Tensor:
        found = []
        with torch.no_grad():
            for start in range(0, len(some), size):
                part = in_precision(some[slice(start, start + size)], torch.float32)
                found.append(network(maps, part, cell_features(torch.as_tensor(part.cells.tangent).float())))
        return some.centred(torch.cat(found).double())

    return answer


def times(network: SPON, result: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds per RVE from the phases at the cells to C̄, against nested solve and steps from zero.

    `pcg_for_c` takes as many steps from zero as it needs for the median error of `spon_c`.
    """
    rves = members(CIRCLES, BATCH, UNSEEN_SEED)
    problem = LinearFields.of(rves)
    answer, space, given = ready(network, problem), problem.space, problem.cells
    steps = {n: _steps_for(result[f"spon_{n}_median"], result) for n in (0, 2)}
    found: dict[str, float] = {f"pcg_for_{n}_steps": k for n, k in steps.items()}
    for count, repetitions in REPETITIONS.items():
        rows = np.arange(count) % len(rves)
        cells = CellTangents(given.tangent[rows], None if given.row_33 is None else given.row_33[rows])

        def chain(start: Answer, n: int, cells: CellTangents = cells) -> Tensor:
            made = LinearFields.on(space, cells)
            return made.homogenized(improved(made, start(made), n))

        calls: dict[str, Callable[[], Any]] = {"on": lambda cells=cells: LinearFields.on(space, cells)}
        if count <= len(rves):
            calls["of"] = lambda count=count: LinearFields.of(rves[:count])
        for n, k in steps.items():
            calls[f"spon_{n}"] = lambda n=n, chain=chain: chain(answer, n)
            calls[f"pcg_for_{n}"] = lambda k=k, chain=chain: chain(zeros, k)
        took = {name: value / count for name, value in seconds(calls, repetitions).items()}
        some = rves[: min(count, 16)]
        nested = seconds({"": lambda some=some: [nested_stiffness(rve, 1e-8) for rve in some]}, repetitions)
        took["nested"] = nested[""] / len(some)
        found |= {f"batch_{count}_{name}_seconds": value for name, value in took.items()}
        for n in steps:
            for other in ("nested", f"pcg_for_{n}"):
                found[f"batch_{count}_spon_{n}_{other}_ratio"] = took[other] / took[f"spon_{n}"]
    return found


def _steps_for(error: float, result: Mapping[str, float]) -> int:
    return next(k for k in range(MOST_STEPS + 1) if k == MOST_STEPS or result[f"zero_{k}_median"] <= error)


def _views(group: Group, n_levels: int) -> list[MeshMaps]:
    """Return the operators of a mesh in coordinates and with coarse grids that are random."""
    space, draw, views = group.problem.space, np.random.default_rng(0), []
    lower, upper = space.discretisation.mesh.bounds
    turns = symmetries(upper - lower)
    for _ in range(VIEWS):
        shift = 0.5 * draw.integers(0, 2**n_levels, len(lower))
        views.append(MeshMaps(hierarchy(space, n_levels, shift), turns[draw.integers(len(turns))]))
    return views


def trained_for(allowed: float, network: Any, group: Group, batch: int = 16) -> int:
    """Train a network as `train` does but for a CPU time [s], which the rate follows; return the steps that fit."""
    problem, views, n_s = (
        in_precision(group.problem, torch.float32),
        _views(group, network.n_levels),
        group.reference.shape[1],
    )
    tangent, reference = torch.as_tensor(problem.cells.tangent).float(), torch.as_tensor(group.reference).float()
    optimiser = torch.optim.Adam(network.parameters(), RATE, betas=BETAS)
    draw, begin, steps = np.random.default_rng(0), time.process_time(), 0
    while (part := (time.process_time() - begin) / allowed) < 1.0:
        rows, maps = draw.choice(len(group), batch, replace=False), views[draw.integers(VIEWS)]
        fields = network(maps, problem[rows], cell_features(maps.tangent(tangent[rows])))
        excess = problem[rows].homogenized(fields) - reference[rows]
        wrong = torch.einsum("nst,nts->n", torch.linalg.inv(reference[rows]), excess) / n_s
        optimiser.zero_grad()
        torch.log(wrong.clamp(min=0.0) + FLOOR).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for one in optimiser.param_groups:
            one["lr"] = RATE * 0.5 * (1.0 + np.cos(np.pi * part)) * min(1.0, (steps + 1) / WARM_UP)
        optimiser.step()
        steps += 1
    network.eval()
    return steps


class PerColumn(torch.nn.Module):
    """A nonlinear processor, which changes the features of the cells with each column of forces."""

    def __init__(self, processor: torch.nn.Module) -> None:
        super().__init__()
        self.processor = processor

    def forward(self, levels: Any, nodes: Tensor, cells: Tensor) -> Tensor:
        """Return outputs at the nodes, see `femops_spon.processor.Processor`."""
        return self.processor(levels, nodes, cells.repeat_interleave(len(nodes) // len(cells), dim=0))


class GraphNetwork(torch.nn.Module):
    """Messages along edges from the stiffness around the nodes to fields at the nodes; it never sees a force.

    Args:
        width: Features at the nodes.
        layers: Exchanges of messages.
        size: Length of the RVE, the unit of the fields.
    """

    n_levels = 1

    def __init__(self, width: int, layers: int, size: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = PlainGraphNetwork(Shape(7, 7, 6, 2, 1), ProcessorOptions((width,), (layers,)))
        self.size = size

    def forward(self, maps: MeshMaps, problem: LinearFields, features: Tensor) -> Tensor:
        """Return the fluctuations of the unit strains. Shape (N, n_nodes, 2, 3)."""
        around = maps.levels[0].to_nodes(torch.nn.functional.pad(features, (0, 2 * features.shape[2])))
        found = self.network(maps.levels, around, features).unflatten(2, (3, 2))  # of unit strains in turned axes
        turn = rotation_of_strain(maps.seen(torch.eye(2, dtype=torch.float64)).numpy().T)
        return self.size * torch.einsum("nasd,st->nadt", maps.turned_back(found), torch.as_tensor(turn).to(found))


def _variants(n_levels: int) -> dict[str, Any]:
    """Return the networks of the ablations, by name."""
    default = training_options(SPONOptions()).network
    size = default.processor

    def made(levels: int = n_levels, processor: ProcessorOptions = size, **changes: Any) -> SPON:
        block = {"passes": default.passes, "smoothing": default.smoothing, **changes}
        return SPON(2, levels, NetworkOptions(processor, **block))

    nonlinear = made(processor=ProcessorOptions(size.widths, size.layers, linear=False))
    nonlinear.passes = torch.nn.ModuleList(PerColumn(one) for one in nonlinear.passes)
    return {
        "default": made(),
        "one_level": made(levels=1),
        "one_pass": made(passes=1),
        "no_smoothing": made(smoothing=0),
        "one_pass_no_smoothing": made(passes=1, smoothing=0),
        "nonlinear": nonlinear,
        "edges": made(levels=1, plain=True),
        "edges_one_pass_no_smoothing": made(levels=1, plain=True, passes=1, smoothing=0),
        "graph_network": GraphNetwork(32, 10),
    }


def ablations(options: Mapping[str, str]) -> dict[str, Any]:
    """Networks without some of their parts, all trained for the same CPU time on the same members.

    `edges` passes messages along edges instead of on nested grids; `graph_network` does so and has no finite-element
    ends: what it knows are the moduli around the nodes, what it answers are the fields.

    Args:
        options: Not used.
    """
    (group,), unseen = solved(CIRCLES, N_TRAIN, TRAIN_SEED), solved(CIRCLES, BATCH, UNSEEN_SEED)
    result: dict[str, Any] = {"seconds_training": ABLATION_SECONDS}
    for name, network in _variants(1 + len(grid_counts(group.problem.space))).items():
        result[f"{name}_steps"] = trained_for(ABLATION_SECONDS, network, group)
        result[f"{name}_weights"] = sum(one.numel() for one in network.parameters())
        answer = ready(network, group.problem)
        result |= _table(name, unseen, answer, (0, 2))
        took = seconds({"": lambda answer=answer: answer(unseen[0].problem)}, 2)
        result[f"{name}_seconds"] = took[""] / BATCH
    return result


def solid(options: Mapping[str, str]) -> dict[str, Any]:
    """Spheres on a grid of voxels, with times of single RVEs.

    Args:
        options: Not used.
    """
    (group,) = _converged(members(SPHERES, N_SOLID, TRAIN_SEED))
    rves = members(SPHERES, N_SOLID_UNSEEN, UNSEEN_SEED)
    unseen = _converged(rves)
    levels = 1 + len(grid_counts(group.problem.space))
    network = SPON(3, levels, training_options(SPONOptions()).network)
    result: dict[str, Any] = {"seconds_training": SOLID_SECONDS}
    result["steps"] = trained_for(SOLID_SECONDS, network, group, SOLID_BATCH)
    answer, some = ready(network, group.problem), rves[:N_SOLID_NESTED]
    result |= _table("spon", unseen, answer, (0, 1, 2))
    result |= _table("zero", unseen, zeros, tuple(range(5)))
    result["reference_error"] = float(
        relative(
            torch.as_tensor(unseen[0].reference[: len(some)]), np.stack([nested_stiffness(rve) for rve in some])
        ).max()
    )
    space, cells = group.problem.space, unseen[0].problem[slice(0, 1)].cells

    def chain(start: Answer, n: int) -> Tensor:
        made = LinearFields.on(space, cells)
        return made.homogenized(improved(made, start(made), n))

    calls: dict[str, Callable[[], Any]] = {f"spon_{n}": lambda n=n: chain(answer, n) for n in (0, 1, 2)}
    calls |= {f"zero_{n}": lambda n=n: chain(zeros, n) for n in range(1, 5)}
    calls["nested"] = lambda: nested_stiffness(rves[0], 1e-8)
    took = seconds(calls, 2)
    result |= {f"{name}_seconds": value for name, value in took.items()}
    return result | {f"spon_{n}_nested_ratio": took["nested"] / took[f"spon_{n}"] for n in (0, 1, 2)}


def _converged(rves: list[RVE]) -> list[Group]:
    """Return members with the stiffness of many steps, since the nested solve takes long in 3D."""
    problem = LinearFields.of(rves)
    return [Group(problem, problem.homogenized(improved(problem, zeros(problem), 20)).numpy())]


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "accuracy": accuracy,
    "ablations": ablations,
    "solid": solid,
}
