"""The laws of a body and their state at its quadrature points."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpi4py import MPI

from femops import notation
from femops.case import EVERYWHERE, Trust
from femops.errors import CaseError, NotConverged
from femops.law import LawResponse, MaterialLaw
from femops.macro.mesh import MacroMesh
from femops.macro.quadrature import Quadrature
from femops.notation import Array
from femops.parallel import on_every_rank


@dataclass
class Region:
    """A law and the points that it serves on this rank.

    Attributes:
        name: Name of the region, or `everywhere`.
        law: Its law.
        points: Quadrature points of the region on this rank.
        state: Committed state. Shape (n_points, n_state).
        trial: The law's last response.
    """

    name: str
    law: MaterialLaw
    points: Any
    state: Array
    trial: LawResponse | None = None


@dataclass
class LawStatistics:
    """What the laws were asked during a run, over all ranks."""

    points_evaluated: int = 0
    points_invalid: int = 0
    points_above_tolerance: int = 0
    largest_error: float | None = None


@dataclass
class _Counts:
    """What the laws of one rank were asked and said; `largest` is the largest error stated, −1 for none."""

    evaluated: int
    invalid: int = 0
    doubtful: int = 0
    largest: float = -1.0


@dataclass
class Material:
    """Evaluates every region's law on its batch of points.

    Args:
        laws: Law of each region; `everywhere` serves the whole body.
        mesh: The macroscale mesh.
        quadrature: Its points.
        trust: What to do where a law calls its answer wrong; None stops at invalid points only.

    Raises:
        CaseError: A law has another dimension than the body.
    """

    laws: Mapping[str, MaterialLaw]
    mesh: MacroMesh
    quadrature: Quadrature
    trust: Trust | None = None
    statistics: LawStatistics = field(default_factory=LawStatistics)

    def __post_init__(self) -> None:
        self.regions = []
        for name, law in self.laws.items():
            if law.dim != self.quadrature.dim:
                raise CaseError(
                    f"the law is {law.dim}D, expected {self.quadrature.dim}D as in kinematics", key=f"material.{name}"
                )
            cells = self.quadrature.cells if name == EVERYWHERE else self.mesh.regions[name]
            points = self.quadrature.points_of(cells)
            self.regions.append(Region(name, law, points, np.zeros((len(points), law.n_state))))
        n_s = notation.n_strain(self.quadrature.dim)
        self.stress = np.zeros((self.quadrature.n_points, n_s))
        self.tangent = np.zeros((self.quadrature.n_points, n_s, n_s))
        self.stress_33 = np.zeros(self.quadrature.n_points)
        self.error = np.full(self.quadrature.n_points, np.nan)

    def evaluate(self, strain: Array, dt: float) -> None:
        """Ask every law once for all its points; collective.

        Args:
            strain: Total strain at all points of this rank, Mandel [-]. Shape (n_qp, n_s).
            dt: Length of the increment [time].

        Raises:
            NotConverged: A law on any rank found no answer, or one that must not be used.
        """
        counts = on_every_rank(self.mesh.mesh.comm, lambda: self._ask(strain, dt))
        self._judge(counts)

    def commit(self) -> None:
        """Make the last response the committed state."""
        for region in self.regions:
            if region.trial is not None:
                region.state = region.trial.state

    def state_fields(self) -> dict[str, Array]:
        """Return the committed parts of the state worth looking at, NaN outside their region. Shape (n_qp, ...)."""
        fields: dict[str, Array] = {}
        for region in self.regions:
            for name, part in region.law.state_fields.items():
                values = fields.setdefault(name, np.full((self.quadrature.n_points, part.stop - part.start), np.nan))
                values[region.points] = region.state[:, part]
        return fields

    def _ask(self, strain: Array, dt: float) -> _Counts:
        """Ask every law for the points of this rank and keep what they answer."""
        counts = _Counts(evaluated=len(strain))
        for region in self.regions:
            region.trial = None
            try:
                response = region.law.evaluate(strain[region.points], region.state, dt)
            except NotConverged as error:
                raise NotConverged(f"law of {region.name}: {error.what}", error.residuals) from error
            self._store(region, response)
            self._count(response, counts)
        return counts

    def _store(self, region: Region, response: LawResponse) -> None:
        n, n_s = len(region.points), self.stress.shape[1]
        expected = {"stress": (n, n_s), "tangent": (n, n_s, n_s), "state": (n, region.law.n_state)}
        if self.quadrature.dim == 2:
            expected["stress_33"] = (n,)
        for name, shape in expected.items():
            values = getattr(response, name)
            if np.shape(values) != shape:
                raise ValueError(f"the law of {region.name} answers {name} of {np.shape(values)}, expected {shape}")
            bad = ~np.isfinite(values)
            if bad.any():
                count = int(bad.reshape(n, -1).any(axis=1).sum())
                raise NotConverged(f"law of {region.name}: {name} is not finite at {count} of {n} points")
        region.trial = response
        self.stress[region.points] = response.stress
        self.tangent[region.points] = response.tangent
        if response.stress_33 is not None:
            self.stress_33[region.points] = response.stress_33
        if response.error is not None:
            self.error[region.points] = response.error

    def _count(self, response: LawResponse, counts: _Counts) -> None:
        """Count the points where a law doubts its answer; an error that is no number is the worst of all."""
        if response.valid is not None:
            counts.invalid += int((~np.asarray(response.valid)).sum())
        if response.error is None or not len(response.error):
            return
        stated = np.isfinite(response.error)
        counts.invalid += int((~stated).sum())
        counts.largest = max(counts.largest, float(response.error[stated].max(initial=0.0)))
        if self.trust is not None:
            counts.doubtful += int((response.error[stated] > self.trust.tolerance).sum())

    def _judge(self, counts: _Counts) -> None:
        """Add up what happened on all ranks and raise everywhere if it must not be used."""
        comm = self.mesh.mesh.comm
        evaluated, invalid, doubtful = comm.allreduce(
            np.array([counts.evaluated, counts.invalid, counts.doubtful]), op=MPI.SUM
        )
        worst = comm.allreduce(counts.largest, op=MPI.MAX)
        statistics = self.statistics
        statistics.points_evaluated += int(evaluated)
        statistics.points_invalid += int(invalid)
        statistics.points_above_tolerance += int(doubtful)
        if worst >= 0.0:
            statistics.largest_error = max(worst, statistics.largest_error or 0.0)
        if self.trust is not None and self.trust.on_violation == "warn":
            return
        if invalid:
            raise NotConverged(f"a law called its answer invalid at {invalid} points")
        if doubtful:
            raise NotConverged(f"the error stated by a law exceeds trust.tolerance at {doubtful} points")
