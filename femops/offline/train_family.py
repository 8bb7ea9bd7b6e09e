"""Training on a family of microstructures, validated at unseen members of the family."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np

from femops import notation
from femops.errors import CaseError
from femops.inputs.study import Study
from femops.law import LawContext, LawResponse, MaterialLaw
from femops.notation import Array
from femops.offline import family_store
from femops.offline.filling import SampleReport
from femops.offline.plan import Plan, check, folder_of, study_hash
from femops.offline.sample import solve_members
from femops.offline.strains import member_strains
from femops.parallel import on_root_quietly
from femops.rve.family import Family, microstructure
from femops.rve.law import NestedLaw
from femops.rve.sampling import bounds
from femops.rve.spec import RVE, build_rve
from femops.surrogate.accuracy import Accuracy, accuracy
from femops.surrogate.registry import SurrogateSpec
from femops.surrogate.spec import Checkpoint, FamilyTask, Fit, Progress, TrainedModel
from femops.surrogate.store import write_family_model

_UNSEEN = 1  # distinguishes the random numbers of validation and training


class FamilyRVEs(Sequence[RVE]):
    """The RVEs of a family, built on access.

    Args:
        family: The family.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self._context = LawContext(family.dim)

    def __len__(self) -> int:
        """Number of RVEs."""
        return self.family.count

    @overload
    def __getitem__(self, index: int) -> RVE: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RVE]: ...
    def __getitem__(self, index: int | slice) -> RVE | Sequence[RVE]:
        """Build one or several RVEs."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return build_rve(microstructure(self.family, index % len(self)).parameters, self._context)


@dataclass(frozen=True)
class FamilyPlan(Plan):
    """A study of a family of RVEs that is ready to train.

    Attributes:
        low: Lower corner of the training range, Mandel [-]; zero if all phases are linear. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
    """

    low: Array
    high: Array
    errors_over: ClassVar[str] = "volume fraction"

    @property
    def family(self) -> Family:
        """The training family."""
        assert self.study.family is not None
        return self.study.family

    @cached_property
    def unseen(self) -> Family:
        """The validation family: unseen members of the same family."""
        seed = np.random.SeedSequence([self.family.seed, _UNSEEN]).generate_state(1)[0]
        return self.family.model_copy(update={"seed": int(seed), "count": self.family.validation})

    def train(self, comm: Any, progress: Progress) -> dict[str, Any]:
        """Solve members of the family, fit and validate; see `Plan.train`."""
        sampled = self._solved(self.family, self.folder, comm, "sampling", progress)
        seconds: dict[str, float] = {}
        fit = on_root_quietly(comm, lambda: self._fitted(sampled, progress, seconds))
        unseen = self._solved(self.unseen, self.folder / "validation", comm, "validation", progress, unseen=True)
        return on_root_quietly(comm, lambda: self._finish(fit, unseen, seconds, progress))

    def _solved(
        self, family: Family, folder: Path, comm: Any, stage: str, progress: Progress, *, unseen: bool = False
    ) -> SampleReport:
        return solve_members(self.study, self.path, family, folder, comm, partial(progress, stage), unseen)

    def _fitted(self, sampled: SampleReport, progress: Progress, seconds: dict[str, float]) -> Fit:
        seconds["sampling"] = self.noted_seconds("sampling", sampled.seconds, sampled.solved, sampled.found)
        fit, options, dim = self.spec.fit_family, self.study.surrogate, self.family.dim
        assert fit is not None
        snapshots, rves = family_store.solved_family(self.family, self.folder), FamilyRVEs(self.family)

        def fitted(checkpoint: Checkpoint) -> Fit:
            return fit(FamilyTask(rves, snapshots, options, dim, self.low, self.high, checkpoint, progress))

        return self.fitted(fitted, seconds)

    def _finish(self, fit: Fit, unseen: SampleReport, seconds: dict[str, float], progress: Progress) -> dict[str, Any]:
        """Validate a fit and write the model, metrics and plots."""
        begin = time.perf_counter()
        reference = family_store.solved_family(self.unseen, unseen.file.parent)
        validation, per_rve = self._validated(fit, reference, progress)
        seconds["validation"] = unseen.seconds + time.perf_counter() - begin
        metrics: dict[str, Any] = {
            "snapshots": self.family.count,
            "offline_seconds": seconds["sampling"] + seconds["fit"],
            "seconds": seconds,
            "unseen": "microstructures",
            "validation": validation.figures() | {"count": self.unseen.count},
            "seconds_per_rve": per_rve,
        }
        block = self.family.model_dump(mode="json", serialize_as_any=True)
        write = partial(write_family_model, fit=fit, family=block, dim=self.family.dim, low=self.low, high=self.high)
        return self.write(fit, validation, metrics, write)

    def _validated(self, fit: Fit, reference: dict[str, Any], progress: Progress) -> tuple[Accuracy, dict[str, float]]:
        """Return the errors at the unseen RVEs, and the mean times from an RVE to its response [s].

        If all phases are linear, the strains are unit strains.
        """
        rves, parts, spent = FamilyRVEs(self.unseen), [], np.zeros(2)
        strains = member_strains(self.study, self.unseen, unseen=True)
        if strains is None:
            strains = np.tile(np.eye(len(self.low)), (len(rves), 1, 1))
        self._answers(fit, rves[0], strains[0])  # warm-up: exclude loading and compilation from the timing
        for i, rve in enumerate(rves):
            law, nested, seconds = self._answers(fit, rve, strains[i])
            spent += seconds
            if "stress" in reference:
                exact = reference["stress"][i], reference["tangent"][i]
            else:
                exact = nested.stress, nested.tangent
            parts.append(accuracy(law, strains[i], *exact))
            progress("evaluation", i + 1, len(rves))
        law_seconds, nested_seconds = (spent / len(rves)).tolist()
        per_rve = {"law": law_seconds, "nested": nested_seconds, "ratio": nested_seconds / law_seconds}
        return Accuracy.joined(parts, np.repeat(reference["volume_fraction"], len(parts[0].over))), per_rve

    def _answers(self, fit: Fit, rve: RVE, strain: Array) -> tuple[MaterialLaw, LawResponse, Array]:
        """Return the law of an RVE, the response of the nested law, and the times of both [s]."""
        given = {"law": self.spec.name, "model": str(self.folder / "model"), **self.spec.validation}
        parameters = self.spec.parameters.model_validate(given, context={})
        begin = time.perf_counter()
        law = self.spec.as_law(TrainedModel(fit.arrays, fit.settings, rve, self.low, self.high), parameters)
        law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0)
        middle = time.perf_counter()
        nested = NestedLaw(rve)
        answer = nested.evaluate(strain, np.zeros((len(strain), nested.n_state)), 1.0)
        return law, answer, np.array([middle - begin, time.perf_counter() - middle])


def plan_family(study: Study, path: Path, spec: SurrogateSpec, folder: Path | None) -> FamilyPlan:
    """Prepare the training on a family.

    Raises:
        CaseError: The surrogate does not train on families, or the study does not fit the surrogate.
    """
    assert study.family is not None
    if spec.fit_family is None:
        raise CaseError(f"given, but {spec.name!r} trains on one RVE; expected rve", file=path, key="family")
    try:
        member_strains(study, study.family)
        first = FamilyRVEs(study.family)[0]
    except CaseError as error:
        raise error.within(file=path) from error
    low = high = np.zeros(notation.n_strain(study.dim))
    if study.sampling is not None:
        low, high = bounds(study.sampling, study.dim)
    check(spec, first, study, (low, high), path)
    digest = study_hash(study, spec, study.family.hash)
    return FamilyPlan(study, path, spec, digest, folder_of(folder, path, digest), low, high)
