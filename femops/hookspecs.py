"""What a plugin of femops may provide. A plugin is a package with an entry point in the group `femops`."""

import pluggy

from femops.law import LawSpec

hookspec = pluggy.HookspecMarker("femops")
hookimpl = pluggy.HookimplMarker("femops")


@hookspec
def femops_laws() -> list[LawSpec]:  # type: ignore[empty-body]
    """Return the laws that the plugin adds; their names must not be taken."""
