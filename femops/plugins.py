"""Discovery of laws and surrogates through the entry-point group `femops`."""

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
from femops.surrogate.law import model_rve, surrogate_law
from femops.surrogate.spec import SurrogateOptions, SurrogateParameters, SurrogateSpec
from femops.surrogate.store import read_manifest
from femops.validation import first_error, shown

_OWN = "femops"
"""The package whose laws take precedence."""


@cache
def _loaded() -> tuple[pluggy.PluginManager, dict[str, str]]:
    """Return the plugin manager with every loadable plugin, and the faults of the others by name."""
    plugins, broken = pluggy.PluginManager("femops"), {}
    plugins.add_hookspecs(hookspecs)
    for entry in importlib.metadata.entry_points(group="femops"):
        package = entry.dist.name if entry.dist else entry.value
        name = package if not plugins.has_plugin(package) else f"{package} ({entry.name})"
        plugin = None
        try:
            plugin = entry.load()
            if not plugins.is_registered(plugin):
                plugins.register(plugin, name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - what a stranger's module raises, it is left out
            broken[name] = _in_a_line(error)
            if plugin is not None and plugins.is_registered(plugin):
                plugins.unregister(plugin)
    return plugins, broken


def manager() -> pluggy.PluginManager:
    """Return the plugin manager, with every loadable plugin registered."""
    return _loaded()[0]


@dataclass(frozen=True)
class Installed:
    """Laws and surrogates of the installed plugins.

    Attributes:
        laws: Laws by name, including surrogates.
        surrogates: Surrogates by name.
        broken: Why a plugin was excluded, by plugin name; one line each.
    """

    laws: Mapping[str, LawSpec]
    surrogates: Mapping[str, SurrogateSpec]
    broken: Mapping[str, str]


def installed() -> Installed:
    """Return the laws and surrogates of the installed plugins; faulty plugins are excluded.

    Raises:
        CaseError: femops itself is not installed as a package.
    """
    broken, provided = dict(_loaded()[1]), {}
    for name, plugin in manager().list_name_plugin():
        try:
            provided[name] = _provided(plugin)
        except Exception as error:  # noqa: BLE001 - what a stranger's hook raises, it is left out
            broken[name] = _in_a_line(error)
    owners: dict[str, list[str]] = {}
    for plugin_name, specs in provided.items():
        for spec in specs:
            owners.setdefault(spec.name, []).append(plugin_name)
    for law, several in owners.items():
        for one in several if len(several) > 1 else ():
            others = " and ".join(sorted(set(several) - {one})) or "itself a second time"
            if one != _OWN:
                broken[one] = f"its law {law!r} is also provided by {others}"
    specs = [spec for name, several in provided.items() if name not in broken for spec in several]
    surrogates = {spec.name: spec for spec in specs if isinstance(spec, SurrogateSpec)}
    laws = {spec.name: _as_law(spec) if isinstance(spec, SurrogateSpec) else spec for spec in specs}
    if not laws:
        raise CaseError("no laws found; expected femops to be installed as a package (uv sync, or pip install -e .)")
    return Installed(dict(sorted(laws.items())), dict(sorted(surrogates.items())), dict(sorted(broken.items())))


def _provided(plugin: Any) -> list[LawSpec | SurrogateSpec]:
    """Return the laws and surrogates of a plugin.

    Raises:
        TypeError: It has an unknown hook, or a hook returns anything else.
        Exception: Raised by its hooks.
    """
    found: list[LawSpec | SurrogateSpec] = []
    for hook in manager().get_hookcallers(plugin) or ():
        expected = {"femops_laws": LawSpec, "femops_surrogates": SurrogateSpec}.get(hook.name)
        for implementation in (one for one in hook.get_hookimpls() if one.plugin is plugin):
            if expected is None:
                if not implementation.optionalhook:
                    raise TypeError(f"it has the unknown hook {hook.name!r}")
                continue
            specs = implementation.function()
            if not isinstance(specs, list | tuple) or not all(isinstance(one, expected) for one in specs):
                raise TypeError(f"{hook.name} returns {shown(specs)}, expected a list of {expected.__name__}")
            for spec in specs:
                _check_spec(spec)
            found += specs
    return found


def _check_spec(spec: LawSpec | SurrogateSpec) -> None:
    """Check the description of a law.

    Raises:
        TypeError: A field is invalid.
    """

    def derived(one: Any, base: type) -> bool:
        return isinstance(one, type) and issubclass(one, base)

    surrogate = isinstance(spec, SurrogateSpec)
    checks = {
        "name, expected text": isinstance(spec.name, str) and bool(spec.name),
        "summary, expected text": isinstance(spec.summary, str),
        "parameters, expected a class": derived(spec.parameters, SurrogateParameters if surrogate else LawParameters),
    }
    if isinstance(spec, SurrogateSpec):
        fits = [one for one in (spec.fit, spec.fit_family, spec.fit_problem) if one is not None]
        checks |= {
            "options, expected a class": derived(spec.options, SurrogateOptions),
            "as_law, expected a function": callable(spec.as_law),
            "fit, fit_family and fit_problem, expected a function": bool(fits) and all(map(callable, fits)),
            "problem, expected a model": spec.problem is None or derived(spec.problem, BaseModel),
        }
    else:
        checks |= {
            "build, expected a function": callable(spec.build),
            "phase, expected a function": spec.phase is None or callable(spec.phase),
        }
    for what, good in checks.items():
        if not good:
            raise TypeError(f"its law {shown(spec.name)} has no valid {what}")


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _missing(what: str, names: Iterable[str]) -> str:
    """Return the end of a message about a missing law: the available ones, and the excluded plugins."""
    lost = "".join(f"; the plugin {name} could not be loaded: {why}" for name, why in installed().broken.items())
    return f"{what} {', '.join(names) or 'none'}{lost}"


def installed_laws() -> dict[str, LawSpec]:
    """Return every installed law by name.

    Raises:
        CaseError: femops itself is not installed as a package.
    """
    return dict(installed().laws)


def law_spec(name: object) -> LawSpec:
    """Return an installed law by name.

    Raises:
        CaseError: No such law is installed; the message lists the installed laws and the excluded plugins.
    """
    laws = installed_laws()
    if not isinstance(name, str) or name not in laws:
        raise CaseError(f"{shown(name)} is not installed; {_missing('installed:', laws)}", key="law")
    return laws[name]


def law_parameters(mapping: Mapping[str, Any]) -> LawParameters:
    """Validate a law block of a case file.

    Raises:
        CaseError: The law is not installed, or a parameter is unknown, missing or out of range.
    """
    if "law" not in mapping:
        raise CaseError(f"missing; {_missing('expected one of', installed_laws())}", key="law")
    spec = law_spec(mapping["law"])
    try:
        return spec.parameters.model_validate(dict(mapping))
    except ValidationError as error:
        raise first_error(error) from error


phase_readers[:] = [law_parameters]


def installed_surrogates() -> dict[str, SurrogateSpec]:
    """Return every installed surrogate by name."""
    return dict(installed().surrogates)


def surrogate_spec(name: object) -> SurrogateSpec:
    """Return an installed surrogate by name.

    Raises:
        CaseError: No such surrogate is installed; the message lists the installed ones.
    """
    surrogates = installed_surrogates()
    if not isinstance(name, str) or name not in surrogates:
        raise CaseError(f"{shown(name)} is no installed surrogate; {_missing('installed:', surrogates)}", key="law")
    return surrogates[name]


def surrogate_options(mapping: Mapping[str, Any]) -> SurrogateOptions:
    """Validate the `surrogate` block of a study.

    Raises:
        CaseError: The surrogate is not installed, or an option is unknown, missing or out of range.
    """
    if "law" not in mapping:
        raise CaseError(f"missing; {_missing('expected one of', installed_surrogates())}", key="law")
    try:
        return surrogate_spec(mapping["law"]).options.model_validate(dict(mapping))
    except ValidationError as error:
        raise first_error(error) from error


def surrogate_problem(law: str, mapping: object) -> BaseModel:
    """Validate the `problem` block of a study.

    Args:
        law: Name of the surrogate.
        mapping: The block.

    Raises:
        CaseError: The surrogate does not define problems, or a key is unknown, missing or out of range.
    """
    model = surrogate_spec(law).problem
    if model is None:
        raise CaseError(f"given, but {law!r} brings no problems along; expected rve")
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        raise first_error(error) from error


def rve_of_model(folder: Path) -> RVE:
    """Return the RVE for which the model in a folder was trained.

    Raises:
        CaseError: The model does not exist or is damaged.
    """
    return model_rve(folder, _stored_phase)


def get_law(parameters: LawParameters, context: LawContext) -> MaterialLaw:
    """Build a law from validated parameters.

    Raises:
        CaseError: The law does not fit the context, for example its dimension.
    """
    return law_spec(parameters.law).build(parameters, replace(context, phase=_get_phase))


def rve_context(dim: int, base: Path = Path(), comm: Any = None) -> LawContext:
    """Return the context in which `femops.rve.spec.build_rve` builds RVEs with the installed phases.

    Args:
        dim: 2 (plane strain) or 3.
        base: Folder to which relative paths refer.
        comm: MPI communicator whose ranks build the same RVE; None for a single process.
    """
    return LawContext(dim, base, comm, phase=_get_phase)


def _get_phase(parameters: LawParameters) -> Any:
    """Return a phase of an RVE from its parameters."""
    spec = law_spec(parameters.law)
    if spec.phase is None:
        able = [name for name, one in installed_laws().items() if one.phase is not None]
        raise CaseError(f"{spec.name!r} cannot be a phase of an RVE; expected one of {', '.join(able)}", key="law")
    return spec.phase(parameters)


def _stored_phase(mapping: Mapping[str, Any]) -> tuple[LawParameters, Phase]:
    """Return the parameters of a phase in a model manifest, and the phase."""
    parameters = law_parameters(mapping)
    return parameters, _get_phase(parameters)


def _as_law(spec: SurrogateSpec) -> LawSpec:
    return LawSpec(spec.name, spec.summary, spec.parameters, partial(surrogate_law, spec, _stored_phase))


def load_law(
    law: Mapping[str, Any] | Path | str, *, dim: int | None = None, base: Path | str = ".", comm: Any = None
) -> MaterialLaw:
    """Build a law for use outside a femops run.

    Args:
        law: A mapping as under `material` in a case file, for example `{"law": "nested", "rve": {...}}`, or the model
            folder of a trained surrogate.
        dim: 2 (plane strain) or 3; by default that of the model, or 2 for a mapping.
        base: Folder to which relative paths refer.
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
