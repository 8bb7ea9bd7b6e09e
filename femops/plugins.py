"""Discovery of laws through the entry-point group `femops`."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pluggy
from pydantic import ValidationError

from femops import hookspecs
from femops.errors import CaseError
from femops.law import LawContext, LawParameters, LawSpec, MaterialLaw
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
    for provided in manager().hook.femops_laws():
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
        return spec.parameters.model_validate(dict(mapping), context={"law_parameters": law_parameters})
    except ValidationError as error:
        raise first_error(error) from error


def get_law(parameters: LawParameters, context: LawContext) -> MaterialLaw:
    """Build a law from validated parameters.

    Raises:
        CaseError: The law does not fit its surroundings, for example the dimension.
    """
    return law_spec(parameters.law).build(parameters, replace(context, phase=_get_phase))


def _get_phase(parameters: LawParameters) -> Any:
    """Return a constituent of an RVE from its parameters."""
    spec = law_spec(parameters.law)
    if spec.phase is None:
        able = [name for name, one in installed_laws().items() if one.phase is not None]
        raise CaseError(f"{spec.name!r} cannot be a phase of an RVE; expected one of {', '.join(able)}", key="law")
    return spec.phase(parameters)


def load_law(mapping: Mapping[str, Any], *, dim: int = 2, base: Path | str = ".", comm: Any = None) -> MaterialLaw:
    """Build a law for use in any program, from the mapping that a case file would hold under `material`.

    Args:
        mapping: For example `{"law": "nested", "rve": {...}}`.
        dim: 2 (plane strain) or 3.
        base: Folder that relative paths start from.
        comm: MPI communicator whose ranks build the same law; None for a single process.

    Raises:
        CaseError: The mapping is not a valid law.
    """
    if dim not in (2, 3):
        raise CaseError(f"{dim!r} given, expected 2 (plane strain) or 3", key="dim")
    return get_law(law_parameters(mapping), LawContext(dim=dim, base=Path(base), comm=comm))
