"""State variables at the points of an RVE."""

import numpy as np

from femops.notation import Array
from femops.phases import Phase
from femops.rve.discretisation import Discretisation


def state_sizes(phases: tuple[Phase, ...], dim: int) -> list[int]:
    """Return the number of state variables per point of each phase."""
    return [max((part.stop for part in phase.state_fields(dim).values()), default=0) for phase in phases]


def virgin_state(discretisation: Discretisation, phases: tuple[Phase, ...], n: int) -> list[Array]:
    """Return the initial state of each phase for n RVEs. Shape (n_state, n_points_of_phase, n) each."""
    sizes = state_sizes(phases, discretisation.dim)
    points = [discretisation.points_of_phase(position) for position in range(len(phases))]
    return [np.zeros((size, part.stop - part.start, n)) for size, part in zip(sizes, points, strict=True)]
