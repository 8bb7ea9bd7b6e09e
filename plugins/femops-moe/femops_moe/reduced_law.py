"""Laws of reduced models whose unknowns are ports and bubbles."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from femops.devices import torch_device
from femops.devices.torch_library import Tensor, torch
from femops.law import CertificateKind, LawResponse
from femops.notation import Array
from femops.phases import know_row_33
from femops.surrogate import TrainedModel, chunks, within
from femops.surrogate.fields.bound import StressBound
from femops.surrogate.fields.hyperelastic import HyperelasticFields
from femops.surrogate.fields.law import TINY, FieldLaw, in_numpy, quadratic_form
from femops_moe.galerkin import Equilibrium
from femops_moe.options import MoEParameters

_EVALUATIONS = 12
_COPIES = 6  # copies of the fields of a point in memory at the same time
_INNER = 2  # conjugate-gradient steps of a Newton step of the whole field
_TOLERANCE = {"float64": 1e-12, "float32": 1e-8}  # Newton decrement, relative to the work


class Solver(Protocol):
    """Newton's method for a reduced model."""

    def solve(self, strain: Array, start: Array, evaluations: int, tolerance: float) -> Equilibrium:
        """Return the response at strains; see `galerkin.BatchedExperts.solve`."""
        ...

    def sensitivity(self, strain: Array, unknowns: Array) -> Array:
        """Return the derivative of the unknowns by the strain. Shape (n, n_unknowns, n_s)."""
        ...


class ReducedLaw(FieldLaw):
    """An RVE of hyperelastic phases whose fluctuation is composed of port and bubble modes.

    The state of a point holds the ports and bubbles of its last step, from which the next one starts; zeros are the
    virgin state. Stress and tangent are exact derivatives of the minimum of the reduced energy. `solver_residual` is
    the Newton decrement relative to the work; it excludes the errors of modes and cubature.

    Args:
        model: The trained model, with the RVE to answer for.
        parameters: Parameters in the case.
        solver: Solver of the reduced model.
        n_unknowns: Its number of ports and bubbles.
        sampled: Phases that are sampled at points, each with its points.

    Attributes:
        metric: Metric of the stress norm of the certificates: the compliance at zero strain [1/stress]. Shape
            (n_s, n_s).

    Raises:
        CaseError: A phase has internal state, or the requested device is not available.
    """

    def __init__(
        self,
        model: TrainedModel,
        parameters: MoEParameters,
        solver: Solver,
        n_unknowns: int,
        sampled: Sequence[tuple[Any, Any]],
    ) -> None:
        super().__init__(model.rve)
        self.low, self.high, self.n_state = model.low, model.high, n_unknowns
        self._solver, self._tolerance = solver, _TOLERANCE[parameters.precision]
        self._device = torch_device(parameters.device)
        self._knows_tangent_33 = know_row_33((phase for phase, _ in sampled), self.dim)
        unstrained = self._solve(np.zeros((1, len(self.low))), np.zeros((1, n_unknowns)))
        self.metric = np.linalg.inv(unstrained.tangent[0])

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the reduced model; see `MaterialLaw.evaluate`."""
        found = self._solve(strain, state)
        return LawResponse(
            found.stress,
            found.tangent,
            found.unknowns,
            found.stress_33 if self.dim == 2 else None,
            valid=within(strain, self.low, self.high) & (found.decrement <= self._tolerance),
            solver_residual=found.decrement,
            tangent_33=found.tangent_33 if self._knows_tangent_33 else None,
        )

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the bound of `femops.surrogate.fields.bound`, or the indicator of the model."""
        if kind == "indicator":
            return self._indicated(strain, response)
        error = np.empty(len(strain))
        for part in self._field_parts(strain):
            fields = self._mode_fields(strain[part], response.state[part])
            error[part] = self._bound.error(strain[part], response.stress[part], *fields)
        return error

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the nested solve, which starts from the fields of the reduced model."""
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

    @abstractmethod
    def _indicated(self, strain: Array, response: LawResponse) -> Array:
        """Return an estimate of the relative error of responses. Shape (n,)."""

    @abstractmethod
    def _fluctuation(self, strain: Array, unknowns: Array) -> Array:
        """Return the fluctuations of the RVE (n_dofs, n)."""

    def _change_in_newton_step(self, strain: Array, response: LawResponse) -> Array:
        """Return the relative change of the stress in a Newton step of the whole field. Shape (n,)."""
        error, size = np.empty(len(strain)), quadratic_form(response.stress, self.metric)
        for part in self._field_parts(strain):
            given = torch.tensor(strain[part], device=self._fields.device)
            fields = self._mode_fields(strain[part], response.state[part])
            better = self._fields.improve(given, *fields, steps=1, inner=_INNER)
            change = in_numpy(self._fields.evaluate(given, *better).stress) - response.stress[part]
            error[part] = np.sqrt(quadratic_form(change, self.metric) / np.maximum(size[part], TINY))
        return error

    @cached_property
    def _fields(self) -> HyperelasticFields:
        return HyperelasticFields(self.rve, device=self._device)

    @cached_property
    def _bound(self) -> StressBound:
        return StressBound(self._fields, self.metric)

    def _solve(self, strain: Array, state: Array) -> Equilibrium:
        """Return the equilibrium at strains (n, n_s), from the state (n, n_state) of the step before."""
        return self._solver.solve(strain, state, _EVALUATIONS, self._tolerance)

    def _field_parts(self, strain: Array) -> list[slice]:
        """Return the parts of a batch whose fields fit into memory."""
        return list(chunks(len(strain), 8.0 * self._fields.space.n_dofs * (1 + strain.shape[1]) * _COPIES))

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
