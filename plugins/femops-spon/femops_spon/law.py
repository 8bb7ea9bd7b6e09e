"""What the laws of SPON share: they have no memory, do not learn, and have the nested solve at hand."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from femops.errors import CaseError
from femops.law import CertifiedLaw, StrainMeasure
from femops.notation import Array
from femops.rve.micro import MicroFields, micro_fields
from femops.surrogate import ExactRVE, TrainedModel
from femops.surrogate.torch_library import Tensor

TINY = np.finfo(np.float64).tiny


class SPONLaw(ABC):
    """Base of the laws.

    Args:
        model: The trained model, with the RVE to stand in for.
    """

    strain_measure = StrainMeasure.SMALL_STRAIN
    n_state = 0
    learns = False

    def __init__(self, model: TrainedModel) -> None:
        self.rve, self.dim = model.rve, model.rve.discretisation.dim
        self.state_fields: Mapping[str, slice] = {}
        self.exact = ExactRVE(model.rve)

    def enriched(self, strain: Array) -> CertifiedLaw:
        """Refuse; see `learns`.

        Raises:
            CaseError: Always.
        """
        raise CaseError("the law 'spon' cannot learn on the way; expected false", key="enrich")

    def micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Return the fields inside the RVE of one point.

        Args:
            strain: Macroscale strain, Mandel. Shape (n_s,).
            state: Not used. Shape (0,).
        """
        solver = self.exact.solver
        history = [one[:, :, 0] for one in solver.virgin_history(1)]
        return micro_fields(self.rve, solver, strain, self.free_fluctuation(strain), history)

    def exact_micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Return the fields that `solve_exactly` finds at one point; arguments as in `micro_fields`."""
        return self.exact.micro_fields(strain, self.free_fluctuation(strain)[None])

    @abstractmethod
    def free_fluctuation(self, strain: Array) -> Array:
        """Return the fluctuation at the free dofs of the RVE (n_free,) [length] at a strain (n_s,)."""


def squared(vectors: Array, matrix: Array) -> Array:
    """Return v · matrix · v of vectors (n, n_s). Shape (n,)."""
    return np.asarray(np.einsum("ns,st,nt->n", vectors, matrix, vectors))


def in_numpy(values: Tensor) -> Array:
    """Return the values of a tensor in double precision."""
    return np.asarray(values.detach().cpu().double().numpy())
