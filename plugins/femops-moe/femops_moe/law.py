"""The law of a trained mixture of experts."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from femops.law import LawResponse
from femops.notation import Array, Indices
from femops.surrogate import CheckedArrays, TrainedModel, torch_device
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.law import TINY, quadratic_form
from femops.surrogate.store import of_arrays
from femops.surrogate.torch_library import torch
from femops_moe.basis import Basis
from femops_moe.compiled import CompiledExperts, solver
from femops_moe.experts import Experts, assemble, on_device, restricted
from femops_moe.galerkin import BatchedExperts
from femops_moe.options import MoEParameters
from femops_moe.partition import Partition
from femops_moe.reduced_law import ReducedLaw


class MoELaw(ReducedLaw):
    """An RVE whose subdomains are solved by experts.

    With all quadrature points the reduced energy is an upper bound of that of the nested solve.

    Args:
        model: The trained model.
        parameters: Parameters in the case.

    Raises:
        CaseError: The model is damaged, or the requested device is not available.
    """

    def __init__(self, model: TrainedModel, parameters: MoEParameters) -> None:
        space = FluctuationSpace(model.rve)
        with of_arrays(model.folder):
            stored = _stored(CheckedArrays(model.arrays), space)
        self.basis, self._owner, n_ports, counts = stored.basis, stored.partition.owner, stored.n_ports, stored.counts
        self._places = self.basis.places(n_ports, counts)
        self._wider = assemble(model.rve, space, stored.partition.expert, self.basis)
        self._factor_of_indicator = stored.factor_of_indicator
        few = _sampled(self._wider.leading(n_ports, counts), stored.factor)
        self.experts = on_device(few, torch_device(parameters.device), getattr(torch, parameters.precision))
        super().__init__(model, parameters, solver(self.experts), len(self._places), self.experts.sampled)

    def _indicated(self, strain: Array, response: LawResponse) -> Array:
        """Return the relative change of the stress by more modes and points."""
        start = np.zeros((len(strain), self.basis.n_unknowns))
        start[:, self._places] = response.state
        change = self._indicator.solve(strain, start, 1, np.inf).stress - response.stress
        size = quadratic_form(response.stress, self.metric)
        return np.sqrt(quadratic_form(change, self.metric) / np.maximum(size, TINY))

    @cached_property
    def _indicator(self) -> CompiledExperts | BatchedExperts:
        """The experts with all modes and the points of the indicator."""
        return solver(_sampled(self._wider, self._factor_of_indicator))

    def _fluctuation(self, strain: Array, unknowns: Array) -> Array:
        """Return the fluctuations of the RVE (n_dofs, n)."""
        every = np.zeros((len(strain), self.basis.n_unknowns))
        every[:, self._places] = unknowns
        return self.basis.fluctuation(self._owner, strain, self._wider.padded(every))


def _sampled(experts: Experts, factor: Array) -> Experts:
    """Return the experts with weights multiplied by factors of all points of the RVE (n_points,)."""
    return restricted(experts, np.where(experts.points >= 0, factor[experts.points], 0.0))


class _Stored(NamedTuple):
    """Arrays of a model: `n_ports` and `counts` are what the law takes of the modes, the indicator takes all."""

    partition: Partition
    basis: Basis
    n_ports: int
    counts: Indices
    factor: Array
    factor_of_indicator: Array


def _stored(arrays: CheckedArrays, space: FluctuationSpace) -> _Stored:
    """Return the arrays of a stored model.

    Raises:
        StoredArrayError: They are not of this RVE, or contradict each other.
    """
    mesh = space.discretisation
    arrays = CheckedArrays(arrays, n_cells=len(space.cells), n_dofs=space.n_dofs, n_s=mesh.n_s, n_points=mesh.n_points)
    counts = arrays.take("counts", "K", dtype=np.integer)
    bubbles, ports = arrays.take("bubbles", "n_dofs", "n_b"), arrays.take("ports", "n_dofs", "n_p")
    arrays.check("counts", ((counts >= 0) & (counts <= bubbles.shape[1])).all(), "0 to n_b bubbles of each expert")
    expert = arrays.indices("expert", "n_cells", below=len(counts))
    arrays.check("expert", len(np.unique(expert)) == len(counts), "cells of every expert")
    partition = Partition.of_cells(space, expert)
    modes = bubbles.reshape(space.n_nodes, mesh.dim, bubbles.shape[1])
    arrays.check("bubbles", (modes[partition.owner < 0] == 0.0).all(), "zeros on the interface of the experts")
    n_ports, n_bubbles = (
        arrays.indices("n_ports", 1, below=ports.shape[1] + 1),
        arrays.take("n_bubbles", "K", dtype=np.integer),
    )
    arrays.check("n_bubbles", ((n_bubbles >= 0) & (n_bubbles <= counts)).all(), "0 to `counts` bubbles of each expert")
    factors = [arrays.take(name, "n_points") for name in ("factor", "factor_of_indicator")]
    for name, factor in zip(("factor", "factor_of_indicator"), factors, strict=True):
        arrays.check(name, (factor >= 0.0).all(), "no negative factors")
    basis = Basis(arrays.take("elastic", "n_dofs", "n_s"), ports, bubbles, counts)
    return _Stored(partition, basis, int(n_ports[0]), n_bubbles, *factors)
