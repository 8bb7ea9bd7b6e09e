"""The built-in laws, registered like those of a plugin."""

from femops.hookspecs import hookimpl
from femops.law import LawSpec
from femops.phases import elastic, j2, saturating
from femops.rve import law as nested


@hookimpl
def femops_laws() -> list[LawSpec]:
    """Return the built-in laws."""
    return [elastic.SPEC, saturating.SPEC, j2.SPEC, nested.SPEC]
