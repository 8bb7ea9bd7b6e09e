"""SPON law for RVEs of linear phases, with a guaranteed error bound."""

from femops.devices import torch_device
from femops.devices.torch_library import torch
from femops.surrogate import TrainedModel
from femops.surrogate.fields.law import LinearFieldLaw
from femops.surrogate.fields.linear import LinearFields
from femops_spon.options import SPONParameters
from femops_spon.training import predict, restored


def linear_law(model: TrainedModel, parameters: SPONParameters) -> LinearFieldLaw:
    """Return the law of a trained model for its RVE of linear phases; corrections are conjugate-gradient steps."""
    device = torch_device(parameters.device)
    with_network, corrections = parameters.steps(device.type, linear=True)
    problem = LinearFields.of([model.rve], device=device)
    fields, precondition = torch.zeros_like(problem.load), problem.preconditioner()
    if with_network:
        fields = predict(restored(model.arrays, model.settings, device), problem, parameters.precision)
    if corrections:
        fields = problem.improve(fields, corrections, precondition)
    return LinearFieldLaw(model.rve, problem, fields, precondition)
