"""The RVE behind a trained law: exact solves, fields, certificates at its quadrature points, new modes."""

from functools import cached_property

import numpy as np

from femops.notation import Array
from femops.rve.micro import MicroFields
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import SolverOptions
from femops.rve.spec import RVE
from femops.surrogate import CheckedArrays, ExactRVE, FitTask
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops.surrogate.spec import Arrays
from femops_equino.fields import fields_with_stress
from femops_equino.offline import CONVERGED, MOST_EVALUATIONS, enriched
from femops_equino.options import EquiNOOptions
from femops_equino.reduced.basis import Basis
from femops_equino.reduced.certificate import CertificatePoints, Quadratics, energy_gap, relative_error
from femops_equino.reduced.full import FullModel, full_model
from femops_equino.reduced.model import ReducedModel
from femops_equino.reduced.pod import ElasticRVE
from femops_equino.reduced.second_order import ball_error, stress_ball

_SNAPSHOT_RTOL = 1e-10
_LARGE = 1e-2  # bound of second order above which that of first order may be smaller


class Microscale:
    """The RVE of a trained law, with its stored modes.

    Args:
        rve: The RVE.
        arrays: Arrays of the model.
        basis: Its modes.

    Attributes:
        exact: The nested solve.
        indicator_points: Points of the error indicator.

    Raises:
        StoredArrayError: The modes or points are not those of this RVE.
    """

    def __init__(self, rve: RVE, arrays: CheckedArrays, basis: Basis) -> None:
        self.rve, self.basis = rve, basis
        self.exact = ExactRVE(rve)
        d = rve.discretisation
        own = CheckedArrays(arrays, n_free=self.exact.solver.free.count)
        own.take("modes.displacement", "n_free", "r")
        own.take("modes.stress", d.n_s * d.n_points, "n_b")
        self.indicator_points = CertificatePoints.from_arrays(arrays, rve)

    @cached_property
    def operators(self) -> ElasticRVE:
        """The elastic operators of the RVE."""
        free = self.exact.solver.free
        return ElasticRVE(self.rve, free.of, free.count)

    @cached_property
    def full(self) -> FullModel:
        """The reduced model with all quadrature points."""
        return full_model(self.rve, self.operators, self.basis)

    def bound(
        self, quadratics: Quadratics, solver: ReducedModel, strain: Array, coefficients: Array, stress: Array
    ) -> Array:
        """Return a guaranteed bound (n,) of the relative error of stresses (n, n_s).

        It is that of second order or, where that exceeds 1 %, the one of first order if smaller; see `stress_ball`.
        """
        ball = stress_ball(self.full.points, self.indicator_points, quadratics, solver, strain, coefficients)
        error = ball_error(strain, stress, ball, quadratics.metric)
        large = ~(error <= _LARGE)
        if large.any():
            strain, stress = strain[large], stress[large]
            gap = energy_gap(self.full.points, quadratics, solver, strain, coefficients[large])
            error[large] = np.minimum(error[large], relative_error(strain, stress, gap, quadratics.metric, "bound"))
        return error

    def micro_fields(self, strain: Array) -> MicroFields:
        """Return the fields inside the RVE of one point; see `fields`.

        Args:
            strain: Macroscale strain, Mandel. Shape (n_s,).
        """
        fluctuation, stress = self.fields(strain[None])
        return fields_with_stress(self.exact, strain, fluctuation[:, 0], stress[:, :, 0])

    def fields(self, strain: Array) -> tuple[Array, Array]:
        """Return the fields of the RVE from the reduced model with all quadrature points.

        The stress is the projection of the phases' stress onto the stress modes, which is in equilibrium and more
        accurate.

        Args:
            strain: Macroscale strains, Mandel [-]. Shape (n, n_s).

        Returns:
            Fluctuation at the free dofs [length], shape (n_free, n), and stress at the quadrature points [stress],
            shape (n_s, n_points, n).
        """
        a = self.full.model.solve(strain, strain @ self.basis.elastic.T, MOST_EVALUATIONS, CONVERGED).coefficients
        fluctuation = self.basis.displacement @ a.T
        local = (self.operators.gradient @ fluctuation).reshape(strain.shape[1], -1, len(strain)) + strain.T[:, None]
        stress = np.empty_like(local)
        for position, phase in enumerate(self.rve.phases):
            part = self.rve.discretisation.points_of_phase(position)
            stress[:, part] = phase.evaluate(local[:, part], np.zeros((0, *local[0, part].shape))).stress
        b = self.operators.stress_gram(self.basis.stress, stress.reshape(-1, len(strain)))
        return fluctuation, (self.basis.stress @ b).reshape(local.shape)

    def enriched(self, options: EquiNOOptions, low: Array, high: Array, states: Array, strain: Array) -> Arrays:
        """Return the arrays of the model with modes of exact solutions at given strains.

        Args:
            options: Options of the training.
            low: Lower corner of the new range, Mandel [-]. Shape (n_s,).
            high: Upper corner. Shape (n_s,).
            states: Strains at which the cubature was fitted. Shape (T, n_s).
            strain: New strains. Shape (n, n_s).
        """
        solver = SnapshotSolver(self.rve, SolverOptions(rtol=_SNAPSHOT_RTOL))
        task = FitTask({}, self.rve, solver, options, low, high, MemoryCheckpoint(), lambda *_: None)
        return enriched(task, self.basis, states, strain).to_arrays()
