"""The law of a trained mixture of experts."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from femops.law import CertificateKind, LawResponse
from femops.notation import Array, Indices
from femops.phases import PlaneStrainPhase
from femops.surrogate import CheckedArrays, TrainedModel, chunks, torch_device, within
from femops.surrogate.fields.bound import StressBound
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.fields.hyperelastic import HyperelasticFields
from femops.surrogate.fields.law import TINY, FieldLaw, quadratic_form
from femops.surrogate.store import of_arrays
from femops.surrogate.torch_library import Tensor, torch
from femops_moe.basis import Basis
from femops_moe.compiled import CompiledExperts, solver
from femops_moe.experts import Experts, assemble, on_device, restricted
from femops_moe.galerkin import BatchedExperts, Equilibrium
from femops_moe.options import MoEParameters
from femops_moe.partition import Partition

_EVALUATIONS = 12
_COPIES = 6  # copies of the fields of a point in memory at the same time
_TOLERANCE = {"float64": 1e-12, "float32": 1e-8}  # Newton decrement, relative to the work


class MoELaw(FieldLaw):
    """An RVE of hyperelastic phases whose fluctuation is composed of port and bubble modes of experts.

    The state of a point holds the ports and bubbles of its last step, from which the next one starts; zeros are the
    virgin state. Stress and tangent are exact derivatives of the minimum of the reduced energy, which with all
    quadrature points is an upper bound of that of the nested solve. `solver_residual` is the Newton decrement relative
    to the work; it excludes the errors of modes and cubature.

    Args:
        model: The trained model.
        parameters: Parameters in the case.

    Attributes:
        metric: Metric of the stress norm of the certificates: the compliance at zero strain [1/stress]. Shape
            (n_s, n_s).

    Raises:
        CaseError: The model is damaged, or the requested device is not available.
    """

    def __init__(self, model: TrainedModel, parameters: MoEParameters) -> None:
        super().__init__(model.rve)
        self.low, self.high = model.low, model.high
        self._precision = parameters.precision
        space = FluctuationSpace(model.rve)
        with of_arrays(model.folder):
            stored = _stored(CheckedArrays(model.arrays), space)
        self.basis, self._owner, n_ports, counts = stored.basis, stored.partition.owner, stored.n_ports, stored.counts
        self._places = self.basis.places(n_ports, counts)
        self._wider = assemble(model.rve, space, stored.partition.expert, self.basis)
        self._factor_of_indicator = stored.factor_of_indicator
        device, dtype = torch_device(parameters.device), getattr(torch, parameters.precision)
        few = _sampled(self._wider.leading(n_ports, counts), stored.factor)
        self.experts = on_device(few, device, dtype)
        self._solver = solver(self.experts)
        self.n_state = len(self._places)
        self._knows_tangent_33 = self.dim == 2 and all(
            isinstance(phase, PlaneStrainPhase) for phase, _ in self.experts.sampled
        )
        self._fields = HyperelasticFields(model.rve, device=torch_device(parameters.device))
        unstrained = self._solve(np.zeros((1, len(self.low))), np.zeros((1, self.n_state)))
        self.metric = np.linalg.inv(unstrained.tangent[0])

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the coupled experts; see `MaterialLaw.evaluate`."""
        found = self._solve(strain, state)
        return LawResponse(
            found.stress,
            found.tangent,
            found.unknowns,
            found.stress_33 if self.dim == 2 else None,
            valid=within(strain, self.low, self.high) & (found.decrement <= _TOLERANCE[self._precision]),
            solver_residual=found.decrement,
            tangent_33=found.tangent_33 if self._knows_tangent_33 else None,
        )

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the bound, see `fields.bound`, or as indicator the relative change by more modes and points."""
        if kind == "bound":
            return self._certified(strain, response)
        start = np.zeros((len(strain), self.basis.n_unknowns))
        start[:, self._places] = response.state
        change = self._indicator.solve(strain, start, 1, np.inf).stress - response.stress
        size = quadratic_form(response.stress, self.metric)
        return np.sqrt(quadratic_form(change, self.metric) / np.maximum(size, TINY))

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the nested solve, which starts from the fields of the experts."""
        found = self._solve(strain, state).unknowns

        def start(part: slice) -> Array:
            return self._free(strain[part], found[part])

        answer = self.exact.solve(strain, start)
        error = np.zeros(len(strain))
        return LawResponse(answer.stress, answer.tangent, found, answer.stress_33, error, tangent_33=answer.tangent_33)

    def free_fluctuation(self, strain: Array) -> Array:
        """Return the fluctuation at the free dofs of the RVE (n_free,) [length] at a strain (n_s,)."""
        unknowns = self._solve(strain[None], np.zeros((1, self.n_state))).unknowns
        return np.asarray(self._free(strain[None], unknowns)[0])

    @cached_property
    def _bound(self) -> StressBound:
        return StressBound(self._fields, self.metric)

    def _certified(self, strain: Array, response: LawResponse) -> Array:
        error = np.empty(len(strain))
        for part in chunks(len(strain), 8.0 * self._fields.space.n_dofs * (1 + strain.shape[1]) * _COPIES):
            fields = self._mode_fields(strain[part], response.state[part])
            error[part] = self._bound.error(strain[part], response.stress[part], *fields)
        return error

    @cached_property
    def _indicator(self) -> CompiledExperts | BatchedExperts:
        """The experts with all modes and the points of the indicator."""
        return solver(_sampled(self._wider, self._factor_of_indicator))

    def _solve(self, strain: Array, state: Array) -> Equilibrium:
        """Return the equilibrium at strains (n, n_s), from the state (n, n_state) of the step before."""
        return self._solver.solve(strain, state, _EVALUATIONS, _TOLERANCE[self._precision])

    def _fluctuation(self, strain: Array, unknowns: Array) -> Array:
        """Return the fluctuations of the RVE (n_dofs, n)."""
        every = np.zeros((len(strain), self.basis.n_unknowns))
        every[:, self._places] = unknowns
        return self.basis.fluctuation(self._owner, strain, self._wider.padded(every))

    def _free(self, strain: Array, unknowns: Array) -> Array:
        """Return the fluctuations at the free dofs (n, n_free)."""
        return self._fields.space.to_free(self._fluctuation(strain, unknowns)).T

    def _mode_fields(self, strain: Array, unknowns: Array) -> tuple[Tensor, Tensor]:
        """Return the fluctuations (n, n_nodes, dim) and their derivatives by the strain (n, n_nodes, dim, n_s)."""
        columns = self._solver.sensitivity(strain, unknowns)
        fields = [self._fluctuation(strain, unknowns)]
        for unit, column in zip(np.eye(strain.shape[1]), np.moveaxis(columns, 2, 0), strict=True):
            fields.append(self._fluctuation(np.tile(unit, (len(strain), 1)), column))
        every = torch.as_tensor(np.stack(fields, 2), device=self._fields.device)  # (n_dofs, n, 1 + n_s)
        nodal = every.unflatten(0, (-1, self.dim)).permute(2, 0, 1, 3).contiguous()
        return nodal[..., 0], nodal[..., 1:]


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
    modes = bubbles.reshape(space.n_nodes, mesh.dim, -1)
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
