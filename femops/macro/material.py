"""Evaluation of the laws of all regions of a body at its quadrature points."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from mpi4py import MPI

from femops.errors import CaseError, NotConverged
from femops.law import LearningLaw, MaterialLaw
from femops.macro.analysis import Trust
from femops.macro.mesh import MacroMesh
from femops.macro.quadrature import Quadrature
from femops.macro.region import Region
from femops.macro.timers import Timers
from femops.macro.trust import Counts, Enrichment, LawStatistics, choose_snapshots, gathered, refuse, violation
from femops.meshing import EVERYWHERE
from femops.notation import Array
from femops.parallel import on_every_rank

# Within the range of every law, and not zero, where laws may take a shortcut.
_WARM_UP_STRAIN = 1e-6


@dataclass
class Material:
    """Evaluates the law of every region, each in one batch.

    A point is in doubt where the response is invalid or not finite, or its error exceeds the tolerance of `trust`.

    Args:
        laws: Law of each region; `everywhere` denotes the whole body.
        mesh: The macroscale mesh.
        quadrature: Its quadrature points.
        trust: Treatment of points in doubt; None stops at invalid points only.
        timers: Timers of certificates and exact solves.
        law_names: Name of the law of each region, for messages.

    Attributes:
        stress: Stress of the last response at all points of this rank, that of the weak form. Shape (n_qp, n_s).
        tangent: Its consistent tangent, likewise. Shape (n_qp, n_s, n_s).

    Raises:
        CaseError: A law violates the contract or has the wrong dimension, or the case asks for exact solves or
            enrichment without laws that support them.
    """

    laws: Mapping[str, MaterialLaw]
    mesh: MacroMesh
    quadrature: Quadrature
    trust: Trust | None = None
    timers: Timers = field(default_factory=Timers)
    law_names: Mapping[str, str] = field(default_factory=dict)
    statistics: LawStatistics = field(default_factory=LawStatistics)

    def __post_init__(self) -> None:
        self.stress, self.tangent = self.quadrature.stress_values(), self.quadrature.tangent_values()
        self.regions = []
        for name, law in self.laws.items():
            cells = self.quadrature.cells if name == EVERYWHERE else self.mesh.regions[name]
            points, law_name = self.quadrature.points_of(cells), self.law_names.get(name, "")
            storage = {"stress": self.stress, "tangent": self.tangent} if name == EVERYWHERE else {}
            self.regions.append(Region(name, law, points, self._comm, law_name, storage))
            if law.dim != self.quadrature.dim:
                raise CaseError(
                    f"the law is {law.dim}D, expected {self.quadrature.dim}D as in kinematics", key=f"material.{name}"
                )
        _check_state_fields(self.regions)
        self._certified = any(region.certified is not None for region in self.regions)
        if self.trust is not None and not self._certified:
            problem = "given, but no law of the case can solve its points exactly; expected"
            if self.trust.on_violation == "solve":
                raise CaseError(f"'solve' {problem} stop or warn", key="trust.on_violation")
            if self.trust.correct:
                raise CaseError(f"{self.trust.correct:g} {problem} 0", key="trust.correct")
        for region in self.regions:
            learns = isinstance(region.law, LearningLaw) and region.law.learns
            if self.trust is not None and self.trust.enrich and region.certified is not None and not learns:
                problem = f"true given, but the law of {region.name} cannot learn; expected false"
                raise CaseError(problem, key="trust.enrich")
        self.statistics.can_certify = self._certified
        if self.trust is not None and self._certified:
            self.statistics.certificate = self.trust.certificate
        self.stress_33 = np.zeros(self.quadrature.n_points)
        self.error = np.full(self.quadrature.n_points, np.nan)
        self._counts = Counts()
        self._kept = tuple(np.empty_like(one) for one in self._response)

    @property
    def states_error(self) -> bool:
        """Whether any law provides errors or certificates; collective."""
        mine = not np.isnan(self.error).all() or self.statistics.certificate is not None
        return bool(self._comm.allreduce(mine, op=MPI.LOR))

    @property
    def _comm(self) -> MPI.Comm:
        return self.mesh.mesh.comm

    @property
    def _response(self) -> tuple[Array, ...]:
        return self.stress, self.tangent, self.stress_33, self.error

    def warm_up(self, dt: float) -> None:
        """Call every law once at one point to trigger compilation and loading; collective.

        Args:
            dt: Length of an increment [time].

        Raises:
            CaseError: A law violates the contract.
        """
        strain = np.full((1, self.stress.shape[1]), _WARM_UP_STRAIN)

        def work() -> None:
            for region in self.regions:
                region.warm_up(strain, dt, self.trust)

        with suppress(NotConverged):  # the response is not used
            on_every_rank(self._comm, work)

    def evaluate(self, strain: Array, dt: float) -> None:
        """Evaluate every law once at all its points; collective.

        Points in doubt are solved exactly, in one batch per law, if the case asks for it. Responses in doubt are
        accepted during Newton iterations; see `judge`.

        Args:
            strain: Total strain at all points of this rank, Mandel [-]. Shape (n_qp, n_s).
            dt: Length of the increment [time].

        Raises:
            NotConverged: A law on any rank did not converge.
            CaseError: A law violates the contract.
        """
        trust, timers = self.trust, self.timers
        self._counts = self._counted([region.ask(region.part_of(strain), dt, trust, timers) for region in self.regions])
        for region in self.regions:
            if (answer := region.trial) is None:
                continue
            for values, new in ((self.stress, answer.stress), (self.tangent, answer.tangent)):
                if not np.may_share_memory(values, new):
                    values[region.points] = new
            if answer.stress_33 is not None:
                self.stress_33[region.points] = answer.stress_33

    @property
    def violation(self) -> str:
        """Why the last response must not be used; empty if it may be used."""
        return violation(self._counts, self.trust, solvable=self._certified)

    def judge(self) -> None:
        """Check that the last response, at equilibrium, may be used.

        Raises:
            Refused: Points in doubt were not solved exactly.
        """
        refuse(self._counts, self.trust, solvable=self._certified)

    def certify(self, strain: Array) -> int:
        """Certify the last response at the points that were not solved exactly; collective.

        Args:
            strain: Strain of the last response, Mandel [-]. Shape (n_qp, n_s).

        Returns:
            Number of points, over all ranks, that are solved exactly from now on.

        Raises:
            Refused: Points exceed the tolerance and `trust.on_violation` is `stop`.
        """
        trust = self.trust
        if trust is None or not self._certified:
            return 0
        with self.timers.part("certificate"):
            counts = self._counted(on_every_rank(self._comm, partial(self._certify, strain, trust)))
        refuse(counts, trust, solvable=True)
        return counts.remembered

    def _certify(self, strain: Array, trust: Trust) -> list[Counts]:
        return [region.certify(region.part_of(strain), trust) for region in self.regions]

    def remember(self, chosen: Array) -> None:
        """Solve points exactly in further evaluations where their law can certify. Shape (n_qp,), a mask."""
        for region in self.regions:
            if region.certified is not None:
                region.remember(np.flatnonzero(chosen[region.points]))

    def exact_stress(self, strain: Array, chosen: Array) -> Array:
        """Return the last stress, with that of the reference laws at chosen points; collective.

        Args:
            strain: Strain of the last response, Mandel [-]. Shape (n_qp, n_s).
            chosen: Mask of points where a law can certify. Shape (n_qp,).

        Returns:
            Stress, Mandel [stress]. Shape (n_qp, n_s).

        Raises:
            NotConverged: A reference law on any rank did not converge.
        """
        stress = self.stress.copy()

        def work() -> None:
            for region in self.regions:
                own = np.flatnonzero(chosen[region.points])
                if len(own):
                    stress[region.points[own]] = region.exact_stress(region.part_of(strain), own)

        with self.timers.part("exact solves"):
            on_every_rank(self._comm, work)
        return stress

    def commit(self) -> None:
        """Make the last response the committed state; collective."""
        residuals = [np.empty(0)]
        for region in self.regions:
            region.commit()
            if region.trial is not None and region.trial.solver_residual is not None:
                residuals.append(region.trial.solver_residual)
        self.statistics.accept(self._comm, self.error, np.concatenate(residuals))
        self.keep()

    def keep(self) -> None:
        """Save the current response and the set of exactly solved points for `restore`."""
        for values, kept in zip(self._response, self._kept, strict=True):
            kept[:] = values
        for region in self.regions:
            region.keep()

    def restore(self) -> None:
        """Return to the response saved by `keep`."""
        for values, kept in zip(self._response, self._kept, strict=True):
            values[:] = kept
        for region in self.regions:
            region.restore()

    def enrich(self, strain: Array, step: int) -> None:
        """Enrich the laws with exact solutions at some of the exactly solved points; collective.

        Args:
            strain: Strain of the last response, Mandel [-]. Shape (n_qp, n_s).
            step: Number of the completed step.
        """
        for region in self.regions:
            if region.certified is None:
                continue
            candidates = gathered(self._comm, strain[region.points[region.solved]])
            chosen = choose_snapshots(candidates, gathered(self._comm, region.doubt[region.solved]))
            if len(chosen):
                with self.timers.part("enrichment"):
                    on_every_rank(self._comm, partial(region.enrich, chosen))
                self.statistics.enrichments.append(Enrichment(step, region.name, len(chosen)))

    def state_fields(self) -> dict[str, Array]:
        """Return the committed state fields of all laws by name, NaN outside their region. Shape (n_qp, n) each."""
        fields: dict[str, Array] = {}
        for region in self.regions:
            for name, part in region.law.state_fields.items():
                values = fields.setdefault(name, np.full((self.quadrature.n_points, part.stop - part.start), np.nan))
                values[region.points] = region.state[:, part]
        return fields

    def _counted(self, counts: list[Counts]) -> Counts:
        """Return the counts of the regions summed over all ranks; their errors become those of the body."""
        for region in self.regions:
            self.error[region.points] = region.error
        total = Counts()
        for one in counts:
            total.add(one)
        total = total.over_ranks(self._comm)
        self.statistics.add(total)
        return total


def _check_state_fields(regions: list[Region]) -> None:
    """Check that state fields of the same name have the same size, as they form one result field."""
    sizes: dict[str, tuple[int, str]] = {}
    for region in regions:
        for name, part in region.law.state_fields.items():
            size = part.stop - part.start
            first, other = sizes.setdefault(name, (size, region.name))
            if size != first:
                problem = f"the state field {name!r} has {size} components, but {first} in {other!r}; expected as many"
                raise CaseError(problem, key=f"material.{region.name}")
