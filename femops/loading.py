"""Laws for use in other programs: from a mapping as in a case file, or from the model folder of a surrogate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from femops.errors import CaseError
from femops.law import LawContext, MaterialLaw
from femops.plugins import get_law, law_parameters, lone_surrogate
from femops.surrogate.registry import surrogate_spec
from femops.surrogate.store import read_manifest


def load_law(
    law: Mapping[str, Any] | Path | str, *, dim: int | None = None, base: Path | str = ".", comm: Any = None
) -> MaterialLaw:
    """Build a law for use outside a femops run.

    Of a trained surrogate only what evaluation needs is read and checked now; its RVE is when it is first used
    (`law.rve`).

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
        context = LawContext(dim or 2, Path(base), comm)
        spec = lone_surrogate(law.get("law"))
        return get_law(law_parameters(law), context) if spec is None else spec.build(spec.read(law), context)
    folder = Path(base) / law
    manifest = read_manifest(folder)
    try:
        spec = lone_surrogate(manifest.law) or surrogate_spec(manifest.law).law()
        parameters = spec.read({"law": manifest.law, "model": str(law)})
    except CaseError as error:
        raise error.within(file=folder) from error
    return spec.build(parameters, LawContext(dim or manifest.dim, Path(base), comm))
