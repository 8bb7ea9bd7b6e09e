"""The laws of a body and their state at its quadrature points."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpi4py import MPI

from femops import notation
from femops.case import EVERYWHERE, Trust
from femops.errors import NotConverged
from femops.law import LawResponse, MaterialLaw
from femops.macro.mesh import MacroMesh
from femops.macro.quadrature import Quadrature
from femops.notation import Array


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
    points_solved_exactly: int = 0
    largest_error: float | None = None


@dataclass
class Material:
    """Evaluates every region's law on its batch of points.

    Args:
        laws: Law of each region; `everywhere` serves the whole body.
        mesh: The macroscale mesh.
        quadrature: Its points.
        trust: What to do where a law calls its answer wrong; None stops at invalid points only.
    """

    laws: Mapping[str, MaterialLaw]
    mesh: MacroMesh
    quadrature: Quadrature
    trust: Trust | None = None
    statistics: LawStatistics = field(default_factory=LawStatistics)

    def __post_init__(self) -> None:
        self.regions = []
        for name, law in self.laws.items():
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
        failure = ""
        invalid = doubtful = 0
        largest = -np.inf
        for region in self.regions:
            try:
                response = region.law.evaluate(strain[region.points], region.state, dt)
            except NotConverged as error:
                failure = f"law of {region.name}: {error}"
                break
            self._store(region, response)
            if response.valid is not None:
                invalid += int((~np.asarray(response.valid)).sum())
            if response.error is not None and len(response.error):
                largest = max(largest, float(response.error.max()))
                if self.trust is not None:
                    doubtful += int((response.error > self.trust.tolerance).sum())
        self._agree(failure, invalid, doubtful, largest, len(strain))

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

    def _store(self, region: Region, response: LawResponse) -> None:
        region.trial = response
        self.stress[region.points] = response.stress
        self.tangent[region.points] = response.tangent
        if response.stress_33 is not None:
            self.stress_33[region.points] = response.stress_33
        if response.error is not None:
            self.error[region.points] = response.error

    def _agree(self, failure: str, invalid: int, doubtful: int, largest: float, evaluated: int) -> None:
        """Gather what happened on all ranks, count it and raise everywhere if it must."""
        comm = self.mesh.mesh.comm
        failures = [text for text in comm.allgather(failure) if text]
        counts = comm.allreduce(np.array([evaluated, invalid, doubtful]), op=MPI.SUM)
        worst = comm.allreduce(largest, op=MPI.MAX)
        statistics = self.statistics
        statistics.points_evaluated += int(counts[0])
        statistics.points_invalid += int(counts[1])
        statistics.points_above_tolerance += int(counts[2])
        if np.isfinite(worst):
            statistics.largest_error = max(worst, statistics.largest_error or 0.0)
        if failures:
            raise NotConverged(failures[0])
        stops = self.trust is None or self.trust.on_violation == "stop"
        if counts[1] and stops:
            raise NotConverged(f"a law called its answer invalid at {counts[1]} points")
        if counts[2] and stops:
            raise NotConverged(f"the error stated by a law exceeds trust.tolerance at {counts[2]} points")
