"""Discovery of laws and surrogates through the entry-point group `femops`."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pluggy
from pydantic import BaseModel, ValidationError

from femops import hookspecs
from femops.errors import CaseError
from femops.law import LawContext, LawParameters, LawSpec, MaterialLaw
from femops.phases import Phase
from femops.rve.spec import RVE, phase_readers
from femops.surrogate.base import SurrogateOptions, SurrogateSpec
from femops.surrogate.law import model_rve, surrogate_law
from femops.surrogate.store import read_manifest
from femops.validation import first_error


@cache
def manager() -> pluggy.PluginManager:
    """Return the plugin manager with every installed plugin registered."""
    plugins = pluggy.PluginManager("femops")
    plugins.add_hookspecs(hookspecs)
    plugins.load_setuptools_entrypoints("femops")
    plugins.check_pending()
    return plugins


def installed_laws() -> dict[str, LawSpec]:
    """Return every installed law by name.

    Raises:
        CaseError: Two plugins provide the same name, or femops itself is not installed as a package.
    """
    laws: dict[str, LawSpec] = {}
    hook = manager().hook
    provided = [spec for several in hook.femops_laws() for spec in several]
    provided += [_as_law(spec) for several in hook.femops_surrogates() for spec in several]
    for spec in provided:
        if spec.name in laws:
            raise CaseError(f"two installed plugins provide the law {spec.name!r}")
        laws[spec.name] = spec
    if not laws:
        raise CaseError("no laws found; expected femops to be installed as a package (uv sync, or pip install -e .)")
    return dict(sorted(laws.items()))


def law_spec(name: object) -> LawSpec:
    """Return an installed law by name.

    Raises:
        CaseError: No such law is installed; the message lists those that are.
    """
    laws = installed_laws()
    if not isinstance(name, str) or name not in laws:
        raise CaseError(f"{name!r} is not installed; installed: {', '.join(laws)}", key="law")
    return laws[name]


def law_parameters(mapping: Mapping[str, Any]) -> LawParameters:
    """Validate a law as it is written in a case file.

    Raises:
        CaseError: The law is not installed, or a parameter is unknown, missing or out of range.
    """
    if "law" not in mapping:
        raise CaseError(f"missing; expected one of {', '.join(installed_laws())}", key="law")
    spec = law_spec(mapping["law"])
    try:
        return spec.parameters.model_validate(dict(mapping))
    except ValidationError as error:
        raise first_error(error) from error


phase_readers[:] = [law_parameters]


def installed_surrogates() -> dict[str, SurrogateSpec]:
    """Return every installed surrogate by name."""
    provided = (spec for several in manager().hook.femops_surrogates() for spec in several)
    return dict(sorted((spec.name, spec) for spec in provided))


def surrogate_spec(name: object) -> SurrogateSpec:
    """Return an installed surrogate by name.

    Raises:
        CaseError: No such surrogate is installed; the message lists those that are.
    """
    surrogates = installed_surrogates()
    if not isinstance(name, str) or name not in surrogates:
        installed = ", ".join(surrogates) or "none"
        raise CaseError(f"{name!r} is no installed surrogate; installed: {installed}", key="law")
    return surrogates[name]


def surrogate_options(mapping: Mapping[str, Any]) -> SurrogateOptions:
    """Validate the `surrogate` block of a study.

    Raises:
        CaseError: The surrogate is not installed, or an option is unknown, missing or out of range.
    """
    if "law" not in mapping:
        raise CaseError(f"missing; expected one of {', '.join(installed_surrogates()) or 'none installed'}", key="law")
    try:
        return surrogate_spec(mapping["law"]).options.model_validate(dict(mapping))
    except ValidationError as error:
        raise first_error(error) from error


def surrogate_problem(law: str, mapping: object) -> BaseModel:
    """Validate the `problem` block of a study.

    Args:
        law: The surrogate.
        mapping: The block.

    Raises:
        CaseError: The surrogate brings no problems along, or a key is unknown, missing or out of range.
    """
    model = surrogate_spec(law).problem
    if model is None:
        raise CaseError(f"given, but {law!r} brings no problems along; expected rve")
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        raise first_error(error) from error


def rve_of_model(folder: Path) -> RVE:
    """Return the RVE that the model in a folder was trained for, for example to solve it instead of the model.

    Raises:
        CaseError: There is no such model, or it is damaged.
    """
    return model_rve(folder, _stored_phase)


def get_law(parameters: LawParameters, context: LawContext) -> MaterialLaw:
    """Build a law from validated parameters.

    Raises:
        CaseError: The law does not fit its surroundings, for example the dimension.
    """
    return law_spec(parameters.law).build(parameters, replace(context, phase=_get_phase))


def rve_context(dim: int, base: Path = Path(), comm: Any = None) -> LawContext:
    """Return the surroundings in which `femops.rve.spec.build_rve` builds RVEs of the installed phases.

    Args:
        dim: 2 (plane strain) or 3.
        base: Folder that relative paths start from.
        comm: MPI communicator whose ranks build the same RVE; None for a single process.
    """
    return LawContext(dim, base, comm, phase=_get_phase)


def _get_phase(parameters: LawParameters) -> Any:
    """Return a constituent of an RVE from its parameters."""
    spec = law_spec(parameters.law)
    if spec.phase is None:
        able = [name for name, one in installed_laws().items() if one.phase is not None]
        raise CaseError(f"{spec.name!r} cannot be a phase of an RVE; expected one of {', '.join(able)}", key="law")
    return spec.phase(parameters)


def _stored_phase(mapping: Mapping[str, Any]) -> tuple[LawParameters, Phase]:
    """Return parameters and constituent from what the manifest of a model says."""
    parameters = law_parameters(mapping)
    return parameters, _get_phase(parameters)


def _as_law(spec: SurrogateSpec) -> LawSpec:
    return LawSpec(spec.name, spec.summary, spec.parameters, partial(surrogate_law, spec, _stored_phase))


def load_law(
    law: Mapping[str, Any] | Path | str, *, dim: int | None = None, base: Path | str = ".", comm: Any = None
) -> MaterialLaw:
    """Build a law for use in any program.

    Args:
        law: The mapping that a case file would hold under `material`, for example `{"law": "nested", "rve": {...}}`,
            or the model folder of a trained surrogate.
        dim: 2 (plane strain) or 3; by default that of the model, or 2 for a mapping.
        base: Folder that relative paths start from.
        comm: MPI communicator whose ranks build the same law; None for a single process.

    Raises:
        CaseError: The mapping is not a valid law, or the folder is not the model of an installed surrogate.
    """
    if dim not in (None, 2, 3):
        raise CaseError(f"{dim!r} given, expected 2 (plane strain) or 3", key="dim")
    if isinstance(law, Mapping):
        return get_law(law_parameters(law), LawContext(dim=dim or 2, base=Path(base), comm=comm))
    folder = Path(base) / law
    manifest = read_manifest(folder)
    try:
        parameters = law_parameters({"law": surrogate_spec(manifest.law).name, "model": str(law)})
    except CaseError as error:
        raise error.within(file=folder) from error
    return get_law(parameters, LawContext(dim=dim or manifest.dim, base=Path(base), comm=comm))
