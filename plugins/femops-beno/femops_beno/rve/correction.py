"""Conjugate-gradient steps after the prediction, with multigrid on the aggregates of the mesh."""

from femops.surrogate.fields.linear import LinearFields
from femops.surrogate.fields.multigrid import Multigrid
from femops_beno.encoding import scalar
from femops_beno.levels import aggregations


def aggregation_multigrid(problem: LinearFields) -> Multigrid:
    """Return a V-cycle for the stiffness of an RVE on the levels that the network uses."""
    space = problem.space
    levels = aggregations(scalar(problem.stiffness.to_scipy(), space.discretisation.dim))
    return Multigrid(problem.stiffness, [prolongation for prolongation, _ in levels])
