"""The problems of the paper (Chalapathi et al., arXiv 2402.13412) with its three models, trained for the same time.

Soft constraint, one global hard constraint and a mixture of experts have the same network, the same data and the same
residuals; `--seconds` is the processor time of the training of each on one thread. `error_mean` and `error_largest` are
of ‖found − u‖ / ‖u‖ on new initial values, u by finite volumes on a finer grid. `error_of_reference` is the error that
u itself has by the difference from the grid before, `error_without_change` that of the initial values at all times.
`error_after_*` is that after so many per cent of the time; judging stops the clock. `milliseconds_layer` is the
processor time of the least squares of a sample, `milliseconds_step` that of a training step;
`milliseconds_layer_64` is that of one global constraint with as many coefficients as the four experts have together.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from femops.devices.torch_library import torch
from femops.notation import Array
from femops_moe.pde import diffusion_sorption
from femops_moe.pde.diffusion_sorption import DiffusionSorption
from femops_moe.pde.equation import Equation
from femops_moe.pde.model import ConstrainedField
from femops_moe.pde.navier_stokes import NavierStokes
from femops_moe.pde.options import ConstraintOptions
from femops_moe.pde.training import errors, losses, relative_errors

RATE, WARM_UP, JUDGED, LARGEST_GRADIENT = 3e-3, 20, 5, 1.0
EQUATIONS: dict[str, tuple[Callable[[], Equation], int]] = {
    "diffusion_sorption": (partial(DiffusionSorption, 64, 64), 8),
    "navier_stokes": (partial(NavierStokes, 32, 8, 2.0, 4), 4),
}
MODELS = {
    "soft": {"constraint": "soft"},
    "global": {"constraint": "global"},
    "experts": {"constraint": "experts"},
}
_TESTS = 16


def trained(
    make: Callable[[], Equation], batch: int, kind: Mapping[str, Any], given: Mapping[str, str]
) -> dict[str, Any]:
    """Train a model for some processor time and judge it.

    Args:
        make: Makes the equation.
        batch: Samples per step.
        kind: Options of the model.
        given: `seconds` of training.
    """
    of, seconds = make(), float(given["seconds"])
    initial = of.draw(np.random.default_rng(9), _TESTS)
    truth = of.solve(initial)
    model = ConstrainedField(of, ConstraintOptions(law="moe", **kind))
    adam = torch.optim.Adam(model.parameters(), RATE, betas=(0.9, 0.99))
    spent, steps, judged, found = 0.0, 0, 0, dict[str, Any]()
    while spent < seconds:
        begin = time.process_time()
        decay = 0.5 * (1.0 + np.cos(np.pi * spent / seconds))
        adam.param_groups[0]["lr"] = RATE * decay * min(1.0, (steps + 1) / WARM_UP)
        adam.zero_grad()
        for loss in losses(model, np.random.default_rng([1, steps]), batch):
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        adam.step()
        steps += 1
        spent += time.process_time() - begin
        parts = min(int(JUDGED * spent / seconds), JUDGED)
        if parts > judged:
            judged = parts
            found[f"error_after_{100 * parts // JUDGED}"] = errors(model, initial, truth)["error_mean"]
    unchanged = relative_errors(of.base(torch.from_numpy(initial)).numpy(), truth)
    return {
        **errors(model, initial, truth),
        "error_without_change": float(unchanged.mean()),
        "error_of_reference": _reference_error(of, initial, truth),
        **found,
        "steps": steps,
        "milliseconds_step": 1e3 * spent / steps,
        "milliseconds_layer": _layer_time(model, initial[:batch]),
        "milliseconds_layer_64": _layer_time(_global(of, 64), initial[:batch]),
        "weights": sum(one.numel() for one in model.parameters()),
    }


def _global(of: Equation, basis: int) -> ConstrainedField:
    """Return an untrained model with a global constraint."""
    return ConstrainedField(of, ConstraintOptions(law="moe", constraint="global", basis=basis))


def _reference_error(of: Equation, initial: Array, truth: Array) -> float:
    """Return the mean difference between the reference and the same on a coarser grid."""
    if isinstance(of, DiffusionSorption):
        (steps, cells), ratio = of.grid, 2
        coarse = diffusion_sorption.finite_volumes(initial, ratio * cells, 8 * steps)[:, 7::8]
        return float(relative_errors(coarse.reshape(*coarse.shape[:2], cells, ratio).mean(3), truth).mean())
    assert isinstance(of, NavierStokes)
    return float(relative_errors(of.solved(initial, 4), truth).mean())


def _layer_time(model: ConstrainedField, initial: Array) -> float:
    """Return the processor time of a prediction of the coefficients alone [ms per sample]."""
    of, given = model.equation, torch.from_numpy(initial)
    with torch.no_grad():
        fields = of.fields(model.network(of.inputs(given).float()).double())
        local, offsets = of.local(fields), of.offsets(given)
        times = []
        for _ in range(4):
            begin = time.process_time()
            model.combined(fields[:, 1:], local[..., 1:], offsets + local[..., 0])
            times.append(time.process_time() - begin)
    return 1e3 * min(times, default=0.0) / len(initial)


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    f"{name}_{kind}": partial(trained, make, batch, options)
    for name, (make, batch) in EQUATIONS.items()
    for kind, options in MODELS.items()
}
