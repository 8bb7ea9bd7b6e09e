"""SPON for families of RVEs: errors of the homogenized stiffness, what its parts are worth, and times.

The family is that of cases/studies/circles_spon.yaml, 256 members to learn from and others to judge by. The error of a
stiffness is ‖C̄ − C̄*‖ / ‖C̄*‖ (Frobenius), C̄* from the nested solve. `spon_c` is the prediction with c corrections;
`zero_k` are k steps of the same preconditioned conjugate gradients from no fluctuation at all (`zero_0`: the mean of
the phases' stiffness, Voigt's bound). All seconds are CPU time of one thread, per RVE where nothing else is said; what
is compared is timed side by side, the best of some repetitions. `equal_c_steps` is how many steps from zero take as
long as `spon_c`, in batches of 64. The network runs in single precision, all else in double.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.law import LawContext
from femops.notation import Array
from femops.rve.family import Family, microstructure
from femops.rve.solver import RVESolver, SolverOptions
from femops.rve.spec import RVE, build_rve
from femops.surrogate.fields.linear import LinearFields, cell_features
from femops.surrogate.message_passing import ProcessorOptions, Shape
from femops_spon.batches import Group, in_precision, symmetries
from femops_spon.families import training_options
from femops_spon.network import (
    SPON,
    Architecture,
    MeshMaps,
    grid_counts,
    hierarchy,
    rotation_of_strain,
)
from femops_spon.options import SPONOptions
from femops_spon.plain import PlainGraphNetwork
from femops_spon.training import predict, restored, train

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
CORRECTIONS, MOST_STEPS, BATCH = (0, 1, 2, 3), 12, 64
REPETITIONS = {1: 10, 64: 3, 1024: 2}
QUANTILES = {"median": 0.5, "p95": 0.95, "max": 1.0}
ABLATION_SECONDS, SOLID_SECONDS = 75.0, 180.0
N_SOLID, N_SOLID_UNSEEN, SOLID_BATCH, MOST_SOLID_STEPS = 48, 16, 4, 6
VIEWS, RATE, BETAS, WARM_UP, FLOOR = 8, 4e-3, (0.9, 0.99), 30, 1e-5  # those of femops_spon.training
TOLERANCE = 1e-9

Answer = Callable[[LinearFields], Tensor]
Figures = dict[str, Any]


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
    family = Family.model_validate({**block, "count": count, "seed": seed})
    return [build_rve(microstructure(family, i).parameters, LawContext(family.dim)) for i in range(count)]


def nested_stiffness(rve: RVE, rtol: float = 1e-10) -> Array:
    """Return C̄ of the nested solve, its solver set up anew. Shape (n_s, n_s)."""
    solver = RVESolver(rve.discretisation, rve.phases, rve.boundary, SolverOptions(rtol))
    n_s = rve.discretisation.n_s
    return solver.solve(np.eye(n_s), solver.virgin_state(n_s)).tangent[:, :, 0]


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


def zeros(problem: LinearFields) -> Tensor:
    """Return no fluctuation."""
    return torch.zeros_like(problem.load)


def judged(name: str, groups: list[Group], answer: Answer, steps: Sequence[int], certify: bool = False) -> Figures:
    """Return the errors after some steps from an answer.

    Args:
        name: What the figures' names begin with.
        groups: RVEs with their exact stiffness.
        answer: What gives the fields to start from.
        steps: How many.
        certify: Tell also how often C̄ is not above the exact one, how often the bound of its error does not hold, and
            the bound over the error.
    """
    result: Figures = {}
    starts = [(group, answer(group.problem), group.problem.preconditioner()) for group in groups]
    for n in steps:
        rows = []
        for group, start, precondition in starts:
            fields = group.problem.improve(start, n, precondition) if n else start
            excess = group.problem.homogenized(fields).numpy() - group.reference
            size, wrong = _norm(group.reference), _norm(excess)
            row = [wrong / size]
            if certify:
                bound = group.problem.bound(fields).numpy()
                below, missed = (np.linalg.eigvalsh(one)[:, 0] < -TOLERANCE * size for one in (excess, bound - excess))
                row += [below, missed, _norm(bound) / wrong]
            rows.append(np.stack(row))
        figures = np.concatenate(rows, axis=1)
        result |= {f"{name}_{n}_{key}": float(np.quantile(figures[0], part)) for key, part in QUANTILES.items()}
        if certify:
            result |= {f"{name}_{n}_below_exact": figures[1].sum(), f"{name}_{n}_bound_missed": figures[2].sum()}
            result[f"{name}_{n}_bound_over_error_median"] = float(np.median(figures[3]))
    return result


def _norm(matrices: Array) -> Array:
    return np.asarray(np.linalg.norm(matrices, axis=(1, 2)))


def accuracy(options: Mapping[str, str]) -> dict[str, Any]:
    """Errors of the default network inside and outside its family, and times.

    Args:
        options: Not used.
    """
    training, unseen = solved(CIRCLES, N_TRAIN, TRAIN_SEED), solved(CIRCLES, N_UNSEEN, UNSEEN_SEED)
    settings, begin = training_options(SPONOptions()), time.process_time()
    found = train(training, settings, Nowhere(), silent)
    result: Figures = {"seconds_training": time.process_time() - begin, "steps": settings.steps}
    result["weights"] = sum(one.size for one in found.weights.values())
    network, untrained = restored(found.weights, found.settings), SPON(2, found.settings["levels"], settings.network)
    spon: Answer = partial(predict, network)
    result |= judged("spon", unseen, spon, CORRECTIONS, certify=True)
    result |= judged("untrained", unseen, partial(predict, untrained), CORRECTIONS, certify=True)
    result |= judged("zero", unseen, zeros, range(MOST_STEPS + 1))
    result |= equal_cost(network, unseen[0].problem[slice(0, BATCH)], result)
    for name, (changes, count) in OUTSIDE.items():
        others = solved({**CIRCLES, **changes}, count, UNSEEN_SEED)
        result |= judged(f"{name}_spon", others, spon, (0, 2), certify=True)
        result |= judged(f"{name}_zero", others, zeros, (0, 2, 4, 6, 8))
    return result | times(network, result)


def ready(network: Any, problem: LinearFields) -> Answer:
    """Return the prediction for RVEs on the mesh of a problem, whose operators are made here once."""
    maps = MeshMaps(hierarchy(problem.space, network.n_levels))

    def answer(some: LinearFields) -> Tensor:
        found = []
        with torch.no_grad():
            for start in range(0, len(some), 32):  # as many as `predict` takes at once
                part = in_precision(some[slice(start, start + 32)], torch.float32)
                found.append(network(maps, part, cell_features(torch.as_tensor(part.cells.tangent).float())))
        return some.centred(torch.cat(found).double())

    return answer


def whole(problem: LinearFields, start: Answer, steps: int, assemble: bool = False) -> Tensor:
    """Return C̄ after some steps, preconditioner and, if wanted, stiffness made anew; 64 at a time fit into caches."""
    found = []
    for first in range(0, len(problem), BATCH):
        part = problem[slice(first, first + BATCH)]
        if assemble:
            part = LinearFields.on(part.space, part.cells)
        fields = start(part)
        found.append(part.homogenized(part.improve(fields, steps, part.preconditioner()) if steps else fields))
    return torch.cat(found)


def equal_cost(network: SPON, problem: LinearFields, result: Figures) -> Figures:
    """Return how many steps from zero take as long as a prediction and its corrections, and their errors."""
    answer, most = ready(network, problem), range(1, MOST_STEPS + 1)
    calls = {f"spon_{n}": partial(whole, problem, answer, n) for n in CORRECTIONS}
    took = seconds(calls | {f"zero_{n}": partial(whole, problem, zeros, n) for n in most}, REPETITIONS[BATCH])
    found: Figures = {f"{name}_seconds": value / len(problem) for name, value in took.items()}
    for n in CORRECTIONS:
        steps = max([n, *(k for k in most if took[f"zero_{k}"] <= took[f"spon_{n}"])])
        found[f"equal_{n}_steps"] = steps
        found |= {f"equal_{n}_{key}": result[f"zero_{steps}_{key}"] for key in QUANTILES}
    return found


def times(network: SPON, result: Figures) -> Figures:
    """Return the seconds per RVE from the phases at the cells to C̄, against nested solve and steps from zero.

    The operators of the mesh are known; `on` and `of` are what the assembly takes of it, from cells and from RVEs.
    `pcg_for_c` takes as many steps from zero as it needs for the median error of `spon_c`.
    """
    rves = members(CIRCLES, BATCH, UNSEEN_SEED)
    problem = LinearFields.of(rves)
    answer, steps = ready(network, problem), {n: _steps_for(result[f"spon_{n}_median"], result) for n in (0, 2)}
    found: Figures = {f"pcg_for_{n}_steps": k for n, k in steps.items()}
    for count, repetitions in REPETITIONS.items():
        batch = problem[np.arange(count) % len(rves)]
        calls: dict[str, Callable[[], Any]] = {}
        if count <= BATCH:
            calls["on"] = partial(LinearFields.on, problem.space, batch.cells)
            calls["of"] = partial(LinearFields.of, rves[:count])
        for n, k in steps.items():
            calls[f"spon_{n}"] = partial(whole, batch, answer, n, assemble=True)
            calls[f"pcg_for_{n}"] = partial(whole, batch, zeros, k, assemble=True)
        took = {name: value / count for name, value in seconds(calls, repetitions).items()}
        took["nested"] = seconds({"": lambda: [nested_stiffness(rve, 1e-8) for rve in rves[:8]]}, 3)[""] / 8
        found |= {f"batch_{count}_{name}_seconds": value for name, value in took.items()}
        for n in steps:
            for other in ("nested", f"pcg_for_{n}"):
                found[f"batch_{count}_spon_{n}_faster_than_{other}"] = took[other] / took[f"spon_{n}"]
    return found


def _steps_for(error: float, result: Figures) -> int:
    return next((k for k in range(MOST_STEPS) if result[f"zero_{k}_median"] <= error), MOST_STEPS)


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
    problem, views = in_precision(group.problem, torch.float32), _views(group, network.n_levels)
    tangent, reference = torch.as_tensor(problem.cells.tangent).float(), torch.as_tensor(group.reference).float()
    optimiser = torch.optim.Adam(network.parameters(), RATE, betas=BETAS)
    draw, begin, steps = np.random.default_rng(0), time.process_time(), 0
    while (part := (time.process_time() - begin) / allowed) < 1.0:
        rows, maps = draw.choice(len(group), batch, replace=False), views[draw.integers(VIEWS)]
        fields = network(maps, problem[rows], cell_features(maps.tangent(tangent[rows])))
        excess = problem[rows].homogenized(fields) - reference[rows]
        wrong = torch.einsum("nst,nts->n", torch.linalg.inv(reference[rows]), excess) / reference.shape[1]
        optimiser.zero_grad()
        torch.log(wrong.clamp(min=0.0) + FLOOR).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for one in optimiser.param_groups:
            one["lr"] = RATE * 0.5 * (1.0 + np.cos(np.pi * part)) * min(1.0, (steps + 1) / WARM_UP)
        optimiser.step()
        steps += 1
    return steps


class PerColumn(torch.nn.Module):
    """A nonlinear processor, which changes the features of the cells with each column of forces."""

    def __init__(self, processor: torch.nn.Module) -> None:
        super().__init__()
        self.processor = processor

    def forward(self, levels: Any, nodes: Tensor, cells: Tensor) -> Tensor:
        """Return outputs at the nodes, see `femops.surrogate.message_passing.Processor`."""
        return self.processor(levels, nodes, cells.repeat_interleave(len(nodes) // len(cells), dim=0))


class GraphNetwork(torch.nn.Module):
    """Messages along edges, from the moduli around the nodes to fields at the nodes; it never sees a force.

    Args:
        width: Features at the nodes.
        layers: Exchanges of messages.
    """

    n_levels = 1

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = PlainGraphNetwork(Shape(7, 7, 6, 2, 1), ProcessorOptions((width,), (layers,)))
        with torch.no_grad():
            self.network.decoder.weight *= 0.03  # the fields of an RVE of length 1 are that small

    def forward(self, maps: MeshMaps, problem: LinearFields, features: Tensor) -> Tensor:
        """Return the fluctuations of the unit strains. Shape (N, n_nodes, 2, 3)."""
        around = maps.levels[0].to_nodes(torch.nn.functional.pad(features, (0, 2 * features.shape[2])))
        found = self.network(maps.levels, around, features).unflatten(2, (3, 2))  # of unit strains in rotated axes
        turn = rotation_of_strain(maps.to_rotated(torch.eye(2, dtype=torch.float64)).numpy().T)
        return torch.einsum("nasd,st->nadt", maps.from_rotated(found), torch.as_tensor(turn).to(found))


def _variants(n_levels: int) -> dict[str, Any]:
    """Return the networks of the ablations, by name."""
    default = training_options(SPONOptions()).network
    size = default.processor

    def made(levels: int = n_levels, processor: ProcessorOptions = size, **changes: Any) -> SPON:
        block = {"passes": default.passes, "smoothing": default.smoothing, **changes}
        return SPON(2, levels, Architecture(processor, **block))

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
        "graph_network": GraphNetwork(16, 8),
    }


def ablations(options: Mapping[str, str]) -> dict[str, Any]:
    """Networks without some of their parts, all trained for the same CPU time on the same members.

    `nonlinear` is a processor that is not linear in the forces; `edges` passes messages along edges instead of on
    nested grids; `graph_network` does so and has no finite-element ends: what it knows are the moduli around the nodes,
    what it answers are the fields.

    Args:
        options: Not used.
    """
    (group,), unseen = solved(CIRCLES, N_TRAIN, TRAIN_SEED), solved(CIRCLES, BATCH, UNSEEN_SEED)
    result: Figures = {"seconds_training": ABLATION_SECONDS}
    for name, network in _variants(1 + len(grid_counts(group.problem.space))).items():
        result[f"{name}_steps"] = trained_for(ABLATION_SECONDS, network, group)
        result[f"{name}_weights"] = sum(one.numel() for one in network.parameters())
        answer = ready(network, group.problem)
        result |= judged(name, unseen, answer, (0, 2))
        result[f"{name}_seconds"] = seconds({"": partial(answer, unseen[0].problem)}, 2)[""] / BATCH
    return result


def solid(options: Mapping[str, str]) -> dict[str, Any]:
    """Spheres on a grid of voxels, with times of single RVEs from the phases at the cells.

    Exact are many steps, since the nested solve takes long in 3D; `reference_error` is how far it is from them.

    Args:
        options: Not used.
    """
    learned, judges = members(SPHERES, N_SOLID, TRAIN_SEED), members(SPHERES, N_SOLID_UNSEEN, UNSEEN_SEED)
    problems = LinearFields.of(learned), LinearFields.of(judges)
    training, unseen = (Group(one, whole(one, zeros, 20).numpy()) for one in problems)
    network = SPON(3, 1 + len(grid_counts(training.problem.space)), training_options(SPONOptions()).network)
    result: Figures = {"seconds_training": SOLID_SECONDS}
    result["steps"] = trained_for(SOLID_SECONDS, network, training, SOLID_BATCH)
    answer, exact = ready(network, unseen.problem), unseen.reference[:1]
    result |= judged("spon", [unseen], answer, CORRECTIONS, certify=True)
    result |= judged("zero", [unseen], zeros, range(MOST_SOLID_STEPS + 1))
    result["reference_error"] = float(_norm(nested_stiffness(judges[0]) - exact)[0] / _norm(exact)[0])
    one = unseen.problem[slice(0, 1)]
    calls = {f"spon_{n}": partial(whole, one, answer, n, assemble=True) for n in CORRECTIONS}
    calls |= {f"zero_{n}": partial(whole, one, zeros, n, assemble=True) for n in range(1, MOST_SOLID_STEPS + 1)}
    took = seconds(calls | {"nested": partial(nested_stiffness, judges[0], 1e-8)}, 3)
    result |= {f"{name}_seconds": value for name, value in took.items()}
    return result | {f"spon_{n}_faster_than_nested": took["nested"] / took[f"spon_{n}"] for n in CORRECTIONS}


PROBLEMS: dict[str, Callable[[Mapping[str, str]], Figures]] = {
    one.__name__: one for one in (accuracy, ablations, solid)
}
