"""Conjugate-gradient steps after the prediction, with multigrid on the aggregates of the mesh."""

from femops.surrogate.fields.linear import LinearFields
from femops.surrogate.fields.multigrid import Multigrid
from femops_beno.encoding import scalar
from femops_beno.levels import aggregations


def aggregation_multigrid(problem: LinearFields) -> Multigrid:
    """Return a V-cycle for the stiffness of an RVE on levels like those of the network.

    A level of one node is left out: it has translations only, which have no stiffness.
    """
    levels = aggregations(scalar(problem.stiffness.to_scipy(), problem.space.discretisation.dim))
    return Multigrid(problem.stiffness, [prolongation for prolongation, _ in levels if prolongation.shape[1] > 1])
