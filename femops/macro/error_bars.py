"""Error bars of results: what the errors of the laws at the points make of a displacement or a reaction.

For a result Q, linear in displacement and stress, let ε(z) be the influence of the stress: δQ = ∫ δS : ε(z) is the
change of Q when the stress of the laws changes by δS, at equilibrium. It takes one solve with the transposed tangent.
With the relative error e of each point, certified in the norm of the law's metric M,

    |δQ| ≤ Σ w e ‖S‖_M ‖ε(z)‖_M⁻¹

to first order in e: the tangent is that of the answered laws. In laws with memory, only the errors of the last
increment count (P. Oden and S. Prudhomme, Computers & Mathematics with Applications 41, 2001, for the general theory).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.fem import petsc as fem_petsc
from petsc4py import PETSc

from femops import notation
from femops.law import CertificateKind
from femops.macro.analysis import DisplacementAt, Result
from femops.macro.boundary import total
from femops.macro.probe import basis_at
from femops.notation import Array

if TYPE_CHECKING:
    from femops.macro.problem import MacroProblem


_ROUND_OFF = 1e-9


@dataclass(frozen=True)
class Corrected:
    """A result moved by the signed contributions of points that were solved exactly once, at the solution of the run.

    Attributes:
        value: ∫ (S − S̃) : ε(z) over these points added to the value, with the stresses S of the reference law and S̃ of
            the run. With all points it is the result of the reference law up to the square of the errors.
        width: Half width of the error bar that is left: the contributions of the other points.
        kind: As in `ErrorBar`.
        points: Number of points solved, over all ranks.
    """

    value: float
    width: float
    kind: CertificateKind
    points: int


@dataclass(frozen=True)
class ErrorBar:
    """Half width of the error bar of a result.

    Attributes:
        width: Sum of the contributions of all points, in units of the result; infinite where an error is.
        kind: What the errors of the points are: bounds, or the estimates of the indicator.
        contribution: Contribution of each point of this rank. Shape (n_qp,).
    """

    width: float
    kind: CertificateKind
    contribution: Array


class ErrorBars:
    """Error bars of results at the last accepted increment.

    Args:
        problem: The macroscale problem; its analysis has `trust`, and a law that certifies its errors.
    """

    def __init__(self, problem: MacroProblem) -> None:
        self._problem = problem
        self._dual = fem.Function(problem.displacement.function_space)
        self._weights = problem.quadrature.weights()
        self._strain = problem.quadrature.strain_of(self._dual)
        test = ufl.TestFunction(self._dual.function_space)
        left, right = (notation.ufl_strain(one, problem.dim) for one in (self._dual, test))
        self._transposed = fem.form(ufl.inner(left, problem.quadrature.tangent * right) * problem.quadrature.measure)
        self._influences: dict[Result, Array] = {}
        self._response = -1

    def of(self, results: Mapping[str, Result]) -> dict[str, ErrorBar]:
        """Return the error bars of results by name; collective.

        Laws that cannot certify their errors, closed-form and nested ones, count as exact.
        """
        kind = self._problem.material.statistics.certificate
        assert kind is not None, "an analysis without trust certifies nothing"
        stress, bars = self._certified_stress(), {}
        for name, result in results.items():
            contribution = self._weights * self._sizes(stress, self.influence(result))
            bars[name] = ErrorBar(float(total(self._problem.comm, contribution.sum())), kind, contribution)
        return bars

    def settle(self, goal: Result, value: float, tolerance: float) -> int:
        """Choose points to solve exactly in further evaluations, until the error bar of a result is small enough.

        Of all points those with the largest part in the bar are taken, as many as it takes for the rest; collective.

        Args:
            goal: The result.
            value: Its value.
            tolerance: Largest width of the bar relative to the value.

        Returns:
            Number of points chosen, over all ranks; 0 if the bar is small enough.
        """
        contribution = self.of({"goal": goal})["goal"].contribution
        every = np.sort(np.concatenate(self._problem.comm.allgather(contribution)))
        allowed = int(np.searchsorted(np.cumsum(every), tolerance * abs(value), side="right"))
        chosen = self._largest(contribution, len(every) - allowed)
        self._problem.material.remember(chosen)
        return int(total(self._problem.comm, int(chosen.sum())))

    def corrected(
        self, results: Mapping[str, Result], values: Mapping[str, float], share: float
    ) -> dict[str, Corrected]:
        """Return results corrected by exact solutions of the points with the largest parts in their error bars.

        The run itself stays as it is; points that it solved exactly already have no part. Collective.

        Args:
            results: The results by name.
            values: Their values.
            share: Largest part of all points to solve, up to points that are equal by symmetry.

        Raises:
            NotConverged: A reference law did not converge.
        """
        problem, bars = self._problem, self.of(results)
        part = np.zeros(len(self._weights))
        for bar in bars.values():
            finite = np.where(np.isfinite(bar.contribution), bar.contribution, 0.0)
            size = float(total(problem.comm, finite.sum()))
            part = np.maximum(part, np.where(finite == bar.contribution, finite / (size or 1.0), np.inf))
        chosen = self._largest(part, math.ceil(share * int(total(problem.comm, len(part))))) & (part > 0.0)
        change = problem.material.exact_stress(problem.quadrature.strain(), chosen) - problem.material.stress
        points = int(total(problem.comm, int(chosen.sum())))
        found = {}
        for name, bar in bars.items():
            moved = self._weights @ (change * self.influence(results[name])).sum(axis=1)
            moved, width = total(problem.comm, [moved, bar.contribution[~chosen].sum()])
            found[name] = Corrected(values[name] + float(moved), float(width), bar.kind, points)
        return found

    def _largest(self, values: Array, count: int) -> Any:
        """Return a mask of the largest values of all ranks, and of those equal to them by symmetry; collective."""
        every = np.sort(np.concatenate(self._problem.comm.allgather(values)))
        if count == 0:
            return np.zeros(len(values), dtype=bool)
        return np.asarray(values >= every[-count] * (1.0 - _ROUND_OFF))

    def influence(self, result: Result) -> Array:
        """Return ε(z) of a result, Mandel, in units of the result over [stress · volume]. Shape (n_qp, n_s).

        It is kept until the laws answer anew, so that the last response needs one factorisation; collective.
        """
        if self._response != self._problem.responses:
            self._problem.assemble_tangent()
            self._influences, self._response = {}, self._problem.responses
        if result not in self._influences:
            self._influences[result] = self._solved(result)
        return self._influences[result]

    def _solved(self, result: Result) -> Array:
        """Solve for the influence with the tangent last assembled."""
        problem, dual = self._problem, self._dual
        right = fem_petsc.create_vector(dual.function_space)
        held = np.zeros(len(dual.x.array))
        if isinstance(result, DisplacementAt):
            dofs, values = basis_at(problem, result.at)
            with right.localForm() as local:
                local.array[dofs * problem.dim + result.axis] = -values
            right.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
        else:
            dofs = problem.held_dofs(result.boundary, result.axis)
            held[dofs] = 1.0
            dual.x.array[:] = held
            fem_petsc.assemble_vector(right, self._transposed)
            right.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
            right.scale(-1.0)
        problem.solve_transposed(right, dual)
        dual.x.array[:] += held
        return self._strain()

    def _certified_stress(self) -> list[tuple[Array, Array, Array]]:
        """Return for each law that certifies: its points, e ‖S‖_M there, and M⁻¹."""
        material, found = self._problem.material, []
        for region in material.regions:
            if region.certified is None:
                continue
            metric = region.certified.metric
            size = _norms(material.stress[region.points], metric)
            found.append((region.points, np.where(size > 0.0, region.error * size, 0.0), np.linalg.inv(metric)))
        return found

    def _sizes(self, stress: list[tuple[Array, Array, Array]], influence: Array) -> Array:
        """Return e ‖S‖_M ‖ε(z)‖_M⁻¹ at all points. Shape (n_qp,)."""
        found = np.zeros(len(influence))
        for points, size, inverse in stress:
            part = influence[points]
            weight = _norms(part, inverse)
            found[points] = np.where(weight > 0.0, size * weight, 0.0)
        return found


def _norms(vectors: Array, metric: Array) -> Array:
    """Return √(v · metric · v) of vectors (n, n_s). Shape (n,)."""
    return np.sqrt(np.einsum("ns,st,nt->n", vectors, metric, vectors))
