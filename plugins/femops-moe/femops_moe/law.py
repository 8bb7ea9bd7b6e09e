"""The law of a trained mixture of experts."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from femops.devices import torch_device
from femops.devices.torch_library import torch
from femops.law import LawResponse
from femops.notation import Array, Indices
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.surrogate import CheckedArrays, FitTask, TrainedModel
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.law import TINY, quadratic_form
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops.surrogate.store import of_arrays
from femops_moe import first_guess
from femops_moe.basis import Basis
from femops_moe.compiled import CompiledExperts, solver
from femops_moe.enrichment import enriched
from femops_moe.experts import assemble, on_device, sampled_at
from femops_moe.first_guess import FirstGuess, GuessedStart
from femops_moe.galerkin import BatchedExperts, Equilibrium
from femops_moe.options import MoEOptions, MoEParameters
from femops_moe.partition import Partition
from femops_moe.reduced_law import ReducedLaw, Solver

_SNAPSHOT_RTOL = 1e-10
_NEAR = 2.0  # of a state to the guess, relative to the guess's error: no loss to start from


class MoELaw(ReducedLaw):
    """An RVE whose subdomains are solved by experts.

    With all quadrature points the reduced energy is an upper bound of that of the nested solve. The state holds bubbles
    first, then ports, so that those of enrichments come last.

    Args:
        model: The trained model.
        parameters: Parameters in the case.

    Attributes:
        learns: Whether ports can be added by `enriched`; False for independent experts.

    Raises:
        CaseError: The model is damaged, or the requested device is not available.
    """

    def __init__(self, model: TrainedModel, parameters: MoEParameters) -> None:
        space = FluctuationSpace(model.rve)
        with of_arrays(model.folder):
            stored = _stored(CheckedArrays(model.arrays), space)
        self.trained, self.parameters, self._stored, self.basis = model, parameters, stored, stored.basis
        self.learns = model.settings["options"]["ports"] == "modes"
        n_ports, counts = stored.n_ports, stored.counts
        self._places = np.roll(self.basis.places(n_ports, counts), -n_ports)
        self._wider = assemble(model.rve, space, stored.partition.expert, self.basis)
        few = sampled_at(self._wider.leading(n_ports, counts), stored.factor)
        self.experts = on_device(few, torch_device(parameters.device), getattr(torch, parameters.precision))
        inner: Solver = _PortsLast(solver(self.experts), n_ports)
        if stored.first_guess is not None and parameters.start != "last":
            inner = GuessedStart(inner, stored.first_guess, _NEAR if parameters.start == "auto" else 0.0)
        super().__init__(model, parameters, inner, len(self._places), self.experts.sampled)

    def enriched(self, strain: Array) -> "MoELaw":
        """Return the law enriched by global modes of exact solutions at given strains, with its range extended to them.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s).
        """
        low, high = np.minimum(self.low, strain.min(axis=0)), np.maximum(self.high, strain.max(axis=0))
        options = MoEOptions.model_construct(**self.trained.settings["options"])  # valid, with all defaults set
        solver = SnapshotSolver(self.rve, SolverOptions(rtol=_SNAPSHOT_RTOL))
        task = FitTask(solver.solve(strain), self.rve, solver, options, low, high, MemoryCheckpoint(), lambda *_: None)
        stored = self._stored
        changed = enriched(task, stored.partition, stored.basis, stored.n_ports, stored.counts)
        model = replace(self.trained, arrays={**self.trained.arrays, **changed}, low=low, high=high)
        return MoELaw(model, self.parameters)

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
        return solver(sampled_at(self._wider, self._stored.factor_of_indicator))

    def _fluctuation(self, strain: Array, unknowns: Array) -> Array:
        """Return the fluctuations of the RVE (n_dofs, n)."""
        every = np.zeros((len(strain), self.basis.n_unknowns))
        every[:, self._places] = unknowns
        return self.basis.fluctuation(self._stored.partition.owner, strain, self._wider.padded(every))


@dataclass(frozen=True)
class _PortsLast:
    """A solver whose unknowns are bubbles, then ports."""

    inner: CompiledExperts | BatchedExperts
    n_ports: int

    def solve(self, strain: Array, start: Array, evaluations: int, tolerance: float) -> Equilibrium:
        found = self.inner.solve(strain, np.roll(start, self.n_ports, axis=1), evaluations, tolerance)
        return replace(found, unknowns=np.roll(found.unknowns, -self.n_ports, axis=1))

    def sensitivity(self, strain: Array, unknowns: Array) -> Array:
        found = self.inner.sensitivity(strain, np.roll(unknowns, self.n_ports, axis=1))
        return np.roll(found, -self.n_ports, axis=1)


class _Stored(NamedTuple):
    """Arrays of a model: `n_ports` and `counts` are what the law takes of the modes, the indicator takes all."""

    partition: Partition
    basis: Basis
    n_ports: int
    counts: Indices
    first_guess: FirstGuess | None
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
    guess = first_guess.stored(arrays, int(n_ports[0] + n_bubbles.sum()))
    return _Stored(partition, basis, int(n_ports[0]), n_bubbles, guess, *factors)
