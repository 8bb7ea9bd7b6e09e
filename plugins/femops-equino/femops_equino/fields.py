"""Fields inside the RVE of one point, with the stress that a law has there."""

from dataclasses import replace

import numpy as np

from femops.notation import Array
from femops.rve.micro import MicroFields, micro_fields
from femops.surrogate import ExactRVE


def fields_with_stress(exact: ExactRVE, strain: Array, fluctuation: Array, stress: Array) -> MicroFields:
    """Return the fields of a fluctuation, with the cell means of a given stress instead of the phases' stress.

    Args:
        exact: The RVE.
        strain: Macroscale strain, Mandel [-]. Shape (n_s,).
        fluctuation: Fluctuation at the free dofs [length]. Shape (n_free,).
        stress: Stress at the quadrature points [stress]. Shape (n_s, n_points).
    """
    weight = exact.rve.discretisation.weight
    virgin = [one[:, :, 0] for one in exact.solver.virgin_state(1)]
    fields = micro_fields(exact.rve, exact.solver, strain, fluctuation, virgin)
    mean = weight / weight.sum(axis=1, keepdims=True)
    return replace(fields, stress=np.einsum("cq,scq->cs", mean, stress.reshape(len(strain), *weight.shape)))
