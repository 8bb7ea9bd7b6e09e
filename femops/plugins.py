"""Registry of the laws of femops and its plugins, found through the entry-point group `femops`."""

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pluggy

from femops import hookspecs
from femops.errors import CaseError
from femops.law import LawContext, LawParameters, LawSpec, MaterialLaw, TrainableSpec
from femops.packages import remedy
from femops.validation import shown

_GROUP = "femops"
"""Group of the entry points."""
_OWN = "femops"
"""The package whose laws take precedence."""
_HOOKS: dict[str, tuple[type, str]] = {
    "femops_laws": (LawSpec, "LawSpec"),
    "femops_surrogates": (TrainableSpec, "SurrogateSpec"),
}
"""What each hook returns a list of."""


@cache
def _loaded() -> tuple[pluggy.PluginManager, dict[str, str]]:
    """Return the plugin manager with every loadable plugin, and the faults of the others by name."""
    return _registered(importlib.metadata.entry_points(group=_GROUP))


def _registered(entries: Iterable[importlib.metadata.EntryPoint]) -> tuple[pluggy.PluginManager, dict[str, str]]:
    """Return a plugin manager with the plugins of entry points, and the faults of those that cannot be loaded."""
    plugins, broken = pluggy.PluginManager("femops"), {}
    plugins.add_hookspecs(hookspecs)
    for entry in entries:
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
        trainable: Surrogates by name; see `femops.surrogate.registry`.
        broken: Why a plugin was excluded, by plugin name; one line each.
    """

    laws: Mapping[str, LawSpec]
    trainable: Mapping[str, TrainableSpec]
    broken: Mapping[str, str]


def installed() -> Installed:
    """Return the laws and surrogates of the installed plugins; faulty plugins are excluded.

    Raises:
        CaseError: femops itself is not installed as a package.
    """
    broken, provided = dict(_loaded()[1]), {}
    for name, plugin in manager().list_name_plugin():
        try:
            provided[name] = _provided(manager(), plugin)
        except Exception as error:  # noqa: BLE001 - what a stranger's hook raises, it is left out
            broken[name] = _in_a_line(error)
    owners: dict[str, list[str]] = {}
    for plugin_name, specs in provided.items():
        for law, _ in specs:
            owners.setdefault(law.name, []).append(plugin_name)
    for name, several in owners.items():
        for one in several if len(several) > 1 else ():
            others = " and ".join(sorted(set(several) - {one})) or "itself a second time"
            if one != _OWN:
                broken[one] = f"its law {name!r} is also provided by {others}"
    specs = [spec for name, several in provided.items() if name not in broken for spec in several]
    laws = {law.name: law for law, _ in specs}
    trainable = {law.name: spec for law, spec in specs if isinstance(spec, TrainableSpec)}
    if not laws:
        raise CaseError("no laws found; expected femops to be installed as a package (uv sync, or pip install -e .)")
    return Installed(dict(sorted(laws.items())), dict(sorted(trainable.items())), dict(sorted(broken.items())))


def lone_surrogate(name: object) -> LawSpec | None:
    """Return the surrogate of the plugin whose entry point has the same name, without loading the others.

    Returns:
        None if all plugins are loaded already, if there is no such plugin, or if it is faulty.
    """
    entries = importlib.metadata.entry_points(group=_GROUP, name=name) if isinstance(name, str) else ()
    if _loaded.cache_info().currsize or len(entries) != 1:
        return None
    plugins, broken = _registered(entries)
    try:
        provided = [one for plugin in plugins.get_plugins() for one in _provided(plugins, plugin)]
    except Exception:  # noqa: BLE001 - the registry of all plugins tells what is wrong
        return None
    found = [law for law, spec in provided if law.name == name and isinstance(spec, TrainableSpec)]
    return found[0] if not broken and len(found) == 1 else None


def _provided(plugins: pluggy.PluginManager, plugin: Any) -> list[tuple[LawSpec, LawSpec | TrainableSpec]]:
    """Return the laws of a plugin, each with what its hook returned.

    Raises:
        TypeError: It has an unknown hook, or a hook returns anything else.
        Exception: Raised by its hooks.
    """
    found: list[tuple[LawSpec, LawSpec | TrainableSpec]] = []
    for hook in plugins.get_hookcallers(plugin) or ():
        expected = _HOOKS.get(hook.name)
        for implementation in (one for one in hook.get_hookimpls() if one.plugin is plugin):
            if expected is None:
                if not implementation.optionalhook:
                    raise TypeError(f"it has the unknown hook {hook.name!r}")
                continue
            specs = implementation.function()
            if not isinstance(specs, list | tuple) or not all(isinstance(one, expected[0]) for one in specs):
                raise TypeError(f"{hook.name} returns {shown(specs)}, expected a list of {expected[1]}")
            for spec in specs:
                spec.validate()
                law = spec.law() if isinstance(spec, TrainableSpec) else spec
                if not isinstance(law, LawSpec):
                    raise TypeError(f"{hook.name} returns {shown(specs)}, expected a list of {expected[1]}")
                found.append((law, spec))
    return found


def _in_a_line(error: BaseException) -> str:
    return remedy(error) or " ".join(f"{type(error).__name__}: {error}".split())


def available(what: str, names: Iterable[str]) -> str:
    """Return the end of a message about a missing law: the available ones, and the excluded plugins.

    Args:
        what: Text before the names.
        names: The available laws.
    """
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
        raise CaseError(f"{shown(name)} is not installed; {available('installed:', laws)}", key="law")
    return laws[name]


def law_parameters(mapping: Mapping[str, Any]) -> LawParameters:
    """Validate a law block of a case file.

    Raises:
        CaseError: The law is not installed, or a parameter is unknown, missing or out of range.
    """
    if "law" not in mapping:
        raise CaseError(f"missing; {available('expected one of', installed_laws())}", key="law")
    return law_spec(mapping["law"]).read(mapping)


def get_law(parameters: LawParameters, context: LawContext) -> MaterialLaw:
    """Build a law from validated parameters.

    Raises:
        CaseError: The law does not fit the context, for example its dimension.
    """
    return law_spec(parameters.law).build(parameters, context)


def get_phase(parameters: LawParameters) -> Any:
    """Build a phase of an RVE, a `femops.phases.Phase`, from validated parameters.

    Raises:
        CaseError: The law cannot be a phase.
    """
    spec = law_spec(parameters.law)
    if spec.phase is None:
        able = [name for name, one in installed_laws().items() if one.phase is not None]
        raise CaseError(f"{spec.name!r} cannot be a phase of an RVE; expected one of {', '.join(able)}", key="law")
    return spec.phase(parameters)
