"""Load trained surrogates as material laws."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from femops.errors import CaseError
from femops.law import CertifiedLaw, LawContext
from femops.parallel import on_every_rank
from femops.surrogate.spec import SurrogateParameters, TrainedModel
from femops.surrogate.store import Manifest, model_of, of_arrays, read_fit, read_manifest, read_model


def surrogate_law(
    name: str,
    as_law: Callable[[TrainedModel, Any], CertifiedLaw],
    parameters: SurrogateParameters,
    context: LawContext,
) -> CertifiedLaw:
    """Load a trained surrogate as a law; collective.

    Args:
        name: Name of the surrogate.
        as_law: Builds the law from the trained model and the parameters.
        parameters: Parameters of the law in the case.
        context: Context in which the law is built.

    Raises:
        CaseError: The model is missing, damaged, of another surrogate or of another dimension.
    """
    folder = model_folder(parameters, context)

    def load() -> CertifiedLaw:
        manifest = read_manifest(folder)
        if manifest.law != name:
            raise CaseError(f"holds a model of {manifest.law!r}, expected one of {name!r}", file=folder)
        if manifest.problem is not None:
            raise CaseError("solves a problem of its own, expected the model of an RVE or a family", file=folder)
        if manifest.dim != context.dim:
            problem = f"the model is {manifest.dim}D ({manifest.kinematics}), expected {context.dim}D"
            raise CaseError(problem, file=folder)
        own = _rve_of_case(parameters, manifest, context)
        if own is None:
            model = read_model(folder, manifest)
        else:
            model = model_of(read_fit(folder, manifest), own, folder, manifest)
        with of_arrays(folder):
            return as_law(model, parameters)

    return on_every_rank(context.comm, load)


def _rve_of_case(parameters: SurrogateParameters, manifest: Manifest, context: LawContext) -> Any:
    """Return the RVE given in the case for a family model; None for a model of a single RVE.

    Raises:
        CaseError: An RVE is given for a model of a single RVE, or missing for a family model.
    """
    given = parameters.build_rve(replace(context, comm=None))
    if manifest.rve is not None and given is not None and not parameters.other_rves:
        raise CaseError("given, but the model was trained for one RVE, which it brings along", key="rve")
    if manifest.rve is None and given is None:
        raise CaseError("missing; expected the RVE, since the model was trained for a family of them", key="rve")
    return given


def model_folder(parameters: SurrogateParameters, context: LawContext) -> Path:
    """Return the model folder that a law in a case refers to.

    Raises:
        CaseError: It names a study instead.
    """
    if parameters.model is not None:
        return context.base / parameters.model
    study = f"femops train {context.base / parameters.study}" if parameters.study else "femops train"
    problem = f"{parameters.study} given, but only cases train; run {study} and give model: FOLDER"
    raise CaseError(problem, key="study")
