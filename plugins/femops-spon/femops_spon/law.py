"""Common base of the SPON laws: no internal state, no enrichment, access to the nested solve."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from femops.law import StrainMeasure
from femops.notation import Array
from femops.rve.micro import MicroFields, micro_fields
from femops.surrogate import ExactRVE, TrainedModel
from femops.surrogate.torch_library import Tensor

TINY = np.finfo(np.float64).tiny


class SPONLaw(ABC):
    """Base of the SPON laws.

    Args:
        model: The trained model with its RVE.
    """

    strain_measure = StrainMeasure.SMALL_STRAIN
    n_state = 0

    def __init__(self, model: TrainedModel) -> None:
        self.rve, self.dim = model.rve, model.rve.discretisation.dim
        self.state_fields: Mapping[str, slice] = {}
        self.exact = ExactRVE(model.rve)

    def micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Return the predicted microscale fields at one point.

        Args:
            strain: Macroscale strain, Mandel [-]. Shape (n_s,).
            state: Not used. Shape (0,).
        """
        solver = self.exact.solver
        virgin = [one[:, :, 0] for one in solver.virgin_state(1)]
        return micro_fields(self.rve, solver, strain, self.free_fluctuation(strain), virgin)

    def exact_micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Return the microscale fields of the nested solve at one point; arguments as in `micro_fields`."""
        return self.exact.micro_fields(strain, self.free_fluctuation(strain)[None])

    @abstractmethod
    def free_fluctuation(self, strain: Array) -> Array:
        """Return the fluctuation at the free dofs of the RVE (n_free,) [length] at a strain (n_s,)."""


def quadratic_form(vectors: Array, matrix: Array) -> Array:
    """Return v · matrix · v for vectors v (n, n_s). Shape (n,)."""
    return np.asarray(np.einsum("ns,st,nt->n", vectors, matrix, vectors))


def in_numpy(values: Tensor) -> Array:
    """Return a tensor as a NumPy array in double precision."""
    return np.asarray(values.detach().cpu().double().numpy())
