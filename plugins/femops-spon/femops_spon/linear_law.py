"""SPON law for RVEs of linear phases, with a guaranteed error bound."""

from femops.surrogate import TrainedModel, torch_device
from femops.surrogate.fields.law import LinearFieldLaw
from femops.surrogate.fields.linear import LinearFields
from femops.surrogate.torch_library import torch
from femops_spon.families import network_of
from femops_spon.options import SPONParameters
from femops_spon.training import predict


def linear_law(model: TrainedModel, parameters: SPONParameters) -> LinearFieldLaw:
    """Return the law of a trained model for its RVE of linear phases; corrections are conjugate-gradient steps.

    Raises:
        CaseError: The RVE is not periodic, or its dimension is not that of the model.
    """
    network = network_of(model, parameters.device)
    problem = LinearFields.of([model.rve], device=torch_device(parameters.device))
    fields, precondition = torch.zeros_like(problem.load), problem.preconditioner()
    if parameters.start == "network":
        fields = predict(network, problem, parameters.precision)
    if parameters.corrections:
        fields = problem.improve(fields, parameters.corrections, precondition)
    return LinearFieldLaw(model.rve, problem, fields, precondition)
