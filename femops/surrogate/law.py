"""From the mapping in a case to the law of a trained surrogate."""

from pathlib import Path

from femops.errors import CaseError
from femops.law import CertifiedLaw, LawContext
from femops.parallel import on_every_rank
from femops.rve.spec import RVE
from femops.surrogate.base import SurrogateParameters, SurrogateSpec
from femops.surrogate.store import StoredPhase, read_manifest, read_model


def surrogate_law(
    spec: SurrogateSpec, stored_phase: StoredPhase, parameters: SurrogateParameters, context: LawContext
) -> CertifiedLaw:
    """Load a trained surrogate, which is trained first if the case names a study and it has to be; collective.

    Args:
        spec: The surrogate.
        stored_phase: Makes the phases of its RVE.
        parameters: The law in the case.
        context: Its surroundings.

    Raises:
        CaseError: There is no such model, or it is damaged, of another surrogate or of another dimension.
    """
    folder = model_folder(parameters, context)

    def load() -> CertifiedLaw:
        manifest = read_manifest(folder)
        if manifest.law != spec.name:
            raise CaseError(f"holds a model of {manifest.law!r}, expected one of {spec.name!r}", file=folder)
        if manifest.dim != context.dim:
            problem = f"the model is {manifest.dim}D ({manifest.kinematics}), expected {context.dim}D"
            raise CaseError(problem, file=folder)
        return spec.as_law(read_model(folder, manifest, stored_phase), parameters)

    return on_every_rank(context.comm, load)


def model_folder(parameters: SurrogateParameters, context: LawContext) -> Path:
    """Return the model folder that a law in a case refers to; collective where it has to be trained.

    Raises:
        CaseError: The law names a study where nothing can be trained.
    """
    if parameters.model is not None:
        return context.base / parameters.model
    assert parameters.study is not None
    study = context.base / parameters.study
    if context.trained is None:
        problem = f"{parameters.study} given, but only cases train; run femops train {study} and give model: FOLDER"
        raise CaseError(problem, key="study")
    return context.trained(study)


def model_rve(folder: Path, stored_phase: StoredPhase) -> RVE:
    """Return the RVE that the model in a folder was trained for.

    Raises:
        CaseError: There is no such model, or it is damaged.
    """
    return read_model(folder, read_manifest(folder), stored_phase).rve
