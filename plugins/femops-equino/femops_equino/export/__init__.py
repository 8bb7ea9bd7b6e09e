"""The law of a trained EquiNO as C99 source; see `femops.surrogate.SurrogateSpec.exporters`.

The C files of this package are included once per block size by `law.h`, which is written here with the tables.
"""

from collections.abc import Mapping
from importlib.resources import files

from femops.errors import CaseError
from femops.law import CertifiedLaw
from femops_equino.export.tables import adjoint_tables, corrected_tables, potential_tables, starts_from_network
from femops_equino.law import EquiNOLaw

_FIELDS = ("gradient", "newton", "indicator", "fields")
_BLOCK, _FEW = 8, 3  # from three points on, a block of eight takes less time than single points


def c_source(law: CertifiedLaw) -> Mapping[str, str]:
    """Return the C files of a law by name.

    Raises:
        CaseError: The law is that of a model trained in `mode: original`, or it uses a spline.
    """
    if not isinstance(law, EquiNOLaw):
        raise CaseError("trained in mode original, expected a model of mode certified")
    corrections = law.parameters.corrections
    if corrections == 0:
        tables, parts, driver = potential_tables(law), ["network", "load", "potential"], "uncorrected"
    elif corrections == "adjoint":
        parts = ["network", "near", "load", "potential", *_FIELDS, "adjust"]
        tables, driver = adjoint_tables(law), "adjoint"
    else:
        first = ["network", "near", "start_network"] if starts_from_network(law) else ["start_elastic"]
        tables, parts, driver = corrected_tables(law), [*first, "load", *_FIELDS, "correct"], "corrected"
    included = ["numbers", "chunk", "lanes", *parts, driver]
    texts = {f"{name}.h": files(__package__).joinpath(f"{name}.h").read_text(encoding="utf-8") for name in included}
    return {"law.h": _law(parts, driver), "tables.h": tables, **texts}


def _law(parts: list[str], driver: str) -> str:
    """Return `law.h`, which includes the parts once for blocks of points and once for single points."""
    block = "".join(f'#include "{name}.h"\n' for name in ["lanes", *parts])
    lines = ["/* The law: its tables, its functions for blocks and for single points, and what drives them. */\n\n"]
    lines += [f"enum {{ BLOCK = {_BLOCK}, FEW = {_FEW} }};\n\n"]
    lines += ['#include "tables.h"\n\n#include "numbers.h"\n\n#include "chunk.h"\n\n']
    for lanes, size in ((_BLOCK, "block"), (1, "point")):
        lines += [f"#define LANES {lanes}\n#define OF(name) name##_of_{size}\n", block, "#undef LANES\n#undef OF\n\n"]
    return "".join([*lines, f'#include "{driver}.h"\n'])
