"""Hook specifications for plugins, which are packages with an entry point in the group `femops`."""

from typing import Any

import pluggy

from femops.law import LawSpec

hookspec = pluggy.HookspecMarker("femops")
hookimpl = pluggy.HookimplMarker("femops")


@hookspec
def femops_laws() -> list[LawSpec]:  # type: ignore[empty-body]
    """Return the laws that the plugin adds; their names must be unique."""


@hookspec
def femops_surrogates() -> list[Any]:  # type: ignore[empty-body]
    """Return the surrogates that the plugin adds, each a `femops.surrogate.SurrogateSpec`; each becomes a law."""
